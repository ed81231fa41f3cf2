//! The bare-metal kernel of `images/`: for each of its boards built for that target, booted in QEMU, its console read.

use crate::qemu;
use crate::run::{Outcome, run};
use crate::toolchain;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder of `images/`.
struct Board {
    folder: &'static str,
    target: &'static str,
    qemu: &'static str,
    /// The first major version whose IOMMU can be made to block (docs/qemu-differences.md), or that has one.
    least: u32,
    /// What QEMU is told besides the devices, which are the same on every board.
    machine: &'static [&'static str],
}

const BOARDS: [Board; 3] = [
    Board {
        folder: "aarch64-virt",
        target: "aarch64-unknown-none",
        qemu: "qemu-system-aarch64",
        least: 8,
        machine: &[
            "-machine",
            "virt,iommu=smmuv3,gic-version=3",
            "-cpu",
            "cortex-a57",
            "-semihosting-config",
            "enable=on,target=native",
        ],
    },
    Board {
        folder: "riscv64-virt",
        target: "riscv64gc-unknown-none-elf",
        qemu: "qemu-system-riscv64",
        least: 10,
        machine: &["-machine", "virt,iommu-sys=on,aia=aplic-imsic"],
    },
    Board {
        folder: "x86_64-q35",
        target: "x86_64-unknown-none",
        qemu: "qemu-system-x86_64",
        least: 7,
        machine: &[
            "-machine",
            "q35",
            "-vga",
            "none",
            "-device",
            "isa-debug-exit,iobase=0xf4,iosize=1",
            "-device",
            "intel-iommu,intremap=off",
        ],
    },
];

/// Fewer checks than this have not been the whole boot.
const CHECKS: usize = 38;
/// A boot takes a few seconds; a machine under load gets more.
const SECONDS: &str = "300";
/// What a kernel author writes to give Portcullis its seams, without comments and empty lines.
const SEAM_LINES: usize = 35;
/// Firmware may print before the kernel does.
const FIRST_LINE: &str = "portcullis on bare metal";

/// Builds and boots the image on its first board, or on each, and tells `say` what happens. Skips visibly where the target or QEMU cannot be had; with `PORTCULLIS_REQUIRE_IMAGE=1` that is an error.
pub(crate) fn check(on_each_board: bool, say: &mut dyn FnMut(&str)) -> Outcome {
    let required = std::env::var_os("PORTCULLIS_REQUIRE_IMAGE").is_some_and(|value| value == "1");
    let lines = seam_lines()?;
    if lines > SEAM_LINES {
        return Err(format!("images/src/seams.rs: {lines} lines, not {SEAM_LINES}"));
    }
    say(&format!("images: a kernel's seams are {lines} lines"));
    let (boards, others) = BOARDS.split_at(if on_each_board { BOARDS.len() } else { 1 });
    for board in boards {
        let flags = qemu::at_least(board.qemu, board.least)
            .and_then(|()| toolchain::flags_for(board.target));
        match flags {
            Ok(flags) => check_board(board, &flags, say)?,
            Err(reason) if required => {
                return Err(format!("{} is required here: {reason}", board.folder));
            }
            Err(reason) => say(&format!("SKIP image {}: {reason}", board.folder)),
        }
    }
    for board in others {
        say(&format!("SKIP image {}: `cargo xtask image` boots it", board.folder));
    }
    Ok(())
}

fn check_board(board: &Board, flags: &str, say: &mut dyn FnMut(&str)) -> Outcome {
    let console = boot(board, &build(board, flags)?)?;
    say(console.trim_end());
    verdict(&console)?;
    shown(include_str!("../../README.md"), &console)?;
    say(&format!("image {}: booted", board.folder));
    Ok(())
}

fn images() -> PathBuf {
    crate::root().join("images")
}

/// Lines of code of the file that stands for a kernel author's work.
fn seam_lines() -> Result<usize, String> {
    let path = images().join("src/seams.rs");
    let text =
        std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(code_lines(text.lines()))
}

fn code_lines<'a>(lines: impl Iterator<Item = &'a str>) -> usize {
    lines.map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")).count()
}

fn build(board: &Board, flags: &str) -> Result<PathBuf, String> {
    let into = crate::target().join("image");
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args([
            "build",
            "--quiet",
            "--locked",
            "--release",
            "--target",
            board.target,
            "--target-dir",
        ])
        .arg(&into);
    // Flags for the host's tests are not for a kernel.
    run(cargo.current_dir(images()).env("RUSTFLAGS", flags))?;
    Ok(into.join(board.target).join("release").join("portcullis-image"))
}

