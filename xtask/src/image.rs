//! The bare-metal kernel of `images/aarch64-virt`: built for its target, booted in QEMU, its console read.

use crate::run::{Outcome, output, run};
use crate::toolchain;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "aarch64-unknown-none";
const QEMU: &str = "qemu-system-aarch64";
/// Fewer checks than this have not been the whole boot.
const CHECKS: usize = 38;
/// A boot takes a few seconds; a machine under load gets more.
const SECONDS: &str = "300";
/// What a kernel author writes to give Portcullis its seams, without comments and empty lines.
const SEAM_LINES: usize = 35;

/// Builds and boots the image. Skips visibly where the target or QEMU cannot be had; with `PORTCULLIS_REQUIRE_IMAGE=1` that is an error.
pub(crate) fn check() -> Outcome {
    if let Err(reason) = toolchain::target(TARGET).and_then(|()| smmu()) {
        let required =
            std::env::var_os("PORTCULLIS_REQUIRE_IMAGE").is_some_and(|value| value == "1");
        if required {
            return Err(format!("the image is required here: {reason}"));
        }
        println!("SKIP image: {reason}");
        return Ok(());
    }
    let folder = crate::root().join("images").join("aarch64-virt");
    let lines = seam_lines(&folder)?;
    if lines > SEAM_LINES {
        return Err(format!("src/seams.rs has {lines} lines of code, more than {SEAM_LINES}"));
    }
    let console = boot(&build(&folder)?)?;
    print!("{console}");
    verdict(&console)?;
    println!("image: booted; a kernel's seams are {lines} lines");
    Ok(())
}

fn smmu() -> Outcome {
    let version = output(Command::new(QEMU).arg("--version"))?;
    // "QEMU emulator version 10.0.2 (Debian ...)". 7.2's SMMU cannot be made to block (docs/qemu-differences.md).
    let number = version
        .split("version ")
        .nth(1)
        .and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
    match number {
        Some(major) if major >= 8 => Ok(()),
        _ => Err(format!(
            "{QEMU} 8 or later is needed, not {}",
            version.lines().next().unwrap_or_default()
        )),
    }
}

/// Lines of code of the file that stands for a kernel author's work.
fn seam_lines(folder: &Path) -> Result<usize, String> {
    let path = folder.join("src").join("seams.rs");
    let text =
        std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let code =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"));
    Ok(code.count())
}

fn build(folder: &Path) -> Result<PathBuf, String> {
    let into = crate::root().join("target").join("image");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--release", "--target", TARGET, "--target-dir"]).arg(&into);
    // Flags for the host's tests are not for a kernel.
    run(cargo.current_dir(folder).env_remove("RUSTFLAGS"))?;
    Ok(into.join(TARGET).join("release").join("portcullis-image-aarch64-virt"))
}

/// What the kernel prints until it ends.
fn boot(image: &Path) -> Result<String, String> {
    let disk = image.with_extension("disk");
    std::fs::write(&disk, vec![0; 1 << 20])
        .map_err(|error| format!("{}: {error}", disk.display()))?;
    let mut qemu = Command::new("timeout");
    qemu.args([SECONDS, QEMU, "-machine", "virt,iommu=smmuv3,gic-version=3", "-cpu", "cortex-a57"]);
    qemu.args([
        "-smp", "2", "-m", "256", "-display", "none", "-serial", "stdio", "-monitor", "none",
    ]);
    qemu.args(["-nic", "none", "-semihosting-config", "enable=on,target=native"]);
    qemu.args(["-device", "virtio-rng-pci,addr=1,disable-legacy=on,iommu_platform=on"]);
    qemu.args(["-device", "edu,addr=2", "-device", "edu,addr=3"]);
    qemu.args(["-drive", &format!("file={},if=none,id=disk,format=raw", disk.display())]);
    qemu.args(["-device", "nvme,drive=disk,serial=1,addr=4", "-kernel"]).arg(image);
    let ended = qemu.output().map_err(|error| format!("{QEMU}: {error}"))?;
    let console = String::from_utf8_lossy(&ended.stdout).into_owned();
    if ended.status.success() {
        return Ok(console);
    }
    let errors = String::from_utf8_lossy(&ended.stderr);
    Err(format!("{console}{errors}{QEMU}: {}", ended.status))
}

/// The last line counts the checks; all of them must have been made, and have passed.
fn verdict(console: &str) -> Outcome {
    let passed = console.lines().filter(|line| line.starts_with("PASS ")).count();
    let failed = console.lines().filter(|line| line.starts_with("FAIL ")).count();
    if failed > 0 || passed < CHECKS {
        return Err(format!("{passed} checks passed (of {CHECKS}), {failed} failed"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_counts_only_whole_and_without_failures() {
        let whole = "PASS a\n".repeat(CHECKS);
        assert_eq!(verdict(&whole), Ok(()));
        assert!(verdict(&whole.replacen("PASS", "FAIL", 1)).is_err());
        assert!(verdict(&"PASS a\n".repeat(CHECKS - 1)).is_err(), "it ended early");
        assert!(verdict(&format!("{whole}FAIL b\n")).is_err());
    }

    #[test]
    fn comments_and_empty_lines_are_no_seams() {
        let folder = crate::root().join("images").join("aarch64-virt");
        let lines = seam_lines(&folder).expect("the file is there");
        assert!(lines > 10 && lines <= SEAM_LINES, "{lines}");
    }
}
