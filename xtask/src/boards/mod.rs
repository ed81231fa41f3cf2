//! `cargo xtask boards`: every devicetree of Debian's arm64 kernel package through `portcullis show` and `portcullis boot`.
//!
//! - `--from DIR`: the `.dtb` files below that folder instead of the package's.
//! - `--suite NAME`: the package of that suite of Debian; the newest that can be had where it is left out.
//! - `--repeat N`: beside one boot of each board, N more of each with a driven IOMMU, in random orders of arrival.
//! - `--jobs N`: boards at the same time; as many as there are CPUs where it is left out.
//! - `--fetch`: only fetch and unpack, and print the folder.
//!
//! It fails on a panic, a board that is not read, a broken promise, a client whose DMA fails and one that is blocked without a reason, and where `show` and `boot` say different things of a client or
//! end differently. Times are printed, never judged.

mod fetch;
mod summary;
mod survey;

use crate::run::{Outcome, cargo};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use survey::{Board, Survey};

#[derive(Default)]
struct Options {
    from: Option<PathBuf>,
    suite: Option<String>,
    repeat: u64,
    jobs: Option<usize>,
    fetch: bool,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--from" => options.from = Some(value()?.into()),
                "--suite" => options.suite = Some(value()?.clone()),
                "--repeat" => options.repeat = number(value()?)?,
                "--jobs" => options.jobs = Some(number(value()?)?.max(1) as usize),
                "--fetch" => options.fetch = true,
                _ => {
                    return Err(format!(
                        "{word}? boards takes --from DIR, --suite NAME, --repeat N, --jobs N, --fetch"
                    ));
                }
            }
        }
        Ok(options)
    }

    /// The folder with the devicetrees.
    fn folder(&self) -> Result<PathBuf, String> {
        match &self.from {
            Some(folder) => Ok(folder.clone()),
            None => fetch::devicetrees(&crate::target().join("boards"), self.suite.as_deref()),
        }
    }
}

fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|error| format!("{word}: {error}"))
}

/// Runs it; `Err` where something must not be as it is, or the devicetrees cannot be had and have to (`PORTCULLIS_REQUIRE_EXTERNAL=1`).
pub(crate) fn run(arguments: &[String]) -> Outcome {
    let options = Options::parse(arguments)?;
    let folder = match options.folder() {
        Ok(folder) => folder,
        Err(reason) => {
            let required =
                std::env::var_os("PORTCULLIS_REQUIRE_EXTERNAL").is_some_and(|value| value == "1");
            if required || options.fetch {
                return Err(format!("Debian's kernel package cannot be had: {reason}"));
            }
            println!("SKIP boards: Debian's kernel package cannot be had: {reason}");
            return Ok(());
        }
    };
    if options.fetch {
        println!("{}", folder.display());
        return Ok(());
    }
    cargo(&["build", "--release", "--package", "portcullis-cli"], &[])?;
    let survey =
        Survey { program: crate::target().join("release/portcullis"), repeat: options.repeat };
    let mut paths = Vec::new();
    collect(&folder, &mut paths).map_err(|error| format!("{}: {error}", folder.display()))?;
    paths.sort();
    println!("{} devicetrees below {}", paths.len(), folder.display());
    let start = Instant::now();
    let boards = look_at_all(&survey, &paths, options.jobs);
    print!("{}", summary::render(&boards, options.repeat, start.elapsed()));
    let failed = boards.iter().filter(|board| !board.failures.is_empty()).count();
    match (failed, paths.len()) {
        (_, 0) => Err(format!("no devicetree below {}", folder.display())),
        (0, _) => Ok(()),
        _ => Err(format!("{failed} boards did not do as they must")),
    }
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
        if kind.is_dir() {
            collect(&path, found)?;
        } else if path.extension().is_some_and(|it| it == "dtb") {
            found.push(path);
        }
    }
    Ok(())
}

fn look_at_all(survey: &Survey, paths: &[PathBuf], jobs: Option<usize>) -> Vec<Board> {
    let cpus = || std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.unwrap_or_else(cpus) {
            scope.spawn(|| {
                while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let board = survey.board(path);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push(board);
                }
            });
        }
    });
    let mut boards = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    boards.sort_by(|a, b| a.name.cmp(&b.name));
    boards
}
