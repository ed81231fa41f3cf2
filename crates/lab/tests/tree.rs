//! Source trees: which commits they have, decided right.
//!
//! The trees are Debian's source packages, fetched through apt into `target`; without them the tests say SKIP and pass,
//! unless `PORTCULLIS_REQUIRE_KERNEL_SOURCES=1`. `PORTCULLIS_KERNEL_SOURCES` names a directory with unpacked trees instead, one
//! in a directory for each version (`6.1`, `6.12`, `7.2`, `7.3`).

use std::fs;
use std::path::{Path, PathBuf};

use crate::kernel_sources::{FILES, source};
use portcullis_lab::linux::{Commit, Protocol};
use portcullis_lab::tree::{Answer, TreeError, prints, read};

/// A copy of the watched files of a tree, in which words are replaced: each must be there.
fn edited(of: &Path, name: &str, edits: &[(&str, &str, &str)]) -> PathBuf {
    let to = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("edited").join(name);
    fs::remove_dir_all(&to).ok();
    for file in FILES {
        let Ok(text) = fs::read_to_string(of.join(file)) else { continue };
        let mut text = text;
        for (_, from, with) in edits.iter().filter(|(edited, ..)| edited == file) {
            assert!(text.contains(from), "{name}: {from:?} is not in {file}");
            text = text.replace(from, with);
        }
        fs::create_dir_all(to.join(file).parent().unwrap()).unwrap();
        fs::write(to.join(file), text).unwrap();
    }
    to
}

/// The protocol that a tree is read as, and nothing was left open.
fn read_as(tree: &Path) -> Protocol {
    let findings = read(tree).unwrap();
    let readings = findings.protocols().unwrap();
    assert_eq!(readings.len(), 1, "{}: {readings:?}", tree.display());
    readings[0].protocol.clone()
}

fn protocol(base: &str, apply: &[&str], revert: &[&str]) -> Protocol {
    Protocol::parse(base, apply, revert).unwrap()
}

/// The trees as they are.
#[test]
fn debian_s_sources_are_read_as_what_they_are() {
    for (version, base) in
        [("6.1", "v6.1.y"), ("6.12", "v6.12.y"), ("7.2", "v7.3-rc7"), ("7.3", "v7.3-rc7")]
    {
        let Some(tree) = source(version) else { return };
        assert_eq!(read_as(&tree), protocol(base, &[], &[]), "{version}");
        let findings = read(&tree).unwrap();
        assert!(findings.version.as_ref().is_some_and(|found| found.starts_with(version)));
        assert_eq!(findings.unrecognised, [], "{version}");
        let open = findings.commits.iter().filter(|f| f.answer == Answer::CannotTell);
        assert_eq!(open.count(), 0, "{version}");
        // Evidence: the line that is named has something on it, and the commit's own words where it is there.
        let check = findings.of(Commit::DefaultDomainCheck).unwrap();
        assert_eq!(check.answer == Answer::Has, version != "6.1", "{version}");
        let text = fs::read_to_string(tree.join(check.file)).unwrap();
        let line = text.lines().nth(check.line.unwrap() - 1).unwrap();
        if check.answer == Answer::Has {
            assert!(line.contains("default_domain"), "{version}: {line}");
        }
    }
}

const IOMMU: &str = "drivers/iommu/iommu.c";
const DD: &str = "drivers/base/dd.c";

