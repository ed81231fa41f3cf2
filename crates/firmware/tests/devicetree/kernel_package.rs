//! The devicetrees of a distribution's arm64 kernel package, fetched through apt once and kept below the target folder.

use crate::say;
use crate::second::{Counts, compare};
use portcullis::DmaPath;
use portcullis_firmware::{IommuKind, MachineDescription, Severity, read_devicetree};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Newest first: the boards that have their SMMUv3 enabled are recent.
const SUITES: [&str; 3] = ["sid", "trixie", "bookworm"];

/// Names of packages that carry devicetrees, best first: the small one of newer releases, then the image with all modules.
const PATTERNS: [&str; 2] = ["^linux-base-[0-9].*[0-9]-arm64$", "^linux-image-[0-9].*[0-9]-arm64$"];

/// The keyring that Debian's machines have.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where this machine gets its own packages from.
fn mirror() -> Result<String, String> {
    let targets = ["indextargets", "--format", "$(CREATED_BY) $(REPO_URI)"];
    let targets = run(Command::new("apt-get").args(targets))?;
    let mirror = targets.lines().find_map(|line| {
        let (created, uri) = line.split_once(' ')?;
        let own = created == "Packages" && uri.trim_end_matches('/').ends_with("/debian");
        own.then(|| uri.to_owned())
    });
    mirror.ok_or_else(|| "apt is set up for no Debian archive".into())
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// An apt of our own below `folder`, for arm64 and one suite: the machine's is left alone.
struct Apt {
    config: PathBuf,
    folder: PathBuf,
}

impl Apt {
    fn new(folder: &Path, suite: &str) -> Result<Self, String> {
        let uri = mirror()?;
        let folder = folder.join(format!("apt-{suite}"));
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part)).map_err(|error| error.to_string())?;
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
        fs::write(folder.join("sources.list"), source).map_err(|error| error.to_string())?;
        fs::write(&config, settings).map_err(|error| error.to_string())?;
        Ok(Self { config, folder })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.config).current_dir(&self.folder);
        command
    }

    fn package(&self) -> Result<String, String> {
        run(self.command("apt-get").args(["-qq", "update"]))?;
        for pattern in PATTERNS {
            let found = run(self.command("apt-cache").args(["search", "--names-only", pattern]))?;
            let names = found.lines().filter_map(|line| line.split(' ').next());
            let plain = |name: &&str| !name.contains("cloud") && !name.contains("-rt-");
            if let Some(name) = names.filter(plain).max() {
                return Ok(name.to_owned());
            }
        }
        Err("no kernel package with devicetrees".into())
    }

    /// Downloads `package` and unpacks its devicetrees into `into`.
    fn unpack(&self, package: &str, into: &Path) -> Result<(), String> {
        run(self.command("apt-get").args(["-qq", "download", package]))?;
        let debs = fs::read_dir(&self.folder).map_err(|error| error.to_string())?;
        let mut debs = debs.filter_map(|entry| Some(entry.ok()?.path()));
        let deb = debs.find(|path| path.extension().is_some_and(|it| it == "deb"));
        let deb = deb.ok_or("apt downloaded nothing")?;
        let partial = into.with_extension("partial");
        let _ = fs::remove_dir_all(&partial);
        run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&partial))?;
        let _ = fs::remove_file(deb);
        // Only what is complete gets the name under which it is looked for.
        fs::rename(&partial, into).map_err(|error| error.to_string())
    }
}

/// The folder with the devicetrees.
fn fetch() -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernel-dtbs");
    let unpacked = folder.join("unpacked");
    if unpacked.is_dir() {
        return Ok(unpacked);
    }
    let mut reasons = vec![];
    for suite in SUITES {
        let apt = Apt::new(&folder, suite);
        let fetched = apt.and_then(|apt| apt.unpack(&apt.package()?, &unpacked));
        match fetched {
            Ok(()) => return Ok(unpacked),
            Err(reason) => reasons.push(reason),
        }
    }
    Err(reasons.swap_remove(0))
}

fn blobs(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("folder").map(|entry| entry.expect("entry")) {
        let (path, kind) = (entry.path(), entry.file_type().expect("file type"));
        if kind.is_dir() {
            blobs(&path, found);
        } else if kind.is_file() && path.extension().is_some_and(|it| it == "dtb") {
            found.push(path);
        }
    }
}

fn all_behind_smmuv3(board: &str, machine: &MachineDescription, instances: usize) {
    let enabled = machine.iommus.iter().filter(|it| it.enabled && it.kind == IommuKind::SmmuV3);
    assert_eq!(enabled.count(), instances, "{board}");
    assert!(machine.clients().count() > 0, "{board}");
    for client in machine.clients() {
        assert!(matches!(client.dma, DmaPath::Translated(_)), "{board}: {}", client.path);
    }
}

#[test]
fn every_board_of_the_kernel_package_is_read_twice_alike() {
    let folder = match fetch() {
        Ok(folder) => folder,
        Err(reason) => {
            let required = ["PORTCULLIS_REQUIRE_EXTERNAL", "PORTCULLIS_REQUIRE_KERNEL_PACKAGE"];
            let required =
                required.iter().all(|it| std::env::var_os(it).is_some_and(|it| it == "1"));
            assert!(!required, "the kernel package cannot be had: {reason}");
            say(&format!(
                "skipped: real devicetrees are not read, the kernel package cannot be had: {reason}"
            ));
            return;
        }
    };
    let mut paths = vec![];
    blobs(&folder, &mut paths);
    assert!(paths.len() >= 300, "only {} devicetrees", paths.len());
    let (mut counts, mut rules) = (Counts::default(), BTreeMap::<_, usize>::new());
    let (mut reading, mut special) = (std::time::Duration::ZERO, 0);
    for path in &paths {
        let board = path.file_stem().expect("name").to_string_lossy();
        let blob = fs::read(path).expect("blob");
        let start = Instant::now();
        let machine = read_devicetree(&blob, &board);
        reading += start.elapsed();
        let machine = machine.unwrap_or_else(|error| panic!("{board}: {error}"));
        compare(&board, &blob, &machine, &mut counts);
        for finding in machine.findings.iter().filter(|it| it.severity == Severity::Error) {
            *rules.entry(finding.rule).or_default() += 1;
        }
        let v3 = |it: &&portcullis_firmware::IommuNode| it.enabled && it.kind == IommuKind::SmmuV3;
        let enabled = machine.iommus.iter().filter(v3).count();
        match board.as_ref() {
            // Older packages ship it with its SMMUs disabled.
            "hip07-d05" if enabled > 0 => all_behind_smmuv3(&board, &machine, 4),
            "fvp-base-revc" => all_behind_smmuv3(&board, &machine, 1),
            _ => continue,
        }
        special += 1;
    }
    say(&format!(
        "{counts:?}, {special} boards all behind SMMUv3, errors {rules:?}, read in {reading:?}"
    ));
    assert_eq!(counts.boards, paths.len());
}
