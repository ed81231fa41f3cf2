//! The `portcullis` command, run as a program. One program, so that it is linked once.

mod boot;
mod command;
mod confirm;
mod lab;
mod lab_docs;
mod schema;
mod transcripts;
