//! Breadth-first search: every state once, the first way to each is a shortest one.

use std::sync::atomic::Ordering;

use super::block::Runner;
use super::outcome::{Finds, Pulse};
use super::queue::Queue;
use super::shortest::{Best, Shortest};
use super::table::{Table, fingerprint};
use super::tree::Tree;
use super::{
    Broken, Control, Fault, Mode, Model, Outcome, Progress, PropertyKind, PropertySet, Steps,
    ThreadStatus,
};
use crate::schedule::{Move, Schedule};

/// Where a property was first hit.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// In the state of this number.
    State(usize),
    /// During the step (or block) of `thread` out of the state `from`; `ordinal` counts all its successors.
    Edge { from: usize, thread: usize, ordinal: u32 },
}

/// So many states may go into shortest schedules whatever the search itself has cost: a few seconds.
const SMALL: u64 = 2_000_000;

/// Why a search ended early.
enum End {
    Stopped,
    Fault(Fault, usize),
}

pub(crate) fn search<M: Model>(
    model: &M,
    world: &str,
    reduce: bool,
    control: &mut Control<'_>,
    on_end: &mut dyn FnMut(&M::State),
) -> Result<Outcome, Broken> {
    let mode = if reduce { Mode::Reduced } else { Mode::Full };
    let mut breadth = Breadth::new(model, mode);
    let complete = breadth.run(world, control, on_end)?;
    let shortest = if reduce { breadth.shorten(world, control)? } else { None };
    Ok(breadth.outcome(world, complete, shortest.as_ref()))
}

pub(crate) struct Breadth<'m, M: Model> {
    model: &'m M,
    mode: Mode,
    table: Table,
    tree: Tree,
    /// The states that wait, each with the threads that sleep there.
    queue: Queue<(M::State, Threads)>,
    finds: Finds<Place>,
    expanded: usize,
    transitions: u64,
    ends: u64,
    depth: u64,
    /// The number of the first state of the next level.
    level_end: usize,
    batch: Batch<M::State>,
    steps: Steps<M::State>,
    runner: Runner<M::State>,
    pulse: Pulse,
}

/// Threads by their number, those from 64 on left out.
type Threads = u64;

/// States expanded together. Where their successors belong in the table is looked at for all of them at once, so that
/// the processor waits for the memory of many together instead of each by itself. Nothing else depends on it:
/// states are numbered as if each were expanded alone.
struct Batch<S> {
    /// The states.
    from: Vec<Expanded<S>>,
    /// The successors of all, in order.
    found: Vec<Found<S>>,
}

/// A state that was expanded.
struct Expanded<S> {
    state: S,
    /// So many of what was found are its successors.
    successors: usize,
    /// No thread can move in it.
    is_end: bool,
}

/// A successor that has not been looked up yet.
struct Found<S> {
    state: S,
    print: u64,
    hits: PropertySet,
    thread: usize,
    /// Which successor it is, those counted that were not asked for.
    ordinal: u32,
    /// The threads that sleep there.
    asleep: Threads,
}

/// States of a batch: enough that memory is busy, and few enough that they stay in the cache themselves.
const BATCH: usize = 64;

impl<S> Batch<S> {
    fn new() -> Self {
        Self { from: Vec::new(), found: Vec::new() }
    }
}

impl<'m, M: Model> Breadth<'m, M> {
    pub(crate) fn new(model: &'m M, mode: Mode) -> Self {
        let properties = model.properties();
        assert!(properties.len() <= PropertySet::MAX, "at most {} properties", PropertySet::MAX);
        Self {
            model,
            mode,
            table: Table::new(),
            tree: Tree::default(),
            queue: Queue::new(),
            finds: Finds::new(properties),
            expanded: 0,
            transitions: 0,
            ends: 0,
            depth: 0,
            level_end: 1,
            batch: Batch::new(),
            steps: Steps::new(),
            runner: Runner::new(),
            pulse: Pulse::new(),
        }
    }

