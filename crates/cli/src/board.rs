//! Where boards come from.

use portcullis_firmware::{MachineDescription, read_devicetree};
use portcullis_testbed::IommuDriver;
use std::path::Path;

/// The board that is built in (`boards/portcullis-default.dts`).
const BUILT_IN: &[u8] = include_bytes!("../../../boards/portcullis-default.dtb");

/// Reads a flattened devicetree, or the built-in board.
///
/// # Errors
///
/// Which file cannot be used, and why.
pub fn read(path: Option<&Path>) -> Result<MachineDescription, String> {
    let mut machine = match path {
        None => {
            read_devicetree(BUILT_IN, "portcullis-default").map_err(|error| error.to_string())?
        }
        Some(path) => read_file(path)?,
    };
    machine.note_unserved(|iommu| IommuDriver::of(iommu).is_some());
    Ok(machine)
}

fn read_file(path: &Path) -> Result<MachineDescription, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    read_devicetree(&bytes, &name).map_err(|error| format!("{}: {error}", path.display()))
}

/// Columns of the terminal, as far as the environment says; 120 otherwise.
pub fn width() -> usize {
    std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()).unwrap_or(120)
}
