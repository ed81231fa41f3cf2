//! Random schedules.

use super::outcome::{Finds, Pulse};
use super::{
    Broken, Control, Mode, Model, Outcome, Progress, PropertySet, Steps, Taken, ThreadStatus,
};
use crate::schedule::{Move, Schedule};

/// A run longer than this is cut; it counts, but its end is not judged.
const LONGEST: usize = 1_000_000;

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `n`, which is not 0, all with the same probability.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }
}

/// Decides who goes next.
trait Chooser {
    fn begin(&mut self, threads: usize, rng: &mut Rng);
    /// One of `ready`, which is not empty.
    fn pick(&mut self, ready: &[usize], at: usize, rng: &mut Rng) -> usize;
    /// A run has ended after that many steps.
    fn ended(&mut self, steps: usize);
}

struct Evenly;

impl Chooser for Evenly {
    fn begin(&mut self, _: usize, _: &mut Rng) {}

    fn pick(&mut self, ready: &[usize], _: usize, rng: &mut Rng) -> usize {
        ready[rng.below(ready.len())]
    }

    fn ended(&mut self, _: usize) {}
}

/// The highest priority goes first; at each change point the running thread falls below all others.
struct Priorities {
    depth: u32,
    of: Vec<u64>,
    changes: Vec<usize>,
    longest: usize,
    lowest: u64,
}

impl Chooser for Priorities {
    fn begin(&mut self, threads: usize, rng: &mut Rng) {
        self.of = (0..threads).map(|_| (1 << 32) | (rng.next() >> 32)).collect();
        self.changes = (1..self.depth).map(|_| rng.below(self.longest.max(1))).collect();
        self.lowest = 1 << 31;
    }

    fn pick(&mut self, ready: &[usize], at: usize, _: &mut Rng) -> usize {
        let of = &self.of;
        let top = |of: &[u64]| ready.iter().copied().max_by_key(|&t| (of[t], t));
        let first = top(of).unwrap_or(ready[0]);
        if !self.changes.contains(&at) {
            return first;
        }
        self.lowest -= 1;
        self.of[first] = self.lowest;
        top(&self.of).unwrap_or(first)
    }

    fn ended(&mut self, steps: usize) {
        self.longest = self.longest.max(steps);
    }
}

pub(crate) fn random<M: Model>(
    model: &M,
    world: &str,
    runs: u64,
    seed: u64,
    control: &mut Control<'_>,
) -> Result<Outcome, Broken> {
    Sampler::new(model, Mode::Random, seed).run(world, runs, &mut Evenly, control)
}

pub(crate) fn pct<M: Model>(
    model: &M,
    world: &str,
    depth: u32,
    runs: u64,
    seed: u64,
    control: &mut Control<'_>,
) -> Result<Outcome, Broken> {
    let mut chooser =
        Priorities { depth, of: Vec::new(), changes: Vec::new(), longest: 0, lowest: 0 };
    Sampler::new(model, Mode::Pct(depth), seed).run(world, runs, &mut chooser, control)
}

struct Sampler<'m, M: Model> {
    model: &'m M,
    mode: Mode,
    rng: Rng,
    finds: Finds<Vec<Move>>,
    moves: Vec<Move>,
    /// Successors of each thread in the present state.
    ready: Vec<Steps<M::State>>,
    schedules: u64,
    transitions: u64,
    depth: u64,
    pulse: Pulse,
}

impl<'m, M: Model> Sampler<'m, M> {
    fn new(model: &'m M, mode: Mode, seed: u64) -> Self {
        let ready = (0..model.thread_count()).map(|_| Steps::new()).collect();
        Self {
            model,
            mode,
            rng: Rng::new(seed),
            finds: Finds::new(model.properties()),
            moves: Vec::new(),
            ready,
            schedules: 0,
            transitions: 0,
            depth: 0,
            pulse: Pulse::new(),
        }
    }

    fn run(
        mut self,
        world: &str,
        runs: u64,
        chooser: &mut dyn Chooser,
        control: &mut Control<'_>,
    ) -> Result<Outcome, Broken> {
        while self.schedules < runs {
            self.one(world, chooser)?;
            let full = control.max_states.is_some_and(|max| self.transitions >= max);
            let go_on = self.pulse.beat(control, false, |seconds| self.progress(seconds, false));
            if !go_on || full || control.stop_at_first && self.finds.violations() > 0 {
                break;
            }
        }
        self.pulse.beat(control, true, |seconds| self.progress(seconds, true));
        let complete = self.schedules == runs;
        Ok(self.outcome(world, complete))
    }

    /// Runs one schedule to its end.
    fn one(&mut self, world: &str, chooser: &mut dyn Chooser) -> Result<(), Broken> {
        let threads = self.model.thread_count();
        chooser.begin(threads, &mut self.rng);
        self.moves.clear();
        let mut state = self.model.initial();
        self.note(self.model.hits(&state));
        let mut ready = Vec::with_capacity(threads);
        while self.moves.len() < LONGEST {
            self.look_around(&state, &mut ready, world)?;
            if ready.is_empty() {
                self.end(&state);
                break;
            }
            let thread = chooser.pick(&ready, self.moves.len(), &mut self.rng);
            let choice = self.rng.below(self.ready[thread].taken.len());
            let Taken { state: next, hits, .. } = self.ready[thread].taken.swap_remove(choice);
            self.moves.push(Move { thread: thread as u16, choice: choice as u16 });
            self.transitions += 1;
            self.note(hits.with(self.model.hits(&next)));
            state = next;
        }
        self.depth = self.depth.max(self.moves.len() as u64);
        self.schedules += 1;
        chooser.ended(self.moves.len());
        Ok(())
    }

    /// Computes what each thread could do in `state`.
    fn look_around(
        &mut self,
        state: &M::State,
        ready: &mut Vec<usize>,
        world: &str,
    ) -> Result<(), Broken> {
        ready.clear();
        for (thread, steps) in self.ready.iter_mut().enumerate() {
            steps.clear();
            self.model.step(state, thread, steps);
            if let Some(fault) = steps.fault.take() {
                let schedule = Schedule::new(world, self.moves.clone());
                return Err(Broken { fault, schedule });
            }
            if !steps.taken.is_empty() {
                ready.push(thread);
            }
        }
        Ok(())
    }

    fn end(&mut self, state: &M::State) {
        let blocked = (0..self.model.thread_count())
            .any(|t| self.model.status(state, t) == ThreadStatus::Blocked);
        let deadlock = if blocked { PropertySet::DEADLOCK } else { PropertySet::EMPTY };
        self.note(deadlock.with(self.model.unmet(state)));
    }

    fn note(&mut self, hits: PropertySet) {
        let moves = &self.moves;
        self.finds.note(hits, || moves.clone());
    }

    fn progress(&self, seconds: f64, done: bool) -> Progress {
        Progress {
            mode: self.mode,
            states: self.transitions,
            frontier: 0,
            transitions: self.transitions,
            schedules: self.schedules,
            depth: self.depth,
            violations: self.finds.violations(),
            seconds,
            done,
        }
    }

    fn outcome(self, world: &str, complete: bool) -> Outcome {
        let (violations, reached) =
            self.finds.results(|_, moves| (Schedule::new(world, moves.clone()), false));
        Outcome {
            mode: self.mode,
            complete,
            states: self.transitions,
            transitions: self.transitions,
            schedules: self.schedules,
            depth: self.depth,
            seconds: self.pulse.seconds(),
            bytes: 0,
            restarts: 0,
            violations,
            reached,
        }
    }
}
