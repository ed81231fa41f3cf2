//! From the root pointer to the tables.

use super::bytes::{AcpiError, Fault, Record, Signature};
use super::{HEADER, Table};
use alloc::vec::Vec;

/// More tables than this are refused. ACPI has no limit; machines have about 30.
const MOST_TABLES: usize = 1024;

/// The tables that the root pointer `pointer` (RSDP) leads to, in its order, each as long as its header says (ACPI 6.5, 5.2.5.3, 5.2.7 and 5.2.8). Not those to which only other tables lead, as the FADT
/// does to the DSDT. `bytes_at` gives the memory from a physical address on, at least as long as the table that is there; `None` where no table can be.
///
/// What the root pointer is found by is the boot protocol's: UEFI's configuration table, the start information of PVH, a search below 1 MiB.
///
/// # Errors
///
/// No root pointer, one whose checksum is wrong, or a pointer that leads to no table.
///
/// # Examples
///
/// ```
/// # fn with_checksum(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
/// #     bytes[at] = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
/// #     bytes
/// # }
/// // Memory from 0x1000 on: an RSDT that names the table at 0x1040.
/// let mut memory = Vec::from(*b"RSDT");
/// memory.extend(40u32.to_le_bytes());
/// memory.resize(36, 0);
/// memory.extend(0x1040u32.to_le_bytes());
/// memory.resize(0x40, 0);
/// memory.extend(*b"DMAR");
/// memory.extend(48u32.to_le_bytes());
/// memory.resize(0x40 + 48, 0);
/// let mut pointer = Vec::from(*b"RSD PTR ");
/// pointer.resize(16, 0);
/// pointer.extend(0x1000u32.to_le_bytes());
/// let pointer = with_checksum(pointer, 8);
///
/// let at = |address: u64| memory.get(usize::try_from(address.checked_sub(0x1000)?).ok()?..);
/// let tables = portcullis_firmware::acpi::tables(&pointer, at)?;
/// assert_eq!(tables.len(), 1);
/// assert_eq!(tables[0].len(), 48);
/// # Ok::<(), portcullis_firmware::AcpiError>(())
/// ```
pub fn tables<'m>(
    pointer: &'m [u8],
    bytes_at: impl Fn(u64) -> Option<&'m [u8]>,
) -> Result<Vec<&'m [u8]>, AcpiError> {
    let bytes_at = |address| bytes_at(address).filter(|rest| !rest.is_empty());
    let (address, width) = root(pointer)?;
    let rsdp = Record::new(Signature(*b"RSDP"), pointer);
    let nowhere = rsdp.error(if width == 8 { 24 } else { 16 }, "root table", Fault::Value(address));
    let table = Table::new(bytes_at(address).ok_or(nowhere)?)?;
    let is_wide = width == 8;
    let record = table.expect(if is_wide { b"XSDT" } else { b"RSDT" })?;
    let entries = record.after(HEADER, "Entry")?;
    let mut tables = Vec::new();
    for at in (0..entries.len()).step_by(width) {
        if tables.len() >= MOST_TABLES {
            return Err(entries.error(at, "Entry", Fault::TooMany));
        }
        let address = match is_wide {
            true => entries.u64(at, "Entry")?,
            false => entries.u32(at, "Entry")?.into(),
        };
        let nowhere = entries.error(at, "Entry", Fault::Value(address));
        let bytes = bytes_at(address).ok_or(nowhere)?;
        let len = Table::new(bytes)?.len();
        tables.extend(bytes.get(..len));
    }
    Ok(tables)
}

/// Where the root table begins, and how many bytes its entries have.
fn root(pointer: &[u8]) -> Result<(u64, usize), AcpiError> {
    let rsdp = Record::new(Signature(*b"RSDP"), pointer);
    if rsdp.bytes(0, 8, "Signature")? != b"RSD PTR " {
        return Err(rsdp.error(0, "Signature", Fault::Signature));
    }
    let summed = |len, at, field| {
        let sum = rsdp.bytes(0, len, field)?.iter().fold(0u8, |a, b| a.wrapping_add(*b));
        if sum == 0 { Ok(()) } else { Err(rsdp.error(at, field, Fault::Value(sum.into()))) }
    };
    summed(20, 8, "Checksum")?;
    match rsdp.u8(15, "Revision")? {
        0 | 1 => Ok((rsdp.u32(16, "RsdtAddress")?.into(), 4)),
        _ => {
            summed(rsdp.u32(20, "Length")? as usize, 32, "Extended Checksum")?;
            Ok((rsdp.u64(24, "XsdtAddress")?, 8))
        }
    }
}
