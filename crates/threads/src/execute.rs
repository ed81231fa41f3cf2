//! One execution, from an empty world to its end.

use crate::op::{Kind, Op};
use crate::random::Rng;
use crate::report::{Action, Note};
use crate::runtime::{Failure, Routine, Runtime};
use crate::schedule::Decision;
use crate::trace::Trace;
use crate::world::World;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

/// Makes the scheduling decisions.
pub(crate) trait Director {
    /// Which of the `enabled` threads goes next; `last` went before (or 255). `None` gives this execution up as covered elsewhere.
    fn pick(&mut self, stage: &Stage, enabled: u32, last: u8) -> Option<u8>;
    /// The thread that was picked has run; each `(n, value)` is a choice that it made.
    fn stepped(&mut self, _stage: &Stage, _event: u32, _choices: &[(u8, u8)]) {}
    /// Event `event` was carried out, its thread has not yet gone on.
    fn applied(&mut self, _stage: &Stage, _event: u32) {}
    /// Nothing can be scheduled any more: all have ended or are blocked, or this execution was given up.
    fn ended(&mut self, _stage: &Stage) {}
    /// The choices to return, and where to draw later ones from.
    fn choices(&mut self) -> (Vec<u8>, Option<Rng>) {
        (Vec::new(), None)
    }
    /// Where the next event's decision is remembered.
    fn node(&self) -> u32 {
        0
    }
}

/// What a director may inspect.
pub(crate) struct Stage<'a> {
    pub(crate) rt: &'a Runtime,
    pub(crate) trace: &'a Trace,
}

/// How an execution ended.
#[derive(Debug)]
pub(crate) enum Ending {
    /// Every thread came to its end, and everything held.
    Complete,
    /// Given up as covered elsewhere.
    Pruned,
    /// Something did not hold.
    Failed(Vec<Failure>),
    /// Longer than allowed.
    TooLong,
    /// A lock was tried for the first time: everything must be explored again with releases as operations.
    Restart,
}

/// A step as the picture shows it.
#[derive(Clone, Debug)]
pub(crate) struct Shot {
    pub(crate) thread: u8,
    pub(crate) action: Action,
    pub(crate) object: String,
    pub(crate) notes: Vec<Note>,
    pub(crate) held: Vec<String>,
}

/// Executes worlds, one after another, keeping stacks and buffers.
pub(crate) struct Executor {
    pub(crate) rt: Rc<Runtime>,
    pub(crate) trace: Trace,
    crew: Vec<Option<Routine>>,
    /// Whether to compute clocks and races.
    pub(crate) track: bool,
    pub(crate) max_steps: usize,
    pub(crate) steps: usize,
    /// Steps at which a thread was left that could have gone on.
    pub(crate) preemptions: usize,
    /// What was decided.
    pub(crate) decisions: Vec<Decision>,
    /// Whether to end a run at its first violation. Not while races are collected: those of its rest lead to other runs.
    pub(crate) stop_at_failure: bool,
    /// Filled while recording.
    pub(crate) shots: Vec<Shot>,
    /// The threads' names, filled while recording.
    pub(crate) names: Vec<String>,
}

impl Executor {
    pub(crate) fn new(stack_bytes: usize, max_steps: usize) -> Self {
        Self {
            rt: Rc::new(Runtime::new(stack_bytes)),
            trace: Trace::default(),
            crew: Vec::new(),
            track: true,
            max_steps,
            steps: 0,
            preemptions: 0,
            decisions: Vec::new(),
            stop_at_failure: true,
            shots: Vec::new(),
            names: Vec::new(),
        }
    }

