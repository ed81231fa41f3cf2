//! Some schedules: at random, by random priorities, or one that is given.

use crate::execute::{Director, Stage};
use crate::op::MAX_THREADS;
use crate::random::Rng;
use crate::schedule::{Decision, Schedule};

/// At each step any thread that can go, with equal chance.
#[derive(Debug)]
pub(crate) struct Random {
    rng: Rng,
}

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self { rng: Rng::new(seed) }
    }
}

impl Director for Random {
    fn pick(&mut self, _: &Stage<'_>, enabled: u32, _: u8) -> Option<u8> {
        let at = self.rng.below(enabled.count_ones());
        let rest = (0..at).fold(enabled, |set, _| set & (set - 1));
        Some(rest.trailing_zeros() as u8)
    }

    fn choices(&mut self) -> (Vec<u8>, Option<Rng>) {
        (Vec::new(), Some(Rng::new(self.rng.next())))
    }
}

/// Probabilistic concurrency testing: random priorities, lowered at `depth - 1` random steps (Burckhardt et al., ASPLOS 2010). A bug that `depth`
/// ordering constraints bring about is met with a chance of at least 1 / (threads * steps^(depth - 1)) in each execution.
#[derive(Debug)]
pub(crate) struct Pct {
    rng: Rng,
    depth: u32,
    /// The longest execution so far: change points are drawn from its length.
    longest: u32,
    step: u32,
    priority: [u32; MAX_THREADS],
    known: u32,
    changes: Vec<u32>,
}

impl Pct {
    pub(crate) fn new(depth: u32, seed: u64) -> Self {
        Self {
            rng: Rng::new(seed),
            depth: depth.max(1),
            longest: 16,
            step: 0,
            priority: [0; MAX_THREADS],
            known: 0,
            changes: Vec::new(),
        }
    }
}

impl Director for Pct {
    fn pick(&mut self, _: &Stage<'_>, enabled: u32, last: u8) -> Option<u8> {
        for thread in 0..MAX_THREADS {
            if enabled & !self.known & 1 << thread != 0 {
                self.priority[thread] = self.depth + self.rng.below(1 << 30);
                self.known |= 1 << thread;
            }
        }
        self.step += 1;
        self.longest = self.longest.max(self.step);
        if let Some(at) = self.changes.iter().position(|&change| change == self.step)
            && last != u8::MAX
        {
            self.priority[usize::from(last)] = at as u32;
        }
        (0..MAX_THREADS)
            .filter(|thread| enabled & 1 << thread != 0)
            .max_by_key(|&thread| (self.priority[thread], std::cmp::Reverse(thread)))
            .map(|thread| thread as u8)
    }

    fn choices(&mut self) -> (Vec<u8>, Option<Rng>) {
        self.step = 0;
        self.known = 0;
        let longest = self.longest;
        self.changes = (1..self.depth).map(|_| 1 + self.rng.below(longest)).collect();
        (Vec::new(), Some(Rng::new(self.rng.next())))
    }
}

/// Exactly the decisions given, then no more switches than needed.
#[derive(Debug)]
pub(crate) struct Follow<'a> {
    picks: Vec<u8>,
    at: usize,
    schedule: &'a Schedule,
    /// The first decision that could not be followed.
    pub(crate) misfit: Option<usize>,
}

impl<'a> Follow<'a> {
    pub(crate) fn new(schedule: &'a Schedule) -> Self {
        let picks = schedule.decisions().iter().filter_map(|decision| match decision {
            Decision::Thread(thread) => Some(*thread),
            Decision::Choice(_) => None,
        });
        Self { picks: picks.collect(), at: 0, schedule, misfit: None }
    }
}

impl Director for Follow<'_> {
    fn pick(&mut self, _: &Stage<'_>, enabled: u32, last: u8) -> Option<u8> {
        let wanted = self.picks.get(self.at).copied();
        self.at += 1;
        if let Some(thread) = wanted {
            if thread < MAX_THREADS as u8 && enabled & 1 << thread != 0 {
                return Some(thread);
            }
            self.misfit = self.misfit.or(Some(self.at));
            return None;
        }
        let stay = last != u8::MAX && enabled & 1 << last != 0;
        Some(if stay { last } else { enabled.trailing_zeros() as u8 })
    }

    fn choices(&mut self) -> (Vec<u8>, Option<Rng>) {
        let values = self.schedule.decisions().iter().filter_map(|decision| match decision {
            Decision::Choice(value) => Some(*value),
            Decision::Thread(_) => None,
        });
        (values.collect(), None)
    }
}
