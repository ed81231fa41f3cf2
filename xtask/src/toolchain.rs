//! Targets besides this machine's own.

use crate::run::{Outcome, output, run};
use std::path::{Path, PathBuf};
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

/// What `RUSTFLAGS` must be for a kernel's image for `target`. Where the compiler has no such target, `core` and `alloc` are built from its own sources: Debian's packages have these (`rust-src`, or `rust-web-src`
/// beside `rustc-web`), and no targets without an operating system.
pub(crate) fn flags_for(target: &str) -> Result<String, String> {
    // PVH loads an image where it was linked; on other targets that is the default.
    let fixed = "-Crelocation-model=static";
    let Err(missing) = self::target(target) else { return Ok(fixed.into()) };
    let (Some(library), Some(linker)) = (library(), linker()) else {
        return Err(format!(
            "{missing}; or Debian's packages of Rust's sources (rust-web-src) and of LLVM's linker (lld-22)"
        ));
    };
    let sysroot = sysroot(target, &library)?;
    println!("{target}: by {} and core from {}", linker.display(), library.display());
    Ok(format!("--sysroot={} -Clinker={} {fixed}", sysroot.display(), linker.display()))
}

/// The compiler's standard library in source, with everything that it depends on.
fn library() -> Option<PathBuf> {
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"])).ok()?;
    let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library");
    library.join("vendor").is_dir().then_some(library)
}

/// LLVM's linker, under the newest of Debian's names.
fn linker() -> Option<PathBuf> {
    let entries = std::fs::read_dir("/usr/bin").ok()?.filter_map(Result::ok);
    let version = |path: &PathBuf| {
        let name = path.file_name()?.to_str()?.strip_prefix("ld.lld")?;
        if name.is_empty() { Some(u32::MAX) } else { name.strip_prefix('-')?.parse().ok() }
    };
    entries
        .map(|entry| entry.path())
        .filter_map(|path| Some((version(&path)?, path)))
        .max()
        .map(|(_, path)| path)
}

/// A folder with `core` and `alloc` for `target`, built by the compiler that is used and kept under its name: libraries of another one would not fit.
fn sysroot(target: &str, library: &Path) -> Result<PathBuf, String> {
    let compiler = output(Command::new("rustc").arg("-V"))?.trim().replace(' ', "-");
    let sysroot = crate::target().join("sysroot").join(compiler);
    let into = sysroot.join("lib/rustlib").join(target).join("lib");
    if into.is_dir() {
        return Ok(sysroot);
    }
    let io = |error: std::io::Error| format!("{}: {error}", sysroot.display());
    let seed = sysroot.join("seed");
    std::fs::create_dir_all(seed.join("src")).map_err(io)?;
    std::fs::write(seed.join("src/lib.rs"), "#![no_std]\nextern crate alloc;\n").map_err(io)?;
    std::fs::write(seed.join("Cargo.toml"), SEED).map_err(io)?;
    // The option is unstable: only for the compiler's own library, which is built so by those who ship it.
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--release", "--offline", "-Zbuild-std=core,alloc", "--target", target]);
    cargo.args(["--config", "source.crates-io.replace-with=\"std\"", "--config"]);
    cargo.arg(format!("source.std.directory=\"{}\"", library.join("vendor").display()));
    cargo.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-Cembed-bitcode=yes");
    run(cargo.current_dir(&seed))?;
    let built = seed.join("target").join(target).join("release/deps");
    std::fs::create_dir_all(&into).map_err(io)?;
    for file in std::fs::read_dir(built).map_err(io)?.filter_map(Result::ok) {
        if file.path().extension().is_some_and(|end| end == "rlib") {
            std::fs::copy(file.path(), into.join(file.file_name())).map_err(io)?;
        }
    }
    Ok(sysroot)
}

/// A crate that needs `core` and `alloc` and nothing else.
const SEED: &str = r#"[package]
name = "seed"
version = "0.0.0"
edition = "2024"

[profile.release]
panic = "abort"

[workspace]
"#;

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
