//! The library crates linked into a static library that has its own panic handler: whatever drags `std` in brings a second one, and the
//! link fails.

use crate::deps::NO_STD;
use crate::run::{Outcome, run};
use std::process::Command;

/// Builds `no-std/`, after making sure that it names every crate it should.
pub(crate) fn check() -> Outcome {
    let folder = crate::root().join("no-std");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml"))
        .map_err(|error| format!("no-std/Cargo.toml: {error}"))?;
    for name in NO_STD {
        if !manifest.lines().any(|line| line.starts_with(&format!("{name} "))) {
            return Err(format!("no-std/Cargo.toml does not link {name}"));
        }
    }
    let mut command = Command::new(env!("CARGO"));
    let target = crate::root().join("target").join("no-std");
    run(command.arg("build").arg("--target-dir").arg(target).current_dir(folder))?;
    println!("no-std: {} crates link without the standard library", NO_STD.len());
    Ok(())
}
