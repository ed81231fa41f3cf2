//! "What closes it": which known commits make a world clean, found by checking.

use core::fmt;
use core::sync::atomic::AtomicBool;

use super::check::{Budget, CheckError, Report, Verdict, check};
use super::commit::Commit;
use super::commit_table::COMMITS;
use super::property::Id;
use super::protocol::Protocol;
use super::world::{Grouping, World};

/// A change to a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Apply the commit, after whatever it needs ([`Protocol::prerequisites`]).
    Apply(Commit),
    /// Revert the commit.
    Revert(Commit),
}

impl Change {
    /// The tree after the change, if that tree can exist.
    #[must_use]
    pub fn on(self, protocol: &Protocol) -> Option<Protocol> {
        match self {
            Self::Apply(commit) => protocol.with_prerequisites(commit).ok(),
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
    /// The smallest sets of changes that make the world clean, at most [`Closers::LARGEST`] changes each;
    /// none if there is no such set.
    pub clean: Vec<Vec<Change>>,
    /// For each violated property, the single changes after which it is not violated any more (other
    /// properties may be).
    pub by_property: Vec<(Id, Vec<Change>)>,
}

impl Closers {
    /// The most changes of a set.
    pub const LARGEST: usize = 3;
}

/// A tree on the way to a clean one.
struct Tree {
    protocol: Protocol,
    changes: Vec<Change>,
    violated: Vec<Id>,
}

/// Finds by checking what closes the violations in `report`: every candidate is explored to the end. A
/// change is pursued if it removes at least one violation of the tree that it is made to.
///
/// # Errors
/// As [`check`].
pub fn closers(report: &Report, stop: Option<&AtomicBool>) -> Result<Closers, CheckError> {
    let violated: Vec<Id> = report.violations.iter().filter_map(|found| found.id).collect();
    let by_property = violated.iter().map(|id| (*id, Vec::new())).collect();
    let mut closers = Closers { clean: Vec::new(), by_property };
    let start = Tree { protocol: report.protocol.clone(), changes: Vec::new(), violated };
    let mut level = vec![start];
    for _ in 0..Closers::LARGEST {
        let mut next: Vec<Tree> = Vec::new();
        for tree in &level {
            for found in improved(tree, &report.world, stop)? {
                closers.note_single(&found);
                let known = |other: &Tree| same_set(&other.changes, &found.changes);
                if !next.iter().any(known) {
                    next.push(found);
                }
            }
        }
        let clean = next.iter().filter(|tree| tree.violated.is_empty());
        closers.clean = clean.map(|tree| tree.changes.clone()).collect();
        if !closers.clean.is_empty() {
            break;
        }
        level = next;
    }
    Ok(closers)
}

impl Closers {
    /// Remembers which of the first violations a single change closes.
    fn note_single(&mut self, tree: &Tree) {
        let [change] = tree.changes[..] else { return };
        for (_, changes) in
            self.by_property.iter_mut().filter(|(id, _)| !tree.violated.contains(id))
        {
            changes.push(change);
        }
    }
}

/// The trees one change away that lack a violation of `tree`.
fn improved(
    tree: &Tree,
    world: &World,
    stop: Option<&AtomicBool>,
) -> Result<Vec<Tree>, CheckError> {
    // Verdicts only: the reduction is the cheaper way, the shortest schedules are not asked for.
    let budget = Budget { shortest: false, stop, ..Budget::default() };
    let mut found = Vec::new();
    for change in candidates().filter(|change| !undoes(*change, &tree.changes)) {
        let Some(protocol) = change.on(&tree.protocol) else { continue };
        let report = check(&protocol, world, budget, &mut |_| {})?;
        let violated: Vec<Id> = report.violations.iter().filter_map(|found| found.id).collect();
        let decided = report.verdict != Verdict::Bounded;
        if decided && tree.violated.iter().any(|id| !violated.contains(id)) {
            let changes = tree.changes.iter().copied().chain([change]).collect();
            found.push(Tree { protocol, changes, violated });
        }
    }
    Ok(found)
}

/// Every commit, applied or reverted.
fn candidates() -> impl Iterator<Item = Change> {
    let apply = COMMITS.iter().map(|info| Change::Apply(info.commit));
    apply.chain(COMMITS.iter().map(|info| Change::Revert(info.commit)))
}

/// A set of changes that makes a world clean, looked at from the worlds beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// The changes.
    pub changes: Vec<Change>,
    /// What has to be applied before them, since they need it and the tree lacks it.
    pub prerequisites: Vec<Commit>,
    /// What they open in a neighbouring world: the world's name and the property that was not violated there before.
    pub opens: Vec<(&'static str, Id)>,
    /// What they leave violated in a neighbouring world.
    pub leaves: Vec<(&'static str, Id)>,
    /// Neighbouring worlds whose answer was cut short.
    pub unknown: Vec<&'static str>,
}

/// States that a neighbouring world may cost.
const NEIGHBOUR_WITHIN: u64 = 3_000_000;

/// The worlds beside one: a second attempt, a second client, a second client of the same group, one more IOMMU.
#[must_use]
pub fn neighbours(world: &World) -> Vec<(&'static str, World)> {
    let mut worlds = Vec::new();
    let mut add =
        |name, world: World| worlds.extend(world.checked().ok().map(|world| (name, world)));
    add("two attempts", World { attempts: world.attempts + 1, ..world.clone() });
    let more = world.clients + 1;
    if matches!(world.grouping, Grouping::Own | Grouping::Identity) {
        add("one more client", World { clients: more, ..world.clone() });
    }
    if world.clients == 1 {
        let grouping = Grouping::Shared;
        add("shared group", World { clients: more, grouping, ..world.clone() });
    }
    let (iommus, registering) = (world.iommus + 1, world.registering.max(1));
    add("one more IOMMU", World { iommus, registering, ..world.clone() });
    worlds
}

/// Looks at each of `sets` in the worlds beside that of `report`: advice that holds in one world only is none.
///
/// # Errors
/// As [`check`].
pub fn advise(
    report: &Report,
    sets: &[Vec<Change>],
    stop: Option<&AtomicBool>,
) -> Result<Vec<Advice>, CheckError> {
    let worlds = neighbours(&report.world);
    let before: Vec<Option<Vec<Id>>> = worlds
        .iter()
        .map(|(_, world)| violated_in(&report.protocol, world, stop))
        .collect::<Result<_, _>>()?;
    let mut advice = Vec::new();
    for changes in sets {
        let mut protocol = report.protocol.clone();
        let mut prerequisites = Vec::new();
        for change in changes {
            if let Change::Apply(commit) = change {
                prerequisites.extend(protocol.prerequisites(*commit));
            }
            protocol = change.on(&protocol).unwrap_or(protocol);
        }
        let mut one = Advice {
            changes: changes.clone(),
            prerequisites,
            opens: Vec::new(),
            leaves: Vec::new(),
            unknown: Vec::new(),
        };
        for ((name, world), before) in worlds.iter().zip(&before) {
            let after = violated_in(&protocol, world, stop)?;
            match (before, after) {
                (Some(before), Some(after)) => one.note(name, before, &after),
                _ => one.unknown.push(name),
            }
        }
        advice.push(one);
    }
    Ok(advice)
}

impl Advice {
    fn note(&mut self, world: &'static str, before: &[Id], after: &[Id]) {
        let (left, opened): (Vec<Id>, Vec<Id>) = after.iter().partition(|id| before.contains(id));
        self.leaves.extend(left.into_iter().map(|id| (world, id)));
        self.opens.extend(opened.into_iter().map(|id| (world, id)));
    }
}

/// What is violated in a world; none if the search was cut short.
fn violated_in(
    protocol: &Protocol,
    world: &World,
    stop: Option<&AtomicBool>,
) -> Result<Option<Vec<Id>>, CheckError> {
    let max_states = Some(NEIGHBOUR_WITHIN);
    let budget = Budget { shortest: false, stop, max_states, ..Budget::default() };
    let report = check(protocol, world, budget, &mut |_| {})?;
    let found = report.violations.iter().filter_map(|found| found.id).collect();
    Ok(report.explored.exhaustive.then_some(found))
}

fn undoes(change: Change, made: &[Change]) -> bool {
    let opposite = match change {
        Change::Apply(commit) => Change::Revert(commit),
        Change::Revert(commit) => Change::Apply(commit),
    };
    made.contains(&opposite)
}

fn same_set(a: &[Change], b: &[Change]) -> bool {
    a.len() == b.len() && a.iter().all(|change| b.contains(change))
}
