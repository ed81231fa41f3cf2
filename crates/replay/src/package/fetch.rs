//! Kernels from the system's own Debian mirror, through apt with private lists: nothing of the system is changed.

use super::Cache;
use crate::error::{Error, io, io_at};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

/// Suites that are looked at. One that a mirror does not have only costs a warning.
const SUITES: &[&str] = &[
    "bookworm",
    "bookworm-updates",
    "bookworm-backports",
    "trixie",
    "trixie-updates",
    "trixie-backports",
    "sid",
    "experimental",
];
/// The same for a security mirror.
const SECURITY_SUITES: &[&str] = &["bookworm-security", "trixie-security"];
/// Lists older than this are fetched again.
const FRESH: Duration = Duration::from_secs(24 * 3600);
/// The keys that Debian signs its lists with.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A Debian mirror, reached through apt.
#[derive(Debug)]
pub struct Mirror {
    cache: Cache,
    config: PathBuf,
}

/// A kernel on the mirror.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    version: (u32, u32, u32),
    /// What stands between `linux-image-` and the end of the package's name.
    flavour: String,
}

impl Mirror {
    /// The package with the guest's busybox.
    pub const BUSYBOX: &str = "busybox-static";

    /// Prepares private lists of the mirrors in the system's apt sources, for arm64 packages; fetched when they are older than a day.
    ///
    /// # Errors
    /// [`Error::Fetch`] where there is no apt or no Debian mirror among its sources.
    pub fn of_system(cache: &Cache) -> Result<Self, Error> {
        let folder = cache.folder("apt")?;
        let sources = sources_of(Path::new("/etc/apt"));
        let text = source_list(&sources);
        if text.is_empty() {
            let what = "no Debian mirror in /etc/apt: give the kernel's packages with --kernel";
            return Err(Error::Fetch(what.into()));
        }
        for inside in ["state/lists/partial", "cache/archives/partial"] {
            let path = folder.join(inside);
            std::fs::create_dir_all(&path).map_err(io_at(&path))?;
        }
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(io_at(&path)).map(|()| path)
        };
        write("sources.list", &text)?;
        write("status", "")?;
        let config = write("apt.conf", &configuration(&folder))?;
        let mirror = Self { cache: cache.clone(), config };
        mirror.update(&folder.join("updated"))?;
        Ok(mirror)
    }

    fn update(&self, stamp: &Path) -> Result<(), Error> {
        let age = |path: &Path| {
            SystemTime::now()
                .duration_since(path.metadata()?.modified()?)
                .map_err(std::io::Error::other)
        };
        if age(stamp).is_ok_and(|age| age < FRESH) {
            return Ok(());
        }
        self.run("apt-get", &["update", "-q"], None)?;
        std::fs::write(stamp, "").map_err(io_at(stamp))
    }

    /// The packages of the newest kernel whose version begins with `version` (`6.12`, `6.12.43`), downloaded unless they were before.
    ///
    /// # Errors
    /// [`Error::Fetch`] if the mirror has no such kernel; the message lists the versions that it has.
    pub fn kernel(&self, version: &str) -> Result<Vec<PathBuf>, Error> {
        let candidates = self.candidates()?;
        let chosen = choose(&candidates, version).ok_or_else(|| {
            let known: Vec<String> =
                candidates.iter().map(|kernel| dotted(kernel.version)).collect();
            Error::Fetch(format!(
                "no arm64 kernel {version} on the mirror; it has {}",
                known.join(", ")
            ))
        })?;
        let names = self.parts(&chosen.flavour)?;
        names.iter().map(|name| self.download(name)).collect()
    }

    /// A statically linked busybox for arm64, as a package.
    ///
    /// # Errors
    /// As [`Mirror::kernel`].
    pub fn busybox(&self) -> Result<PathBuf, Error> {
        self.download(Self::BUSYBOX)
    }

    fn candidates(&self) -> Result<Vec<Candidate>, Error> {
        let names = self.run("apt-cache", &["pkgnames", "linux-image-"], None)?;
        let wanted: Vec<&str> = names.lines().filter(|name| flavour(name).is_some()).collect();
        let mut show = vec!["show", "--no-all-versions"];
        show.extend(wanted);
        let text = self.run("apt-cache", &show, None)?;
        let mut found: Vec<Candidate> = text.split("\n\n").filter_map(candidate).collect();
        found.sort();
        Ok(found)
    }

    /// Image, binary and modules: which of them exist depends on the version.
    fn parts(&self, flavour: &str) -> Result<Vec<String>, Error> {
        let names = self.run("apt-cache", &["pkgnames", "linux-"], None)?;
        let parts = ["image", "binary", "modules"].map(|part| format!("linux-{part}-{flavour}"));
        Ok(parts.into_iter().filter(|part| names.lines().any(|name| name == part)).collect())
    }

    fn download(&self, package: &str) -> Result<PathBuf, Error> {
        if let Some(path) = self.cache.package(package)? {
            return Ok(path);
        }
        self.run("apt-get", &["download", "-q", package], Some(&self.cache.packages()?))?;
        self.cache
            .package(package)?
            .ok_or_else(|| Error::Fetch(format!("apt-get download {package} left no file")))
    }

    fn run(
        &self,
        program: &str,
        arguments: &[&str],
        folder: Option<&Path>,
    ) -> Result<String, Error> {
        let mut command = Command::new(program);
        command.args(arguments).env("APT_CONFIG", &self.config).env("LC_ALL", "C");
        command.stdin(Stdio::null()).current_dir(folder.unwrap_or(Path::new("/")));
        let output = command.output().map_err(io(format!("running {program}")))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        let last = errors.lines().last().unwrap_or("no message");
        Err(Error::Fetch(format!("{program} {}: {last}", arguments.first().unwrap_or(&""))))
    }
}