    /// Searches; true if everything was covered.
    pub(crate) fn run(
        &mut self,
        world: &str,
        control: &mut Control<'_>,
        on_end: &mut dyn FnMut(&M::State),
    ) -> Result<bool, Broken> {
        let result = self.expand_all(control, on_end);
        self.pulse.beat(control, true, |seconds| self.progress(seconds, true));
        match result {
            Ok(()) => Ok(true),
            Err(End::Stopped) => Ok(false),
            Err(End::Fault(fault, state)) => {
                // After `Relearn` and `Widen` blocks end elsewhere than they did, so there is no way back to
                // walk; nobody looks at it either, for the search begins again.
                let moves = if matches!(fault, Fault::Model(_)) {
                    self.moves_to(state)
                } else {
                    Vec::new()
                };
                Err(Broken { fault, schedule: Schedule::new(world, moves) })
            }
        }
    }

    fn expand_all(
        &mut self,
        control: &mut Control<'_>,
        on_end: &mut dyn FnMut(&M::State),
    ) -> Result<(), End> {
        let initial = self.canonical(self.model.initial());
        self.table.insert(fingerprint(&initial));
        self.finds.note(self.model.hits(&initial), || Place::State(0));
        self.queue.push((initial, 0));
        let mut batch = std::mem::replace(&mut self.batch, Batch::new());
        loop {
            if !self.may_go_on(control) {
                return Err(End::Stopped);
            }
            self.fill(&mut batch)?;
            if batch.from.is_empty() {
                return Ok(());
            }
            self.table.touch(batch.found.iter().map(|found| found.print));
            self.arrive_all(&mut batch, control, on_end)?;
        }
    }

    fn may_go_on(&self, control: &mut Control<'_>) -> bool {
        let go_on = self.pulse.beat(control, false, |seconds| self.progress(seconds, false));
        go_on && control.max_states.is_none_or(|max| (self.table.len() as u64) < max)
    }

    /// Takes states from the queue and expands them.
    fn fill(&mut self, batch: &mut Batch<M::State>) -> Result<(), End> {
        while batch.from.len() < BATCH
            && let Some((state, asleep)) = self.queue.pop()
        {
            let before = batch.found.len();
            self.expand(&state, asleep, &mut batch.found)
                .map_err(|fault| End::Fault(fault, self.expanded + batch.from.len()))?;
            let successors = batch.found.len() - before;
            batch.from.push(Expanded { state, successors, is_end: successors == 0 && asleep == 0 });
        }
        Ok(())
    }

    /// Takes in what a batch has led to.
    fn arrive_all(
        &mut self,
        batch: &mut Batch<M::State>,
        control: &Control<'_>,
        on_end: &mut dyn FnMut(&M::State),
    ) -> Result<(), End> {
        let mut found = batch.found.drain(..);
        for Expanded { state, successors, is_end } in batch.from.drain(..) {
            if self.expanded == self.level_end {
                self.depth += 1;
                self.level_end = self.table.len();
            }
            found.by_ref().take(successors).for_each(|found| self.arrive(found));
            if is_end {
                self.end(&state);
                on_end(&state);
            }
            self.tree.close();
            self.expanded += 1;
            if control.stop_at_first && self.finds.violations() > 0 {
                return Err(End::Stopped);
            }
        }
        Ok(())
    }

    /// Adds the successors of `state` to `found`, but for those of the threads that sleep there.
    fn expand(
        &mut self,
        state: &M::State,
        asleep: Threads,
        found: &mut Vec<Found<M::State>>,
    ) -> Result<(), Fault> {
        if self.mode == Mode::Reduced {
            return self.expand_blocks(state, asleep, found);
        }
        let mut ordinal = 0;
        for thread in 0..self.model.thread_count() {
            self.steps.clear();
            self.model.step(state, thread, &mut self.steps);
            self.steps.fault.take().map_or(Ok(()), Err)?;
            for taken in self.steps.taken.drain(..) {
                let (state, hits) = (taken.state, taken.hits);
                let print = fingerprint(&state);
                found.push(Found { state, print, hits, thread, ordinal, asleep: 0 });
                ordinal += 1;
            }
        }
        Ok(())
    }

