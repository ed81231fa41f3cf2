//! Runs SPIN, if it is installed (Debian package `spin`, and a C compiler).

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::one::World;

/// What the verifier printed.
#[derive(Debug, Default)]
pub struct Verified {
    pub seconds: f64,
    pub states: u64,
    pub transitions: u64,
    pub megabytes: f64,
    pub remark: String,
}

/// Whether `spin` can be run.
pub fn is_there() -> bool {
    Command::new("spin").arg("-V").output().is_ok_and(|o| o.status.success())
}

/// Generates, compiles and runs the verifier; the time is the verifier's, without generating and compiling.
pub fn run(world: World, reduce: bool) -> Verified {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("spin/comparison.pml");
    let folder: PathBuf =
        std::env::temp_dir().join(format!("explorer-spin-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for the verifier");
    let World { clients, iommus, fixed } = world;
    let defines = format!("-DN={clients} -DM={iommus} -DFIXED={}", u8::from(fixed));
    let reduction = if reduce { "" } else { "-DNOREDUCE" };
    let script = format!(
        "spin {defines} -a '{}' >/dev/null && cc -O2 -DSAFETY -DNOFAIR {reduction} -o pan pan.c \
         2>/dev/null",
        model.display(),
    );
    let compiled = Command::new("sh").arg("-c").arg(script).current_dir(&folder).status();
    assert!(compiled.is_ok_and(|s| s.success()), "SPIN and a C compiler");
    let before = crate::cpu::children();
    let output = Command::new("./pan").args(["-m1000000", "-w26"]).current_dir(&folder).output();
    let seconds = crate::cpu::children() - before;
    let _ = std::fs::remove_dir_all(&folder);
    let text = output.expect("the verifier runs").stdout;
    Verified { seconds, ..parse(&String::from_utf8_lossy(&text)) }
}

fn parse(text: &str) -> Verified {
    let mut result = Verified::default();
    let number =
        |line: &str| -> f64 { line.split_whitespace().find_map(|w| w.parse().ok()).unwrap_or(0.0) };
    for line in text.lines() {
        if line.contains("states, stored") {
            result.states = number(line) as u64;
        } else if line.contains("transitions (=") {
            result.transitions = number(line) as u64;
        } else if line.contains("total actual memory usage") {
            result.megabytes = number(line);
        } else if line.contains("errors:") {
            result.remark = line.split("errors:").nth(1).map_or_else(String::new, |n| {
                if n.trim() == "0" { String::new() } else { "bug found".to_owned() }
            });
        }
    }
    result
}
