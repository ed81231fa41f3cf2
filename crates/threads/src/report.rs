//! What an exploration found.

use crate::schedule::Schedule;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// What a step of shipped code does, and to what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Takes a lock.
    Lock,
    /// Takes a lock if it is free.
    TryLock {
        /// Whether it was.
        taken: bool,
    },
    /// Gives a lock back.
    Unlock,
    /// Reads an event's generation.
    Generation(u64),
    /// Sleeps until an event's generation differs.
    Wait,
    /// Changes an event's generation.
    Notify,
    /// Reads named state.
    Read(&'static str),
    /// Changes named state.
    Write(&'static str),
}

impl Action {
    /// Whether it leaves its object as it was.
    pub fn is_read(&self) -> bool {
        matches!(self, Self::Generation(_) | Self::Wait | Self::Read(_))
    }
}

/// What happened within a step, after its operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A lock was given back.
    Unlocked(String),
    /// The environment chose.
    Chose {
        /// The value.
        value: u8,
        /// Among how many.
        of: u8,
    },
    /// A piece of state changed, as the code under test told by [`changed`](crate::changed).
    Changed {
        /// Its name.
        field: String,
        /// Its value before, in words.
        before: String,
        /// Its value after, in words.
        after: String,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlocked(lock) => write!(f, "unlock {lock}"),
            Self::Chose { value, of } => write!(f, "choice {value} of {of}"),
            Self::Changed { field, before, after } => write!(f, "{field}: {before} -> {after}"),
        }
    }
}

/// One step of a run, as the picture shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LadderStep {
    /// Number of the thread, from 0.
    pub thread: usize,
    /// Its name.
    pub thread_name: String,
    /// What it does.
    pub action: Action,
    /// The lock, event or state that it does it to.
    pub object: String,
    /// What happened within the step after it.
    pub notes: Vec<Note>,
    /// The locks that the thread holds after the step.
    pub held: Vec<String>,
}

impl LadderStep {
    /// The operation, in words.
    pub fn what(&self) -> String {
        let object = &self.object;
        match self.action {
            Action::Lock => format!("lock {object}"),
            Action::TryLock { taken: true } => format!("try_lock {object}"),
            Action::TryLock { taken: false } => format!("try_lock {object} (it is taken)"),
            Action::Unlock => format!("unlock {object}"),
            Action::Generation(seen) => format!("read the generation of {object} ({seen})"),
            Action::Wait => format!("wait for {object}"),
            Action::Notify => format!("notify {object}"),
            Action::Read(what) | Action::Write(what) => format!("{object}: {what}"),
        }
    }
}

impl fmt::Display for LadderStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.thread_name, self.what())?;
        for note in &self.notes {
            write!(f, "; {note}")?;
        }
        if !self.held.is_empty() {
            write!(f, " [holds {}]", self.held.join(", "))?;
        }
        Ok(())
    }
}

/// A property that does not hold, with the run that shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The property: `deadlock`, `lost wake-up`, `recursive lock`, `unlock by another`, `panic`, `endless`, or one of the world's own.
    pub property: String,
    /// What is wrong, in words.
    pub message: String,
    /// The run.
    pub schedule: Schedule,
    /// How often a thread was interrupted that could have gone on.
    pub preemptions: usize,
    /// Whether no run with fewer preemptions shows it, nor one with as few preemptions and fewer steps.
    pub shortest: bool,
    /// The run's steps.
    pub ladder: Vec<LadderStep>,
}

impl Violation {
    fn size(&self) -> (usize, usize) {
        (self.preemptions, self.schedule.steps())
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.property, self.message)?;
        for (at, step) in self.ladder.iter().enumerate() {
            writeln!(f, "{:>4}  {step}", at + 1)?;
        }
        write!(f, "replay: {}", self.schedule)
    }
}

/// What was covered, and what was found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How it was explored, in words.
    pub strategy: String,
    /// Runs that were begun.
    pub executions: u64,
    /// Runs that were given up because a reordering of them is explored elsewhere.
    pub pruned: u64,
    /// Runs that came to an end, good or bad. With [`Strategy::Exhaustive`](crate::Strategy::Exhaustive) no two of them are reorderings of each other.
    pub traces: u64,
    /// Steps over all runs.
    pub steps: u64,
    /// Steps of the longest run.
    pub longest: usize,
    /// Whether everything that the strategy promises was covered: all runs up to reordering for the exhaustive ones, all within the bound for a bounded one.
    /// Always false for the random ones.
    pub complete: bool,
    /// Whether the absence of a violation here is a proof for this world.
    pub exhaustive: bool,
    /// How long it took.
    pub time: Duration,
    /// One per violated property, each with the shortest run that was found.
    pub violations: Vec<Violation>,
    /// How often each good state was [`reached`](crate::reached()).
    pub reached: BTreeMap<&'static str, u64>,
    /// Everything that was [`observe`](crate::observe)d.
    pub observed: BTreeSet<String>,
}

impl Report {
    /// Adds what another worker did on the same world at the same time.
    pub(crate) fn add(&mut self, other: Self) {
        self.executions += other.executions;
        self.pruned += other.pruned;
        self.traces += other.traces;
        self.steps += other.steps;
        self.longest = self.longest.max(other.longest);
        self.complete &= other.complete;
        self.exhaustive &= other.exhaustive;
        self.time = self.time.max(other.time);
        for violation in other.violations {
            let known = |known: &&mut Violation| known.property == violation.property;
            match self.violations.iter_mut().find(known) {
                Some(known) if known.size() <= violation.size() => {}
                Some(known) => *known = violation,
                None => self.violations.push(violation),
            }
        }
        for (goal, times) in other.reached {
            *self.reached.entry(goal).or_insert(0) += times;
        }
        self.observed.extend(other.observed);
    }

    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }

    /// The violation of `property`.
    pub fn violation(&self, property: &str) -> Option<&Violation> {
        self.violations.iter().find(|violation| violation.property == property)
    }

    /// Runs per second.
    pub fn rate(&self) -> f64 {
        self.executions as f64 / self.time.as_secs_f64().max(1e-9)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} runs ({} given up as reorderings), {} steps, longest run {}, {:.2} s, {:.0} runs/s, {}",
            self.strategy,
            self.executions,
            self.pruned,
            self.steps,
            self.longest,
            self.time.as_secs_f64(),
            self.rate(),
            match (self.exhaustive, self.complete) {
                (true, _) => "exhaustive",
                (false, true) => "complete within its bound",
                (false, false) => "not exhaustive",
            }
        )?;
        self.violations.iter().try_for_each(|violation| writeln!(f, "{violation}"))
    }
}
