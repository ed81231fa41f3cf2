//! DMAR: the units of Intel VT-d (Virtualization Technology for Directed I/O specification 4.1, chapter 8).

use super::bytes::{AcpiError, Record};
use super::{HEADER, Table};
use alloc::string::String;
use alloc::vec::Vec;

/// What a device scope names (section 8.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScopeKind {
    /// A PCI function.
    Endpoint,
    /// A PCI bridge with all that is below it.
    SubHierarchy,
    /// An I/O APIC; its id is [`Scope::enumeration_id`].
    IoApic,
    /// A timer block that writes its interrupts.
    Hpet,
    /// A device in the ACPI namespace, named by the [`Andd`] with the same number.
    Namespace,
    /// A kind that is newer than this reader.
    Other(u8),
}

/// One device scope: where to find a function, hop by hop from a bus that firmware knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// What it names.
    pub kind: ScopeKind,
    /// I/O APIC id, HPET number or ACPI device number.
    pub enumeration_id: u8,
    /// The bus on which the path begins.
    pub start_bus: u8,
    /// Device and function of each hop, at least one.
    pub path: Vec<(u8, u8)>,
}

/// A remapping unit (section 8.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drhd {
    /// Every PCI function of the segment that no other unit names is behind it.
    pub include_all: bool,
    /// PCI segment.
    pub segment: u16,
    /// Where its registers are.
    pub registers: u64,
    /// How many bytes of them.
    pub size: u64,
    /// Whom it names.
    pub scopes: Vec<Scope>,
}

/// A region that some devices must reach at the same addresses as memory (section 8.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rmrr {
    /// PCI segment.
    pub segment: u16,
    /// First address.
    pub first: u64,
    /// Last address, inclusive.
    pub last: u64,
    /// The devices.
    pub scopes: Vec<Scope>,
}

/// The name of a device in the ACPI namespace (section 8.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Andd {
    /// Which scopes mean it.
    pub number: u8,
    /// Its path.
    pub name: String,
}

/// Root ports or devices that may use address translation services (sections 8.5 and 8.8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ats {
    /// PCI segment.
    pub segment: u16,
    /// All root ports of the segment.
    pub all_ports: bool,
    /// An SATC entry: devices that are part of the SoC, rather than root ports.
    pub integrated: bool,
    /// The others.
    pub scopes: Vec<Scope>,
}

/// The table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dmar {
    /// Width of the addresses that DMA can reach, in bits.
    pub address_bits: u16,
    /// Flags: 1 interrupt remapping, 2 firmware asks not to enable x2APIC, 4 DMA was locked down by firmware.
    pub flags: u8,
    /// Units, in order.
    pub units: Vec<Drhd>,
    /// Reserved regions, in order.
    pub regions: Vec<Rmrr>,
    /// Named devices.
    pub names: Vec<Andd>,
    /// Who may use address translation services.
    pub ats: Vec<Ats>,
    /// Types and offsets of records that this reader does not know.
    pub unknown: Vec<(u16, usize)>,
}

impl Dmar {
    /// Reads the table.
    ///
    /// # Errors
    ///
    /// It is another table, or a record is cut off.
    pub fn parse(table: &Table<'_>) -> Result<Self, AcpiError> {
        let whole = table.expect(b"DMAR")?;
        let width = whole.u8(HEADER, "Host Address Width")?;
        let mut dmar = Self {
            // The field holds one less.
            address_bits: u16::from(width).saturating_add(1),
            flags: whole.u8(37, "Flags")?,
            units: Vec::new(),
            regions: Vec::new(),
            names: Vec::new(),
            ats: Vec::new(),
            unknown: Vec::new(),
        };
        let length = |record: Record<'_>| record.u16(2, "Length").map(usize::from);
        for record in whole.after(48, "Remapping Structures")?.records(4, "Length", length) {
            dmar.record(record?)?;
        }
        Ok(dmar)
    }

    fn record(&mut self, record: Record<'_>) -> Result<(), AcpiError> {
        match record.u16(0, "Type")? {
            0 => self.units.push(Drhd {
                include_all: record.u8(4, "Flags")? & 1 != 0,
                segment: record.u16(6, "Segment Number")?,
                registers: record.u64(8, "Register Base Address")?,
                // Low four bits: log2 of the number of 4 KiB pages (since 4.0; 0 before).
                size: 0x1000 << (record.u8(5, "Size")? & 0xf),
                scopes: scopes(record, 16)?,
            }),
            1 => self.regions.push(Rmrr {
                segment: record.u16(6, "Segment Number")?,
                first: record.u64(8, "Reserved Memory Region Base Address")?,
                last: record.u64(16, "Reserved Memory Region Limit Address")?,
                scopes: scopes(record, 24)?,
            }),
            kind @ (2 | 5) => self.ats.push(Ats {
                segment: record.u16(6, "Segment Number")?,
                all_ports: kind == 2 && record.u8(4, "Flags")? & 1 != 0,
                integrated: kind == 5,
                scopes: scopes(record, 8)?,
            }),
            // RHSA (NUMA distance) and SIDP (properties of integrated devices) say nothing of who is behind what.
            3 => drop(record.u32(16, "Proximity Domain")?),
            6 => drop(scopes(record, 8)?),
            4 => self.names.push(Andd {
                number: record.u8(7, "ACPI Device Number")?,
                name: record.text(8, "ACPI Object Name")?,
            }),
            kind => self.unknown.push((kind, record.start())),
        }
        Ok(())
    }
}

fn scopes(record: Record<'_>, at: usize) -> Result<Vec<Scope>, AcpiError> {
    let length = |scope: Record<'_>| scope.u8(1, "Device Scope Length").map(usize::from);
    let entries = record.after(at, "Device Scope")?.records(8, "Device Scope Length", length);
    entries.map(|entry| entry.and_then(scope)).collect()
}

fn scope(entry: Record<'_>) -> Result<Scope, AcpiError> {
    let kind = match entry.u8(0, "Device Scope Type")? {
        1 => ScopeKind::Endpoint,
        2 => ScopeKind::SubHierarchy,
        3 => ScopeKind::IoApic,
        4 => ScopeKind::Hpet,
        5 => ScopeKind::Namespace,
        other => ScopeKind::Other(other),
    };
    let path = entry.after(6, "Path")?;
    let (hops, rest) = path.all().as_chunks::<2>();
    if !rest.is_empty() {
        return Err(entry.error(1, "Device Scope Length", super::Fault::Length(entry.len())));
    }
    Ok(Scope {
        kind,
        enumeration_id: entry.u8(4, "Enumeration ID")?,
        start_bus: entry.u8(5, "Start Bus Number")?,
        path: hops.iter().map(|[device, function]| (*device, *function)).collect(),
    })
}
