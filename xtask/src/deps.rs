//! The arrows between our crates point one way (ARCHITECTURE.md): who may use whom, written down and checked against cargo's metadata.

use crate::run::{Outcome, output};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Who may use whom at run time. Development dependencies of tests are free, with one exception, [`NEVER`].
const ALLOWED: &[(&str, &[&str])] = &[
    ("portcullis-addr", &[]),
    ("portcullis-platform", &["portcullis-addr"]),
    ("portcullis-spec", &[]),
    ("portcullis-pgtable", &["portcullis-addr", "portcullis-platform", "portcullis-spec"]),
    ("portcullis-iova", &["portcullis-addr", "portcullis-platform"]),
    (
        "portcullis",
        &["portcullis-addr", "portcullis-platform", "portcullis-pgtable", "portcullis-iova"],
    ),
    ("portcullis-bare", &["portcullis-addr", "portcullis-platform"]),
    ("portcullis-virtio", &["portcullis-addr", "portcullis-platform", "portcullis"]),
    ("portcullis-pci", &["portcullis-platform"]),
    ("portcullis-firmware", &["portcullis-addr", "portcullis", "portcullis-pci"]),
    ("portcullis-driver-parts", &["portcullis-addr", "portcullis-platform", "portcullis"]),
    (
        "portcullis-amdvi",
        &[
            "portcullis-addr",
            "portcullis-driver-parts",
            "portcullis-platform",
            "portcullis-spec",
            "portcullis-pgtable",
            "portcullis",
        ],
    ),
    (
        "portcullis-riscv",
        &[
            "portcullis-addr",
            "portcullis-driver-parts",
            "portcullis-platform",
            "portcullis-spec",
            "portcullis-pgtable",
            "portcullis",
        ],
    ),
    (
        "portcullis-smmuv2",
        &[
            "portcullis-addr",
            "portcullis-platform",
            "portcullis-spec",
            "portcullis-pgtable",
            "portcullis",
        ],
    ),
    (
        "portcullis-smmuv3",
        &[
            "portcullis-addr",
            "portcullis-driver-parts",
            "portcullis-platform",
            "portcullis-spec",
            "portcullis-pgtable",
            "portcullis",
        ],
    ),
    (
        "portcullis-vtd",
        &[
            "portcullis-addr",
            "portcullis-driver-parts",
            "portcullis-platform",
            "portcullis-spec",
            "portcullis-pgtable",
            "portcullis",
        ],
    ),
    (
        "portcullis-virtio-iommu",
        &[
            "portcullis-addr",
            "portcullis-driver-parts",
            "portcullis-platform",
            "portcullis-spec",
            "portcullis-pgtable",
            "portcullis",
        ],
    ),
    (
        "portcullis-iommu",
        &[
            "portcullis-addr",
            "portcullis-platform",
            "portcullis-pgtable",
            "portcullis-iova",
            "portcullis",
            "portcullis-amdvi",
            "portcullis-bare",
            "portcullis-dma-api",
            "portcullis-vm-memory",
            "portcullis-firmware",
            "portcullis-pci",
            "portcullis-riscv",
            "portcullis-smmuv2",
            "portcullis-smmuv3",
            "portcullis-virtio",
            "portcullis-vtd",
            "portcullis-virtio-iommu",
        ],
    ),
    ("portcullis-vm-memory", &["portcullis-addr", "portcullis-pgtable"]),
    ("portcullis-dma-api", &["portcullis-addr", "portcullis-platform", "portcullis"]),
    ("portcullis-machine", &["portcullis-addr", "portcullis-platform", "portcullis-spec"]),
    ("portcullis-qemu", &["portcullis-addr", "portcullis-pci", "portcullis-platform"]),
    (
        "portcullis-bench",
        &[
            "portcullis-addr",
            "portcullis-platform",
            "portcullis-spec",
            "portcullis-pgtable",
            "portcullis-iova",
            "portcullis",
            "portcullis-smmuv3",
        ],
    ),
    ("portcullis-explore", &[]),
    ("portcullis-threads", &["portcullis-addr", "portcullis-explore", "portcullis-platform"]),
    ("portcullis-replay", &["portcullis-explore", "portcullis-lab", "portcullis-qemu"]),
    ("xtask", &[]),
];

/// Whoever sees everything: the programs and the crates that bring the parts together.
const SEES_EVERYTHING: &[&str] =
    &["portcullis-cli", "portcullis-lab", "portcullis-scenarios", "portcullis-testbed"];

/// Not even in a test: the software machine and the drivers meet only where neither is under test alone, so the model never learns from a driver.
const NEVER: &[(&str, &str)] = &[
    ("portcullis-machine", "portcullis-amdvi"),
    ("portcullis-machine", "portcullis-riscv"),
    ("portcullis-machine", "portcullis-smmuv2"),
    ("portcullis-machine", "portcullis-smmuv3"),
    ("portcullis-machine", "portcullis-vtd"),
    ("portcullis-machine", "portcullis-virtio-iommu"),
];

