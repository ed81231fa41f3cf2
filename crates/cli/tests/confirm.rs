//! The lab's finding on a stock kernel, from one command.
//!
//! Needs QEMU and a Debian mirror in apt's sources, or a kernel that `portcullis replay` has unpacked before; skips visibly without, and fails instead with `PORTCULLIS_REQUIRE_EXTERNAL=1`.

use portcullis_replay::Error;
use portcullis_replay::package::{Cache, Kernel, Mirror};
use serde_json::Value;
use std::io::Write;
use std::process::{Command, Output};

fn lab(arguments: &str) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    program.arg("lab").args(arguments.split_whitespace()).output().expect("the program runs")
}

/// A kernel of 6.1 in the cache of the replay.
fn fetch() -> Result<(), Error> {
    let cache = Cache::of_user()?;
    if cache.kernels()?.iter().any(|kernel| (kernel.version.0, kernel.version.1) == (6, 1)) {
        return Ok(());
    }
    Kernel::open(&Mirror::of_system(&cache)?.kernel("6.1")?, None, &cache).map(|_| ())
}

/// Whether it can be had, with a visible line where it cannot.
fn at_hand(test: &str) -> bool {
    if portcullis_qemu::for_test(test).is_none() {
        return false;
    }
    let Err(error) = fetch() else { return true };
    let line = format!("SKIP {test}: no kernel of 6.1: {error}\n");
    let required = std::env::var_os(portcullis_qemu::REQUIRE_VARIABLE);
    assert!(required.is_none_or(|value| value != "1"), "{line}");
    // Not eprintln!: the test harness would swallow it.
    let _ = std::io::stderr().write_all(line.as_bytes());
    false
}

mod long {
    use super::*;

    #[test]
    #[ignore = "long: `PORTCULLIS_LONG=1 cargo xtask test`"]
    fn what_the_lab_finds_on_6_1_is_confirmed_by_a_stock_kernel() {
        if !at_hand("what_the_lab_finds_on_6_1_is_confirmed_by_a_stock_kernel") {
            return;
        }
        let out = lab("check v6.1.y --iommus 1 --bus pci --no-closers --json --confirm");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let report: Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let confirmed = &report["confirmed"][0];
        assert_eq!(confirmed["verdict"], "confirmed", "{confirmed}");
        assert_eq!(confirmed["property"], "no-iommu");
        assert_eq!(out.status.code(), Some(1), "the exit status is the lab's");
    }

    /// Nobody has a kernel of this protocol: that is said, and nothing is booted.
    #[test]
    #[ignore = "long: `PORTCULLIS_LONG=1 cargo xtask test`"]
    fn a_version_without_a_kernel_is_not_tried() {
        if !at_hand("a_version_without_a_kernel_is_not_tried") {
            return;
        }
        let out = lab("check v6.14 --iommus 1 --bus pci --no-closers --confirm");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(text.contains("not tried") && text.contains("has the commits of v6.14"), "{text}");
    }
}