/// What the kernel prints until it ends.
fn boot(board: &Board, image: &Path) -> Result<String, String> {
    let disk = image.with_extension("disk");
    std::fs::write(&disk, vec![0; 1 << 20])
        .map_err(|error| format!("{}: {error}", disk.display()))?;
    let mut qemu = Command::new("timeout");
    qemu.args([SECONDS, board.qemu]).args(board.machine);
    qemu.args([
        "-smp", "2", "-m", "256", "-display", "none", "-serial", "stdio", "-monitor", "none",
    ]);
    qemu.args([
        "-nic",
        "none",
        "-device",
        "virtio-rng-pci,addr=1,disable-legacy=on,iommu_platform=on",
    ]);
    // So that they can address RAM wherever it is: the checks show that they do not reach it.
    qemu.args(["-device", "edu,addr=2,dma_mask=0xffffffff"]);
    qemu.args(["-device", "edu,addr=3,dma_mask=0xffffffff"]);
    qemu.args(["-drive", &format!("file={},if=none,id=disk,format=raw", disk.display())]);
    qemu.args(["-device", "nvme,drive=disk,serial=1,addr=4", "-kernel"]).arg(image);
    let ended = qemu.output().map_err(|error| format!("{}: {error}", board.qemu))?;
    let console = String::from_utf8_lossy(&ended.stdout);
    let console = console.find(FIRST_LINE).map_or("", |at| &console[at..]).to_string();
    if ended.status.success() {
        return Ok(console);
    }
    let errors = String::from_utf8_lossy(&ended.stderr);
    Err(format!("{console}{errors}{}: {}", board.qemu, ended.status))
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

/// The checks that `page` shows have been made, and are as many as it says if it shows this board's.
fn shown(page: &str, console: &str) -> Outcome {
    let printed = |line: &str| console.lines().any(|printed| printed == line);
    let this_board = page.lines().any(|line| line.starts_with(FIRST_LINE) && printed(line));
    let compared =
        |line: &&str| line.starts_with("PASS ") || this_board && line.contains(" checks passed, ");
    let gone = page.lines().filter(compared).find(|line| !printed(line));
    gone.map_or(Ok(()), |line| Err(format!("README.md shows what is not printed: {line}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readme;

    #[test]
    fn a_boot_counts_only_whole_and_without_failures() {
        let whole = "PASS a\n".repeat(CHECKS);
        assert_eq!(verdict(&whole), Ok(()));
        assert!(verdict(&whole.replacen("PASS", "FAIL", 1)).is_err());
        assert!(verdict(&"PASS a\n".repeat(CHECKS - 1)).is_err(), "it ended early");
        assert!(verdict(&format!("{whole}FAIL b\n")).is_err());
    }

    #[test]
    fn what_the_readme_shows_must_have_been_printed() {
        assert_eq!(shown("text\nPASS a\n", "PASS b\nPASS a\n"), Ok(()));
        assert!(shown("PASS a\n", "PASS ab\n").is_err());
        let boot = |board: &str, checks: usize| {
            format!("{FIRST_LINE}: {board}\n{checks} checks passed, 0 failed\n")
        };
        assert_eq!(shown(&boot("a", 5), &boot("a", 5)), Ok(()));
        assert!(shown(&boot("a", 5), &boot("a", 6)).is_err());
        assert_eq!(shown(&boot("a", 5), &boot("b", 6)), Ok(()), "another board has another number");
    }

    #[test]
    fn comments_and_empty_lines_are_no_seams() {
        let lines = seam_lines().expect("the file is there");
        assert!(lines > 10 && lines <= SEAM_LINES, "{lines}");
    }

    /// README.md and the front page of `portcullis-bare` show the same work. What rustdoc hides counts too, but for the stand-ins of what a kernel has anyway.
    #[test]
    fn the_seams_that_are_shown_are_as_short() {
        let head = include_str!("../../crates/bare/src/lib.rs");
        let head: Vec<&str> = head.lines().filter_map(|line| line.strip_prefix("//! ")).collect();
        for page in [include_str!("../../README.md"), &head.join("\n")] {
            let blocks = readme::blocks(page);
            let seams = blocks.iter().find(|(_, text)| text.contains("impl Kernel for"));
            let (_, text) = seams.expect("the page shows them");
            let lines = text.lines().filter(|line| !line.starts_with("# "));
            let lines = code_lines(lines);
            assert!(lines > 10 && lines <= SEAM_LINES, "{lines}: {text}");
        }
    }
}
