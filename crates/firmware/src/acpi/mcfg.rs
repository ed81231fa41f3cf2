//! MCFG: where PCI configuration space is mapped (PCI Firmware Specification 3.3, section 4.1.2).

use super::Table;
use super::bytes::{AcpiError, Fault};
use alloc::vec::Vec;

/// Configuration space of some buses of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigSpace {
    /// Address of bus 0's configuration space, whether or not that bus is among them.
    pub base: u64,
    /// PCI segment.
    pub segment: u16,
    /// First bus.
    pub first_bus: u8,
    /// Last bus.
    pub last_bus: u8,
}

/// The table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mcfg {
    /// In order.
    pub spaces: Vec<ConfigSpace>,
}

impl Mcfg {
    /// Reads the table. A last entry that is cut off, as some firmware pads tables, is an error only where it holds anything but zeros.
    ///
    /// # Errors
    ///
    /// It is another table, an entry is cut off, or its buses run backwards.
    pub fn parse(table: &Table<'_>) -> Result<Self, AcpiError> {
        let entries = table.expect(b"MCFG")?.after(44, "Configuration Space Base Address")?;
        let mut spaces = Vec::new();
        for at in (0..entries.len()).step_by(16) {
            let rest = entries.after(at, "Configuration Space Base Address")?;
            if rest.len() < 16 && rest.all().iter().all(|byte| *byte == 0) {
                break;
            }
            let entry = rest.part(0, 16, "Configuration Space Base Address")?;
            let space = ConfigSpace {
                base: entry.u64(0, "Base Address")?,
                segment: entry.u16(8, "PCI Segment Group Number")?,
                first_bus: entry.u8(10, "Start Bus Number")?,
                last_bus: entry.u8(11, "End Bus Number")?,
            };
            if space.last_bus < space.first_bus {
                return Err(entry.error(
                    11,
                    "End Bus Number",
                    Fault::Value(u64::from(space.last_bus)),
                ));
            }
            spaces.push(space);
        }
        Ok(Self { spaces })
    }
}
