//! What the `portcullis` command does, as a library, so that tests can call it.
//!
//! Scope: `boot`, `show`, `lab`, `replay` and `bench`; `main.rs` only reads the command line. Sees every crate.

pub mod bench;
pub mod board;
pub mod boot;
pub mod interrupt;
pub mod known;
pub mod lab;
mod names;
pub mod page;
pub mod progress;
pub mod replay;
pub mod schema;
pub mod screen;
pub mod show;
pub mod style;
mod table;

/// The README's example, compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
mod readme {}
