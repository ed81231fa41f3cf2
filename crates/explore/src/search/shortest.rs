//! The fewest steps to what a reduced search has found, searched among blocks.
//!
//! A whole block may be longer than what a violation needs of it. By the argument of [`crate::reduction`], an execution
//! of fewest steps can be put in an order of blocks of which only each thread's *last* one is incomplete: it ends
//! at its commit, or at a later left mover, for what follows is seen by nobody. So a thread that stops inside a block
//! never moves again, and states are visited in the order of their steps (Dijkstra).

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::atomic::{AtomicBool, Ordering};

use super::block::{Hit, Runner};
use super::table::{Identity, fingerprint};
use super::{Fault, Model, PropertySet, ThreadStatus};
use crate::schedule::Move;

/// A property with the best schedule known so far.
#[derive(Debug)]
pub(crate) struct Best {
    pub(crate) property: usize,
    pub(crate) moves: Vec<Move>,
    /// No schedule has fewer steps.
    pub(crate) fewest: bool,
    /// Whether it is asked of a state in which nothing moves any more.
    at_end: bool,
    place: Option<Place>,
    steps: u32,
}

impl Best {
    /// A property that `moves` show; `at_end` if it is asked of ends.
    pub(crate) fn new(property: usize, moves: Vec<Move>, at_end: bool) -> Self {
        let steps = moves.len() as u32;
        Self { property, moves, fewest: false, at_end, place: None, steps }
    }
}

/// Where a better schedule ends.
#[derive(Debug)]
struct Place {
    record: u32,
    /// The last steps: whose, and the choices.
    tail: Vec<Move>,
}

/// How a state was reached with fewest steps.
#[derive(Debug, Clone, Copy)]
struct Record {
    steps: u32,
    parent: u32,
    /// Which of its parent's arrivals, over all threads that may still move.
    ordinal: u32,
}

/// A state that waits, the threads that have stopped inside a block, and its record.
struct Waiting<S> {
    state: S,
    stopped: u64,
    record: u32,
}

/// States expanded before what they lead to is looked up.
const BATCH: usize = 64;
/// Threads above this number are not stopped inside blocks, so a schedule with them is not shown to be shortest.
pub(crate) const MOST_THREADS: usize = u64::BITS as usize;

pub(crate) struct Shortest<'m, M: Model> {
    model: &'m M,
    best: Vec<Best>,
    records: Vec<Record>,
    index: HashMap<u64, u32, BuildHasherDefault<Identity>>,
    /// The states that wait, by their steps.
    levels: Vec<Vec<Waiting<M::State>>>,
    /// What a batch of states has led to, with its fingerprint, not looked up yet.
    found: Vec<(u64, M::State, u64, Record)>,
    runner: Runner<M::State>,
    waiting: usize,
    peak: usize,
}

impl<'m, M: Model> Shortest<'m, M> {
    pub(crate) fn new(model: &'m M, best: Vec<Best>) -> Self {
        let mut runner = Runner::with_cuts();
        runner.watched = best
            .iter()
            .filter(|b| b.property < PropertySet::MAX && !b.at_end)
            .fold(PropertySet::EMPTY, |set, b| set.with(PropertySet::of(b.property)));
        let (records, levels) = (Vec::new(), Vec::new());
        Self {
            model,
            best,
            records,
            index: HashMap::default(),
            levels,
            found: Vec::new(),
            runner,
            waiting: 0,
            peak: 0,
        }
    }

    /// What was found for a property.
    pub(crate) fn best(&self, property: usize) -> Option<&Best> {
        self.best.iter().find(|b| b.property == property)
    }

    /// Peak bytes of what it kept.
    pub(crate) fn bytes(&self) -> usize {
        self.records.capacity() * size_of::<Record>()
            + self.index.capacity() * size_of::<(u64, u32)>()
            + self.peak * size_of::<Waiting<M::State>>()
    }

    /// Shortens every schedule, within so many states; what it could not finish keeps `fewest` false.
    pub(crate) fn run(&mut self, within: u64, stop: Option<&AtomicBool>) -> Result<(), Fault> {
        if self.model.thread_count() > MOST_THREADS {
            return Ok(());
        }
        self.find(self.model.initial(), 0, Record { steps: 0, parent: 0, ordinal: 0 });
        self.arrive_all();
        let mut steps = 0;
        while (steps as usize) < self.levels.len() {
            while !self.levels[steps as usize].is_empty() {
                self.expand_some(steps)?;
                let stopped = stop.is_some_and(|stop| stop.load(Ordering::Relaxed));
                if self.records.len() as u64 > within || stopped {
                    self.take_better();
                    return Ok(());
                }
            }
            self.levels[steps as usize] = Vec::new();
            steps += 1;
            // Everything of fewer steps was looked at.
            self.best.iter_mut().for_each(|b| b.fewest |= b.steps <= steps);
        }
        self.best.iter_mut().for_each(|b| b.fewest = true);
        self.take_better();
        Ok(())
    }

    /// Expands a batch of the states of so many steps. All that they lead to has more steps, so it may wait until the
    /// batch is over, and is then looked up together.
    fn expand_some(&mut self, steps: u32) -> Result<(), Fault> {
        for _ in 0..BATCH {
            let Some(next) = self.levels[steps as usize].pop() else { break };
            self.waiting -= 1;
            // Reached again with fewer steps since it was put here?
            if self.records[next.record as usize].steps == steps {
                self.expand(&next, steps)?;
            }
        }
        self.arrive_all();
        Ok(())
    }

