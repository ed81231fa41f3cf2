//! Every schedule, one by one: no reduction, or only within a bound of preemptions.

use crate::execute::{Director, Stage};
use crate::random::Rng;
use std::collections::HashMap;

#[derive(Clone, Copy, Debug)]
struct Node {
    chosen: u8,
    /// Alternatives that are left, as a set of threads; for a choice, how many values there are.
    left: u32,
    choice: bool,
    /// Preemptions before this decision.
    spent: u16,
}

/// Depth-first enumeration.
#[derive(Debug, Default)]
pub(crate) struct Enumerate {
    stack: Vec<Node>,
    depth: usize,
    /// Preemptions allowed; `None` for any number.
    bound: Option<u16>,
    spent: u16,
    /// Prefixes seen: their partial order and the running thread, with the fewest preemptions spent so far. `None` turns it off.
    seen: Option<HashMap<(u128, u8), u16>>,
    fresh: usize,
}

impl Enumerate {
    /// All schedules with at most `bound` preemptions; `remember` gives up a prefix that is a reordering of one that was seen.
    pub(crate) fn new(bound: Option<u16>, remember: bool) -> Self {
        Self { bound, seen: remember.then(HashMap::new), ..Self::default() }
    }

    /// Moves on to the next execution; `false` when all are done.
    pub(crate) fn advance(&mut self) -> bool {
        self.depth = 0;
        self.spent = 0;
        while let Some(top) = self.stack.last_mut() {
            if top.choice && u32::from(top.chosen) + 1 < top.left {
                top.chosen += 1;
                break;
            }
            if !top.choice && top.left != 0 {
                top.chosen = top.left.trailing_zeros() as u8;
                top.left &= top.left - 1;
                break;
            }
            self.stack.pop();
        }
        self.fresh = self.stack.len();
        !self.stack.is_empty()
    }

    /// Whether an equal prefix was explored with at least as many preemptions to go.
    fn known(&mut self, stage: &Stage<'_>, last: u8) -> bool {
        let Some(seen) = &mut self.seen else { return false };
        let last = if self.bound.is_some() { last } else { u8::MAX };
        let spent = if self.bound.is_some() { self.spent } else { 0 };
        let mut known = true;
        seen.entry((stage.trace.fingerprint_of_all(), last))
            .and_modify(|least| {
                if *least > spent {
                    *least = spent;
                    known = false;
                }
            })
            .or_insert_with(|| {
                known = false;
                spent
            });
        known
    }
}

impl Director for Enumerate {
    fn pick(&mut self, stage: &Stage<'_>, enabled: u32, last: u8) -> Option<u8> {
        let can_stay = last != u8::MAX && enabled & 1 << last != 0;
        if let Some(&node) = self.stack.get(self.depth) {
            assert!(
                !node.choice && enabled & 1 << node.chosen != 0,
                "the world is not deterministic"
            );
            self.depth += 1;
            self.spent = node.spent + u16::from(can_stay && node.chosen != last);
            return Some(node.chosen);
        }
        if self.known(stage, last) {
            return None;
        }
        let chosen = if can_stay { last } else { enabled.trailing_zeros() as u8 };
        let exhausted = self.bound.is_some_and(|bound| self.spent >= bound);
        let left = if can_stay && exhausted { 0 } else { enabled & !(1 << chosen) };
        self.stack.push(Node { chosen, left, choice: false, spent: self.spent });
        self.depth += 1;
        Some(chosen)
    }

    fn stepped(&mut self, _: &Stage<'_>, _: u32, choices: &[(u8, u8)]) {
        for &(n, value) in choices {
            match self.stack.get(self.depth) {
                Some(node) => {
                    assert!(node.choice && node.chosen == value, "the world is not deterministic");
                }
                None => self.stack.push(Node {
                    chosen: value,
                    left: u32::from(n),
                    choice: true,
                    spent: self.spent,
                }),
            }
            self.depth += 1;
        }
    }

    fn choices(&mut self) -> (Vec<u8>, Option<Rng>) {
        (self.stack.iter().filter(|node| node.choice).map(|node| node.chosen).collect(), None)
    }
}
