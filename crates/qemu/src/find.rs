//! Which QEMU is installed, and what it can do: looked at, never assumed.

use crate::error::{Error, ErrorKind};
use crate::sys;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Names the directory that holds the `qemu-system-*` programs to use instead of those on `PATH`.
pub const DIRECTORY_VARIABLE: &str = "PORTCULLIS_QEMU_DIR";

/// How long a QEMU may take to print a help text.
const HELP_BOUND: Duration = Duration::from_secs(20);

/// Which machines a QEMU program emulates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// `qemu-system-aarch64`.
    Aarch64,
    /// `qemu-system-riscv64`.
    Riscv64,
    /// `qemu-system-x86_64`.
    X86_64,
}

impl Architecture {
    /// The program's name.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Aarch64 => "qemu-system-aarch64",
            Self::Riscv64 => "qemu-system-riscv64",
            Self::X86_64 => "qemu-system-x86_64",
        }
    }

    /// Debian's package that has it from QEMU 10 on.
    pub const fn package(self) -> &'static str {
        match self {
            Self::Aarch64 => "qemu-system-arm",
            Self::Riscv64 => "qemu-system-riscv",
            Self::X86_64 => "qemu-system-x86",
        }
    }

    /// The first version with an IOMMU of this project on its boards (docs/qemu-differences.md has what each can do).
    pub const fn least(self) -> Version {
        let major = match self {
            Self::Aarch64 | Self::X86_64 => 7,
            Self::Riscv64 => 10,
        };
        Version { major, minor: 0, micro: 0 }
    }
}

/// The first version whose SMMUv3 can be made to block: 7.2's has no `SMMU_GBPA`.
pub const SMMUV3_BLOCKS: Version = Version { major: 8, minor: 0, micro: 0 };

/// A version of QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// First number.
    pub major: u16,
    /// Second number.
    pub minor: u16,
    /// Third number.
    pub micro: u16,
}

impl Version {
    /// Reads the first line of `qemu-system-* --version`.
    fn parse(text: &str) -> Option<Self> {
        let words = text.lines().next()?.strip_prefix("QEMU emulator version ")?;
        let number = words.split([' ', '-']).next()?;
        let mut parts = number.split('.').map(str::parse::<u16>);
        let mut next = || parts.next()?.ok();
        Some(Self { major: next()?, minor: next()?, micro: next()? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// There is no such program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotFound {
    /// What it should emulate.
    pub architecture: Architecture,
    /// The directories that were looked at.
    pub searched: Vec<PathBuf>,
}

impl fmt::Display for NotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (program, package) = (self.architecture.program(), self.architecture.package());
        write!(f, "{program} not found (apt-get install --no-install-recommends ")?;
        write!(f, "-t bookworm-backports {package})")?;
        let mut separator = "; looked in ";
        for directory in &self.searched {
            write!(f, "{separator}{}", directory.display())?;
            separator = ", ";
        }
        Ok(())
    }
}

impl std::error::Error for NotFound {}

/// What an installed QEMU offers, as its own help texts say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    devices: BTreeSet<String>,
    machines: BTreeSet<String>,
    smmu_stages: bool,
}

impl Features {
    /// Whether `-device name` exists.
    pub fn has_device(&self, name: &str) -> bool {
        self.devices.contains(name)
    }

    /// Whether `-machine name` exists.
    pub fn has_machine(&self, name: &str) -> bool {
        self.machines.contains(name)
    }

    /// Whether the SMMUv3 has a property that chooses its stages, and a machine that leaves the choice to it.
    pub fn chooses_smmu_stages(&self) -> bool {
        self.smmu_stages && self.has_machine("virt-9.1")
    }
}

/// An installed `qemu-system-*`.
#[derive(Clone, Debug)]
pub struct Installation {
    program: PathBuf,
    version: Version,
    features: Features,
}

