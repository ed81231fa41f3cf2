//! What a search found.

use std::cell::Cell;
use std::fmt;
use std::time::Instant;

use super::{Control, Fault, Property, PropertyKind, PropertySet};
use crate::schedule::Schedule;

/// What a search did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// All schedules, one step at a time.
    Full,
    /// All schedules, with commuting steps run as one.
    Reduced,
    /// All schedules with at most that many preemptions.
    Bounded(u8),
    /// Random schedules.
    Random,
    /// Random schedules by priorities, of this depth.
    Pct(u32),
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("every schedule"),
            Self::Reduced => f.write_str("every schedule, reduced"),
            Self::Bounded(n) => write!(f, "every schedule with at most {n} preemptions"),
            Self::Random => f.write_str("random schedules"),
            Self::Pct(depth) => write!(f, "random schedules of depth {depth}"),
        }
    }
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// No violation, and every schedule was covered.
    Clean,
    /// At least one violation.
    Violated,
    /// No violation, but not every schedule was covered.
    Bounded,
}

/// A property that does not hold, with a schedule that shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The property's name.
    pub property: String,
    /// What it asks.
    pub kind: PropertyKind,
    /// The schedule; the violation is at its last step, or after it for `eventually` and deadlock.
    pub schedule: Schedule,
    /// Whether no schedule with fewer steps shows it.
    pub shortest: bool,
}

/// Whether a `sometimes` property was reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// The property's name.
    pub property: String,
    /// A schedule that reaches it, or `None` if none does (within what was covered).
    pub schedule: Option<Schedule>,
}

/// The result of a search.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// What was done.
    pub mode: Mode,
    /// Whether all that the mode promises was covered: false after a stop, a limit, or by its nature (random).
    pub complete: bool,
    /// Different states met; for random modes, states passed.
    pub states: u64,
    /// Steps computed; in reduced mode, blocks.
    pub transitions: u64,
    /// Different end states (exhaustive modes), or schedules run (random modes).
    pub schedules: u64,
    /// Steps on the longest of the shortest paths; in reduced mode, blocks.
    pub depth: u64,
    /// Wall time, in seconds.
    pub seconds: f64,
    /// Peak bytes of the search's own tables: states seen, paths, states waiting.
    pub bytes: usize,
    /// How often the search began again because the model learnt which steps commute.
    pub restarts: u32,
    /// Every violated property, in the model's order.
    pub violations: Vec<Violation>,
    /// Every `sometimes` property, in the model's order.
    pub reached: Vec<Reached>,
}

impl Outcome {
    /// Whether every schedule of the world was covered.
    #[must_use]
    pub fn exhaustive(&self) -> bool {
        self.complete && matches!(self.mode, Mode::Full | Mode::Reduced)
    }

    /// The answer in one word.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match (self.violations.is_empty(), self.exhaustive()) {
            (false, _) => Verdict::Violated,
            (true, true) => Verdict::Clean,
            (true, false) => Verdict::Bounded,
        }
    }

    /// The violation of the property of this name.
    #[must_use]
    pub fn violation(&self, property: &str) -> Option<&Violation> {
        self.violations.iter().find(|v| v.property == property)
    }

    /// An upper bound for the probability that two states shared a fingerprint, so that one went unseen
    /// (birthday bound over 64 bits). Zero for random modes, which do not remember states.
    #[must_use]
    pub fn collision_probability(&self) -> f64 {
        match self.mode {
            Mode::Random | Mode::Pct(_) => 0.0,
            _ => (self.states as f64).powi(2) / 2_f64.powi(65),
        }
    }
}

/// How far a search has come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// What is being done.
    pub mode: Mode,
    /// Different states so far (random modes: states passed).
    pub states: u64,
    /// States found but not yet expanded (exhaustive modes).
    pub frontier: u64,
    /// Steps computed so far.
    pub transitions: u64,
    /// End states so far (exhaustive modes) or schedules run (random modes).
    pub schedules: u64,
    /// Depth reached.
    pub depth: u64,
    /// Different violated properties so far.
    pub violations: u32,
    /// Seconds since the start.
    pub seconds: f64,
    /// True in the last call.
    pub done: bool,
}

/// The model is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// How.
    pub fault: Fault,
    /// The steps up to the place; the fault shows in the next step of some thread.
    pub schedule: Schedule,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, after {}", self.fault, self.schedule)
    }
}

impl std::error::Error for Broken {}

/// The properties hit so far, each with the place of its first hit; `W` is whatever leads back there.
pub(crate) struct Finds<W> {
    pub(crate) properties: Vec<Property>,
    pub(crate) at: Vec<(usize, W)>,
    pub(crate) seen: PropertySet,
    bad: u64,
}

impl<W> Finds<W> {
    pub(crate) fn new(properties: Vec<Property>) -> Self {
        let bad = properties
            .iter()
            .enumerate()
            .filter(|(_, p)| p.kind != PropertyKind::Sometimes)
            .fold(PropertySet::DEADLOCK.0, |set, (i, _)| set | 1 << i);
        Self { properties, at: Vec::new(), seen: PropertySet::EMPTY, bad }
    }

    /// Remembers the first place of each new hit.
    pub(crate) fn note(&mut self, hits: PropertySet, place: impl Fn() -> W) {
        let new = hits.without(self.seen);
        if !new.is_empty() {
            self.seen = self.seen.with(new);
            self.at.extend(new.iter().map(|i| (i, place())));
        }
    }

    pub(crate) fn violations(&self) -> u32 {
        (self.seen.0 & self.bad).count_ones()
    }

    pub(crate) fn property(&self, index: usize) -> Property {
        self.properties.get(index).cloned().unwrap_or_else(|| Property {
            name: "deadlock".to_owned(),
            kind: PropertyKind::Deadlock,
        })
    }

    /// The finds as results. `schedule` leads from a place to the steps, and says whether they are the fewest.
    pub(crate) fn results(
        &self,
        mut schedule: impl FnMut(usize, &W) -> (Schedule, bool),
    ) -> (Vec<Violation>, Vec<Reached>) {
        let (mut violations, mut reached) = (Vec::new(), Vec::new());
        for index in 0..=PropertySet::MAX {
            let at = self.at.iter().find(|(i, _)| *i == index);
            let Property { name: property, kind } = self.property(index);
            let known = index < self.properties.len();
            match (kind, at) {
                (PropertyKind::Sometimes, at) if known => {
                    let schedule = at.map(|(_, w)| schedule(index, w).0);
                    reached.push(Reached { property, schedule });
                }
                (_, Some((_, w))) => {
                    let (schedule, shortest) = schedule(index, w);
                    violations.push(Violation { property, kind, schedule, shortest });
                }
                _ => {}
            }
        }
        (violations, reached)
    }
}

/// Calls the progress callback from time to time, and looks at the stop flag.
pub(crate) struct Pulse {
    started: Instant,
    last: Cell<Instant>,
}

impl Pulse {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self { started: now, last: Cell::new(now) }
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Returns false if the search must stop. `progress` is asked only when somebody listens and it is time.
    pub(crate) fn beat(
        &self,
        control: &mut Control<'_>,
        done: bool,
        progress: impl FnOnce(f64) -> Progress,
    ) -> bool {
        if let Some(callback) = control.progress.as_deref_mut()
            && (done || self.last.get().elapsed().as_millis() >= 100)
        {
            self.last.set(Instant::now());
            callback(&progress(self.started.elapsed().as_secs_f64()));
        }
        !control.stop.is_some_and(|stop| stop.load(std::sync::atomic::Ordering::Relaxed))
    }
}