/// Words of a file, and what stands in their place.
type Edit = (&'static str, &'static str, &'static str);
/// A base, commits applied, commits reverted.
type Expected = (&'static str, &'static [&'static str], &'static [&'static str]);

/// Commits taken out of and put into real trees: the name, the tree, the edits, what it must be read as.
const CASES: &[(&str, &str, &[Edit], Expected)] = &[
    (
        "6.12-without-check",
        "6.12",
        &[(
            IOMMU,
            "	/* We may race against bus_iommu_probe() finalising groups here */\n	if (!group->default_domain) {\n		ret = -EPROBE_DEFER;\n		goto unlock_out;\n	}\n",
            "",
        )],
        ("v6.12.y", &[], &["b46064a18810"]),
    ),
    (
        "6.12-without-clear",
        "6.12",
        &[(IOMMU, "	dev->dma_iommu = false;\n#endif\n}", "#endif\n}")],
        ("v6.12.y", &[], &["280e5a301005"]),
    ),
    (
        "6.12-without-hack",
        "6.12",
        &[(
            "drivers/iommu/arm/arm-smmu/arm-smmu.c",
            "\"smmu dev has not bound yet\\n\"",
            "\"gone\\n\"",
        )],
        ("v6.12.y", &[], &["229e6ee43d2a"]),
    ),
    (
        "6.12-with-bus-lookup",
        "6.12",
        &[(
            "drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.c",
            "driver_find_device_by_fwnode(&arm_smmu_driver.driver,",
            "bus_find_device_by_fwnode(&platform_bus_type,",
        )],
        ("v6.12.y", &["7d835134d4e1"], &[]),
    ),
    (
        "6.12-with-check-state",
        "6.12",
        &[(
            IOMMU,
            "	if (!ops)\n		return -EPROBE_DEFER;\n\n	if (fwspec)",
            "	if (!ops)\n		return driver_deferred_probe_check_state(dev);\n\n	if (fwspec)",
        )],
        ("v6.12.y", &["46b3df8eb9bd"], &[]),
    ),
    (
        "6.12-without-ready",
        "6.12",
        &[(DD, "	if (!dev_ready_to_probe(dev))", "	if (0)")],
        ("v6.12.y", &[], &["a2225b6e834a"]),
    ),
    (
        "6.12-with-atomic-bit",
        "6.12",
        &[(
            "drivers/iommu/dma-iommu.c",
            "	dev->dma_iommu = iommu_is_dma_domain(domain);\n",
            "	dev_assign_dma_iommu(dev, iommu_is_dma_domain(domain));\n",
        )],
        ("v6.12.y", &["f8670e8e43b8"], &[]),
    ),
    (
        "6.12-with-two-atomic-bits",
        "6.12",
        &[
            (
                "arch/arm64/mm/dma-mapping.c",
                "	dev->dma_coherent = coherent;",
                "	dev_assign_dma_coherent(dev, coherent);",
            ),
            (DD, "	dev->can_match = true;\n	dev_dbg", "	dev_set_can_match(dev);\n	dev_dbg"),
        ],
        ("v6.12.y", &["23ca35ee8872", "3e3c2f53da2a"], &[]),
    ),
    (
        "6.1-without-keep",
        "6.1",
        &[(
            IOMMU,
            "	if (group->default_domain)\n		return;\n\n	memset(&gtype, 0, sizeof(gtype));",
            "	memset(&gtype, 0, sizeof(gtype));",
        )],
        ("v6.1.y", &[], &["64c3873cb255"]),
    ),
    (
        "6.1-with-check",
        "6.1",
        &[(
            IOMMU,
            "	mutex_lock(&group->mutex);\n	if (group->owner_cnt) {\n		if (group->owner || !iommu_is_default_domain(group)) {",
            "	mutex_lock(&group->mutex);\n	if (!group->default_domain) {\n		ret = -EPROBE_DEFER;\n		goto unlock_out;\n	}\n	if (group->owner_cnt) {\n		if (group->owner || !iommu_is_default_domain(group)) {",
        )],
        ("v6.1.y", &["b46064a18810"], &[]),
    ),
    (
        "6.1-with-locked-test",
        "6.1",
        &[(
            IOMMU,
            "	lockdep_assert_held(&iommu_probe_device_lock);\n	if (!dev_iommu_get(dev))",
            "	lockdep_assert_held(&iommu_probe_device_lock);\n	if (dev->iommu_group)\n		return 0;\n	if (!dev_iommu_get(dev))",
        )],
        ("v6.1.y", &["6eb4da8cf545-6.1"], &[]),
    ),
    (
        "7.2-without-recheck",
        "7.2",
        &[(IOMMU, "		if (!dev->iommu || dev->iommu_group)\n			return -ENODEV;\n", "")],
        ("v7.3-rc7", &[], &["0c8e9c148e29"]),
    ),
    (
        "7.2-without-ready",
        "7.2",
        &[(IOMMU, "	if (!dev->iommu && !READ_ONCE(iommu->ready))\n		return -EPROBE_DEFER;\n", "")],
        ("v7.3-rc7", &[], &["da33e87bd2bf"]),
    ),
    (
        "7.2-without-driver-once",
        "7.2",
        &[
            ("drivers/base/platform.c", "READ_ONCE(dev->driver)", "dev->driver"),
            ("drivers/pci/pci-driver.c", "READ_ONCE(dev->driver)", "dev->driver"),
        ],
        ("v7.3-rc7", &[], &["95deee37a123", "78447d4545b2"]),
    ),
    (
        "7.2-with-amba",
        "7.2",
        &[(
            "drivers/amba/bus.c",
            "struct amba_driver *drv = to_amba_driver(dev->driver);\n	enum",
            "struct device_driver *drv = READ_ONCE(dev->driver);\n	enum",
        )],
        ("v7.3-rc7", &["amba-driver-once"], &[]),
    ),
    (
        "7.2-without-check",
        "7.2",
        &[(
            IOMMU,
            "	if (!group->default_domain) {\n		ret = -EPROBE_DEFER;\n		goto unlock_out;\n	}\n	if (group->owner_cnt)",
            "	if (group->owner_cnt)",
        )],
        ("v7.3-rc7", &[], &["b46064a18810"]),
    ),
];

#[test]
fn trees_with_commits_applied_and_reverted_are_recognised() {
    let mut as_known = Vec::new();
    for (name, version, edits, (base, apply, revert)) in CASES {
        let Some(of) = source(version) else { return };
        let tree = edited(&of, name, edits);
        assert_eq!(read_as(&tree), protocol(base, apply, revert), "{name}");
        if read(&tree).unwrap().unrecognised.is_empty() {
            as_known.push(*name);
        }
    }
    // Every other edit makes a body that no version has; these two are 7.2's own, word for word.
    assert_eq!(as_known, ["6.12-with-bus-lookup", "6.12-with-two-atomic-bits"]);
    assert!(CASES.len() >= 12);
}

/// What people can share: `drivers/iommu` alone.
#[test]
fn a_part_of_a_tree_is_read_as_far_as_it_goes() {
    let Some(v6_12) = source("6.12") else { return };
    let part = edited(&v6_12, "part", &[]);
    for entry in fs::read_dir(&part).unwrap().flatten() {
        if entry.file_name() != "drivers" {
            let path = entry.path();
            if path.is_dir() {
                fs::remove_dir_all(path).unwrap()
            } else {
                fs::remove_file(path).unwrap()
            }
        }
    }
    for entry in fs::read_dir(part.join("drivers")).unwrap().flatten() {
        if entry.file_name() != "iommu" {
            fs::remove_dir_all(entry.path()).unwrap();
        }
    }
    let findings = read(&part).unwrap();
    assert_eq!(findings.version, None);
    assert!(findings.missing.contains(&DD), "{:?}", findings.missing);
    let readings = findings.protocols().unwrap();
    let bases: Vec<&str> = readings.iter().map(|reading| reading.protocol.base().name()).collect();
    assert!(bases.iter().all(|base| *base == "v6.12.y"), "{bases:?}");
    // What cannot be told is answered both ways.
    let ready: Vec<bool> =
        readings.iter().map(|reading| reading.protocol.has(Commit::ReadyToProbe)).collect();
    assert!(ready.contains(&true) && ready.contains(&false), "{readings:?}");
    assert!(readings.iter().all(|reading| !reading.assumed.is_empty()));
}

/// A function that is written anew is not guessed at.
#[test]
fn a_function_that_looks_like_none_is_said_to() {
    let Some(v6_12) = source("6.12") else { return };
    let edit = (
        "drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.c",
        "driver_find_device_by_fwnode(",
        "vendor_find(",
    );
    let findings = read(&edited(&v6_12, "vendor", &[edit])).unwrap();
    let lookup = findings.of(Commit::LookupByBus).unwrap();
    assert_eq!(
        (lookup.answer, lookup.why),
        (Answer::CannotTell, "the function looks like none that is known")
    );
    let told: Vec<&str> = findings.unrecognised.iter().map(|f| f.function).collect();
    assert_eq!(told, ["arm_smmu_get_by_fwnode"]);
    let readings = findings.protocols().unwrap();
    assert_eq!(readings.len(), 2, "with it and without it");
}

/// Without any package: what is no tree is refused.
#[test]
fn what_is_no_tree_is_refused() {
    let nowhere = Path::new("/nonexistent/linux");
    assert!(matches!(read(nowhere), Err(TreeError::NoDirectory(_))));
    let empty = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("empty");
    fs::create_dir_all(&empty).unwrap();
    assert!(matches!(read(&empty), Err(TreeError::NoKernel(_))));
}

/// Prints the rows of `src/tree/known.rs`: `cargo test --test suite -- --ignored --nocapture known_rows`.
#[test]
#[ignore = "writes the list of known bodies down"]
fn known_rows() {
    for version in ["6.1", "6.12", "7.2", "7.3"] {
        let Some(tree) = source(version) else { return };
        for (file, function, print) in prints(&tree) {
            println!("    (\"{file}\", \"{function}\", 0x{print:016x}, \"{version}\"),");
        }
    }
}