impl Installation {
    /// Asks the program at `program` what it is and what it can do (four short runs, about 0.2 s).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`], [`ErrorKind::Timeout`], or [`ErrorKind::Malformed`] when it does not say a version.
    pub fn probe(program: &Path) -> Result<Self, Error> {
        let ask = |arguments: &[&str]| answer_of(program, arguments);
        let banner = ask(&["--version"])?;
        let version = Version::parse(&banner).ok_or_else(|| ErrorKind::Malformed {
            what: format!("{} --version", program.display()),
            answer: banner.lines().next().unwrap_or_default().to_owned(),
        })?;
        let features = Features {
            devices: device_names(&ask(&["-device", "help"])?),
            machines: machine_names(&ask(&["-machine", "help"])?),
            smmu_stages: has_property(&ask(&["-device", "arm-smmuv3,help"])?, "stage"),
        };
        Ok(Self { program: program.to_owned(), version, features })
    }

    /// The program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// What it offers.
    pub fn features(&self) -> &Features {
        &self.features
    }
}

/// The QEMU of this system for `architecture`: from [`DIRECTORY_VARIABLE`] when that is set, else from `PATH`. Probed once per process.
///
/// # Errors
///
/// [`ErrorKind::NotFound`], or what [`Installation::probe`] says.
pub fn find(architecture: Architecture) -> Result<&'static Installation, Error> {
    static FOUND: [OnceLock<Installation>; 3] = [const { OnceLock::new() }; 3];
    let found = &FOUND[architecture as usize];
    if let Some(installation) = found.get() {
        return Ok(installation);
    }
    let directories = match std::env::var_os(DIRECTORY_VARIABLE) {
        Some(directory) => vec![PathBuf::from(directory)],
        None => std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect(),
    };
    let installation = Installation::probe(&find_in(architecture, directories)?)?;
    Ok(found.get_or_init(|| installation))
}

fn find_in(architecture: Architecture, searched: Vec<PathBuf>) -> Result<PathBuf, ErrorKind> {
    let program = architecture.program();
    let found = searched.iter().map(|directory| directory.join(program)).find(|p| p.is_file());
    found.ok_or(ErrorKind::NotFound(NotFound { architecture, searched }))
}

