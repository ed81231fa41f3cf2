//! Tables of real machines, from a folder that `PORTCULLIS_ACPI_TABLES` names: one folder for each machine, one file for each table.

use portcullis::DmaPath;
use portcullis_firmware::{Severity, read_acpi};
use std::collections::BTreeMap;
use std::fs;

#[test]
fn every_machine_of_a_collection_is_read() {
    let Some(folder) = std::env::var_os("PORTCULLIS_ACPI_TABLES") else {
        crate::say(
            "SKIP: real ACPI tables are not read, PORTCULLIS_ACPI_TABLES names no folder of machines",
        );
        return;
    };
    let (mut machines, mut units, mut clients) = (0, 0, 0);
    let mut rules: BTreeMap<_, usize> = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry")) {
        if !entry.path().is_dir() {
            continue;
        }
        let files =
            fs::read_dir(entry.path()).expect("a machine").map(|file| file.expect("a file"));
        let tables: Vec<_> = files.map(|file| fs::read(file.path()).expect("a table")).collect();
        let name = entry.file_name().to_string_lossy().into_owned();
        let machine = read_acpi(tables.iter().map(Vec::as_slice), &name);
        let machine = machine.unwrap_or_else(|error| panic!("{name}: {error}"));
        machines += 1;
        units += machine.iommus.len();
        for client in machine.clients() {
            clients += 1;
            assert!(
                machine.iommus.is_empty()
                    || client.dma != DmaPath::Direct
                    || client.path.starts_with('\\')
                    || client.path.starts_with("PCI"),
                "{name}: {} is direct",
                client.path
            );
        }
        for finding in machine.findings.iter().filter(|it| it.severity != Severity::Note) {
            *rules.entry(finding.rule).or_default() += 1;
        }
    }
    crate::say(&format!(
        "{machines} machines, {units} units, {clients} named clients, errors and warnings {rules:?}"
    ));
    assert!(machines > 0);
}
