//! Any bytes as a IORT.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portcullis_fuzz::table(b"IORT", bytes));