    /// The same block by block.
    fn expand_blocks(
        &mut self,
        state: &M::State,
        asleep: Threads,
        found: &mut Vec<Found<M::State>>,
    ) -> Result<(), Fault> {
        // The threads that sleep, or were taken before: each took, or takes elsewhere, a remembered block from here.
        let (mut before, mut ordinal) = (asleep, 0);
        for thread in 0..self.model.thread_count() {
            if is_among(asleep, thread) {
                // A block that is remembered does not branch.
                ordinal += 1;
                continue;
            }
            self.runner.run(self.model, state, thread);
            self.runner.fault.take().map_or(Ok(()), Err)?;
            let remembered = self.runner.remembered;
            let sleepy = match remembered {
                true => self.model.independent(state, thread, before),
                false => 0,
            };
            if remembered && !self.runner.arrivals.is_empty() && thread < Threads::BITS as usize {
                before |= 1 << thread;
            }
            for arrival in self.runner.arrivals.drain(..) {
                let there = self.model.canonical(arrival.state.clone());
                // Where equal threads have been exchanged, nobody knows who sleeps.
                let asleep = if there == arrival.state { sleepy } else { 0 };
                let (print, hits) = (fingerprint(&there), arrival.hits);
                found.push(Found { state: there, print, hits, thread, ordinal, asleep });
                ordinal += 1;
            }
        }
        Ok(())
    }

    /// The state being expanded leads to this one.
    fn arrive(&mut self, found: Found<M::State>) {
        let Found { state, print, hits, thread, ordinal, asleep } = found;
        self.transitions += 1;
        let from = self.expanded;
        self.finds.note(hits, || Place::Edge { from, thread, ordinal });
        if self.table.insert(print) {
            let number = self.tree.child(ordinal);
            self.finds.note(self.model.hits(&state), || Place::State(number));
            self.queue.push((state, asleep));
        }
    }

    /// `state`, the one being expanded, has no successor.
    fn end(&mut self, state: &M::State) {
        self.ends += 1;
        let blocked = (0..self.model.thread_count())
            .any(|t| self.model.status(state, t) == ThreadStatus::Blocked);
        let deadlock = if blocked { PropertySet::DEADLOCK } else { PropertySet::EMPTY };
        let number = self.expanded;
        self.finds.note(deadlock.with(self.model.unmet(state)), || Place::State(number));
    }

    fn progress(&self, seconds: f64, done: bool) -> Progress {
        Progress {
            mode: self.mode,
            states: self.table.len() as u64,
            frontier: self.queue.len() as u64,
            transitions: self.transitions,
            schedules: self.ends,
            depth: self.depth,
            violations: self.finds.violations(),
            seconds,
            done,
        }
    }

