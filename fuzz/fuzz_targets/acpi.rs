//! Any bytes as ACPI tables: the reader refuses them or gives a description that keeps its promises.
//!
//! The first byte chooses the signature, so that all tables are reached; length and checksum are made to fit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::DmaPath;
use portcullis_firmware::{MachineDescription, read_acpi};

const SIGNATURES: [&[u8; 4]; 6] = [b"DMAR", b"IVRS", b"IORT", b"RIMT", b"VIOT", b"MCFG"];

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, body)) = bytes.split_first() else { return };
    let mut table = SIGNATURES[usize::from(*choice) % SIGNATURES.len()].to_vec();
    table.extend((36 + body.len() as u32).to_le_bytes());
    table.resize(36, 0);
    table.extend(body);
    match read_acpi([table.as_slice()], "fuzzed") {
        Ok(machine) => check(&machine),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});

fn check(machine: &MachineDescription) {
    assert!(machine.iommus.is_sorted_by_key(|iommu| iommu.node));
    for device in &machine.devices {
        let described = device.bus.is_some() || !device.streams.is_empty();
        assert!(!described || device.description.dma != DmaPath::Direct);
        for function in &device.functions {
            assert_ne!(function.description.dma, DmaPath::Direct);
        }
        if let Some(bus) = &device.bus {
            // Enumeration that finds every bridge, and one that finds none.
            let all = bus.resolve(|bridge| u8::try_from(bridge.0 >> 8).ok().map(|bus| (bus, 0xff)));
            let none = bus.resolve(|_| None);
            assert!(all.scopes().is_empty() && none.scopes().is_empty());
        }
    }
}
