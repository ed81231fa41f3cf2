//! Tests under ThreadSanitizer, AddressSanitizer or Miri: what the compiler's own checks do not see.
//!
//! Needs a nightly toolchain of rustup's with the sanitizers' run time (every x86-64 and AArch64 Linux one has it), for Miri also its component. ThreadSanitizer needs `rust-src` too: the
//! shipped standard library's atomics are invisible to it, so every mutex of it looks like a race. `rustup component add rust-src miri --toolchain nightly` brings both.
//!
//! Not run: crates on coroutines (`threads`, `lab`, and tests that use them), because sanitizers and Miri do not follow a switch of stacks; what starts QEMU, because the
//! other side of the memory is another process; under Miri also what is too slow there, or asks the operating system for what Miri does not have.

use crate::run::{Outcome, output, run};
use std::path::PathBuf;
use std::process::Command;

/// A test run: package, then what `cargo test` is told besides.
type Run = (&'static str, &'static [&'static str]);

/// Tests with real threads.
const THREADS: &[Run] = &[
    ("portcullis-platform", &["--features", "std", "--lib"]),
    ("portcullis-machine", &["--test", "threads"]),
    ("portcullis-pgtable", &["--test", "tables", "--", "threads", "debts"]),
    ("portcullis-smmuv3", &["--test", "driver", "--", "threads"]),
    ("portcullis", &["--tests"]),
];

/// Tests of code that holds memory, or that such code calls.
const MEMORY: &[Run] = &[
    ("portcullis-platform", &["--features", "std", "--lib"]),
    ("portcullis-machine", &["--tests"]),
    ("portcullis-pgtable", &["--tests"]),
    ("portcullis-iova", &["--tests"]),
    ("portcullis", &["--tests"]),
    ("portcullis-firmware", &["--lib"]),
];

const INTERPRETED: &[Run] = &[
    ("portcullis-platform", &["--features", "std", "--lib"]),
    ("portcullis-addr", &["--lib"]),
    ("portcullis-iova", &["--lib", "--", "--skip", "groups_equal_a_slow_reading"]),
    ("portcullis-machine", &["--lib"]),
];

/// One of the tools.
struct Tool {
    name: &'static str,
    /// `-Zsanitizer`; `None` for Miri.
    sanitizer: Option<&'static str>,
    runs: &'static [Run],
    /// The planted bug that it must find, and what it calls it.
    planted: (&'static str, &'static str),
}

const TOOLS: [Tool; 3] = [
    Tool {
        name: "tsan",
        sanitizer: Some("thread"),
        runs: THREADS,
        planted: ("race", "ThreadSanitizer: data race"),
    },
    Tool {
        name: "asan",
        sanitizer: Some("address"),
        runs: MEMORY,
        planted: ("use_after_free", "AddressSanitizer: heap-use-after-free"),
    },
    Tool {
        name: "miri",
        sanitizer: None,
        runs: INTERPRETED,
        planted: ("use_after_free", "has been freed"),
    },
];

/// Runs the tool of that name; first on a planted bug, which it must find.
pub(crate) fn check(name: Option<&str>) -> Outcome {
    let Some(tool) = TOOLS.iter().find(|tool| Some(tool.name) == name) else {
        return Err("say which: tsan, asan or miri".to_owned());
    };
    if let Err(reason) = tool.available() {
        let line = format!("SKIP sanitize {}: {reason}", tool.name);
        let required = std::env::var_os("PORTCULLIS_REQUIRE_EXTERNAL");
        return if required.is_some_and(|value| value == "1") {
            Err(line)
        } else {
            println!("{line}");
            Ok(())
        };
    }
    tool.finds_what_is_planted()?;
    for (package, rest) in tool.runs {
        run(tool.cargo().args(["-p", package]).args(*rest))?;
    }
    println!("{}: {} test runs are clean, and a planted bug is found", tool.name, tool.runs.len());
    Ok(())
}

fn nightly(arguments: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly"]).args(arguments);
    // What cargo told this program is about another toolchain.
    for name in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN", "CARGO_ENCODED_RUSTFLAGS"] {
        command.env_remove(name);
    }
    command
}

/// The nightly toolchain's library folder.
fn libraries() -> Result<PathBuf, String> {
    let sysroot = output(&mut nightly(&["rustc", "--print", "sysroot"]))
        .map_err(|_| "rustup has no nightly toolchain here".to_owned())?;
    Ok(PathBuf::from(sysroot.trim()).join("lib").join("rustlib"))
}

fn host() -> Result<String, String> {
    let version = output(&mut nightly(&["rustc", "-vV"]))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| "rustc does not say its host".to_owned())
}

fn has_source() -> bool {
    libraries().is_ok_and(|folder| folder.join("src/rust/library/std/Cargo.toml").exists())
}

impl Tool {
    fn available(&self) -> Outcome {
        let libraries = libraries()?;
        match self.sanitizer {
            None => output(&mut nightly(&["cargo", "miri", "--version"]))
                .map(drop)
                .map_err(|_| "the nightly toolchain has no Miri".to_owned()),
            Some(_) => {
                let folder = libraries.join(host()?).join("lib");
                let library = format!("librustc-nightly_rt.{}.a", self.name);
                if !folder.join(&library).exists() {
                    return Err(format!("the nightly toolchain has no {library}"));
                }
                let source = self.name != "tsan" || has_source();
                source
                    .then_some(())
                    .ok_or_else(|| "the nightly toolchain has no rust-src".to_owned())
            }
        }
    }

    /// `cargo test`, as far as all runs share it.
    fn cargo(&self) -> Command {
        let target = crate::target().join(format!("sanitize-{}", self.name));
        let verb: &[&str] =
            if self.sanitizer.is_some() { &["cargo", "test"] } else { &["cargo", "miri", "test"] };
        let mut command = nightly(verb);
        command.current_dir(crate::root()).env("CARGO_TARGET_DIR", target);
        let Some(sanitizer) = self.sanitizer else { return command };
        let flags = format!("-Zsanitizer={sanitizer} -Cunsafe-allow-abi-mismatch=sanitizer");
        command.env("RUSTFLAGS", flags).args(["--target", &host().unwrap_or_default()]);
        if self.name == "tsan" {
            command.arg("-Zbuild-std");
        }
        command
    }

    fn finds_what_is_planted(&self) -> Outcome {
        let (test, says) = self.planted;
        let mut command = self.cargo();
        command.args(["-p", "portcullis-platform", "--features", "std", "--test", "planted"]);
        let result = command
            .args(["--", "--ignored", "--exact", test])
            .output()
            .map_err(|error| format!("cargo: {error}"))?;
        let text = String::from_utf8_lossy(&result.stderr).into_owned()
            + &String::from_utf8_lossy(&result.stdout);
        if !result.status.success() && text.contains(says) {
            println!("{}: the planted {test} is found", self.name);
            return Ok(());
        }
        Err(format!("{} does not find the planted {test}:\n{text}", self.name))
    }
}
