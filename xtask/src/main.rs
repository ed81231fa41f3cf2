//! The project's chores: `cargo xtask <verb>`.
//!
//! - `test`: installs QEMU where it may, runs the tests and boots the bare-metal kernel on one board. `PORTCULLIS_LONG=1` adds what takes minutes: the longest searches,
//!   stock kernels (downloaded), and the other boards. With arguments it is `cargo test --workspace` with these, and nothing else.
//! - `check`: formatting, lints, docs, arrows between crates, circles between modules, `no_std`, size budgets.
//! - `deps`, `modules` (and that no file of tests is left out), `no-std`, `budgets`: one of those alone.
//! - `targets`: the library crates built for 64-bit and 32-bit kernels, and their tests run on 32 bits.
//! - `msrv`: the workspace built by the oldest compiler that is promised.
//! - `counts`: instructions of the data path's calls against `crates/bench/counts.json`, where valgrind is or can be installed.
//! - `image`: builds the bare-metal kernel of `images` for its three boards and boots it in QEMU.
//! - `package`: every crate packaged as it would be published, and built from its package.
//! - `readme`: the README's examples, run with the dependencies that it names.
//! - `install-qemu`: only the installation.
//! - `boards`: every devicetree of Debian's arm64 kernel package through `show` and `boot`; its options stand in that module.
//! - `sanitize tsan|asan|miri`: the tests that can run under that tool, where a nightly toolchain has it.

mod boards;
mod budgets;
mod counts;
mod deps;
mod image;
mod modules;
mod msrv;
mod no_std;
mod package;
mod programs;
mod qemu;
mod readme;
mod run;
mod sanitize;
mod suites;
mod toolchain;

use run::{Outcome, cargo};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let verb = arguments.first().map(String::as_str);
    let outcome = match verb {
        Some("test") => test(&arguments[1..]),
        Some("check") => check(),
        Some("deps") => deps::check(),
        Some("modules") => modules::check().and_then(|()| suites::check()),
        Some("no-std") => no_std::check(),
        Some("targets") => no_std::targets(),
        Some("msrv") => msrv::check(),
        Some("budgets") => budgets::check(),
        Some("counts") => counts::check(&arguments[1..]),
        Some("image") => image::check(true, &mut |line| println!("{line}")),
        Some("package") => package::check(),
        Some("readme") => readme::check(),
        Some("install-qemu") => qemu::install(),
        Some("boards") => boards::run(&arguments[1..]),
        Some("sanitize") => sanitize::check(arguments.get(1).map(String::as_str)),
        _ => {
            eprintln!(
                "usage: cargo xtask test|check|deps|modules|no-std|targets|msrv|budgets|counts|image|package|readme|install-qemu|boards|sanitize"
            );
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask {}: {message}", verb.unwrap_or_default());
            ExitCode::FAILURE
        }
    }
}

/// The workspace's root folder.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().map(Path::to_path_buf).unwrap_or_default()
}

/// Where cargo puts what it builds.
fn target() -> PathBuf {
    root().join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// The tests of the workspace, all of them with `PORTCULLIS_LONG=1`; `extra` goes to `cargo test`.
fn test(extra: &[String]) -> Outcome {
    if let Err(reason) = qemu::install() {
        if std::env::var_os("PORTCULLIS_REQUIRE_EXTERNAL").is_some_and(|value| value == "1") {
            return Err(format!("QEMU is required here: {reason}"));
        }
        println!("QEMU: {reason}; the tests that need it will say SKIP");
    }
    let settings = if is_compiled() { &[] } else { ONCE };
    if !extra.is_empty() {
        let extra = extra.iter().map(String::as_str);
        let arguments: Vec<&str> =
            ["test", "--workspace", "--no-fail-fast"].into_iter().chain(extra).collect();
        return cargo(&arguments, settings);
    }
    let programs = programs::compile(settings)?;
    beside_the_image(|| programs::run_all(&programs))?;
    cargo(&["test", "--workspace", "--doc", "--no-fail-fast"], settings)?;
    if !is_long() {
        return Ok(());
    }
    let long = ["test", "--workspace", "--tests", "--no-fail-fast", "--", "--ignored", LONG_TESTS];
    cargo(&long, settings)
}

/// Builds and boots the bare-metal kernel while `tests` runs, which leaves processors idle; what that has to say comes after it.
fn beside_the_image(tests: impl FnOnce() -> Outcome) -> Outcome {
    std::thread::scope(|scope| {
        let image = scope.spawn(|| {
            let mut said = Vec::new();
            let outcome = image::check(is_long(), &mut |line| said.push(line.to_owned()));
            (said, outcome)
        });
        let tests = tests();
        let (said, image) = image.join().map_err(|_| "the image's thread panicked")?;
        said.iter().for_each(|line| println!("{line}"));
        tests.and(image)
    })
}

/// The tests that take minutes or download kernels: ignored, in modules of this name.
const LONG_TESTS: &str = "long::";

/// Whether they are asked for.
fn is_long() -> bool {
    std::env::var_os("PORTCULLIS_LONG").is_some_and(|value| value == "1")
}

/// What makes the next compilation faster, and exact positions within inlined functions, are most of `target`. A clone that is compiled for this one run does without; a backtrace still names file and line.
const ONCE: &[(&str, &str)] = &[
    ("CARGO_INCREMENTAL", "0"),
    ("CARGO_PROFILE_DEV_DEBUG", "line-directives-only"),
    ("CARGO_PROFILE_DEV_CODEGEN_UNITS", "4"),
];

/// Whether something besides this program has been compiled here for debugging: by somebody who works on it, and would compile everything again if the settings changed.
fn is_compiled() -> bool {
    let entries = std::fs::read_dir(target().join("debug/incremental"));
    let mut names = entries.into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.any(|name| !name.to_string_lossy().starts_with("xtask-"))
}

/// Everything that must hold besides the tests.
fn check() -> Outcome {
    cargo(&["fmt", "--all", "--check"], &[])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], &[])?;
    cargo(&["doc", "--workspace", "--no-deps"], &[("RUSTDOCFLAGS", "-D warnings")])?;
    deps::check()?;
    modules::check()?;
    suites::check()?;
    no_std::check()?;
    budgets::check()
}
