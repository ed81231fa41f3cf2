//! A protocol: a base version with commits applied and reverted.

use core::fmt;

use super::base::{BASES, BaseId};
use super::commit::{Commit, CommitSet};
use super::commit_table::COMMITS;

/// The probe protocol of one kernel tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocol {
    base: BaseId,
    applied: Vec<Commit>,
    reverted: Vec<Commit>,
    commits: CommitSet,
}

/// Why a protocol cannot be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// No base version has that name.
    UnknownBase(String),
    /// No known commit has that id.
    UnknownCommit(String),
    /// The base carries the commit already.
    AlreadyCarried(Commit, BaseId),
    /// The base does not carry the commit, so there is nothing to revert.
    NotCarried(Commit, BaseId),
    /// The code that the commit changes looks different on that base.
    DoesNotApply(Commit, BaseId),
    /// Later code of that base is built on the commit.
    CannotRevert(Commit, BaseId),
    /// The first commit needs the second, which the tree lacks.
    Needs(Commit, Commit),
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownBase(name) => {
                write!(f, "unknown base version `{name}`; known are")?;
                BASES.iter().try_for_each(|base| write!(f, " {}", base.name))
            }
            Self::UnknownCommit(id) => {
                write!(f, "unknown commit `{id}`; ")?;
                if let Some(near) = nearest(id) {
                    return write!(
                        f,
                        "did you mean `{near}`? `portcullis lab list` has those that are known"
                    );
                }
                f.write_str("known are")?;
                COMMITS.iter().try_for_each(|info| write!(f, " {}", info.id))
            }
            Self::AlreadyCarried(commit, base) => {
                write!(f, "{base} carries {commit} already; leave out `--apply {commit}`")
            }
            Self::NotCarried(commit, base) => {
                write!(f, "{base} does not carry {commit}; leave out `--revert {commit}`")
            }
            Self::DoesNotApply(commit, base) => {
                write!(f, "{commit} does not apply to {base}: the code it changes is not there")?;
                list(f, "; it applies to", commit.info().applies_to)
            }
            Self::CannotRevert(commit, base) => {
                write!(f, "{commit} cannot be reverted from {base}: later code is built on it")?;
                list(f, "; it can be reverted from", commit.info().reverts_from)
            }
            Self::Needs(commit, needed) => {
                write!(f, "{commit} needs {needed}; apply that too, or revert {commit} as well")
            }
        }
    }
}

/// The known id that begins most like `id`, if that is more than chance.
fn nearest(id: &str) -> Option<&'static str> {
    let common = |known: &str| known.bytes().zip(id.bytes()).take_while(|(a, b)| a == b).count();
    let ids = COMMITS.iter().map(|info| info.id);
    ids.max_by_key(|known| common(known)).filter(|known| common(known) >= 5)
}

fn list(f: &mut fmt::Formatter<'_>, lead: &str, bases: &[BaseId]) -> fmt::Result {
    if bases.is_empty() {
        return Ok(());
    }
    f.write_str(lead)?;
    bases.iter().try_for_each(|base| write!(f, " {base}"))
}

impl core::error::Error for ProtocolError {}

impl Protocol {
    /// The protocol of an unchanged base version.
    #[must_use]
    pub fn of(base: BaseId) -> Self {
        Self { base, applied: Vec::new(), reverted: Vec::new(), commits: base.commits() }
    }

    /// A base version with commits applied and reverted by id.
    ///
    /// # Errors
    /// [`ProtocolError`] when a name is unknown, when a commit is there (or missing) already, when
    /// it does not fit the base, or when another commit that it needs is missing.
    pub fn parse<S: AsRef<str>>(
        base: &str,
        apply: &[S],
        revert: &[S],
    ) -> Result<Self, ProtocolError> {
        let base = BaseId::find(base).ok_or_else(|| ProtocolError::UnknownBase(base.into()))?;
        let mut protocol = Self::of(base);
        for id in revert {
            protocol.revert(lookup(id.as_ref())?)?;
        }
        for id in apply {
            protocol.apply(lookup(id.as_ref())?)?;
        }
        protocol.complete()
    }

    /// This protocol with one more commit, if that makes a tree that can exist.
    ///
    /// # Errors
    /// As [`Protocol::parse`].
    pub fn with(&self, commit: Commit) -> Result<Self, ProtocolError> {
        let mut protocol = self.clone();
        protocol.apply(commit)?;
        protocol.complete()
    }

