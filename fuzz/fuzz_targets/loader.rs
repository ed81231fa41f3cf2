//! Any bytes as a script and the files that it names: refused, or files that are no larger than what was handed over, whose tables are found or not.
//!
//! The first two bytes say how many of the others are the script, the rest is one file's contents; every name has this file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_firmware::acpi::loader::link;
use portcullis_firmware::read_acpi;

fuzz_target!(|bytes: &[u8]| {
    let Some(([low, high], rest)) = bytes.split_first_chunk() else { return };
    let script = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
    let (script, file) = rest.split_at(script);
    match link(script, 0x1000_0000..0x2000_0000, |_| Some(file.to_vec())) {
        Ok(linked) => {
            assert!(linked.files.iter().all(|placed| placed.bytes.len() == file.len()));
            if let Ok(tables) = linked.tables() {
                let _ = read_acpi(tables, "fuzzed");
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
