//! Explores the interleavings of small concurrent systems.

pub mod proto;
pub mod schedule;
pub mod search;
