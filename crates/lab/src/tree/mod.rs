//! A source tree: which of the known commits it has, and so which protocol it follows.
//!
//! [`read`] looks into the functions that matter and decides for each known commit whether the tree has it, from what
//! stands there, with file and line; [`Findings::protocols`] picks the base version and says what is applied and
//! reverted, once for each way to read what could not be told. Nothing is guessed silently: a function that no known
//! version has is named, and so is a commit that cannot be decided.
//!
//! A part of a tree will do (only `drivers/iommu`, say): what is missing is said to be missing.
//!
//! # Not supported
//!
//! Configuration: code between `#ifdef`s counts as there. Commits that leave no words of their own in a function
//! (their `lab list` row says that they take no step). A change of meaning that keeps a mark's words.

mod known;
mod marks;
mod source;

use core::fmt;
use std::path::Path;

use crate::linux::{BASES, BaseId, COMMITS, Commit, Protocol};
use known::KNOWN;
use marks::{Gone, MARKS, Mark, WATCHED};
use source::{Body, Source};

/// What the tree says of one commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has it.
    Has,
    /// It lacks it.
    Lacks,
    /// It cannot be told: the file is not there, or the function looks like none that is known.
    CannotTell,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Has => "has it",
            Self::Lacks => "lacks it",
            Self::CannotTell => "cannot tell",
        })
    }
}

/// What was found about one commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The commit.
    pub commit: Commit,
    /// The answer.
    pub answer: Answer,
    /// The file that was looked at.
    pub file: &'static str,
    /// The function in it; empty for the whole file.
    pub function: &'static str,
    /// The line that shows it: of the words, or of the function that lacks them.
    pub line: Option<usize>,
    /// Why it cannot be told, where it cannot.
    pub why: &'static str,
}

/// A function of the protocols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unrecognised {
    /// The file.
    pub file: &'static str,
    /// The function.
    pub function: &'static str,
    /// Where it begins.
    pub line: usize,
}

/// Everything that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    /// The version that `Makefile` gives, such as `6.12.117` or `6.6.0-rc3`; none without one.
    pub version: Option<String>,
    /// One finding for each commit that leaves a mark, in the order of the kernel's history.
    pub commits: Vec<Finding>,
    /// Functions whose body is that of no version known to the lab.
    pub unrecognised: Vec<Unrecognised>,
    /// Files that were looked for and are not in the tree.
    pub missing: Vec<&'static str>,
}

/// A protocol that the tree may follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The protocol.
    pub protocol: Protocol,
    /// What had to be assumed for it, where the tree does not tell: the commit, and whether it is there.
    pub assumed: Vec<(Commit, bool)>,
}

/// Why a tree cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TreeError {
    /// There is no such directory.
    NoDirectory(String),
    /// None of the files that matter is in it.
    NoKernel(String),
    /// No base version with known commits applied and reverted looks like it.
    NoProtocol(String),
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDirectory(path) => write!(f, "{path}: no such directory"),
            Self::NoKernel(path) => {
                write!(f, "{path}: no kernel source; at least drivers/iommu/iommu.c must be there")
            }
            Self::NoProtocol(why) => write!(f, "no known version looks like this tree: {why}"),
        }
    }
}

impl core::error::Error for TreeError {}

/// Reads a source tree, or a part of one.
///
/// # Errors
/// [`TreeError::NoDirectory`], or [`TreeError::NoKernel`] if the IOMMU core is not in it.
pub fn read(root: &Path) -> Result<Findings, TreeError> {
    let name = root.display().to_string();
    if !root.is_dir() {
        return Err(TreeError::NoDirectory(name));
    }
    let mut files = Files::default();
    if files.get(root, MARKS[0].file).is_none() {
        return Err(TreeError::NoKernel(name));
    }
    let commits: Vec<Finding> = MARKS.iter().map(|mark| files.finding(root, mark)).collect();
    let unrecognised = WATCHED.iter().filter_map(|(file, function)| {
        let body = files.get(root, file)?.function(function)?;
        let print = body.print();
        let known =
            KNOWN.iter().any(|known| (known.0, known.1, known.2) == (file, function, print));
        (!known).then_some(Unrecognised { file, function, line: body.line })
    });
    let unrecognised = unrecognised.collect();
    let missing = files.0.iter().filter(|(_, source)| source.is_none()).map(|(file, _)| *file);
    let missing = missing.collect();
    Ok(Findings { version: version(root), commits, unrecognised, missing })
}

