//! Exploring a [`Model`]: every schedule, every schedule within a bound, or random ones.

mod block;
mod bound;
mod breadth;
mod model;
mod outcome;
mod queue;
mod replay;
mod sample;
mod shortest;
mod step;
mod table;
mod tree;

use std::sync::atomic::AtomicBool;

pub use block::{Arrival, Look};
pub use bound::Bounded;
pub use model::{
    Fault, Model, Mover, Property, PropertyKind, PropertySet, Steps, Taken, ThreadStatus,
};
pub use outcome::{Broken, Mode, Outcome, Progress, Reached, Verdict, Violation};
pub use replay::{ReplayError, Trace, TraceStep, replay};
pub use step::{Action, Change, Label, Note, Object, Operation, Site, StepReport};
pub(crate) use table::{Identity, fingerprint};

/// How to explore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// Every schedule, by remembering states.
    Exhaustive {
        /// Run blocks of steps that commute as one ([`crate::reduction`] says why that is sound).
        reduce: bool,
    },
    /// Every schedule with a bounded number of preemptions.
    Bounded {
        /// The number of preemptions: switches away from a thread that could have gone on.
        preemptions: u8,
    },
    /// Random schedules: each step is taken by any thread that can move, all with the same probability.
    Random {
        /// How many schedules.
        runs: u64,
        /// The same seed gives the same schedules.
        seed: u64,
    },
    /// Probabilistic concurrency testing (Burckhardt and others, ASPLOS 2010): random priorities with
    /// `depth - 1` points at which the running thread loses its priority. A bug of that depth is found in one
    /// run with probability at least 1 / (threads * steps^(depth - 1)).
    Pct {
        /// The number of ordering constraints that a bug needs; at least 1.
        depth: u32,
        /// How many schedules.
        runs: u64,
        /// The same seed gives the same schedules.
        seed: u64,
    },
}

/// What a search may cost, and who is told of its progress.
pub struct Control<'a> {
    /// When it becomes true, the search ends soon and reports what it has covered.
    pub stop: Option<&'a AtomicBool>,
    /// Called about every 100 ms, and at the end.
    pub progress: Option<&'a mut dyn FnMut(&Progress)>,
    /// Ends the search after that many states.
    pub max_states: Option<u64>,
    /// Ends the search at the first violation.
    pub stop_at_first: bool,
    /// How many states may be spent on making the counterexamples of a reduced search the shortest in steps
    /// (by a search in the order of steps, among blocks, up to the length that is known).
    pub shortest_within: u64,
}

impl Default for Control<'_> {
    fn default() -> Self {
        Self {
            stop: None,
            progress: None,
            max_states: None,
            stop_at_first: false,
            shortest_within: 2_000_000,
        }
    }
}

impl std::fmt::Debug for Control<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control")
            .field("stop", &self.stop)
            .field("progress", &self.progress.is_some())
            .field("max_states", &self.max_states)
            .field("stop_at_first", &self.stop_at_first)
            .field("shortest_within", &self.shortest_within)
            .finish()
    }
}

/// Explores `model`, which the schedules found will call `world`.
///
/// # Errors
/// [`Broken`] if the model itself is wrong, with the schedule that shows it.
pub fn explore<M: Model>(
    model: &M,
    world: &str,
    strategy: Strategy,
    control: &mut Control<'_>,
) -> Result<Outcome, Broken> {
    explore_with_ends(model, world, strategy, control, &mut |_| {})
}

/// As [`explore`]; also hands every end state (one in which no thread can move) that an exhaustive search
/// finds to `on_end`, once each.
///
/// # Errors
/// As [`explore`].
pub fn explore_with_ends<M: Model>(
    model: &M,
    world: &str,
    strategy: Strategy,
    control: &mut Control<'_>,
    on_end: &mut dyn FnMut(&M::State),
) -> Result<Outcome, Broken> {
    match strategy {
        Strategy::Exhaustive { reduce } => breadth::search(model, world, reduce, control, on_end),
        Strategy::Bounded { preemptions } => bound::search(model, world, preemptions, control),
        Strategy::Random { runs, seed } => sample::random(model, world, runs, seed, control),
        Strategy::Pct { depth, runs, seed } => {
            sample::pct(model, world, depth.max(1), runs, seed, control)
        }
    }
}
