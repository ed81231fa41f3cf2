//! The devicetrees of a distribution's arm64 kernel package, as `cargo xtask boards` fetches them.

use crate::say;
use crate::second::{Counts, compare};
use portcullis::DmaPath;
use portcullis_firmware::{IommuKind, MachineDescription, Severity, read_devicetree};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// The folder with the devicetrees, which `cargo xtask boards` keeps.
fn fetch() -> Result<PathBuf, String> {
    let arguments = ["run", "--quiet", "--package", "xtask", "--", "boards", "--fetch"];
    let output = Command::new(env!("CARGO")).args(arguments).output();
    let output = output.map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().into());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

fn blobs(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("folder").map(|entry| entry.expect("entry")) {
        let (path, kind) = (entry.path(), entry.file_type().expect("file type"));
        if kind.is_dir() {
            blobs(&path, found);
        } else if kind.is_file() && path.extension().is_some_and(|it| it == "dtb") {
            found.push(path);
        }
    }
}

fn all_behind_smmuv3(board: &str, machine: &MachineDescription, instances: usize) {
    let enabled = machine.iommus.iter().filter(|it| it.enabled && it.kind == IommuKind::SmmuV3);
    assert_eq!(enabled.count(), instances, "{board}");
    assert!(machine.clients().count() > 0, "{board}");
    for client in machine.clients() {
        assert!(matches!(client.dma, DmaPath::Translated(_)), "{board}: {}", client.path);
    }
}

/// Downloads a kernel package and unpacks its devicetrees, 300 MB.
mod long {
    use super::*;

    #[test]
    #[ignore = "long: `PORTCULLIS_LONG=1 cargo xtask test`"]
    fn every_board_of_the_kernel_package_is_read_twice_alike() {
        let folder = match fetch() {
            Ok(folder) => folder,
            Err(reason) => {
                let required = ["PORTCULLIS_REQUIRE_EXTERNAL", "PORTCULLIS_REQUIRE_KERNEL_PACKAGE"];
                let required =
                    required.iter().all(|it| std::env::var_os(it).is_some_and(|it| it == "1"));
                assert!(!required, "the kernel package cannot be had: {reason}");
                say(&format!(
                    "skipped: real devicetrees are not read, the kernel package cannot be had: {reason}"
                ));
                return;
            }
        };
        let mut paths = vec![];
        blobs(&folder, &mut paths);
        assert!(paths.len() >= 300, "only {} devicetrees", paths.len());
        let (mut counts, mut rules) = (Counts::default(), BTreeMap::<_, usize>::new());
        let mut richest = vec![];
        let (mut reading, mut special) = (std::time::Duration::ZERO, 0);
        for path in &paths {
            let board = path.file_stem().expect("name").to_string_lossy();
            let blob = fs::read(path).expect("blob");
            let start = Instant::now();
            let machine = read_devicetree(&blob, &board);
            reading += start.elapsed();
            let machine = machine.unwrap_or_else(|error| panic!("{board}: {error}"));
            richest.push((compare(&board, &blob, &machine, &mut counts), board.to_string()));
            for finding in machine.findings.iter().filter(|it| it.severity == Severity::Error) {
                *rules.entry(finding.rule).or_default() += 1;
            }
            let v3 =
                |it: &&portcullis_firmware::IommuNode| it.enabled && it.kind == IommuKind::SmmuV3;
            let enabled = machine.iommus.iter().filter(v3).count();
            match board.as_ref() {
                // Older packages ship it with its SMMUs disabled.
                "hip07-d05" if enabled > 0 => all_behind_smmuv3(&board, &machine, 4),
                "fvp-base-revc" => all_behind_smmuv3(&board, &machine, 1),
                _ => continue,
            }
            special += 1;
        }
        say(&format!(
            "{counts:?}, {special} boards all behind SMMUv3, errors {rules:?}, read in {reading:?}"
        ));
        richest.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        for (enabled, board) in richest.iter().take(5) {
            say(&format!("{board}: {enabled:?}"));
        }
        assert_eq!(counts.boards, paths.len());
    }
}
