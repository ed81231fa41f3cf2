//! Reads ACPI tables, one file each, and says which device is behind which IOMMU.
//!
//! `cargo run -p portcullis-firmware --example acpi -- /sys/firmware/acpi/tables/{DMAR,MCFG}`

use portcullis_firmware::read_acpi;
use std::process::ExitCode;

fn main() -> ExitCode {
    let read = |path: String| std::fs::read(&path).map_err(|error| format!("{path}: {error}"));
    let tables: Result<Vec<_>, _> = std::env::args().skip(1).map(read).collect();
    let machine = tables.and_then(|tables| {
        let bytes = tables.iter().map(Vec::as_slice);
        read_acpi(bytes, "tables").map_err(|error| error.to_string())
    });
    let machine = match machine {
        Ok(machine) => machine,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    for iommu in &machine.iommus {
        println!("{} {:?}", iommu.path, iommu.kind);
    }
    for client in machine.clients() {
        println!("{}: {:?}", client.path, client.dma);
    }
    for finding in &machine.findings {
        println!("{finding}");
    }
    ExitCode::SUCCESS
}
