//! Every Mazurkiewicz trace once: source sets and sleep sets.

use crate::execute::{Director, Stage};
use crate::op::{Kind, MAX_THREADS};
use crate::random::Rng;
use crate::trace::{Clock, Trace};

/// One decision on the path of the current execution.
#[derive(Clone, Copy, Debug)]
enum Node {
    /// Which thread goes next.
    Pick {
        chosen: u8,
        /// Threads that must be tried here: a source set in the end.
        backtrack: u32,
        /// Threads tried here before.
        done: u32,
        /// Threads whose next step was explored before from an equivalent state.
        sleep: u32,
    },
    /// The environment's choice.
    Choice { chosen: u8, n: u8 },
}

/// The search: a stack of decisions, deepest last.
#[derive(Debug, Default)]
pub(crate) struct Dpor {
    stack: Vec<Node>,
    /// How many decisions of the current execution have been made.
    depth: usize,
    /// The sleep set of the next decision, when it is new.
    sleep: u32,
    /// From this depth on, the current execution explores something new.
    fresh: usize,
}

impl Dpor {
    /// Moves on to the next execution; `false` when all are done.
    pub(crate) fn advance(&mut self) -> bool {
        self.depth = 0;
        self.sleep = 0;
        while let Some(top) = self.stack.last_mut() {
            match top {
                Node::Choice { chosen, n } if *chosen + 1 < *n => {
                    *chosen += 1;
                    break;
                }
                Node::Choice { .. } => {}
                Node::Pick { chosen, backtrack, done, sleep } => {
                    *done |= 1 << *chosen;
                    let left = *backtrack & !*done & !*sleep;
                    if left != 0 {
                        *chosen = left.trailing_zeros() as u8;
                        break;
                    }
                }
            }
            self.stack.pop();
        }
        self.fresh = self.stack.len();
        !self.stack.is_empty()
    }

    /// How far through the first decisions: a rough measure of progress in 0..=1.
    pub(crate) fn covered(&self) -> f64 {
        let mut share = 1.0;
        let mut covered = 0.0;
        for node in self.stack.iter().take(24) {
            let (past, all) = match *node {
                Node::Pick { backtrack, done, sleep, .. } => {
                    ((done & backtrack).count_ones(), (backtrack & !sleep).count_ones().max(1))
                }
                Node::Choice { chosen, n } => (u32::from(chosen), u32::from(n)),
            };
            covered += share * f64::from(past) / f64::from(all);
            share /= f64::from(all);
        }
        covered
    }

    /// Where event `earlier` was scheduled, its thread can be overtaken by `thread`, whose racing step knows `clock` and comes after all events below `end`.
    fn reverse(&mut self, trace: &Trace, earlier: u32, end: u32, thread: u8, clock: &Clock) {
        let (initials, first) = initials(trace, earlier, end, thread, clock);
        let node = trace.events[earlier as usize].node as usize;
        let Node::Pick { backtrack, sleep, .. } = &mut self.stack[node] else {
            unreachable!("an event is scheduled by a pick");
        };
        if initials & (*backtrack | *sleep) == 0 {
            let choice = if initials & 1 << thread != 0 { thread } else { first };
            *backtrack |= 1 << choice;
        }
    }
}

/// The threads that can go first in the sequence of all events after `earlier` that do not depend on it, followed by `thread`'s step; and the one that does go first.
fn initials(trace: &Trace, earlier: u32, end: u32, thread: u8, clock: &Clock) -> (u32, u8) {
    let mut first_event = [0_u32; MAX_THREADS];
    let (mut seen, mut initials, mut first) = (0_u32, 0_u32, u8::MAX);
    let behind_none = |seen: u32, first_event: &[u32; MAX_THREADS], clock: &Clock| {
        let mut left = seen;
        while left != 0 {
            let other = left.trailing_zeros() as usize;
            left &= left - 1;
            if clock[other] >= trace.events[first_event[other] as usize].index {
                return false;
            }
        }
        true
    };
    for number in earlier + 1..end {
        let event = &trace.events[number as usize];
        let bit = 1 << event.thread;
        if seen & bit != 0 || trace.ordered(earlier, number) {
            continue;
        }
        if behind_none(seen, &first_event, trace.clock(number)) {
            initials |= bit;
        }
        if seen == 0 {
            first = event.thread;
        }
        seen |= bit;
        first_event[usize::from(event.thread)] = number;
    }
    if seen & 1 << thread == 0 && behind_none(seen, &first_event, clock) {
        initials |= 1 << thread;
    }
    (initials, if first == u8::MAX { thread } else { first })
}