/// Runs `program` for at most [`HELP_BOUND`] and returns what it printed. The exit status does not matter: some help texts end with 1.
fn answer_of(program: &Path, arguments: &[&str]) -> Result<String, Error> {
    let io = |what| move |error| ErrorKind::Io { what, error };
    let mut output = sys::memory_file(c"qemu-help", 0).map_err(io("making a memory file"))?;
    let writer = output.try_clone().map_err(io("sharing a memory file"))?;
    let errors = output.try_clone().map_err(io("sharing a memory file"))?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(writer).stderr(errors);
    let mut child = command.spawn().map_err(io("starting QEMU for a help text"))?;
    let start = Instant::now();
    while child.try_wait().map_err(io("waiting for QEMU"))?.is_none() {
        if start.elapsed() > HELP_BOUND {
            // Nothing is lost when these fail: the child is a help text that nobody reads any more.
            let _ = child.kill();
            let _ = child.wait();
            let what = format!("{} {}", program.display(), arguments.join(" "));
            return Err(ErrorKind::Timeout { what, after: HELP_BOUND }.into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut bytes = Vec::new();
    output.rewind().map_err(io("reading a help text"))?;
    output.read_to_end(&mut bytes).map_err(io("reading a help text"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// `name "edu", bus PCI` and the like; aliases count too.
fn device_names(help: &str) -> BTreeSet<String> {
    let quoted = |line: &str, key: &str| {
        let rest = line.split_once(key)?.1;
        Some(rest.split('"').next()?.to_owned())
    };
    help.lines()
        .flat_map(|line| [quoted(line, "name \""), quoted(line, "alias \"")])
        .flatten()
        .collect()
}

fn machine_names(help: &str) -> BTreeSet<String> {
    let names = help.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    names.map(str::to_owned).collect()
}

fn has_property(help: &str, name: &str) -> bool {
    help.lines()
        .any(|line| line.trim_start().strip_prefix(name).is_some_and(|r| r.starts_with('=')))
}

/// Whether tests that need programs from outside must fail rather than be skipped (CI sets it).
pub const REQUIRE_VARIABLE: &str = "PORTCULLIS_REQUIRE_EXTERNAL";

/// As [`for_test_on`] for [`Architecture::Aarch64`].
///
/// # Panics
///
/// As there.
pub fn for_test(test: &str) -> Option<&'static Installation> {
    for_test_on(Architecture::Aarch64, test)
}

/// For a test that needs QEMU: the installation, or `None` after a line `SKIP <test>: ...` that is visible also without `--nocapture`.
///
/// # Panics
///
/// Where there is no QEMU although [`REQUIRE_VARIABLE`] is `1`, and where a QEMU is there but cannot be used: a broken one must not read as absent.
pub fn for_test_on(architecture: Architecture, test: &str) -> Option<&'static Installation> {
    for_test_from(architecture, architecture.least(), test)
}

/// As [`for_test_on`], for a test that needs this version or a later one.
///
/// # Panics
///
/// As there.
pub fn for_test_from(
    architecture: Architecture,
    least: Version,
    test: &str,
) -> Option<&'static Installation> {
    let require = std::env::var_os(REQUIRE_VARIABLE);
    match find(architecture) {
        Ok(installation) if installation.version() >= least => Some(installation),
        Ok(installation) => {
            let found = installation.version();
            let why = format!("QEMU {found} is too old: {least} or later is needed");
            assert!(!required(require), "{test} cannot run: {why}");
            say_skipped(test, &why);
            None
        }
        Err(error) if may_skip(&error, require) => {
            say_skipped(test, &error.to_string());
            None
        }
        Err(error) => panic!("{test} cannot run: {error}"),
    }
}

/// Not `eprintln!`: the test harness would swallow it.
fn say_skipped(test: &str, why: &str) {
    use std::io::Write;
    // A closed standard error is no reason to fail.
    let _ = std::io::stderr().write_all(format!("SKIP {test}: {why}\n").as_bytes());
}

fn required(variable: Option<OsString>) -> bool {
    variable.is_some_and(|value| value == "1")
}

fn may_skip(error: &Error, require: Option<OsString>) -> bool {
    matches!(error.kind(), ErrorKind::NotFound(_)) && !required(require)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_both_distributions() {
        let parse = |text| Version::parse(text).map(|version| version.to_string());
        let backports = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright";
        assert_eq!(parse(backports).as_deref(), Some("10.0.2"));
        assert_eq!(parse("QEMU emulator version 9.2.50-dirty").as_deref(), Some("9.2.50"));
        assert_eq!(parse("qemu 1"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn help_texts() {
        let devices = device_names(
            "Network devices:\nname \"virtio-rng-pci\", bus PCI, alias \"virtio-rng\"\nname \"edu\", bus PCI\n",
        );
        assert_eq!(devices.iter().collect::<Vec<_>>(), ["edu", "virtio-rng", "virtio-rng-pci"]);
        let machines =
            machine_names("Supported machines are:\nvirt-9.1   QEMU 9.1 ARM Virtual Machine\n");
        assert!(machines.contains("virt-9.1") && machines.len() == 1);
        assert!(has_property("arm-smmuv3 options:\n  stage=<str>\n", "stage"));
        assert!(!has_property("arm-smmuv3 options:\n  backstage=<str>\n", "stage"));
    }

    #[test]
    fn only_absence_may_be_skipped_and_not_where_it_is_required() {
        let absent: Error = find_in(Architecture::Riscv64, vec!["/nonexistent".into()])
            .expect_err("no such directory")
            .into();
        assert!(absent.to_string().contains("qemu-system-riscv)"), "{absent}");
        assert!(may_skip(&absent, None));
        assert!(!may_skip(&absent, Some("1".into())));
        let broken = Installation::probe(Path::new("/bin/true")).expect_err("says no version");
        assert!(matches!(broken.kind(), ErrorKind::Malformed { .. }), "{broken}");
        assert!(!may_skip(&broken, None));
    }
}
