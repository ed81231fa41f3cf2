//! Debian's kernel sources, the few files that matter.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The files that are unpacked.
pub(crate) const FILES: &[&str] = &[
    "Makefile",
    "arch/arm64/mm/dma-mapping.c",
    "drivers/acpi/scan.c",
    "drivers/amba/bus.c",
    "drivers/base/core.c",
    "drivers/base/dd.c",
    "drivers/base/platform.c",
    "drivers/bus/fsl-mc/fsl-mc-bus.c",
    "drivers/cdx/cdx.c",
    "drivers/gpu/host1x/context.c",
    "drivers/gpu/host1x/context_bus.c",
    "drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.c",
    "drivers/iommu/arm/arm-smmu/arm-smmu.c",
    "drivers/iommu/dma-iommu.c",
    "drivers/iommu/iommu.c",
    "drivers/iommu/of_iommu.c",
    "drivers/of/device.c",
    "drivers/pci/pci-driver.c",
    "include/linux/device.h",
    "kernel/dma/mapping.c",
];

fn required() -> bool {
    std::env::var_os("PORTCULLIS_REQUIRE_KERNEL_SOURCES").is_some_and(|value| value == "1")
}

/// The tree of a version; none, said aloud, where it cannot be had.
pub(crate) fn source(version: &str) -> Option<PathBuf> {
    if let Some(given) = std::env::var_os("PORTCULLIS_KERNEL_SOURCES") {
        let tree = Path::new(&given).join(version);
        assert!(tree.join(FILES[0]).exists(), "no tree in {}", tree.display());
        return Some(tree);
    }
    let cache = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("kernel-sources");
    let tree = cache.join(version);
    if tree.join("Makefile").exists() {
        return Some(tree);
    }
    if !required() {
        println!(
            "SKIP: no kernel source {version}; PORTCULLIS_REQUIRE_KERNEL_SOURCES=1 fetches it through apt"
        );
        return None;
    }
    match fetch(version, &cache) {
        Ok(()) => Some(tree),
        // Required, so a version that apt's lists do not have fails. `APT_CONFIG` names other lists: those that
        // `portcullis replay --fetch` keeps have all of them.
        Err(why) => panic!("linux-source-{version}: {why}"),
    }
}

fn fetch(version: &str, cache: &Path) -> Result<(), String> {
    fs::create_dir_all(cache).map_err(|error| error.to_string())?;
    let package = format!("linux-source-{version}");
    run(Command::new("apt-get").args(["download", &package]).current_dir(cache))?;
    let entries = fs::read_dir(cache).map_err(|error| error.to_string())?;
    let deb = entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().contains(&format!("{package}_")))
        .ok_or("apt-get downloaded nothing")?;
    let unpacked = cache.join(format!("{version}.deb"));
    run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&unpacked))?;
    let tree = cache.join(version);
    fs::create_dir_all(&tree).map_err(|error| error.to_string())?;
    let wanted = FILES.iter().map(|file| format!("{package}/{file}"));
    let archive = unpacked.join("usr/src").join(format!("{package}.tar.xz"));
    let mut tar = Command::new("tar");
    tar.args(["--strip-components=1", "-xJf"]).arg(&archive).arg("-C").arg(&tree).args(wanted);
    // Old versions lack some of the files, of which tar complains after it has unpacked the rest.
    let unpacked_some = tar.output().map_err(|error| error.to_string())?;
    fs::remove_dir_all(&unpacked).ok();
    fs::remove_file(&deb).ok();
    if tree.join("drivers/iommu/iommu.c").exists() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&unpacked_some.stderr).into_owned())
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let out = command.output().map_err(|error| error.to_string())?;
    if out.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&out.stderr).into_owned())
    }
}