fn dotted((major, minor, stable): (u32, u32, u32)) -> String {
    format!("{major}.{minor}.{stable}")
}

/// The newest kernel whose version begins with the numbers of `wanted`.
fn choose<'a>(candidates: &'a [Candidate], wanted: &str) -> Option<&'a Candidate> {
    let wanted: Vec<u32> =
        wanted.trim_start_matches('v').split('.').map(|n| n.parse().ok()).collect::<Option<_>>()?;
    let fits = |kernel: &&Candidate| {
        let (major, minor, stable) = kernel.version;
        wanted.len() <= 3 && [major, minor, stable].starts_with(&wanted)
    };
    candidates.iter().filter(fits).max()
}

/// The general-purpose flavour of a signed arm64 image: no cloud, real-time or debug kernels, no meta packages.
fn flavour(package: &str) -> Option<&str> {
    let flavour = package.strip_prefix("linux-image-")?;
    let plain = flavour.starts_with(|c: char| c.is_ascii_digit()) && flavour.ends_with("-arm64");
    let other =
        ["-cloud-", "-rt-", "-dbg", "-unsigned", "-16k"].iter().any(|word| flavour.contains(word));
    (plain && !other).then_some(flavour)
}

fn candidate(paragraph: &str) -> Option<Candidate> {
    let field = |name: &str| paragraph.lines().find_map(|line| line.strip_prefix(name));
    let flavour = flavour(field("Package: ")?)?.to_owned();
    let version = field("Version: ")?.split([':']).next_back()?;
    let mut numbers = version.split(['.', '-', '+', '~']).map(str::parse::<u32>);
    let mut next = || numbers.next()?.ok();
    let version = (next()?, next()?, next()?);
    Some(Candidate { version, flavour })
}

/// The archives that apt's sources name: `URIs:` lines and one-line entries. Only Debian's own have the suites that we look for.
fn sources_of(folder: &Path) -> BTreeMap<String, &'static [&'static str]> {
    let parts = std::fs::read_dir(folder.join("sources.list.d")).into_iter().flatten().flatten();
    let files = parts.map(|entry| entry.path()).chain([folder.join("sources.list")]);
    let texts = files.filter_map(|path| std::fs::read_to_string(path).ok());
    texts.flat_map(|text| archives(&text)).collect()
}

