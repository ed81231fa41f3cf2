//! "What closes it": which known commits make a world clean, found by checking.

use core::fmt;

use super::check::{Budget, CheckError, Report, Verdict, check};
use super::commit::Commit;
use super::commit_table::COMMITS;
use super::property::Id;
use super::protocol::Protocol;
use super::world::World;

/// A change to a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Apply the commit.
    Apply(Commit),
    /// Revert the commit.
    Revert(Commit),
}

impl Change {
    /// The tree after the change, if that tree can exist.
    #[must_use]
    pub fn on(self, protocol: &Protocol) -> Option<Protocol> {
        match self {
            Self::Apply(commit) => protocol.with(commit).ok(),
            Self::Revert(commit) => protocol.without(commit).ok(),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apply(commit) => write!(f, "apply {commit}"),
            Self::Revert(commit) => write!(f, "revert {commit}"),
        }
    }
}

/// What closes the violations of a world.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Closers {
    /// The smallest sets of changes that make the world clean: single ones, or pairs where no single
    /// one does.
    pub clean: Vec<Vec<Change>>,
    /// For each violated property, the single changes after which it is not violated any more (other
    /// properties may be).
    pub by_property: Vec<(Id, Vec<Change>)>,
}

/// Finds by checking what closes the violations in `report`; every candidate is explored to the end.
///
/// # Errors
/// As [`check`].
pub fn closers(report: &Report, budget: Budget<'_>) -> Result<Closers, CheckError> {
    let budget = Budget { shortest: false, ..budget };
    let ids: Vec<Id> = report.violations.iter().filter_map(|found| found.id).collect();
    let mut closers =
        Closers { clean: Vec::new(), by_property: ids.iter().map(|id| (*id, Vec::new())).collect() };
    let mut helpful = Vec::new();
    for change in candidates() {
        let Some(tree) = change.on(&report.protocol) else { continue };
        let after = left(&tree, &report.world, budget)?;
        for (id, changes) in &mut closers.by_property {
            if !after.1.contains(id) {
                changes.push(change);
            }
        }
        if after.0 == Verdict::Clean {
            closers.clean.push(vec![change]);
        } else if ids.iter().any(|id| !after.1.contains(id)) {
            helpful.push(change);
        }
    }
    if closers.clean.is_empty() {
        closers.clean = pairs(&report.protocol, &report.world, &helpful, budget)?;
    }
    Ok(closers)
}

/// Pairs of helpful changes that make the world clean.
fn pairs(
    protocol: &Protocol,
    world: &World,
    helpful: &[Change],
    budget: Budget<'_>,
) -> Result<Vec<Vec<Change>>, CheckError> {
    let mut clean = Vec::new();
    for (i, first) in helpful.iter().enumerate() {
        for second in &helpful[i + 1..] {
            let Some(tree) = first.on(protocol).and_then(|tree| second.on(&tree)) else { continue };
            if left(&tree, world, budget)?.0 == Verdict::Clean {
                clean.push(vec![*first, *second]);
            }
        }
    }
    Ok(clean)
}

fn candidates() -> impl Iterator<Item = Change> {
    let apply = COMMITS.iter().map(|info| Change::Apply(info.commit));
    apply.chain(COMMITS.iter().map(|info| Change::Revert(info.commit)))
}

/// The verdict on a tree, and what is violated in it.
fn left(
    protocol: &Protocol,
    world: &World,
    budget: Budget<'_>,
) -> Result<(Verdict, Vec<Id>), CheckError> {
    let report = check(protocol, world, budget, &mut |_| {})?;
    let ids = report.violations.iter().filter_map(|found| found.id).collect();
    Ok((report.verdict, ids))
}
