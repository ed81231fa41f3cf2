//! A QEMU from the system's own Debian mirror, unpacked with its libraries beside the system: boards with two SMMUs need a newer one than Debian 12 has.

use super::Cache;
use super::apt::{Apt, Lists};
use crate::error::{Error, io, io_at};
use portcullis_qemu::{Architecture, DIRECTORY_VARIABLE, Installation};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Suites with a QEMU 11 and all that it depends on.
const SUITES: &[&str] = &["trixie", "trixie-updates", "trixie-backports"];
const SECURITY_SUITES: &[&str] = &["trixie-security"];
/// The suite that QEMU itself is taken from.
const NEWEST: &str = "trixie-backports";
/// The package with `qemu-system-aarch64`.
const PACKAGE: &str = "qemu-system-arm";
const PROGRAM: &str = "qemu-system-aarch64";

/// Programs of a machine that this one is.
#[derive(Clone, Copy, Debug)]
struct Host {
    /// Rust's word.
    name: &'static str,
    /// Debian's word.
    architecture: &'static str,
    /// The folder of its libraries below `/usr/lib`.
    triplet: &'static str,
    /// The file name of the dynamic loader there.
    loader: &'static str,
}

const HOSTS: &[Host] = &[
    Host {
        name: "x86_64",
        architecture: "amd64",
        triplet: "x86_64-linux-gnu",
        loader: "ld-linux-x86-64.so.2",
    },
    Host {
        name: "aarch64",
        architecture: "arm64",
        triplet: "aarch64-linux-gnu",
        loader: "ld-linux-aarch64.so.1",
    },
    Host {
        name: "riscv64",
        architecture: "riscv64",
        triplet: "riscv64-linux-gnu",
        loader: "ld-linux-riscv64-lp64d.so.1",
    },
];

/// The QEMU that replays use: the one in the folder of `PORTCULLIS_QEMU_DIR`, else one that [`fetch_qemu`] has fetched, else the system's.
///
/// # Errors
/// [`Error::Qemu`] if there is none, or it does not answer.
pub fn find_qemu(cache: &Cache) -> Result<Installation, Error> {
    let fetched = match std::env::var_os(DIRECTORY_VARIABLE) {
        Some(_) => None,
        None => fetched(cache)?,
    };
    match fetched {
        Some(program) => Installation::probe(&program),
        None => portcullis_qemu::find(Architecture::Aarch64).cloned(),
    }
    .map_err(|error| Error::Qemu(error.to_string()))
}

/// Gets Debian's newest QEMU with every library that it needs (40 MB, 170 MB unpacked) into the cache, unless that was done before. Nothing is installed: it
/// is started by its own loader.
///
/// # Errors
/// [`Error::Fetch`] on a machine that is none of x86-64, AArch64 and RISC-V, where there is no apt or `dpkg-deb`, no Debian mirror in apt's sources, or no such QEMU there.
pub fn fetch_qemu(cache: &Cache) -> Result<Installation, Error> {
    let program = match fetched(cache)? {
        Some(program) => program,
        None => unpack(cache, host(std::env::consts::ARCH)?)?,
    };
    Installation::probe(&program).map_err(|error| Error::Qemu(error.to_string()))
}

fn host(name: &str) -> Result<&'static Host, Error> {
    let host = HOSTS.iter().find(|host| host.name == name);
    host.ok_or_else(|| Error::Fetch(format!("no QEMU can be fetched for a {name} machine")))
}

/// The program that was fetched before; of several the one whose folder's name comes last.
fn fetched(cache: &Cache) -> Result<Option<PathBuf>, Error> {
    let folders = std::fs::read_dir(cache.folder("qemu")?).into_iter().flatten().flatten();
    // An unfinished one has no program: it is written last, and the folder is moved to its place as a whole.
    Ok(folders.map(|entry| entry.path().join(PROGRAM)).filter(|program| program.is_file()).max())
}

