//! IVRS: the units of AMD's IOMMU (AMD I/O Virtualization Technology specification, document 48882 revision 3.10, chapter 5).

use super::bytes::{AcpiError, Fault, Record};
use super::{HEADER, Table};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

/// A unit as one of its blocks describes it (section 5.2.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ivhd {
    /// 0x10, 0x11 or 0x40: of several blocks for one unit the highest is the one to be used.
    pub kind: u8,
    /// Flags; bit 5 says that its own accesses snoop the CPU's caches.
    pub flags: u8,
    /// Requester id of the unit itself.
    pub device: u16,
    /// PCI segment of the unit and of those that it serves.
    pub segment: u16,
    /// Where its registers are.
    pub registers: u64,
    /// The extended feature register, where the block has it (0x11 and 0x40).
    pub features: Option<u64>,
    /// Whom it serves, in order; a later entry counts more than an earlier one.
    pub entries: Vec<Entry>,
}

/// A device entry (section 5.2.2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// All requester ids of the segment.
    All,
    /// Requester ids from `first` to `last`.
    Range {
        /// First id.
        first: u16,
        /// Last id.
        last: u16,
        /// The id with which they reach the unit, where it is another than their own.
        alias: Option<u16>,
    },
    /// A device that is not on PCI: an I/O APIC or a timer block that writes its interrupts.
    Special {
        /// 1 for an I/O APIC, 2 for an HPET.
        variety: u8,
        /// I/O APIC id or HPET number.
        handle: u8,
        /// The id with which it reaches the unit.
        device: u16,
    },
    /// A device in the ACPI namespace.
    Named {
        /// Its hardware id and unique id, `HID:UID`.
        name: String,
        /// The id with which it reaches the unit.
        device: u16,
    },
}

/// A memory block (section 5.2.2.2): addresses that devices use as they are, or must not use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ivmd {
    /// PCI segment.
    pub segment: u16,
    /// First and last requester id; `None` for all.
    pub devices: Option<(u16, u16)>,
    /// Flags: 1 unity (mapped 1:1), 2 readable, 4 writable, 8 exclusion range (not translated at all).
    pub flags: u8,
    /// First address.
    pub start: u64,
    /// Number of bytes.
    pub len: u64,
}

/// The table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ivrs {
    /// IVinfo: bits 14..8 are the physical address size.
    pub info: u32,
    /// The units, each by its highest block, in order of first mention.
    pub units: Vec<Ivhd>,
    /// Memory blocks, in order.
    pub regions: Vec<Ivmd>,
    /// Types and offsets of records and entries that this reader does not know.
    pub unknown: Vec<(u16, usize)>,
}

impl Ivrs {
    /// Reads the table.
    ///
    /// # Errors
    ///
    /// It is another table, a record is cut off, or a range has no beginning or end.
    pub fn parse(table: &Table<'_>) -> Result<Self, AcpiError> {
        let whole = table.expect(b"IVRS")?;
        let mut ivrs = Self { info: whole.u32(HEADER, "IVinfo")?, ..Self::default() };
        let length = |record: Record<'_>| record.u16(2, "Length").map(usize::from);
        let mut blocks = Vec::new();
        for record in whole.after(48, "IVDBs")?.records(4, "Length", length) {
            ivrs.record(record?, &mut blocks)?;
        }
        // Of the blocks of one unit, the one of the highest type, where the first of them stands.
        let mut highest: BTreeMap<(u16, u16), usize> = BTreeMap::new();
        for block in blocks {
            let at = *highest.entry((block.segment, block.device)).or_insert(ivrs.units.len());
            match ivrs.units.get_mut(at) {
                Some(known) if known.kind < block.kind => *known = block,
                Some(_) => {}
                None => ivrs.units.push(block),
            }
        }
        Ok(ivrs)
    }

    fn record(&mut self, record: Record<'_>, blocks: &mut Vec<Ivhd>) -> Result<(), AcpiError> {
        match record.u8(0, "Type")? {
            kind @ (0x10 | 0x11 | 0x40) => blocks.push(self.unit(kind, record)?),
            kind @ 0x20..=0x22 => {
                let (first, aux) = (record.u16(4, "DeviceID")?, record.u16(6, "Auxiliary data")?);
                self.regions.push(Ivmd {
                    // Newer revisions hold the segment in what was reserved.
                    segment: record.u16(8, "PCI Segment Group")?,
                    devices: match kind {
                        0x20 => None,
                        0x21 => Some((first, first)),
                        _ => Some((first, aux)),
                    },
                    flags: record.u8(1, "Flags")?,
                    start: record.u64(16, "IVMD start address")?,
                    len: record.u64(24, "IVMD memory block length")?,
                });
            }
            kind => self.unknown.push((u16::from(kind), record.start())),
        }
        Ok(())
    }