/// The prints of the watched functions of a tree, for the list of known ones.
#[must_use]
pub fn prints(root: &Path) -> Vec<(&'static str, &'static str, u64)> {
    let of = |(file, function): &(&'static str, &'static str)| {
        let body = Source::read(root, file)?.function(function)?;
        Some((*file, *function, body.print()))
    };
    WATCHED.iter().filter_map(of).collect()
}

/// The files that were looked for, each read once.
#[derive(Default)]
struct Files(Vec<(&'static str, Option<Source>)>);

impl Files {
    fn get(&mut self, root: &Path, file: &'static str) -> Option<&Source> {
        let at = match self.0.iter().position(|(known, _)| *known == file) {
            Some(at) => at,
            None => {
                self.0.push((file, Source::read(root, file)));
                self.0.len() - 1
            }
        };
        self.0[at].1.as_ref()
    }

    fn finding(&mut self, root: &Path, mark: &Mark) -> Finding {
        let Mark { commit, file, function, .. } = *mark;
        let of = |answer, line, why| Finding { commit, answer, file, function, line, why };
        let Some(source) = self.get(root, file) else {
            return of(Answer::CannotTell, None, "the file is not in the tree");
        };
        let body =
            if function.is_empty() { Some(source.whole()) } else { source.function(function) };
        match (body, mark.gone) {
            (Some(body), _) => {
                let (answer, line, why) = judge(mark, &body);
                of(answer, Some(line), why)
            }
            (None, Gone::Lacks) => of(Answer::Lacks, None, ""),
            (None, Gone::Unknown) => {
                of(Answer::CannotTell, None, "the function is not in the file")
            }
        }
    }
}

/// What a function's body says of a mark.
fn judge(mark: &Mark, body: &Body) -> (Answer, usize, &'static str) {
    if mark.has.is_empty() {
        return (Answer::Has, body.line, "");
    }
    match (body.find(mark.has), body.find(mark.lacks)) {
        (_, Some(line)) => (Answer::Lacks, line, ""),
        (Some(line), None) => (Answer::Has, line, ""),
        (None, None) if mark.lacks.is_empty() => (Answer::Lacks, body.line, ""),
        (None, None) => {
            (Answer::CannotTell, body.line, "the function looks like none that is known")
        }
    }
}

/// `VERSION`, `PATCHLEVEL`, `SUBLEVEL` and `EXTRAVERSION` of the `Makefile`.
fn version(root: &Path) -> Option<String> {
    let makefile = std::fs::read_to_string(root.join("Makefile")).ok()?;
    let value = |name: &str| {
        let line = makefile.lines().find(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.trim_start().starts_with('='))
        })?;
        Some(line.split_once('=')?.1.trim().to_owned())
    };
    let extra = value("EXTRAVERSION").unwrap_or_default();
    Some(format!("{}.{}.{}{extra}", value("VERSION")?, value("PATCHLEVEL")?, value("SUBLEVEL")?))
}

impl Findings {
    /// The answer for one commit; none if it leaves no mark.
    #[must_use]
    pub fn of(&self, commit: Commit) -> Option<&Finding> {
        self.commits.iter().find(|finding| finding.commit == commit)
    }

    /// The protocols that the tree may follow: one, or one for each way to read what cannot be told (at most eight).
    ///
    /// # Errors
    /// [`TreeError::NoProtocol`] if no base version can be made to look like the tree.
    pub fn protocols(&self) -> Result<Vec<Reading>, TreeError> {
        let base = self.base();
        let open = self.open(base);
        let mut readings = Vec::new();
        let mut why = String::new();
        for choice in 0..1_u32 << open.len().min(3) {
            let assumed: Vec<(Commit, bool)> =
                open.iter().take(3).enumerate().map(|(i, c)| (*c, choice >> i & 1 != 0)).collect();
            match self.reading(base, &assumed) {
                Ok(protocol) => readings.push(Reading { protocol, assumed }),
                Err(error) => why = error,
            }
        }
        if readings.is_empty() { Err(TreeError::NoProtocol(why)) } else { Ok(readings) }
    }

