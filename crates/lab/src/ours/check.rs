//! Exploring a world of our own core, and running one of its schedules again.

use crate::ours::world::World;
use core::fmt;
use portcullis_explore::schedule::{self, ScheduleError as TextError};
use portcullis_threads::{
    Explorer, LadderStep, Progress, Report as Explored, Schedule, ScheduleError, Strategy,
};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub use portcullis_explore::search::Verdict;

/// The kind of a schedule of our own core, and its edition.
pub const EDITION: &str = "ours1";

/// How to explore, and when to stop.
#[derive(Clone, Debug)]
pub struct Budget {
    /// Which runs to look at.
    pub strategy: Strategy,
    /// What the exploration may cost.
    pub cost: portcullis_threads::Budget,
    /// Ends the exploration soon after it becomes true; what was covered is reported.
    pub stop: Option<Arc<AtomicBool>>,
    /// OS threads; strategies other than the random ones use one.
    pub workers: u64,
}

impl Default for Budget {
    /// Every order, on one OS thread.
    fn default() -> Self {
        let cost = portcullis_threads::Budget::default();
        Self { strategy: Strategy::Exhaustive, cost, stop: None, workers: 1 }
    }
}

impl Budget {
    /// Every order of `world`, or `runs` random ones where it is too big for that.
    #[must_use]
    pub fn for_world(world: &World, seed: u64, runs: u64) -> Self {
        let strategy = match world.rounds {
            0 => Strategy::Exhaustive,
            _ => Strategy::Random { seed, runs },
        };
        Self { strategy, ..Self::default() }
    }
}

/// What a check found.
#[derive(Clone, Debug)]
pub struct Report {
    /// The world.
    pub world: World,
    /// How much was explored, which good states were reached, what was observed.
    pub explored: Explored,
    /// The answer.
    pub verdict: Verdict,
    /// Every violated property, each with its own schedule.
    pub violations: Vec<ViolationReport>,
}

/// One violated property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViolationReport {
    /// The promise, or one of the explorer's own properties.
    pub property: String,
    /// What is wrong, in words.
    pub message: String,
    /// The schedule, which `lab replay` takes.
    pub schedule: String,
    /// No run with fewer preemptions shows it, nor one with as few and fewer steps.
    pub shortest: bool,
    /// The run, step by step, for the ladder.
    pub ladder: Vec<LadderStep>,
}

/// One schedule, run again.
#[derive(Clone, Debug)]
pub struct Run {
    /// The world.
    pub world: World,
    /// Its steps.
    pub ladder: Vec<LadderStep>,
    /// The properties that it violates, each with what is wrong.
    pub violations: Vec<(String, String)>,
}

/// Why a replay gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckError {
    /// The string is not a schedule.
    Schedule(TextError),
    /// The schedule is not one of our own core.
    NotOurs(String),
    /// No world has that key.
    World(String),
    /// Its moves do not fit the world.
    Replay(ScheduleError),
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Schedule(error) => write!(f, "not a schedule: {error}"),
            Self::NotOurs(kind) => {
                write!(f, "a schedule of kind `{kind}` is not one of our own core (`{EDITION}`)")
            }
            Self::World(key) => {
                write!(f, "no world is called `{key}`; `lab ours --help` lists them")
            }
            Self::Replay(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for CheckError {}

/// Explores `world`. `progress` is called about ten times a second.
pub fn check(world: &World, budget: Budget, progress: impl FnMut(&Progress) + 'static) -> Report {
    let mut explorer = Explorer::new(budget.cost).strategy(budget.strategy).progress(progress);
    if let Some(stop) = budget.stop {
        explorer = explorer.stop(stop);
    }
    let explored = explorer.run_on(budget.workers, |w| world.build(w));
    let violations = explored.violations.iter().map(|violation| ViolationReport {
        property: violation.property.clone(),
        message: violation.message.clone(),
        schedule: format!("{EDITION}:{}:{}", world.key, violation.schedule),
        shortest: violation.shortest,
        ladder: violation.ladder.clone(),
    });
    let violations: Vec<ViolationReport> = violations.collect();
    let verdict = match (violations.is_empty(), explored.exhaustive) {
        (false, _) => Verdict::Violated,
        (true, true) => Verdict::Clean,
        (true, false) => Verdict::Bounded,
    };
    Report { world: world.clone(), explored, verdict, violations }
}

/// Runs a schedule of our own core again, in the world that it names.
///
/// # Errors
/// [`CheckError`] if the string is no schedule, names no world, or does not run there.
pub fn replay(schedule: &str) -> Result<Run, CheckError> {
    let (kind, key, moves) = schedule::parts(schedule).map_err(CheckError::Schedule)?;
    if kind != EDITION {
        return Err(CheckError::NotOurs(kind.to_owned()));
    }
    let world = World::named(key).ok_or_else(|| CheckError::World(key.to_owned()))?;
    let moves: Schedule = moves.parse().map_err(CheckError::Replay)?;
    let replay = Explorer::new(portcullis_threads::Budget::default())
        .replay(&moves, |w| world.build(w))
        .map_err(CheckError::Replay)?;
    Ok(Run { world, ladder: replay.ladder, violations: replay.violations })
}
