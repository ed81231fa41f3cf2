//! Targets besides this machine's own.

use crate::run::{Outcome, output};
use std::path::Path;
use std::process::Command;

/// Makes sure that this compiler can build for `target`, through rustup where it may.
pub(crate) fn target(target: &str) -> Outcome {
    if is_there(target) {
        return Ok(());
    }
    let added = Command::new("rustup").args(["target", "add", target]).output();
    if added.is_ok_and(|added| added.status.success()) && is_there(target) {
        return Ok(());
    }
    Err(format!("no {target} for this compiler: rustup target add {target}"))
}

/// Makes sure that rustup's compiler of that version can be called as `cargo +version`.
pub(crate) fn version(version: &str) -> Outcome {
    let there = || {
        let mut rustc = Command::new("rustc");
        output(rustc.args([&format!("+{version}"), "--version"])).is_ok()
    };
    let install = ["toolchain", "install", version, "--profile", "minimal"];
    if there() || (Command::new("rustup").args(install).output().is_ok() && there()) {
        return Ok(());
    }
    Err(format!("no Rust {version}: rustup {}", install.join(" ")))
}

fn is_there(target: &str) -> bool {
    let mut rustc = Command::new("rustc");
    rustc.args(["--print", "target-libdir", "--target", target]).current_dir(crate::root());
    output(&mut rustc).is_ok_and(|folder| Path::new(folder.trim()).is_dir())
}
