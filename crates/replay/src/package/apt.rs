//! Debian's mirror through apt with private lists: nothing of the system is changed.

use crate::error::{Error, io, io_at};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

/// Lists older than this are fetched again.
const FRESH: Duration = Duration::from_secs(24 * 3600);
/// The keys that Debian signs its lists with.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Which lists are wanted. A suite that a mirror does not have only costs a warning.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lists {
    /// Debian's word for the packages' architecture.
    pub(super) architecture: &'static str,
    /// Suites of a mirror's main archive.
    pub(super) suites: &'static [&'static str],
    /// The same for a security mirror.
    pub(super) security_suites: &'static [&'static str],
}

/// Apt with lists, cache and state of its own in a folder.
#[derive(Debug)]
pub(super) struct Apt {
    folder: PathBuf,
    config: PathBuf,
}

impl Apt {
    /// Prepares lists of the mirrors in the system's apt sources in `folder`; fetched when they are older than a day.
    ///
    /// # Errors
    /// [`Error::Fetch`] where there is no apt or no Debian mirror among its sources.
    pub(super) fn in_folder(folder: &Path, lists: Lists) -> Result<Self, Error> {
        let text = source_list(&sources_of(Path::new("/etc/apt")), lists);
        if text.is_empty() {
            return Err(Error::Fetch("no Debian mirror in /etc/apt".into()));
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
        // No package is installed, as far as these lists know: so every dependency counts as missing.
        write("status", "")?;
        let config = write("apt.conf", &configuration(folder, lists.architecture))?;
        let apt = Self { folder: folder.to_owned(), config };
        apt.update()?;
        Ok(apt)
    }

    /// Where packages are left that are downloaded with what they depend on.
    pub(super) fn archives(&self) -> PathBuf {
        self.folder.join("cache/archives")
    }

    fn update(&self) -> Result<(), Error> {
        let stamp = self.folder.join("updated");
        let age = |path: &Path| {
            SystemTime::now()
                .duration_since(path.metadata()?.modified()?)
                .map_err(std::io::Error::other)
        };
        if age(&stamp).is_ok_and(|age| age < FRESH) {
            return Ok(());
        }
        self.run("apt-get", &["update", "-q"], None)?;
        std::fs::write(&stamp, "").map_err(io_at(&stamp))
    }

    /// Runs one of apt's programs in a folder, and returns what it printed.
    ///
    /// # Errors
    /// [`Error::Fetch`] with the last line of its complaints.
    pub(super) fn run(
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

/// Whose archive an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Archive {
    Main,
    Security,
}

/// The archives that apt's sources name: `URIs:` lines and one-line entries. Only Debian's own have the suites that we look for.
fn sources_of(folder: &Path) -> BTreeMap<String, Archive> {
    let parts = std::fs::read_dir(folder.join("sources.list.d")).into_iter().flatten().flatten();
    let files = parts.map(|entry| entry.path()).chain([folder.join("sources.list")]);
    let texts = files.filter_map(|path| std::fs::read_to_string(path).ok());
    texts.flat_map(|text| archives(&text)).collect()
}

fn archives(text: &str) -> Vec<(String, Archive)> {
    let uris = text.lines().flat_map(|line| {
        let deb822 = line.strip_prefix("URIs:").map(|rest| rest.split_whitespace());
        let one_line = line.starts_with("deb ").then(|| line.split_whitespace());
        deb822.or(one_line).into_iter().flatten().filter(|word| word.contains("://"))
    });
    uris.filter_map(|uri| {
        let uri = uri.trim_end_matches('/');
        if uri.ends_with("/debian") {
            Some((uri.to_owned(), Archive::Main))
        } else {
            uri.ends_with("/debian-security").then(|| (uri.to_owned(), Archive::Security))
        }
    })
    .collect()
}

fn source_list(archives: &BTreeMap<String, Archive>, lists: Lists) -> String {
    let mut text = String::new();
    for (uri, archive) in archives {
        let suites = match archive {
            Archive::Main => lists.suites,
            Archive::Security => lists.security_suites,
        };
        for suite in suites {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "deb [signed-by={KEYRING}] {uri} {suite} main");
        }
    }
    text
}

fn configuration(folder: &Path, architecture: &str) -> String {
    let folder = folder.display();
    format!(
        "APT::Architecture \"{architecture}\";\nAPT::Architectures {{ \"{architecture}\"; }};\nAPT::Sandbox::User \"root\";\n\
         Dir::State \"{folder}/state\";\nDir::State::status \"{folder}/status\";\nDir::Cache \"{folder}/cache\";\n\
         Dir::Etc::sourcelist \"{folder}/sources.list\";\nDir::Etc::sourceparts \"/dev/null\";\n\
         Acquire::Languages \"none\";\nAcquire::IndexTargets::deb::Contents-deb::DefaultEnabled \"false\";\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_in_both_forms() {
        let text = "Types: deb\nURIs: http://mirror.invalid/debian/\nSuites: x\n\ndeb [arch=amd64] https://other.invalid/debian-security x main\n# deb http://no.invalid/debian x\ndeb http://cloud.invalid/apt x\n";
        let found = archives(text);
        let uris: Vec<&str> = found.iter().map(|(uri, _)| uri.as_str()).collect();
        assert_eq!(uris, ["http://mirror.invalid/debian", "https://other.invalid/debian-security"]);
        let lists =
            Lists { architecture: "arm64", suites: &["a"], security_suites: &["a-security"] };
        let list = source_list(&found.into_iter().collect(), lists);
        assert!(list.contains("mirror.invalid/debian a main\n"), "{list}");
        assert!(list.contains("debian-security a-security main\n"), "{list}");
    }
}
