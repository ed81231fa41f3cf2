//! Breadth-first search: every state once, the first way to each is a shortest one.

use std::sync::atomic::Ordering;

use super::block::Runner;
use super::outcome::{Finds, Pulse};
use super::queue::Queue;
use super::table::{Table, fingerprint};
use super::tree::Tree;
use super::{
    Broken, Control, Fault, Mode, Model, Outcome, Progress, PropertySet, Steps, ThreadStatus,
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
    let mut breadth = Breadth::new(model, mode, PropertySet::EMPTY);
    let complete = breadth.run(world, control, on_end)?;
    let shortest = if reduce { breadth.shorten(world, control)? } else { None };
    Ok(breadth.outcome(world, complete, shortest))
}

pub(crate) struct Breadth<'m, M: Model> {
    model: &'m M,
    mode: Mode,
    table: Table,
    tree: Tree,
    queue: Queue<M::State>,
    finds: Finds<Place>,
    /// End as soon as all of these are found (if it is not empty).
    wanted: PropertySet,
    expanded: usize,
    transitions: u64,
    ends: u64,
    depth: u64,
    /// The number of the first state of the next level.
    level_end: usize,
    steps: Steps<M::State>,
    runner: Runner<M::State>,
    pulse: Pulse,
}

impl<'m, M: Model> Breadth<'m, M> {
    pub(crate) fn new(model: &'m M, mode: Mode, wanted: PropertySet) -> Self {
        let properties = model.properties();
        assert!(properties.len() <= PropertySet::MAX, "at most {} properties", PropertySet::MAX);
        Self {
            model,
            mode,
            table: Table::new(),
            tree: Tree::default(),
            queue: Queue::new(),
            finds: Finds::new(properties),
            wanted,
            expanded: 0,
            transitions: 0,
            ends: 0,
            depth: 0,
            level_end: 1,
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
        let initial = self.model.initial();
        self.table.insert(fingerprint(&initial));
        self.finds.note(self.model.hits(&initial), || Place::State(0));
        self.queue.push(initial);
        while let Some(state) = self.queue.pop() {
            if self.expanded.is_multiple_of(1024) && !self.may_go_on(control) {
                return Err(End::Stopped);
            }
            if self.expanded == self.level_end {
                self.depth += 1;
                self.level_end = self.table.len();
            }
            if self.expand(&state)? == 0 {
                self.end(&state);
                on_end(&state);
            }
            self.tree.close();
            self.expanded += 1;
            if self.enough(control) {
                return Err(End::Stopped);
            }
        }
        Ok(())
    }

    fn may_go_on(&self, control: &mut Control<'_>) -> bool {
        let go_on = self.pulse.beat(control, false, |seconds| self.progress(seconds, false));
        go_on && control.max_states.is_none_or(|max| (self.table.len() as u64) < max)
    }

    fn enough(&self, control: &Control<'_>) -> bool {
        control.stop_at_first && self.finds.violations() > 0
            || !self.wanted.is_empty() && self.wanted.without(self.finds.seen).is_empty()
    }

    /// Adds the successors of `state`; returns how many there are, known ones included.
    fn expand(&mut self, state: &M::State) -> Result<u32, End> {
        let mut ordinal = 0;
        for thread in 0..self.model.thread_count() {
            if self.mode == Mode::Reduced {
                self.expand_blocks(state, thread, &mut ordinal)?;
            } else {
                self.expand_steps(state, thread, &mut ordinal)?;
            }
        }
        Ok(ordinal)
    }

    fn expand_steps(
        &mut self,
        state: &M::State,
        thread: usize,
        ordinal: &mut u32,
    ) -> Result<(), End> {
        let mut steps = std::mem::take(&mut self.steps);
        steps.clear();
        self.model.step(state, thread, &mut steps);
        if let Some(fault) = steps.fault.take() {
            return Err(End::Fault(fault, self.expanded));
        }
        for taken in steps.taken.drain(..) {
            self.arrive(taken.state, taken.hits, thread, *ordinal);
            *ordinal += 1;
        }
        self.steps = steps;
        Ok(())
    }

    fn expand_blocks(
        &mut self,
        state: &M::State,
        thread: usize,
        ordinal: &mut u32,
    ) -> Result<(), End> {
        self.runner.run(self.model, state, thread);
        if let Some(fault) = self.runner.fault.take() {
            return Err(End::Fault(fault, self.expanded));
        }
        let mut arrivals = std::mem::take(&mut self.runner.arrivals);
        for arrival in arrivals.drain(..) {
            self.arrive(arrival.state, arrival.hits, thread, *ordinal);
            *ordinal += 1;
        }
        self.runner.arrivals = arrivals;
        Ok(())
    }

    fn arrive(&mut self, state: M::State, hits: PropertySet, thread: usize, ordinal: u32) {
        self.transitions += 1;
        let from = self.expanded;
        self.finds.note(hits, || Place::Edge { from, thread, ordinal });
        if self.table.insert(fingerprint(&state)) {
            let number = self.tree.child(ordinal);
            self.finds.note(self.model.hits(&state), || Place::State(number));
            self.queue.push(state);
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

    /// For a reduced search that found something: the same violations by the fewest steps, if an unreduced search meets them within its budget.
    fn shorten(
        &mut self,
        world: &str,
        control: &mut Control<'_>,
    ) -> Result<Option<Breadth<'m, M>>, Broken> {
        let stopped = control.stop.is_some_and(|stop| stop.load(Ordering::Relaxed));
        if self.finds.seen.is_empty() || control.shortest_within == 0 || stopped {
            return Ok(None);
        }
        let mut second = Breadth::new(self.model, Mode::Full, self.finds.seen);
        let mut limits = Control {
            stop: control.stop,
            progress: None,
            max_states: Some(control.shortest_within),
            stop_at_first: false,
            shortest_within: 0,
        };
        second.run(world, &mut limits, &mut |_| {})?;
        Ok(Some(second))
    }

    pub(crate) fn into_outcome(self, world: &str, complete: bool) -> Outcome {
        self.outcome(world, complete, None)
    }

    fn outcome(&self, world: &str, complete: bool, shortest: Option<Breadth<'m, M>>) -> Outcome {
        let (violations, reached) = self.finds.results(|property, place| {
            let better = shortest.as_ref().and_then(|second| {
                let (_, place) = second.finds.at.iter().find(|(i, _)| *i == property)?;
                Some(second.moves(property, *place))
            });
            let fewest = better.is_some() || self.mode != Mode::Reduced;
            let moves = better.unwrap_or_else(|| self.moves(property, *place));
            (Schedule::new(world, moves), fewest)
        });
        let own = |b: &Breadth<'m, M>| b.table.bytes() + b.tree.bytes() + b.queue.peak_bytes();
        Outcome {
            mode: self.mode,
            complete,
            states: self.table.len() as u64,
            transitions: self.transitions,
            schedules: self.ends,
            depth: self.depth,
            seconds: self.pulse.seconds(),
            bytes: own(self) + shortest.as_ref().map_or(0, own),
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
                    let path = runner
                        .path_to_hit(self.model, &state, thread, property)
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

    /// Follows ordinals from the initial state.
    fn walk(&self, path: &[u32]) -> (Vec<Move>, M::State) {
        let mut moves = Vec::new();
        let mut state = self.model.initial();
        let mut runner = Runner::new();
        for &ordinal in path {
            let (part, next) = self.follow(&state, ordinal, &mut runner);
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

fn step(thread: usize, choice: u16) -> Move {
    Move { thread: thread as u16, choice }
}
