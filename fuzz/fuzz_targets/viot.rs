//! Any bytes as a VIOT.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portcullis_fuzz::table(b"VIOT", bytes));