    /// For a reduced search: its violations again by fewest steps, where a search among blocks finds these within its budget.
    fn shorten(
        &mut self,
        world: &str,
        control: &Control<'_>,
    ) -> Result<Option<Shortest<'m, M>>, Broken> {
        let stopped = control.stop.is_some_and(|stop| stop.load(Ordering::Relaxed));
        if self.finds.violations() == 0 || control.shortest_within == 0 || stopped {
            return Ok(None);
        }
        let violated = self.finds.at.iter().filter_map(|(property, place)| {
            let at_end = match self.finds.property(*property).kind {
                PropertyKind::Sometimes => return None,
                PropertyKind::Always => false,
                PropertyKind::Eventually | PropertyKind::Deadlock => true,
            };
            Some(Best::new(*property, self.moves(*property, *place), at_end))
        });
        let mut shortest = Shortest::new(self.model, violated.collect());
        // A state costs more there than here: half as many are as much work as the answer itself.
        let within = control.shortest_within.min((self.table.len() as u64 / 2).max(SMALL));
        // The states seen are not asked for any more, and their memory is wanted.
        self.table.release();
        match shortest.run(within, control.stop) {
            Ok(()) => Ok(Some(shortest)),
            Err(fault) => Err(Broken { fault, schedule: Schedule::new(world, Vec::new()) }),
        }
    }

    pub(crate) fn into_outcome(self, world: &str, complete: bool) -> Outcome {
        self.outcome(world, complete, None)
    }

    fn outcome(&self, world: &str, complete: bool, shortest: Option<&Shortest<'m, M>>) -> Outcome {
        let (violations, reached) =
            self.finds.results(|property, place| match shortest.and_then(|s| s.best(property)) {
                Some(best) => (Schedule::new(world, best.moves.clone()), best.fewest),
                None => {
                    let moves = self.moves(property, *place);
                    (Schedule::new(world, moves), self.mode != Mode::Reduced)
                }
            });
        let search = self.table.bytes() + self.queue.peak_bytes();
        let bytes = self.tree.bytes() + search.max(shortest.map_or(0, Shortest::bytes));
        Outcome {
            mode: self.mode,
            complete,
            states: self.table.len() as u64,
            transitions: self.transitions,
            schedules: self.ends,
            depth: self.depth,
            seconds: self.pulse.seconds(),
            bytes,
            restarts: 0,
            violations,
            reached,
        }
    }

    fn moves(&self, property: usize, place: Place) -> Vec<Move> {
        match place {
            Place::State(number) => self.moves_to(number),
            Place::Edge { from, thread, ordinal } => {
                let (mut moves, state) = self.walk(&self.tree.path(from));
                if self.mode == Mode::Reduced {
                    let mut runner = Runner::new();
                    // Another thread than that of the search, where equal ones were exchanged on the way.
                    let threads = std::iter::once(thread).chain(0..self.model.thread_count());
                    let (thread, path) = threads
                        .filter_map(|t| {
                            Some((t, runner.path_to_hit(self.model, &state, t, property)?))
                        })
                        .next()
                        .expect("a block that hit a property hits it again");
                    moves.extend(path.iter().map(|&choice| step(thread, choice)));
                } else {
                    moves.push(self.follow(&state, ordinal, &mut Runner::new()).0[0]);
                }
                moves
            }
        }
    }

    fn moves_to(&self, number: usize) -> Vec<Move> {
        self.walk(&self.tree.path(number)).0
    }

    /// The state that stands for `state` in this search.
    fn canonical(&self, state: M::State) -> M::State {
        if self.mode == Mode::Reduced { self.model.canonical(state) } else { state }
    }

    /// Follows ordinals from the initial state, in states that really follow each other: where the search has
    /// exchanged equal threads, the step is another one that leads to the same state but for that.
    fn walk(&self, path: &[u32]) -> (Vec<Move>, M::State) {
        let mut moves = Vec::new();
        let mut state = self.model.initial();
        let mut searched = self.canonical(state.clone());
        let mut runner = Runner::new();
        for &ordinal in path {
            let (mut part, mut next) = self.follow(&searched, ordinal, &mut runner);
            let same = state == searched;
            searched = self.canonical(next.clone());
            if !same {
                (part, next) = (0..)
                    .map(|other| self.follow(&state, other, &mut runner))
                    .find(|(_, next)| self.canonical(next.clone()) == searched)
                    .expect("equal threads have equal steps");
            }
            moves.extend(part);
            state = next;
        }
        (moves, state)
    }

    /// The steps to the successor of `state` with this ordinal, and that successor.
    fn follow(
        &self,
        state: &M::State,
        ordinal: u32,
        runner: &mut Runner<M::State>,
    ) -> (Vec<Move>, M::State) {
        let mut left = ordinal as usize;
        for thread in 0..self.model.thread_count() {
            if self.mode == Mode::Reduced {
                runner.run(self.model, state, thread);
                if left < runner.arrivals.len() {
                    let path = runner.path_to(self.model, state, thread, left).unwrap_or_default();
                    let moves = path.iter().map(|&choice| step(thread, choice)).collect();
                    return (moves, runner.arrivals.swap_remove(left).state);
                }
                left -= runner.arrivals.len();
            } else {
                let mut steps = Steps::new();
                self.model.step(state, thread, &mut steps);
                if left < steps.taken.len() {
                    let next = steps.taken.swap_remove(left).state;
                    return (vec![step(thread, left as u16)], next);
                }
                left -= steps.taken.len();
            }
        }
        unreachable!("a state that had this many successors has them again")
    }
}

fn is_among(threads: Threads, thread: usize) -> bool {
    thread < Threads::BITS as usize && threads >> thread & 1 == 1
}

fn step(thread: usize, choice: u16) -> Move {
    Move { thread: thread as u16, choice }
}
