//! QEMU from Debian's packages, where this machine lets us.

use crate::run::{Outcome, run};
use std::path::Path;
use std::process::{Command, Stdio};

/// What tests start, Debian's package of each (in 7.2 the second one is part of `qemu-system-misc`), and the first version with an IOMMU that can be made to block (docs/qemu-differences.md): tests on an older one
/// skip.
const PROGRAMS: [(&str, &str, u32); 3] = [
    ("qemu-system-aarch64", "qemu-system-arm", 8),
    ("qemu-system-riscv64", "qemu-system-riscv", 10),
    ("qemu-system-x86_64", "qemu-system-x86", 7),
];
const SOURCES: &str = "/etc/apt/sources.list.d";

/// Installs QEMU (version 10 where the release has it), unless one that will do is there.
pub(crate) fn install() -> Outcome {
    let (mut packages, mut said) = (Vec::new(), Vec::new());
    for (program, package, least) in PROGRAMS {
        let Err(reason) = at_least(program, least) else { continue };
        said.push(reason);
        packages.push(package);
    }
    if packages.is_empty() {
        return Ok(());
    }
    let said = said.join("; ");
    if !Path::new("/usr/bin/apt-get").exists() {
        return Err(format!("{said}; and there is no apt-get: install QEMU 10"));
    }
    let codename = codename().unwrap_or_default();
    let mut install = apt(&["install", "-y", "--no-install-recommends"]);
    if codename == "bookworm" {
        match add_backports() {
            Ok(()) => _ = install.args(["-t", "bookworm-backports"]),
            Err(reason) => println!("QEMU 10 of Debian 12's backports is not to be had: {reason}"),
        }
    }
    install.args(&packages);
    run(&mut apt(&["update", "-q"])).and_then(|()| run(&mut install)).map_err(|error| {
        let packages = packages.join(" ");
        format!("{said}; installing it failed ({error}); as root: apt-get install {packages}")
    })
}

/// Whether `program` is there and of that major version or a later one; the error says what there is instead.
pub(crate) fn at_least(program: &str, least: u32) -> Outcome {
    match major_version(program) {
        Some(major) if major >= least => Ok(()),
        Some(major) => Err(format!("{program} is version {major}, {least} or later is needed")),
        None => Err(format!("{program} is not there")),
    }
}

/// The first number of "QEMU emulator version 10.0.2 (Debian ...)"; `None` where the program is not there.
fn major_version(program: &str) -> Option<u32> {
    let output = Command::new(program).arg("--version").stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.strip_prefix("QEMU emulator version ")?.split('.').next()?.parse().ok()
}

/// Installs one of the distribution's own packages, which may not need more than that.
pub(crate) fn install_package(name: &str) -> Outcome {
    if !Path::new("/usr/bin/apt-get").exists() {
        return Err(format!("{name} is not there, and neither is apt-get"));
    }
    let mut install = apt(&["install", "-y", "-q", "--no-install-recommends", name]);
    run(&mut apt(&["update", "-q"]))
        .and_then(|()| run(&mut install))
        .map_err(|error| format!("could not install it ({error}); as root: apt-get install {name}"))
}

fn apt(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn codename() -> Option<String> {
    let release = std::fs::read_to_string("/etc/os-release").ok()?;
    let line = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(line.trim_matches('"').to_string())
}

/// Debian 12's own QEMU is 7.2; its backports have 10. The mirror is the one that the machine uses already: images have it in `debian.sources`, what the installer made in `sources.list`.
fn add_backports() -> Outcome {
    let target = format!("{SOURCES}/bookworm-backports.sources");
    if Path::new(&target).exists() {
        return Ok(());
    }
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let new = read(&format!("{SOURCES}/debian.sources")).map(|sources| backports(&sources));
    let text = new
        .or_else(|| backports_of_list(&read("/etc/apt/sources.list")?))
        .ok_or("no mirror of Debian 12 in apt's sources")?;
    println!("adding {target}: QEMU 10 is in Debian 12's backports");
    std::fs::write(&target, text).map_err(|error| format!("{target}: {error}"))
}

/// The backports of the mirror of the first entry.
fn backports(sources: &str) -> String {
    let first = sources.split("\n\n").next().unwrap_or_default();
    let lines = first.lines().map(|line| match line.strip_prefix("Suites:") {
        Some(_) => "Suites: bookworm-backports",
        None => line,
    });
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

/// The same by the one-line format: the mirror of the first line for `bookworm`.
fn backports_of_list(list: &str) -> Option<String> {
    let mut lines =
        list.lines().filter(|line| line.starts_with("deb ") && line.contains(" bookworm "));
    let mirror = lines.find_map(|line| line.split_whitespace().find(|it| it.contains("://")))?;
    Some(format!(
        "Types: deb\nURIs: {mirror}\nSuites: bookworm-backports\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backports_come_from_the_mirror_that_is_used() {
        let sources = "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\n\nTypes: deb\nURIs: http://other.example\nSuites: x\n";
        let expected = "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm-backports\nComponents: main\n";
        assert_eq!(backports(sources), expected);
        let list = "# comment\ndeb cdrom:[Debian]/ bookworm contrib\ndeb [arch=amd64] http://mirror.example/debian bookworm main\n";
        let text = backports_of_list(list).expect("a mirror");
        assert!(
            text.starts_with(
                "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm-backports\n"
            ),
            "{text}"
        );
        assert_eq!(backports_of_list("deb http://mirror.example/debian trixie main\n"), None);
    }
}
