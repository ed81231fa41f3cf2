//! ACPI tables as people have them: one file, a directory as `/sys/firmware/acpi/tables`, or what `acpidump` prints.

use portcullis_firmware::MachineDescription;
use portcullis_firmware::acpi::loader::Linked;
use portcullis_firmware::acpi::{Table, read_acpi};
use std::fs;
use std::path::Path;

/// Tables that say something of IOMMUs, and MCFG.
const SIGNATURES: [&[u8; 4]; 6] = [b"DMAR", b"IVRS", b"IORT", b"RIMT", b"VIOT", b"MCFG"];

/// Whether `bytes` begin with a table that is read.
pub(super) fn is_table(bytes: &[u8]) -> bool {
    bytes.first_chunk::<4>().is_some_and(|start| SIGNATURES.contains(&start))
}

/// The tables of a directory, by file name; `None` where it has none.
pub(super) fn directory(folder: &Path, most: u64) -> Result<Option<Vec<Vec<u8>>>, String> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| error.to_string())? {
        let entry = entry.map_err(|error| error.to_string())?;
        if entry.path().is_file() {
            paths.push(entry.path());
        }
    }
    paths.sort();
    let mut tables = Vec::new();
    for path in paths {
        let at = |error: std::io::Error| format!("{}: {error}", path.display());
        // A description has many small files that are none; only what begins like a table is read.
        if fs::metadata(&path).map_err(at)?.len() <= most {
            let bytes = fs::read(&path).map_err(at)?;
            tables.extend(is_table(&bytes).then_some(bytes));
        }
    }
    Ok((!tables.is_empty()).then_some(tables))
}

/// The tables in a text that `acpidump` printed: `DMAR @ 0x0...`, then lines of an offset and up to 16 bytes. `None` where it is no such text.
pub(super) fn dump(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut tables: Vec<Vec<u8>> = Vec::new();
    for line in text.lines() {
        if line.get(4..).is_some_and(|rest| rest.starts_with(" @ 0x")) {
            tables.push(Vec::new());
        } else if let (Some(table), Some((offset, rest))) =
            (tables.last_mut(), line.split_once(": "))
        {
            let offset = usize::from_str_radix(offset.trim(), 16).ok()?;
            if offset != table.len() {
                return None;
            }
            let digits = rest.get(..rest.len().min(47)).unwrap_or(rest);
            let digits = digits.split("  ").next().unwrap_or(digits);
            for byte in digits.split_whitespace() {
                table.push(u8::from_str_radix(byte, 16).ok()?);
            }
        }
    }
    tables.retain(|table| is_table(table));
    (!tables.is_empty()).then_some(tables)
}

/// All tables as one machine.
pub(super) fn lower(tables: &[Vec<u8>], name: &str) -> Result<MachineDescription, String> {
    let bytes = tables.iter().map(Vec::as_slice);
    read_acpi(bytes, name).map_err(|error| error.to_string())
}

/// Several tables in one file, one behind the other.
pub(super) fn split(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut tables = Vec::new();
    while is_table(bytes) {
        let len = Table::new(bytes).map_or(bytes.len(), |table| table.len());
        tables.push(bytes[..len].to_vec());
        bytes = &bytes[len..];
    }
    tables
}

/// Writes the tables that `linked`'s root pointer leads to into `folder`, each under its signature, as `/sys/firmware/acpi/tables` has them: a second one of a kind with a number.
///
/// # Errors
///
/// They cannot be found, or not be written.
pub fn save_tables(linked: &Linked, folder: &Path) -> Result<(), String> {
    let at = |error: std::io::Error| format!("{}: {error}", folder.display());
    fs::create_dir_all(folder).map_err(at)?;
    let mut known = Vec::new();
    for bytes in linked.tables().map_err(|error| error.to_string())? {
        let signature = Table::new(bytes).map_err(|error| error.to_string())?.signature.to_string();
        let before = known.iter().filter(|other| **other == signature).count();
        let number = if before > 0 { (before + 1).to_string() } else { String::new() };
        fs::write(folder.join(format!("{signature}{number}")), bytes).map_err(at)?;
        known.push(signature);
    }
    Ok(())
}