    /// Builds the world and runs it as `director` says.
    pub(crate) fn execute(
        &mut self,
        build: &dyn Fn(&mut World),
        director: &mut dyn Director,
    ) -> Ending {
        self.rt.reset();
        self.trace.reset();
        self.steps = 0;
        self.preemptions = 0;
        self.decisions.clear();
        self.shots.clear();
        let (script, random) = director.choices();
        self.rt.tape.borrow_mut().load(script.into_iter(), random);
        let rt = Rc::clone(&self.rt);
        rt.enter(|| {
            // No coroutine may stay suspended after its execution has ended, whatever happens.
            let ending = catch_unwind(AssertUnwindSafe(|| {
                build(&mut World::new());
                self.rt.notes.borrow_mut().clear();
                self.run(director)
            }));
            if self.rt.recording.get() {
                let threads = self.rt.threads.borrow();
                self.names = threads.iter().map(|info| info.name.clone().into_owned()).collect();
            }
            self.dismiss();
            ending.unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    fn run(&mut self, director: &mut dyn Director) -> Ending {
        self.adopt(None);
        self.report_choices(director, None);
        let mut last = u8::MAX;
        loop {
            let failed = self.stamp_failures();
            if self.rt.abandoning.get() || self.stop_at_failure && failed {
                return self.finish();
            }
            if self.rt.tried.get() && !self.rt.release_points.get() {
                return Ending::Restart;
            }
            let enabled = self.enabled();
            let stage = Stage { rt: &self.rt, trace: &self.trace };
            if enabled == 0 {
                director.ended(&stage);
                return self.finish();
            }
            if self.steps >= self.max_steps {
                return if failed { self.finish() } else { Ending::TooLong };
            }
            let Some(thread) = director.pick(&stage, enabled, last) else {
                director.ended(&stage);
                return Ending::Pruned;
            };
            let left = last != u8::MAX && last != thread && enabled & 1 << last != 0;
            self.preemptions += usize::from(left);
            self.step(thread, director);
            last = thread;
        }
    }

    /// Carries out the pending operation of `thread` and lets it run to its next one.
    fn step(&mut self, thread: u8, director: &mut dyn Director) {
        self.steps += 1;
        self.decisions.push(Decision::Thread(thread));
        let op = self.rt.pending[usize::from(thread)].get().expect("an enabled thread has one");
        let outcome = self.apply(thread, &op);
        self.rt.outcome.set(outcome);
        let mut event = 0;
        if self.track {
            event = self.trace.push(thread, &op, outcome, director.node());
            director.applied(&Stage { rt: &self.rt, trace: &self.trace }, event);
        }
        self.resume(thread);
        for object in self.rt.released.borrow_mut().drain(..) {
            if self.track {
                self.trace.released(object);
            }
        }
        self.adopt(Some(thread));
        if self.rt.recording.get() {
            self.record(thread, &op, outcome);
        }
        self.report_choices(director, Some(event));
    }

    /// The effect of an operation on what the scheduler knows; returns what the thread gets to see.
    fn apply(&self, thread: u8, op: &Op) -> u64 {
        let rt = &self.rt;
        match op.kind {
            Kind::Acquire => self.take(thread, op),
            Kind::TryAcquire if rt.load(op.object) == 0 => self.take(thread, op),
            Kind::TryAcquire | Kind::Read | Kind::Write => 0,
            Kind::Release => {
                rt.store(op.object, 0);
                rt.held.borrow_mut().retain(|held| held.1 != op.object);
                0
            }
            Kind::Generation | Kind::Wait(_) => rt.load(op.object),
            Kind::Notify => {
                rt.store(op.object, rt.load(op.object) + 1);
                0
            }
        }
    }

    fn take(&self, thread: u8, op: &Op) -> u64 {
        self.rt.store(op.object, u64::from(thread) + 1);
        if self.rt.recording.get() {
            self.rt.held.borrow_mut().push((thread, op.object, op.label));
        }
        1
    }

    fn resume(&mut self, thread: u8) {
        let slot = &mut self.crew[usize::from(thread)];
        let routine = slot.as_mut().expect("an enabled thread has not ended");
        if !self.rt.resume(thread, routine) {
            let ended = slot.take().expect("it was there a line ago");
            self.rt.pool.borrow_mut().push(ended.into_stack());
        }
    }

    /// Takes over new threads and runs each to its first operation. What comes before that touches nothing shared, so it need not be scheduled.
    fn adopt(&mut self, parent: Option<u8>) {
        loop {
            let mut newborn = std::mem::take(&mut *self.rt.newborn.borrow_mut());
            if newborn.is_empty() {
                return;
            }
            for routine in newborn.drain(..) {
                let id = self.crew.len() as u8;
                self.crew.push(Some(routine));
                if self.track {
                    self.trace.born(parent);
                }
                self.resume(id);
            }
        }
    }

    fn report_choices(&mut self, director: &mut dyn Director, event: Option<u32>) {
        let log = std::mem::take(&mut self.rt.tape.borrow_mut().log);
        if self.track {
            log.iter().for_each(|&(_, value)| self.trace.chose(value));
        }
        self.decisions.extend(log.iter().map(|&(_, value)| Decision::Choice(value)));
        let stage = Stage { rt: &self.rt, trace: &self.trace };
        director.stepped(&stage, event.unwrap_or(u32::MAX), &log);
        let mut empty = log;
        empty.clear();
        self.rt.tape.borrow_mut().log = empty;
    }

    /// The threads whose pending operation is possible now.
    fn enabled(&self) -> u32 {
        let rt = &self.rt;
        (0..self.crew.len())
            .filter(|&thread| match rt.pending[thread].get() {
                None => false,
                Some(op) => match op.kind {
                    Kind::Acquire => rt.load(op.object) == 0,
                    Kind::Wait(seen) => rt.load(op.object) != seen,
                    _ => true,
                },
            })
            .fold(0, |set, thread| set | 1 << thread)
    }

    /// Called when no thread can continue: decides whether that is a proper end.
    fn finish(&mut self) -> Ending {
        if !self.stamp_failures() {
            self.blocked_for_ever();
        }
        if !self.stamp_failures() {
            self.check_ends();
        }
        self.stamp_failures();
        let failures = std::mem::take(&mut *self.rt.failures.borrow_mut());
        if failures.is_empty() { Ending::Complete } else { Ending::Failed(failures) }
    }

    /// Notes where new failures happened; says whether there is any.
    fn stamp_failures(&self) -> bool {
        let mut failures = self.rt.failures.borrow_mut();
        for failure in failures.iter_mut().filter(|failure| failure.cut.is_none()) {
            failure.cut = Some((self.decisions.len(), self.preemptions));
        }
        !failures.is_empty()
    }

    fn check_ends(&self) {
        let endings = std::mem::take(&mut *self.rt.endings.borrow_mut());
        for (property, check) in endings {
            let verdict = catch_unwind(AssertUnwindSafe(check));
            match verdict.unwrap_or_else(|_| Err("the check itself panicked".to_owned())) {
                Ok(()) => {}
                Err(message) => self.rt.fail(property, message),
            }
        }
    }

    fn blocked_for_ever(&self) {
        let threads = self.rt.threads.borrow();
        let mut stuck = Vec::new();
        let mut on_lock = false;
        for (id, info) in threads.iter().enumerate() {
            let Some(op) = self.rt.pending[id].get() else { continue };
            let waits = matches!(op.kind, Kind::Wait(_));
            if waits && info.daemon {
                continue;
            }
            on_lock |= !waits;
            let holder = match self.rt.load(op.object) {
                holder @ 1.. if !waits => match threads.get(holder as usize - 1) {
                    Some(info) => format!(", held by {}", info.name),
                    None => String::new(),
                },
                _ => String::new(),
            };
            stuck.push(format!("{} is blocked in \"{op}\"{holder}", info.name));
        }
        let property = if on_lock { "deadlock" } else { "lost wake-up" };
        if !stuck.is_empty() {
            self.rt.fail(property, stuck.join("; "));
        }
    }

    fn record(&mut self, thread: u8, op: &Op, outcome: u64) {
        let held = self.rt.held.borrow();
        let mine = held.iter().filter(|held| held.0 == thread);
        let action = match op.kind {
            Kind::Acquire => Action::Lock,
            Kind::TryAcquire => Action::TryLock { taken: outcome != 0 },
            Kind::Release => Action::Unlock,
            Kind::Generation => Action::Generation(outcome),
            Kind::Wait(_) => Action::Wait,
            Kind::Notify => Action::Notify,
            Kind::Read => Action::Read(op.what),
            Kind::Write => Action::Write(op.what),
        };
        self.shots.push(Shot {
            thread,
            action,
            object: op.label.to_string(),
            notes: self.rt.notes.borrow_mut().drain(..).collect(),
            held: mine.map(|held| held.2.to_string()).collect(),
        });
    }

    /// Unwinds whatever has not ended, so that its destructors run and its stacks are free again.
    fn dismiss(&mut self) {
        self.rt.abandoning.set(true);
        self.rt.endings.borrow_mut().clear();
        self.adopt(None);
        let mut stubborn = 0;
        while self.crew.iter().any(Option::is_some) {
            let before = self.crew.iter().flatten().count();
            for thread in 0..self.crew.len() {
                let op = self.rt.pending[thread].get();
                if self.crew[thread].is_some() {
                    self.unblock(op, stubborn > 0);
                    self.resume(thread as u8);
                }
            }
            let left = self.crew.iter().flatten().count();
            stubborn = if left == before { stubborn + 1 } else { 0 };
        }
        self.crew.clear();
        self.rt.released.borrow_mut().clear();
    }

    /// Destructors that wait for each other's locks get them in turn: the execution is being discarded, and one destructor runs at a time.
    fn unblock(&self, op: Option<Op>, force: bool) {
        match op {
            Some(op) if force && op.kind == Kind::Acquire => self.rt.store(op.object, 0),
            _ => {}
        }
    }
}

impl std::fmt::Debug for Executor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executor").field("steps", &self.steps).finish_non_exhaustive()
    }
}