/// Crates that must be usable without an operating system: `std` may not come in through a default feature.
pub(crate) const NO_STD: &[&str] = &[
    "portcullis-addr",
    "portcullis-platform",
    "portcullis-bare",
    "portcullis-spec",
    "portcullis-pgtable",
    "portcullis-iova",
    "portcullis",
    "portcullis-firmware",
    "portcullis-pci",
    "portcullis-dma-api",
    "portcullis-driver-parts",
    "portcullis-amdvi",
    "portcullis-riscv",
    "portcullis-smmuv2",
    "portcullis-smmuv3",
    "portcullis-virtio",
    "portcullis-vtd",
    "portcullis-virtio-iommu",
    "portcullis-iommu",
];

/// Fails on an arrow that is not in the table, on a crate that is not in it, and on somebody else's crate without a line in ARCHITECTURE.md.
pub(crate) fn check() -> Outcome {
    let mut command = Command::new(env!("CARGO"));
    command.args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(crate::root());
    let metadata: serde_json::Value =
        serde_json::from_str(&output(&mut command)?).map_err(|error| error.to_string())?;
    let path = crate::root().join("ARCHITECTURE.md");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut findings = findings(&metadata);
    findings.extend(unexplained(&metadata, &text));
    if findings.is_empty() {
        println!("deps: every arrow points the right way");
        return Ok(());
    }
    Err(format!("arrows that ARCHITECTURE.md does not have:\n  {}", findings.join("\n  ")))
}

fn findings(metadata: &serde_json::Value) -> Vec<String> {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    let packages = metadata["packages"].as_array().map_or(&[][..], Vec::as_slice);
    let ours: BTreeSet<&str> =
        packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let mut findings = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        if SEES_EVERYTHING.contains(&name) {
            continue;
        }
        let Some(allowed) = allowed.get(name) else {
            findings.push(format!("{name}: a crate that the table does not know"));
            continue;
        };
        for dependency in package["dependencies"].as_array().map_or(&[][..], Vec::as_slice) {
            let target = dependency["name"].as_str().unwrap_or_default();
            let is_dev = dependency["kind"].as_str() == Some("dev");
            let wrong =
                if is_dev { NEVER.contains(&(name, target)) } else { !allowed.contains(&target) };
            if ours.contains(target) && wrong {
                findings.push(format!("{name} -> {target}"));
            }
        }
    }
    findings
}

/// Crates of others that the section "Dependencies" of `architecture` gives no reason for.
fn unexplained(metadata: &serde_json::Value, architecture: &str) -> Vec<String> {
    let section = architecture.split("## Dependencies").nth(1).unwrap_or_default();
    let packages = metadata["packages"].as_array().map_or(&[][..], Vec::as_slice);
    let name = |value: &serde_json::Value| value["name"].as_str().unwrap_or_default().to_string();
    let ours: BTreeSet<String> = packages.iter().map(name).collect();
    let named = packages
        .iter()
        .flat_map(|package| package["dependencies"].as_array().map_or(&[][..], Vec::as_slice));
    let theirs: BTreeSet<String> = named.map(name).filter(|name| !ours.contains(name)).collect();
    let silent = theirs.into_iter().filter(|name| !section.contains(&format!("`{name}`")));
    silent.map(|name| format!("{name}: no reason given under \"Dependencies\"")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn package(name: &str, target: &str, kind: Option<&str>) -> serde_json::Value {
        json!({ "packages": [
            { "name": name, "dependencies": [{ "name": target, "kind": kind }] },
            { "name": target, "dependencies": [] },
        ]})
    }

    #[test]
    fn a_wrong_arrow_is_found() {
        let wrong = package("portcullis-addr", "portcullis", None);
        assert_eq!(findings(&wrong), ["portcullis-addr -> portcullis"]);
        let wrong = package("portcullis-machine", "portcullis-smmuv3", Some("dev"));
        assert_eq!(findings(&wrong), ["portcullis-machine -> portcullis-smmuv3"]);
        let right = package("portcullis", "portcullis-addr", None);
        assert!(findings(&right).is_empty());
        let stranger = package("portcullis-util", "portcullis-addr", None);
        assert_eq!(findings(&stranger).len(), 1);
    }

    #[test]
    fn a_crate_of_others_needs_a_reason() {
        let metadata = json!({ "packages": [{
            "name": "portcullis-addr",
            "dependencies": [{ "name": "bitflags" }, { "name": "leftpad" }],
        }]});
        let text = "`leftpad`\n## Dependencies\n| `bitflags` | `addr` | flag sets |";
        assert_eq!(
            unexplained(&metadata, text),
            ["leftpad: no reason given under \"Dependencies\""]
        );
    }
}
