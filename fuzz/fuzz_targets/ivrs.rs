//! Any bytes as a IVRS.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portcullis_fuzz::table(b"IVRS", bytes));
