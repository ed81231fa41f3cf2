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

fn is_there(target: &str) -> bool {
    let mut rustc = Command::new("rustc");
    rustc.args(["--print", "target-libdir", "--target", target]).current_dir(crate::root());
    output(&mut rustc).is_ok_and(|folder| Path::new(folder.trim()).is_dir())
}
