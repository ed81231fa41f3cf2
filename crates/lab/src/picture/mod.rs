//! Pictures of runs: the ladder in text and as a page that stands alone, and the matrix of `lab compare`.
//!
//! A [`Ladder`] has a column per thread and a rung per step. [`text::ladder`] draws it for a terminal,
//! [`html`] for a browser. Neither knows where the text goes: colours come from the caller's [`text::Paint`].
//!
//! # Which steps are shown
//!
//! A run of a kernel has some fifty steps, of which a reader needs a third. A [`Weight`] says which:
//!
//! - [`Weight::Key`]: the step is wrong or leaves a line in the log; or it touches a field on which two threads
//!   meet: it reads what another thread has written, or reads or writes what another thread touches later, and one
//!   of the two writes. Reading the same value again is no news.
//! - [`Weight::Change`]: it changes a field that the other threads of this run do not look at.
//! - [`Weight::Plain`]: the rest: locking (the locks held are drawn beside each thread), and reads that no
//!   other thread can disturb.
//!
//! # Not supported
//!
//! Runs of more than a few thousand steps are drawn, but nobody reads them; there is no zoom.

mod cell;
pub mod html;
mod ladder;
mod locks;
pub mod text;
pub mod words;

pub use ladder::{Change, Ladder, Rung, Weight};
