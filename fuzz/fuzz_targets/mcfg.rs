//! Any bytes as a MCFG.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portcullis_fuzz::table(b"MCFG", bytes));
