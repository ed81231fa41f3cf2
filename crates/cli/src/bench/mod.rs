//! `portcullis bench`: numbers, not verdicts.

pub mod null;
pub mod probe;
