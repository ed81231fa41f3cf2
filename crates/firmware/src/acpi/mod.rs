//! ACPI: the tables that say which device is behind which IOMMU.
//!
//! [`read_acpi`] is all that most need: it takes the bytes of the tables as firmware gave them and lowers all of them into one
//! [`MachineDescription`]. The parsers stand on their own as well: [`dmar`] (Intel VT-d specification 4.1, chapter 8), [`ivrs`] (AMD IOMMU
//! specification 48882, chapter 5), [`iort`] (Arm DEN 0049, E.e), [`rimt`] (RISC-V IO Mapping Table 1.0), [`viot`] (ACPI 6.5, section
//! 5.2.34 and the virtio specification's table) and [`mcfg`] (PCI Firmware Specification 3.3, section 4.1.2).
//!
//! - **Bounds.** A table is read once from front to back; every record must lie within its table and be as long as its type. What is not so is an
//!   [`AcpiError`] that names table, offset and field, and there is no description then: nothing becomes direct because a table could not be read.
//! - **What is newer than this reader** (types of records that no document read here names) is skipped with a note; longer records are read as far as
//!   they are known.
//! - **Bus numbers behind bridges are not in the tables.** Scopes that need them are kept as [`crate::PciScope`]s until enumeration resolves
//!   them ([`crate::PciBus::resolve`]); until then the functions concerned are blocked, never direct.
//!
//! [`tables`] follows firmware's root pointer through memory. Where no firmware has run, [`loader`] makes tables of what a hypervisor hands to firmware.
//!
//! Not supported: interrupt remapping (IOAPIC and HPET entries are kept as [`crate::InterruptSource`]s, nothing uses them); PCI resource
//! allocation; reading AML (an ACPI device is known only by the name in the table).

mod bytes;
pub mod dmar;
pub mod iort;
pub mod ivrs;
pub mod loader;
mod lower;
pub mod mcfg;
pub mod rimt;
mod root;
pub mod viot;

pub use bytes::{AcpiError, Fault, Signature};
pub use root::tables;

use crate::machine::MachineDescription;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Record;
use lower::Lowering;

/// A table with a header that holds together: signature, length, revision, checksum (ACPI 6.5, section 5.2.6).
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    record: Record<'a>,
    /// Which table.
    pub signature: Signature,
    /// The revision of its layout.
    pub revision: u8,
    /// Whether its bytes sum to 0.
    pub checksum_ok: bool,
}

/// Length of the header that all tables begin with.
pub(crate) const HEADER: usize = 36;

impl<'a> Table<'a> {
    /// The table at the beginning of `bytes`, which may be longer.
    ///
    /// # Errors
    ///
    /// The header is cut off, or its length is smaller than itself or larger than `bytes`.
    pub fn new(bytes: &'a [u8]) -> Result<Self, AcpiError> {
        let signature = bytes.first_chunk::<4>().map_or(Signature(*b"????"), |it| Signature(*it));
        let whole = Record::new(signature, bytes);
        let length = whole.u32(4, "Length")? as usize;
        whole.bytes(0, HEADER, "header")?;
        if length < HEADER {
            return Err(whole.error(4, "Length", Fault::Length(length)));
        }
        let record = Record::new(signature, whole.bytes(0, length, "Length")?);
        let sum = record.all().iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        let revision = record.u8(8, "Revision")?;
        Ok(Self { record, signature, revision, checksum_ok: sum == 0 })
    }

    /// The vendor's name for the machine: OEM ID and OEM Table ID, printable characters only.
    pub fn oem(&self) -> String {
        let id = self.record.bytes(10, 14, "OEM ID").unwrap_or_default();
        let (vendor, product) = id.split_at_checked(6).unwrap_or_default();
        let text = |bytes: &[u8]| -> String {
            let printable = bytes.iter().filter(|it| it.is_ascii_graphic() || **it == b' ');
            printable.map(|it| char::from(*it)).collect::<String>().trim().into()
        };
        alloc::format!("{} {}", text(vendor), text(product)).trim().into()
    }

    /// Its length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a table has at least its header")]
    pub fn len(&self) -> usize {
        self.record.all().len()
    }

    pub(crate) fn expect(&self, signature: &[u8; 4]) -> Result<Record<'a>, AcpiError> {
        let is = self.signature == Signature(*signature);
        is.then_some(self.record).ok_or(self.record.error(0, "Signature", Fault::Signature))
    }
}

/// Reads `tables`, in any order, of a machine to be called `board`. Tables that say nothing of IOMMUs are passed over.
///
/// Everything wrong *in* well-formed tables is a [`crate::Finding`] of the result.
///
/// # Errors
///
/// A table that is malformed: see the module's documentation.
///
/// # Examples
///
/// ```
/// // A machine whose VIOT names nothing.
/// let mut viot = Vec::from(*b"VIOT");
/// viot.extend(48u32.to_le_bytes());
/// viot.resize(48, 0);
/// let machine = portcullis_firmware::read_acpi([viot.as_slice()], "empty")?;
/// assert!(machine.iommus.is_empty() && machine.devices.is_empty());
/// # Ok::<(), portcullis_firmware::AcpiError>(())
/// ```
pub fn read_acpi<'a>(
    tables: impl IntoIterator<Item = &'a [u8]>,
    board: &str,
) -> Result<MachineDescription, AcpiError> {
    let mut lowering = Lowering::default();
    let mut read: Vec<Table<'a>> = Vec::new();
    for bytes in tables {
        let table = Table::new(bytes)?;
        if read.iter().any(|other| other.signature == table.signature) {
            continue;
        }
        match &table.signature.0 {
            b"DMAR" => lowering.dmar(&dmar::Dmar::parse(&table)?),
            b"IVRS" => lowering.ivrs(&ivrs::Ivrs::parse(&table)?),
            b"IORT" => lowering.iort(&iort::Iort::parse(&table)?)?,
            b"RIMT" => lowering.rimt(&rimt::Rimt::parse(&table)?)?,
            b"VIOT" => lowering.viot(&viot::Viot::parse(&table)?),
            b"MCFG" => lowering.mcfg(&mcfg::Mcfg::parse(&table)?),
            _ => continue,
        }
        lowering.checksum(&table);
        read.push(table);
    }
    let model = read.first().map(Table::oem).unwrap_or_default();
    Ok(lowering.finish(board, model))
}
