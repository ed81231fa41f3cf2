//! Running one schedule again and telling what happened.

use std::fmt;

use super::{Fault, Label, Model, PropertyKind, PropertySet, StepReport, Steps, ThreadStatus};
use crate::schedule::{Move, Schedule};

/// One run, step by step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// The threads' names.
    pub threads: Vec<String>,
    /// The steps, in order.
    pub steps: Vec<TraceStep>,
    /// What each thread can do at the end.
    pub status: Vec<ThreadStatus>,
    /// The step at which each blocked or idle thread waits at the end.
    pub waiting: Vec<Option<Label>>,
    /// Properties violated at the end as such: `eventually` goals and deadlock. Empty if something can move.
    pub violated_at_end: Vec<String>,
}

impl Trace {
    /// The names of all properties violated in this run, in order, once each.
    #[must_use]
    pub fn violated(&self) -> Vec<&str> {
        let all = self.steps.iter().flat_map(|s| &s.violated).chain(&self.violated_at_end);
        let mut names: Vec<&str> = Vec::new();
        for name in all {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        names
    }
}

/// One step of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceStep {
    /// The thread that took it.
    pub thread: usize,
    /// The step in words.
    pub label: Label,
    /// What it changed.
    pub report: StepReport,
    /// `always` properties that it violates, or that the state after it violates.
    pub violated: Vec<String>,
    /// `sometimes` properties that it reaches.
    pub reached: Vec<String>,
}

/// Why a schedule does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReplayError {
    /// Step `at` (from 0) is not possible: the thread is blocked or finished, or has no such choice. The
    /// schedule belongs to another protocol, world or version of it.
    NoStep {
        /// Which step.
        at: usize,
        /// The move asked for.
        asked: Move,
        /// What the thread could do instead; `None` if there is no such thread.
        status: Option<ThreadStatus>,
    },
    /// The schedule belongs to another world.
    World {
        /// The world that it names.
        asked: String,
        /// The world that it was to run in.
        here: String,
    },
    /// The model is wrong at step `at`.
    Broken {
        /// Which step.
        at: usize,
        /// How.
        fault: Fault,
    },
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoStep { at, asked, status } => {
                let Move { thread, choice } = asked;
                write!(f, "step {}: thread {thread} cannot take choice {choice}", at + 1)?;
                match status {
                    None => f.write_str(" (no such thread)")?,
                    Some(ThreadStatus::Finished) => f.write_str(" (it has finished)")?,
                    Some(ThreadStatus::Blocked) => f.write_str(" (it waits)")?,
                    Some(status) => write!(f, " (it is {status:?})")?,
                }
                f.write_str("; the schedule belongs to another protocol or world")
            }
            Self::World { asked, here } => {
                write!(f, "the schedule is for the world `{asked}`, not for `{here}`")
            }
            Self::Broken { at, fault } => write!(f, "step {}: {fault}", at + 1),
        }
    }
}

impl std::error::Error for ReplayError {}

/// Runs `schedule` on `model`.
///
/// # Errors
/// [`ReplayError`] if a step of it is not possible there.
pub fn replay<M: Model>(model: &M, schedule: &Schedule) -> Result<Trace, ReplayError> {
    let properties = model.properties();
    let names = |set: PropertySet, sometimes: bool| -> Vec<String> {
        set.iter()
            .filter_map(|i| properties.get(i))
            .filter(|p| (p.kind == PropertyKind::Sometimes) == sometimes)
            .map(|p| p.name.clone())
            .collect()
    };
    let mut state = model.initial();
    let mut trace = Trace {
        threads: (0..model.thread_count()).map(|t| model.thread_name(t)).collect(),
        steps: Vec::new(),
        status: Vec::new(),
        waiting: Vec::new(),
        violated_at_end: Vec::new(),
    };
    for (at, &asked) in schedule.moves.iter().enumerate() {
        let (hits, next) = take(model, &state, at, asked)?;
        let thread = usize::from(asked.thread);
        let hits = hits.with(model.hits(&next));
        trace.steps.push(TraceStep {
            thread,
            label: model.label(&state, thread),
            report: model.report(&state, thread, &next),
            violated: names(hits, false),
            reached: names(hits, true),
        });
        state = next;
    }
    finish(model, &state, &mut trace, &names);
    Ok(trace)
}

fn take<M: Model>(
    model: &M,
    state: &M::State,
    at: usize,
    asked: Move,
) -> Result<(PropertySet, M::State), ReplayError> {
    let thread = usize::from(asked.thread);
    if thread >= model.thread_count() {
        return Err(ReplayError::NoStep { at, asked, status: None });
    }
    let mut steps = Steps::new();
    model.step(state, thread, &mut steps);
    if let Some(fault) = steps.fault.take() {
        return Err(ReplayError::Broken { at, fault });
    }
    match steps.taken.into_iter().nth(usize::from(asked.choice)) {
        Some(taken) => Ok((taken.hits, taken.state)),
        None => {
            let status = Some(model.status(state, thread));
            Err(ReplayError::NoStep { at, asked, status })
        }
    }
}

fn finish<M: Model>(
    model: &M,
    state: &M::State,
    trace: &mut Trace,
    names: &dyn Fn(PropertySet, bool) -> Vec<String>,
) {
    let threads = model.thread_count();
    trace.status = (0..threads).map(|t| model.status(state, t)).collect();
    let waits = |s: &ThreadStatus| matches!(s, ThreadStatus::Blocked | ThreadStatus::Idle);
    trace.waiting =
        (0..threads).map(|t| waits(&trace.status[t]).then(|| model.label(state, t))).collect();
    if !trace.status.contains(&ThreadStatus::Runnable) {
        trace.violated_at_end = names(model.unmet(state), false);
        if trace.status.contains(&ThreadStatus::Blocked) {
            trace.violated_at_end.push("deadlock".to_owned());
        }
    }
}
