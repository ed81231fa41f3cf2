//! Any bytes as a devicetree.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portcullis_fuzz::devicetree(bytes));