    fn unit(&mut self, kind: u8, record: Record<'_>) -> Result<Ivhd, AcpiError> {
        let long = kind != 0x10;
        let features = long.then(|| record.u64(24, "EFR Register Image")).transpose()?;
        let entries = record.after(if long { 40 } else { 24 }, "IVHD device entries")?;
        Ok(Ivhd {
            kind,
            flags: record.u8(1, "Flags")?,
            device: record.u16(4, "DeviceID")?,
            segment: record.u16(16, "PCI Segment Group")?,
            registers: record.u64(8, "IOMMU Base Address")?,
            features,
            entries: self.entries(entries)?,
        })
    }

    fn entries(&mut self, block: Record<'_>) -> Result<Vec<Entry>, AcpiError> {
        let mut entries = Vec::new();
        // The beginning of a range whose end has not come yet.
        let mut open: Option<(u16, Option<u16>, usize)> = None;
        for entry in block.records(4, "device entry", entry_length) {
            let entry = entry?;
            let device = entry.u16(1, "DeviceID")?;
            let kind = entry.u8(0, "Type")?;
            if kind == 4 {
                let (first, alias, _) =
                    open.take().ok_or(entry.error(0, "end of range", Fault::Value(4)))?;
                if device < first {
                    return Err(entry.error(1, "end of range", Fault::Value(u64::from(device))));
                }
                entries.push(Entry::Range { first, last: device, alias });
                continue;
            }
            let one = |alias| Entry::Range { first: device, last: device, alias };
            match kind {
                0 => {}
                1 => entries.push(Entry::All),
                2 | 0x46 => entries.push(one(None)),
                3 | 0x47 => open = Some((device, None, entry.start())),
                0x42 => entries.push(one(Some(entry.u16(5, "Source DeviceID")?))),
                0x43 => {
                    open = Some((device, Some(entry.u16(5, "Source DeviceID")?), entry.start()))
                }
                0x48 => entries.push(Entry::Special {
                    variety: entry.u8(7, "Variety")?,
                    handle: entry.u8(4, "Handle")?,
                    device: entry.u16(5, "Source DeviceID")?,
                }),
                0xf0 => entries.push(Entry::Named { name: name(entry)?, device }),
                kind => self.unknown.push((u16::from(kind), entry.start())),
            }
        }
        match open {
            Some((first, ..)) => {
                Err(block.error(block.len(), "end of range", Fault::Value(u64::from(first))))
            }
            None => Ok(entries),
        }
    }
}

/// By type: 4 bytes below 0x40, then 8, 16 and 32; the entry of a named device says how long its text is.
fn entry_length(entry: Record<'_>) -> Result<usize, AcpiError> {
    Ok(match entry.u8(0, "Type")? {
        0..=0x3f => 4,
        0x40..=0x7f => 8,
        0x80..=0xbf => 16,
        0xf0 => usize::from(entry.u8(21, "UID length")?).saturating_add(22),
        0xc0..=0xff => 32,
    })
}

fn name(entry: Record<'_>) -> Result<String, AcpiError> {
    let text = |bytes: &[u8]| -> String {
        let kept =
            bytes.iter().take_while(|byte| **byte != 0).filter(|byte| byte.is_ascii_graphic());
        kept.map(|byte| char::from(*byte)).collect()
    };
    let hid = text(entry.bytes(4, 8, "Hardware ID")?);
    let len = usize::from(entry.u8(21, "UID length")?);
    let uid = entry.bytes(22, len, "Unique ID")?;
    Ok(match entry.u8(20, "UID format")? {
        // A number of as many bytes as the length says; the document has 8, firmware has fewer.
        1 => {
            let bytes = uid.iter().take(8).rev();
            let number = bytes.fold(0u64, |number, byte| (number << 8) | u64::from(*byte));
            alloc::format!("{hid}:{number}")
        }
        2 => alloc::format!("{hid}:{}", text(uid)),
        _ => hid,
    })
}
