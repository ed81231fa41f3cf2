//! Damaged tables: no panic, an error or a description in which nothing that a table put behind a unit is direct.

use crate::{arm, others, x86};
use portcullis::DmaPath;
use portcullis_firmware::{MachineDescription, read_acpi};

pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).expect("below a usize")
    }
}

fn samples() -> Vec<Vec<u8>> {
    vec![x86::laptop(), x86::desktop(), arm::server(), arm::rimt(), others::viot(), others::mcfg()]
}

/// A bus or device that names a unit, and is direct.
fn wrongly_direct(machine: &MachineDescription) -> bool {
    machine.devices.iter().any(|device| {
        let described = device.bus.is_some() || !device.streams.is_empty();
        let direct = |dma: &DmaPath| *dma == DmaPath::Direct;
        let functions = device.functions.iter().any(|it| direct(&it.description.dma));
        described && (direct(&device.description.dma) || functions)
    })
}

#[test]
fn damaged_tables_never_make_a_described_device_direct() {
    let mut random = Random::new(0x5eed);
    let (mut read, mut refused) = (0, 0);
    for sample in samples() {
        for _ in 0..5_000 {
            let mut table = sample.clone();
            for _ in 0..=random.below(4) {
                let at = 36 + random.below(table.len() - 36);
                table[at] = match random.below(4) {
                    0 => 0,
                    1 => 0xff,
                    2 => table[at] ^ (1 << random.below(8)),
                    _ => u8::try_from(random.below(256)).expect("a byte"),
                };
            }
            match read_acpi([table.as_slice()], "damaged") {
                Ok(machine) => {
                    assert!(!wrongly_direct(&machine), "{table:02x?}");
                    read += 1;
                }
                Err(error) => {
                    assert_eq!(error.table.0, sample[..4], "{error}");
                    refused += 1;
                }
            }
        }
    }
    // Both happen, often.
    assert!(read > 1_000 && refused > 1_000, "{read} read, {refused} refused");
}

#[test]
fn tables_that_end_anywhere_are_refused() {
    for sample in samples() {
        for len in 0..sample.len() {
            // Cut off: the header says more. Shortened: it says so, and a record is cut.
            assert!(read_acpi([&sample[..len]], "cut").is_err());
            if len >= 36 {
                let mut short = sample[..len].to_vec();
                short[4..8].copy_from_slice(&u32::try_from(len).expect("short").to_le_bytes());
                let _ = read_acpi([short.as_slice()], "short");
            }
        }
    }
}

/// The check above sees a direct device behind a unit.
#[test]
fn the_check_sees_a_direct_device() {
    let mut machine = read_acpi([x86::laptop().as_slice()], "laptop").expect("well-formed");
    assert!(!wrongly_direct(&machine));
    machine.devices[0].functions[0].description.dma = DmaPath::Direct;
    assert!(wrongly_direct(&machine));
}
