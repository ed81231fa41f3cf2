//! Disjoint sets over indices.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Which indices are in one set.
pub(crate) struct Sets(Vec<usize>);

impl Sets {
    /// `len` sets of one index each.
    pub(crate) fn new(len: usize) -> Self {
        Self((0..len).collect())
    }

    fn root(&mut self, mut at: usize) -> usize {
        while let Some(above) = self.0.get(at).copied().filter(|above| *above != at) {
            let next = self.0.get(above).copied().unwrap_or(above);
            // Halve the way for who comes next.
            if let Some(slot) = self.0.get_mut(at) {
                *slot = next;
            }
            at = next;
        }
        at
    }

    /// Makes one set of two; the lower root stays.
    pub(crate) fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.root(one), self.root(other));
        if let Some(slot) = self.0.get_mut(one.max(other)) {
            *slot = one.min(other);
        }
    }

    /// Makes one set of all.
    pub(crate) fn join_all(&mut self, members: impl IntoIterator<Item = usize>) {
        let mut members = members.into_iter();
        if let Some(first) = members.next() {
            members.for_each(|other| self.join(first, other));
        }
    }

    /// For each index the number of its set, in order of first member.
    pub(crate) fn numbers(mut self) -> Vec<usize> {
        let mut numbers = BTreeMap::new();
        (0..self.0.len())
            .map(|at| {
                let next = numbers.len();
                *numbers.entry(self.root(at)).or_insert(next)
            })
            .collect()
    }
}