fn archives(text: &str) -> Vec<(String, &'static [&'static str])> {
    let uris = text.lines().flat_map(|line| {
        let deb822 = line.strip_prefix("URIs:").map(|rest| rest.split_whitespace());
        let one_line = line.starts_with("deb ").then(|| line.split_whitespace());
        deb822.or(one_line).into_iter().flatten().filter(|word| word.contains("://"))
    });
    uris.filter_map(|uri| {
        let uri = uri.trim_end_matches('/');
        if uri.ends_with("/debian") {
            Some((uri.to_owned(), SUITES))
        } else {
            uri.ends_with("/debian-security").then(|| (uri.to_owned(), SECURITY_SUITES))
        }
    })
    .collect()
}

fn source_list(archives: &BTreeMap<String, &[&str]>) -> String {
    let mut text = String::new();
    for (uri, suites) in archives {
        for suite in *suites {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "deb [signed-by={KEYRING}] {uri} {suite} main");
        }
    }
    text
}

fn configuration(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "APT::Architecture \"arm64\";\nAPT::Architectures {{ \"arm64\"; }};\nAPT::Sandbox::User \"root\";\n\
         Dir::State \"{folder}/state\";\nDir::State::status \"{folder}/status\";\nDir::Cache \"{folder}/cache\";\n\
         Dir::Etc::sourcelist \"{folder}/sources.list\";\nDir::Etc::sourceparts \"/dev/null\";\n\
         Acquire::Languages \"none\";\nAcquire::IndexTargets::deb::Contents-deb::DefaultEnabled \"false\";\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_that_fits() {
        let text = "Package: linux-image-6.12.43+deb12-arm64\nVersion: 6.12.43-1~bpo12+1\n\nPackage: linux-image-6.1.0-56-arm64\nVersion: 6.1.192-2\n\n\
                    Package: linux-image-6.12.118+deb13-arm64\nVersion: 6.12.118-1\n\nPackage: linux-image-cloud-arm64\nVersion: 6.1.192-2";
        let all: Vec<Candidate> = text.split("\n\n").filter_map(candidate).collect();
        assert_eq!(all.len(), 3);
        let chosen = |wanted: &str| choose(&all, wanted).map(|kernel| kernel.flavour.as_str());
        assert_eq!(chosen("6.12"), Some("6.12.118+deb13-arm64"));
        assert_eq!(chosen("v6.12.43"), Some("6.12.43+deb12-arm64"));
        assert_eq!(chosen("6.1"), Some("6.1.0-56-arm64"));
        assert_eq!(chosen("6.1.19"), None, "numbers, not digits");
        assert_eq!(chosen("5"), None);
        assert_eq!(chosen("x"), None);
    }

    #[test]
    fn flavours() {
        assert_eq!(flavour("linux-image-7.3.4+deb13-arm64"), Some("7.3.4+deb13-arm64"));
        for other in [
            "linux-image-arm64",
            "linux-image-6.1.0-56-cloud-arm64",
            "linux-image-6.1.0-56-arm64-dbg",
            "linux-image-6.1.0-56-amd64",
        ] {
            assert_eq!(flavour(other), None, "{other}");
        }
    }

    #[test]
    fn mirrors_in_both_forms() {
        let text = "Types: deb\nURIs: http://mirror.invalid/debian/\nSuites: x\n\ndeb [arch=amd64] https://other.invalid/debian-security x main\n# deb http://no.invalid/debian x\ndeb http://cloud.invalid/apt x\n";
        let found = archives(text);
        let uris: Vec<&str> = found.iter().map(|(uri, _)| uri.as_str()).collect();
        assert_eq!(uris, ["http://mirror.invalid/debian", "https://other.invalid/debian-security"]);
        let list = source_list(&found.into_iter().collect());
        assert!(list.contains("debian-security trixie-security main\n"));
    }
}