fn unpack(cache: &Cache, host: &Host) -> Result<PathBuf, Error> {
    let lists =
        Lists { architecture: host.architecture, suites: SUITES, security_suites: SECURITY_SUITES };
    let apt = Apt::in_folder(&cache.folder("apt-qemu")?, lists)?;
    apt.run("apt-get", &["clean"], None)?;
    let install = ["install", "-q", "-y", "--download-only", "--no-install-recommends"];
    apt.run("apt-get", &[&install[..], &["-t", NEWEST, PACKAGE]].concat(), None)?;
    let packages: Vec<PathBuf> = std::fs::read_dir(apt.archives())
        .map_err(io_at(&apt.archives()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .collect();
    let folder = cache.folder("qemu")?.join(version_of(&packages)?);
    let fresh = folder.with_extension(format!("{}.part", std::process::id()));
    let placed = assemble(&packages, &fresh, host)
        .and_then(|()| std::fs::rename(&fresh, &folder).map_err(io_at(&folder)));
    if placed.is_err() {
        // What cannot be removed has no program where it is looked for.
        let _ = std::fs::remove_dir_all(&fresh);
    }
    placed?;
    apt.run("apt-get", &["clean"], None)?;
    Ok(folder.join(PROGRAM))
}

/// `11.1.3+ds-1~bpo13+1` of `qemu-system-arm_1%3a11.1.3+ds-1~bpo13+1_amd64.deb`.
fn version_of(packages: &[PathBuf]) -> Result<String, Error> {
    let names = packages.iter().filter_map(|path| path.file_name()?.to_str());
    let version = names.filter_map(|name| {
        let (_, rest) = name.split_once(PACKAGE)?;
        let version = rest.strip_prefix('_')?.split('_').next()?;
        Some(version.rsplit("%3a").next()?.to_owned())
    });
    let none = || Error::Fetch(format!("apt-get left no package {PACKAGE}"));
    version.into_iter().next().ok_or_else(none)
}

/// Unpacks the packages and writes the program that starts QEMU with them.
fn assemble(packages: &[PathBuf], folder: &Path, host: &Host) -> Result<(), Error> {
    let root = folder.join("root");
    std::fs::create_dir_all(&root).map_err(io_at(&root))?;
    for package in packages {
        let mut command = Command::new("dpkg-deb");
        command.arg("-x").arg(package).arg(&root).stdin(Stdio::null());
        let output = command.output().map_err(io("running dpkg-deb"))?;
        if !output.status.success() {
            let what = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Error::File { path: package.clone(), what });
        }
    }
    let program = folder.join(PROGRAM);
    std::fs::write(&program, starter(host)).map_err(io_at(&program))?;
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&program, executable).map_err(io_at(&program))
}

/// A script that becomes QEMU: the loader, the libraries and QEMU's own files are those beside it.
fn starter(host: &Host) -> String {
    let Host { triplet, loader, .. } = host;
    format!(
        "#!/bin/sh\n# Starts QEMU with the libraries that were unpacked beside it.\n\
         root=$(cd \"$(dirname \"$0\")\" && pwd)/root\nlibraries=$root/usr/lib/{triplet}\n\
         export QEMU_MODULE_DIR=\"$libraries/qemu\"\n\
         exec \"$libraries/{loader}\" --library-path \"$libraries\" \"$root/usr/bin/{PROGRAM}\" \
         -L \"$root/usr/share/qemu\" \"$@\"\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// File names as apt-get leaves them: a colon is written `%3a`.
    #[test]
    fn the_version_is_that_of_qemu() {
        let packages =
            ["libc6_2.41-12_amd64.deb", "qemu-system-arm_1%3a11.1.3+ds-1~bpo13+1_amd64.deb"]
                .map(PathBuf::from);
        assert_eq!(version_of(&packages).expect("it is there"), "11.1.3+ds-1~bpo13+1");
        assert!(version_of(&packages[..1]).is_err());
    }

    /// The script finds root, loader and program beside itself, wherever the folder is, and hands its arguments on as they are.
    #[test]
    fn the_program_is_started_by_the_loader_beside_it() {
        let folder = crate::scratch::Folder::new("fetched qemu");
        let cache = Cache::at(folder.path());
        assert_eq!(fetched(&cache).expect("a folder"), None);
        let host = Host { name: "test", architecture: "test", triplet: "here", loader: "loader" };
        let place = cache.folder("qemu").expect("a folder").join("11");
        assemble(&[], &place, &host).expect("the folder is ours");
        let libraries = place.join("root/usr/lib/here");
        std::fs::create_dir_all(&libraries).expect("the folder is ours");
        std::os::unix::fs::symlink("/bin/echo", libraries.join("loader")).expect("ours");
        let program = fetched(&cache).expect("a folder").expect("it is there");
        let output = Command::new(program).args(["-device", "a b"]).output().expect("a script");
        let root = place.join("root").canonicalize().expect("it is there");
        let root = root.display();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout).trim_end(),
            format!(
                "--library-path {root}/usr/lib/here {root}/usr/bin/qemu-system-aarch64 -L {root}/usr/share/qemu -device a b"
            )
        );
    }

    #[test]
    fn other_machines_are_told_so() {
        assert!(host("x86_64").is_ok());
        let error = host("s390x").expect_err("not supported");
        assert!(error.to_string().contains("s390x"), "{error}");
    }
}
