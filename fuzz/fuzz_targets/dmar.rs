//! Any bytes as a DMAR.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portcullis_fuzz::table(b"DMAR", bytes));
