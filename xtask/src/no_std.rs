//! The library crates without the standard library, and on other machines than this one.

use crate::deps::NO_STD;
use crate::run::{Outcome, cargo, run};
use crate::toolchain;
use std::path::Path;
use std::process::Command;

/// Kernels that the library crates are built for.
const KERNELS: &[&str] = &[
    "aarch64-unknown-none",
    "riscv64gc-unknown-none-elf",
    "x86_64-unknown-none",
    "armv7a-none-eabi",
];

/// 32 bits that this machine can run: statically linked, by the compiler's own linker, so that no other tool chain is needed.
const RUN_ON: &str = "i686-unknown-linux-musl";
const RUN_ON_FLAGS: &[(&str, &str)] = &[
    ("CARGO_TARGET_I686_UNKNOWN_LINUX_MUSL_LINKER", "rust-lld"),
    ("CARGO_TARGET_I686_UNKNOWN_LINUX_MUSL_RUSTFLAGS", "-Clink-self-contained=yes"),
];
const RUN: &[&str] = &[
    "portcullis-addr",
    "portcullis-platform",
    "portcullis-spec",
    "portcullis-iova",
    "portcullis-pgtable",
    "portcullis-pci",
    "portcullis",
    "portcullis-firmware",
    "portcullis-driver-parts",
    "portcullis-amdvi",
    "portcullis-riscv",
    "portcullis-smmuv2",
    "portcullis-smmuv3",
    "portcullis-vtd",
    "portcullis-virtio-iommu",
];

/// Links `no-std/`, after making sure that it names every crate it should: whatever drags `std` in brings a second panic handler, and the link fails.
pub(crate) fn check() -> Outcome {
    let folder = crate::root().join("no-std");
    let read = |file: &str| {
        std::fs::read_to_string(folder.join(file))
            .map_err(|error| format!("no-std/{file}: {error}"))
    };
    left_out(&read("Cargo.toml")?, &read("src/lib.rs")?)?;
    build(&folder, None)?;
    println!("no-std: {} crates link without the standard library", NO_STD.len());
    Ok(())
}

/// A crate that is not a dependency, or one that no line of code names: the compiler would not link it.
fn left_out(manifest: &str, code: &str) -> Outcome {
    for name in NO_STD {
        let named = format!("use {} as _;", name.replace('-', "_"));
        if !manifest.lines().any(|line| line.starts_with(&format!("{name} ")))
            || !code.lines().any(|line| line == named)
        {
            return Err(format!("no-std does not link {name}"));
        }
    }
    Ok(())
}

/// Builds the library crates for every kernel of [`KERNELS`] and runs their tests on 32 bits. Skips visibly what rustup cannot get.
pub(crate) fn targets() -> Outcome {
    let folder = crate::root().join("no-std");
    let mut built = Vec::new();
    for kernel in KERNELS {
        match toolchain::target(kernel) {
            Ok(()) => {
                build(&folder, Some(kernel))?;
                built.push(*kernel);
            }
            Err(reason) => println!("SKIP {kernel}: {reason}"),
        }
    }
    println!("targets: built for {}", built.join(", "));
    if cfg!(not(target_arch = "x86_64")) {
        println!("SKIP tests on 32 bits: only an x86-64 machine runs {RUN_ON}");
        return Ok(());
    }
    if let Err(reason) = toolchain::target(RUN_ON) {
        println!("SKIP tests on 32 bits: {reason}");
        return Ok(());
    }
    build(&folder, Some(RUN_ON))?;
    let mut arguments = vec!["test", "--quiet", "--target", RUN_ON, "--lib", "--tests"];
    arguments.extend(["--features", "portcullis-platform/std"]);
    for name in RUN {
        arguments.extend(["-p", name]);
    }
    cargo(&arguments, RUN_ON_FLAGS)?;
    println!("targets: the tests of {} crates pass on {RUN_ON}", RUN.len());
    Ok(())
}

fn build(folder: &Path, target: Option<&str>) -> Outcome {
    let mut command = Command::new(env!("CARGO"));
    let into = crate::target().join("no-std");
    command.args(["build", "--locked", "--target-dir"]).arg(into).current_dir(folder);
    command.args(target.iter().flat_map(|target| ["--target", target]));
    run(&mut command)
}

#[cfg(test)]
mod tests {
    use super::{NO_STD, left_out};

    #[test]
    fn a_crate_that_is_only_named_in_the_manifest_is_found() {
        let manifest: String = NO_STD.iter().map(|name| format!("{name} = \"0.1\"\n")).collect();
        let code = |name: &&str| format!("use {} as _;\n", name.replace('-', "_"));
        let all: String = NO_STD.iter().map(code).collect();
        assert_eq!(left_out(&manifest, &all), Ok(()));
        let but_one: String = NO_STD[1..].iter().map(code).collect();
        assert_eq!(
            left_out(&manifest, &but_one),
            Err(format!("no-std does not link {}", NO_STD[0]))
        );
        assert!(left_out("", &all).is_err());
    }
}