    /// As [`Protocol::with`], with whatever the commit needs applied before it.
    ///
    /// # Errors
    /// As [`Protocol::parse`].
    pub fn with_prerequisites(&self, commit: Commit) -> Result<Self, ProtocolError> {
        let mut protocol = self.clone();
        for needed in protocol.prerequisites(commit) {
            protocol.apply(needed)?;
        }
        protocol.apply(commit)?;
        protocol.complete()
    }

    /// What a commit needs and this tree lacks, in the order in which it is to be applied.
    #[must_use]
    pub fn prerequisites(&self, commit: Commit) -> Vec<Commit> {
        let mut wanted: Vec<Commit> = vec![commit];
        let mut at = 0;
        while at < wanted.len() {
            let needs = wanted[at].info().needs.iter();
            let missing: Vec<Commit> =
                needs.copied().filter(|need| !self.has(*need) && !wanted.contains(need)).collect();
            wanted.extend(missing);
            at += 1;
        }
        wanted.remove(0);
        wanted.reverse();
        wanted
    }

    /// This protocol with one commit less, if that makes a tree that can exist.
    ///
    /// # Errors
    /// As [`Protocol::parse`].
    pub fn without(&self, commit: Commit) -> Result<Self, ProtocolError> {
        let mut protocol = self.clone();
        protocol.revert(commit)?;
        protocol.complete()
    }

    fn apply(&mut self, commit: Commit) -> Result<(), ProtocolError> {
        if self.commits.has(commit) {
            return Err(ProtocolError::AlreadyCarried(commit, self.base));
        }
        if let Some(at) = self.reverted.iter().position(|reverted| *reverted == commit) {
            self.reverted.remove(at);
        } else if self.base.is_meant_by(commit.info().applies_to) {
            self.applied.push(commit);
        } else {
            return Err(ProtocolError::DoesNotApply(commit, self.base));
        }
        self.commits = self.commits.with(commit);
        Ok(())
    }

    fn revert(&mut self, commit: Commit) -> Result<(), ProtocolError> {
        if !self.commits.has(commit) {
            return Err(ProtocolError::NotCarried(commit, self.base));
        }
        if let Some(at) = self.applied.iter().position(|applied| *applied == commit) {
            self.applied.remove(at);
        } else if self.base.is_meant_by(commit.info().reverts_from) || self.base.backports(commit) {
            self.reverted.push(commit);
        } else {
            return Err(ProtocolError::CannotRevert(commit, self.base));
        }
        self.commits = self.commits.without(commit);
        Ok(())
    }

    /// Checks that every commit in the tree has what it needs.
    fn complete(self) -> Result<Self, ProtocolError> {
        for info in COMMITS.iter().filter(|info| self.has(info.commit)) {
            if let Some(needed) = info.needs.iter().find(|needed| !self.has(**needed)) {
                return Err(ProtocolError::Needs(info.commit, *needed));
            }
        }
        Ok(self)
    }

    /// Does the tree carry this commit?
    #[must_use]
    pub fn has(&self, commit: Commit) -> bool {
        self.commits.has(commit)
    }

    /// Whether both carry the same commits, whichever base they are told from.
    #[must_use]
    pub fn has_the_commits_of(&self, other: &Self) -> bool {
        self.commits == other.commits
    }

    /// The base version.
    #[must_use]
    pub fn base(&self) -> BaseId {
        self.base
    }

    /// The commits applied on top of the base, in the order given.
    #[must_use]
    pub fn applied(&self) -> &[Commit] {
        &self.applied
    }

    /// The commits taken away from the base, in the order given.
    #[must_use]
    pub fn reverted(&self) -> &[Commit] {
        &self.reverted
    }
}

fn lookup(id: &str) -> Result<Commit, ProtocolError> {
    Commit::find(id).ok_or_else(|| ProtocolError::UnknownCommit(id.into()))
}

/// `v6.6 + b46064a18810 - f188056352bc`, the name in reports.
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.base)?;
        self.applied.iter().try_for_each(|commit| write!(f, " + {commit}"))?;
        self.reverted.iter().try_for_each(|commit| write!(f, " - {commit}"))
    }
}
