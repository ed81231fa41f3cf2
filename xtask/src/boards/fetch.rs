//! The devicetrees of Debian's arm64 kernel package, through an apt of our own: the machine's apt is not changed, nothing is installed.

use crate::run::output;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Newest first: the boards that have their IOMMUs enabled are recent.
const SUITES: [&str; 3] = ["sid", "trixie", "bookworm"];

/// Names of packages that carry devicetrees, best first: the small one of newer releases, then the image with all modules.
const PATTERNS: [&str; 2] = ["^linux-base-[0-9].*[0-9]-arm64$", "^linux-image-[0-9].*[0-9]-arm64$"];

/// The keyring that Debian's machines have.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The folder of the unpacked package, named after it; fetched where the cache does not have it. `suite` leaves the choice to the caller.
///
/// # Errors
///
/// Why the package cannot be had.
pub(super) fn devicetrees(cache: &Path, suite: Option<&str>) -> Result<PathBuf, String> {
    let suites = suite.map_or_else(|| SUITES.to_vec(), |suite| vec![suite]);
    if let Some(known) = suites.iter().find_map(|suite| unpacked(&cache.join(suite))) {
        return Ok(known);
    }
    let mut reasons = Vec::new();
    for suite in suites {
        match Apt::new(cache, suite).and_then(|apt| apt.unpack(&apt.package()?)) {
            Ok(folder) => return Ok(folder),
            Err(reason) => reasons.push(format!("{suite}: {reason}")),
        }
    }
    Err(reasons.join("; "))
}

/// What an earlier run has unpacked for a suite.
fn unpacked(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
    entries.filter(|path| name(path).is_some_and(|name| name.ends_with("-arm64"))).max()
}

/// Where this machine gets its own packages from.
fn mirror() -> Result<String, String> {
    let targets = ["indextargets", "--format", "$(CREATED_BY) $(REPO_URI)"];
    let targets = output(Command::new("apt-get").args(targets))?;
    let mirror = targets.lines().find_map(|line| {
        let (created, uri) = line.split_once(' ')?;
        let own = created == "Packages" && uri.trim_end_matches('/').ends_with("/debian");
        own.then(|| uri.to_owned())
    });
    mirror.ok_or_else(|| "apt is set up for no Debian archive".into())
}

/// An apt for arm64 and one suite.
struct Apt {
    config: PathBuf,
    folder: PathBuf,
}

impl Apt {
    fn new(cache: &Path, suite: &str) -> Result<Self, String> {
        let uri = mirror()?;
        let folder = cache.join(suite);
        let error = |error: std::io::Error| format!("{}: {error}", folder.display());
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part)).map_err(error)?;
        }
        let root = folder.display();
        let known = Path::new(KEYRING).exists();
        let signed = if known { format!("[signed-by={KEYRING}] ") } else { String::new() };
        let settings = format!(
            "APT::Architecture \"arm64\";\nAPT::Architectures {{ \"arm64\"; }};\n\
             APT::Sandbox::User \"root\";\nAcquire::Retries \"1\";\nAcquire::http::Timeout \"15\";\n\
             Acquire::Languages \"none\";\nAcquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
             Dir::State::lists \"{root}/lists\";\nDir::State::status \"/dev/null\";\n\
             Dir::Cache \"{root}/cache\";\nDir::Etc::SourceList \"{root}/sources.list\";\n\
             Dir::Etc::SourceParts \"-\";\n"
        );
        let config = folder.join("apt.conf");
        let source = format!("deb {signed}{uri} {suite} main\n");
        fs::write(folder.join("sources.list"), source).map_err(error)?;
        fs::write(&config, settings).map_err(error)?;
        Ok(Self { config, folder })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.config).current_dir(&self.folder);
        command
    }

    /// The newest kernel package with devicetrees.
    fn package(&self) -> Result<String, String> {
        output(self.command("apt-get").args(["-qq", "update"]))?;
        for pattern in PATTERNS {
            let search = ["search", "--names-only", pattern];
            let found = output(self.command("apt-cache").args(search))?;
            let names = found.lines().filter_map(|line| line.split(' ').next());
            let plain = |name: &&str| !name.contains("cloud") && !name.contains("-rt-");
            if let Some(name) = names.filter(plain).max() {
                return Ok(name.to_owned());
            }
        }
        Err("no kernel package with devicetrees".into())
    }

    /// Downloads `package` and unpacks it into a folder of its name.
    fn unpack(&self, package: &str) -> Result<PathBuf, String> {
        output(self.command("apt-get").args(["-qq", "download", package]))?;
        let error = |error: std::io::Error| format!("{}: {error}", self.folder.display());
        let entries = fs::read_dir(&self.folder).map_err(error)?;
        let mut debs = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let deb = debs.find(|path| path.extension().is_some_and(|it| it == "deb"));
        let deb = deb.ok_or("apt downloaded nothing")?;
        let (partial, folder) = (self.folder.join("partial"), self.folder.join(package));
        let _ = fs::remove_dir_all(&partial);
        output(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&partial))?;
        fs::remove_file(deb).map_err(error)?;
        // Only what is complete gets the name under which it is looked for.
        fs::rename(&partial, &folder).map_err(error)?;
        Ok(folder)
    }
}
