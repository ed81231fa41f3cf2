//! Any bytes as a loader script and its files.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portcullis_fuzz::loader(bytes));