    /// Writes out the schedules that are better than those known before.
    fn take_better(&mut self) {
        for i in 0..self.best.len() {
            if let Some(place) = self.best[i].place.take() {
                let mut moves = self.moves_to(place.record);
                moves.extend(place.tail);
                self.best[i].moves = moves;
            }
        }
    }

    /// Whether a state of so many steps can lead to something better than what is known.
    fn promises(&self, steps: u32, stopped: u64) -> bool {
        let more = |b: &Best| b.steps > steps + u32::from(!b.at_end);
        self.best.iter().any(|b| more(b) && !(b.at_end && stopped != 0))
    }

    fn expand(&mut self, from: &Waiting<M::State>, steps: u32) -> Result<(), Fault> {
        if !self.promises(steps, from.stopped) {
            return Ok(());
        }
        let mut ordinal = 0;
        for thread in (0..self.model.thread_count()).filter(|t| from.stopped >> t & 1 == 0) {
            self.runner.run(self.model, &from.state, thread);
            if let Some(fault) = self.runner.fault.take() {
                return Err(fault);
            }
            for Hit { property, path } in std::mem::take(&mut self.runner.seen) {
                let tail = path.iter().map(|&choice| Move { thread: thread as u16, choice });
                self.improve(property, steps + path.len() as u32, from.record, tail.collect());
            }
            let mut arrivals = std::mem::take(&mut self.runner.arrivals);
            for arrival in arrivals.drain(..) {
                let stopped = from.stopped | u64::from(arrival.cut) << thread;
                let record = Record { steps: steps + arrival.steps, parent: from.record, ordinal };
                self.find(arrival.state, stopped, record);
                ordinal += 1;
            }
            self.runner.arrivals = arrivals;
        }
        if ordinal == 0 && from.stopped == 0 {
            self.end(&from.state, steps, from.record);
        }
        Ok(())
    }

    /// A state was reached.
    fn find(&mut self, state: M::State, stopped: u64, record: Record) {
        if self.promises(record.steps, stopped) {
            self.found.push((fingerprint(&(&state, stopped)), state, stopped, record));
        }
    }

    /// Takes in what was found.
    fn arrive_all(&mut self) {
        // The look-ups do not depend on each other, so the processor waits for the memory of many at once.
        let known = self.found.iter().filter_map(|(print, ..)| self.index.get(print));
        let steps = known.map(|&number| self.records[number as usize].steps);
        std::hint::black_box(steps.max());
        let mut found = std::mem::take(&mut self.found);
        for (print, state, stopped, record) in found.drain(..) {
            self.arrive(print, Waiting { state, stopped, record: 0 }, record);
        }
        self.found = found;
    }

    fn arrive(&mut self, print: u64, waiting: Waiting<M::State>, record: Record) {
        let fresh = self.records.len() as u32;
        let number = *self.index.entry(print).or_insert(fresh);
        if number == fresh {
            self.records.push(record);
        } else if self.records[number as usize].steps > record.steps {
            self.records[number as usize] = record;
        } else {
            return;
        }
        let level = record.steps as usize;
        if self.levels.len() <= level {
            self.levels.resize_with(level + 1, Vec::new);
        }
        self.levels[level].push(Waiting { record: number, ..waiting });
        self.waiting += 1;
        self.peak = self.peak.max(self.waiting);
    }

    /// Nothing moves in `state`.
    fn end(&mut self, state: &M::State, steps: u32, record: u32) {
        let status = |t| self.model.status(state, t);
        let blocked = (0..self.model.thread_count()).any(|t| status(t) == ThreadStatus::Blocked);
        let deadlock = if blocked { PropertySet::DEADLOCK } else { PropertySet::EMPTY };
        for property in deadlock.with(self.model.unmet(state)).iter() {
            self.improve(property, steps, record, Vec::new());
        }
    }

    fn improve(&mut self, property: usize, steps: u32, record: u32, tail: Vec<Move>) {
        let mut known = self.best.iter_mut();
        if let Some(best) = known.find(|b| b.property == property && b.steps > steps) {
            best.steps = steps;
            best.place = Some(Place { record, tail });
        }
    }

    /// The steps to the state of a record.
    fn moves_to(&self, record: u32) -> Vec<Move> {
        let (mut path, mut at) = (Vec::new(), record);
        while at != 0 {
            path.push(self.records[at as usize].ordinal);
            at = self.records[at as usize].parent;
        }
        let (mut moves, mut state, mut stopped) = (Vec::new(), self.model.initial(), 0);
        let mut runner = Runner::with_cuts();
        for ordinal in path.into_iter().rev() {
            (state, stopped) = self.follow(&state, stopped, ordinal, &mut runner, &mut moves);
        }
        moves
    }

    fn follow(
        &self,
        state: &M::State,
        stopped: u64,
        ordinal: u32,
        runner: &mut Runner<M::State>,
        moves: &mut Vec<Move>,
    ) -> (M::State, u64) {
        let mut left = ordinal as usize;
        for thread in (0..self.model.thread_count()).filter(|t| stopped >> t & 1 == 0) {
            runner.run(self.model, state, thread);
            if left < runner.arrivals.len() {
                let path = runner.path_to(self.model, state, thread, left).unwrap_or_default();
                let choices = path.iter();
                moves.extend(choices.map(|&choice| Move { thread: thread as u16, choice }));
                let arrival = runner.arrivals.swap_remove(left);
                return (arrival.state, stopped | u64::from(arrival.cut) << thread);
            }
            left -= runner.arrivals.len();
        }
        unreachable!("a state that had this many arrivals has them again")
    }
}
