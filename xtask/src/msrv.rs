//! The oldest compiler that is promised, `rust-version` in Cargo.toml, still builds everything.

use crate::run::{Outcome, run};
use crate::toolchain;
use std::process::Command;

/// Checks the workspace, without its tests, by that compiler. Skips visibly where rustup cannot get it.
pub(crate) fn check() -> Outcome {
    let oldest = env!("CARGO_PKG_RUST_VERSION");
    // rustup would take "1.88" for a channel of its own beside "1.88.0".
    let oldest = format!("{oldest}.0");
    if let Err(reason) = toolchain::version(&oldest) {
        println!("SKIP msrv: {reason}");
        return Ok(());
    }
    // Not `env!("CARGO")`: rustup's proxy knows what `+` means. A running cargo tells its children which toolchain they belong to.
    let mut cargo = Command::new("cargo");
    cargo.arg(format!("+{oldest}")).args([
        "check",
        "--workspace",
        "--exclude",
        "xtask",
        "--target-dir",
    ]);
    cargo.arg(crate::target().join("msrv")).current_dir(crate::root());
    run(cargo.env_remove("RUSTUP_TOOLCHAIN").env_remove("RUSTC"))?;
    println!("msrv: Rust {oldest} builds everything");
    Ok(())
}
