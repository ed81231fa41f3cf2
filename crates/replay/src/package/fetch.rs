//! Kernels from the system's own Debian mirror.

use super::Cache;
use super::apt::{Apt, Lists};
use crate::error::Error;
use std::path::PathBuf;

/// Where kernels are looked for.
const LISTS: Lists = Lists {
    architecture: "arm64",
    suites: &[
        "bookworm",
        "bookworm-updates",
        "bookworm-backports",
        "trixie",
        "trixie-updates",
        "trixie-backports",
        "sid",
        "experimental",
    ],
    security_suites: &["bookworm-security", "trixie-security"],
};

/// A Debian mirror, reached through apt.
#[derive(Debug)]
pub struct Mirror {
    cache: Cache,
    apt: Apt,
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
        let apt = Apt::in_folder(&cache.folder("apt")?, LISTS)?;
        Ok(Self { cache: cache.clone(), apt })
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
        let names = self.apt.run("apt-cache", &["pkgnames", "linux-image-"], None)?;
        let wanted: Vec<&str> = names.lines().filter(|name| flavour(name).is_some()).collect();
        let mut show = vec!["show", "--no-all-versions"];
        show.extend(wanted);
        let text = self.apt.run("apt-cache", &show, None)?;
        let mut found: Vec<Candidate> = text.split("\n\n").filter_map(candidate).collect();
        found.sort();
        Ok(found)
    }

    /// Image, binary and modules: which of them exist depends on the version.
    fn parts(&self, flavour: &str) -> Result<Vec<String>, Error> {
        let names = self.apt.run("apt-cache", &["pkgnames", "linux-"], None)?;
        let parts = ["image", "binary", "modules"].map(|part| format!("linux-{part}-{flavour}"));
        Ok(parts.into_iter().filter(|part| names.lines().any(|name| name == part)).collect())
    }

    fn download(&self, package: &str) -> Result<PathBuf, Error> {
        if let Some(path) = self.cache.package(package)? {
            return Ok(path);
        }
        self.apt.run("apt-get", &["download", "-q", package], Some(&self.cache.packages()?))?;
        self.cache
            .package(package)?
            .ok_or_else(|| Error::Fetch(format!("apt-get download {package} left no file")))
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
}
