//! Any bytes as a RIMT.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portcullis_fuzz::table(b"RIMT", bytes));