impl Director for Dpor {
    fn pick(&mut self, _: &Stage<'_>, enabled: u32, last: u8) -> Option<u8> {
        if let Some(&node) = self.stack.get(self.depth) {
            let Node::Pick { chosen, .. } = node else {
                panic!("the world is not deterministic: a thread is due where a choice was made");
            };
            assert!(enabled & 1 << chosen != 0, "the world is not deterministic");
            self.depth += 1;
            return Some(chosen);
        }
        let awake = enabled & !self.sleep;
        if awake == 0 {
            return None;
        }
        let stay = last != u8::MAX && awake & 1 << last != 0;
        let chosen = if stay { last } else { awake.trailing_zeros() as u8 };
        let sleep = self.sleep;
        self.stack.push(Node::Pick { chosen, backtrack: 1 << chosen, done: 0, sleep });
        self.depth += 1;
        Some(chosen)
    }

    fn applied(&mut self, stage: &Stage<'_>, event: u32) {
        let (trace, step) = (stage.trace, stage.trace.events[event as usize]);
        let Node::Pick { sleep, done, .. } = self.stack[self.depth - 1] else {
            unreachable!("a pick was taken a moment ago");
        };
        self.sleep = (sleep | done) & !(1 << step.thread);
        let mut left = self.sleep;
        while left != 0 {
            let sleeper = left.trailing_zeros();
            left &= left - 1;
            let op = stage.rt.pending[sleeper as usize].get();
            if op.is_none_or(|op| op.depends_on(step.kind, step.object)) {
                self.sleep &= !(1 << sleeper);
            }
        }
        // The races of a repeated prefix were seen when it was new; its last decision is.
        if self.depth < self.fresh {
            return;
        }
        let clock = match step.kind {
            Kind::Acquire => trace.before,
            _ => *trace.clock(event),
        };
        for at in 0..trace.races.len() {
            self.reverse(trace, trace.races[at], event, step.thread, &clock);
        }
    }

    fn stepped(&mut self, _: &Stage<'_>, _: u32, choices: &[(u8, u8)]) {
        for &(n, value) in choices {
            match self.stack.get(self.depth) {
                Some(&Node::Choice { chosen, n: known }) => {
                    assert!(known == n && chosen == value, "the world is not deterministic");
                }
                Some(Node::Pick { .. }) => panic!("the world is not deterministic: a new choice"),
                None => self.stack.push(Node::Choice { chosen: value, n }),
            }
            self.depth += 1;
        }
    }

    /// A thread that stays blocked on a lock races with whoever took it: had it come first, it would not be blocked.
    fn ended(&mut self, stage: &Stage<'_>) {
        let threads = stage.rt.threads.borrow().len();
        for thread in 0..threads {
            let Some(op) = stage.rt.pending[thread].get() else { continue };
            if op.kind != Kind::Acquire || stage.rt.load(op.object) == 0 {
                continue;
            }
            let Some(taken) = stage.trace.acquisition(op.object) else { continue };
            let clock = *stage.trace.knowledge(thread as u8);
            let end = stage.trace.events.len() as u32;
            if !crate::trace::knows(&clock, &stage.trace.events[taken as usize]) {
                self.reverse(stage.trace, taken, end, thread as u8, &clock);
            }
        }
    }

    fn choices(&mut self) -> (Vec<u8>, Option<Rng>) {
        let values = self.stack.iter().filter_map(|node| match node {
            Node::Choice { chosen, .. } => Some(*chosen),
            Node::Pick { .. } => None,
        });
        (values.collect(), None)
    }

    fn node(&self) -> u32 {
        self.depth as u32 - 1
    }
}

#[cfg(test)]
#[path = "dpor_tests.rs"]
mod tests;