    /// The base that differs from the tree in the fewest commits; the version decides between equals.
    fn base(&self) -> BaseId {
        let distance = |base: &BaseId| {
            let carried = base.commits();
            let differs = |finding: &&Finding| match finding.answer {
                _ if matches!(finding.commit, Commit::LockedGroupTest6_1 | Commit::Rfc20241213) => {
                    false
                }
                Answer::Has => !carried.has(finding.commit),
                Answer::Lacks => carried.has(finding.commit) && !self.is_gone_again(finding.commit),
                Answer::CannotTell => false,
            };
            let fits = self.reading(*base, &[]).is_err();
            (fits, self.commits.iter().filter(differs).count(), !self.is_of(*base))
        };
        let bases = BASES.iter().map(|base| base.id);
        bases.min_by_key(distance).expect("there are bases")
    }

    /// Does the version in the `Makefile` belong to this base?
    fn is_of(&self, base: BaseId) -> bool {
        let Some(version) = &self.version else { return false };
        let number = version.split('-').next().unwrap_or(version);
        let series: Vec<&str> = number.split('.').take(2).collect();
        let series = series.join(".");
        let info = base.info();
        let names =
            || core::iter::once(&info.name).chain(info.aliases).map(|n| n.trim_start_matches('v'));
        names().any(|name| name == number || name == version)
            || names().any(|name| name == format!("{series}.y"))
    }

    /// 229e6ee43d2a is in every later version and its words were taken out again: not finding them says nothing.
    fn is_gone_again(&self, commit: Commit) -> bool {
        commit == Commit::DeferUnboundSmmu && self.says(Commit::LookupByBus, Answer::Has)
    }

    fn says(&self, commit: Commit, answer: Answer) -> bool {
        self.of(commit).is_some_and(|finding| finding.answer == answer)
    }

    /// The commits that cannot be told and of which the base leaves open whether they are there.
    fn open(&self, base: BaseId) -> Vec<Commit> {
        let can_be = |commit: Commit| {
            let plain = Protocol::of(base);
            let other = if plain.has(commit) { plain.without(commit) } else { plain.with(commit) };
            other.is_ok()
        };
        let unknown = self.commits.iter().filter(|finding| finding.answer == Answer::CannotTell);
        unknown.map(|finding| finding.commit).filter(|commit| can_be(*commit)).collect()
    }

    /// The base with what the tree has beyond it applied, and what it lacks reverted.
    fn reading(&self, base: BaseId, assumed: &[(Commit, bool)]) -> Result<Protocol, String> {
        let carried = base.commits();
        let answer = |commit: Commit| {
            let said = assumed.iter().find(|(known, _)| *known == commit).map(|(_, has)| *has);
            said.or_else(|| match self.of(commit)?.answer {
                Answer::Has => Some(true),
                Answer::Lacks if self.is_gone_again(commit) => None,
                Answer::Lacks => Some(false),
                Answer::CannotTell => None,
            })
        };
        let wanted = |commit: Commit| match commit {
            // One function shows both of these: the hack, or that it was taken out.
            Commit::DropDeferUnboundSmmu => {
                carried.has(commit) && !self.says(Commit::DeferUnboundSmmu, Answer::Has)
            }
            // The whole of 6eb4da8cf545 has the same words, and so has a probe without f188056352bc.
            Commit::LockedGroupTest6_1 if self.says(Commit::GroupTestLocked, Answer::Has) => false,
            Commit::Rfc20241213 if !self.says(Commit::AttachInProbe, Answer::Has) => false,
            // The backport's second half is b46064a18810's own check.
            Commit::DefaultDomainCheck if self.says(Commit::DefaultDomainBackport, Answer::Has) => {
                carried.has(commit)
            }
            _ => answer(commit).unwrap_or_else(|| carried.has(commit)),
        };
        let ids = |add: bool| -> Vec<&str> {
            let changed = COMMITS
                .iter()
                .filter(|info| wanted(info.commit) == add && carried.has(info.commit) != add);
            changed.map(|info| info.id).collect()
        };
        Protocol::parse(base.name(), &ids(true), &ids(false)).map_err(|error| error.to_string())
    }
}
