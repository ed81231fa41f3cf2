//! Which range of ids goes where.

use alloc::collections::BTreeMap;

/// Values by inclusive ranges of ids that do not overlap. A range that is set later takes over what it covers.
#[derive(Clone, Debug)]
pub(crate) struct Spans<V>(BTreeMap<u32, (u32, V)>);

impl<V> Default for Spans<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<V: Clone> Spans<V> {
    /// The first range that overlaps `first..=last`.
    pub(crate) fn overlap(&self, first: u32, last: u32) -> Option<(u32, u32, &V)> {
        let before = self.0.range(..=first).next_back().filter(|(_, (end, _))| *end >= first);
        let (start, (end, value)) =
            before.or_else(|| self.0.range(first..=last.max(first)).next())?;
        (*start <= last).then_some((*start, *end, value))
    }

    /// Gives `first..=last` to `value`, whoever had it.
    pub(crate) fn set(&mut self, first: u32, last: u32, value: V) {
        self.clear(first, last);
        if first <= last {
            self.0.insert(first, (last, value));
        }
    }

    /// Takes `first..=last` from whoever has it.
    pub(crate) fn clear(&mut self, first: u32, last: u32) {
        while let Some((start, end, value)) =
            self.overlap(first, last).map(|(s, e, v)| (s, e, v.clone()))
        {
            self.0.remove(&start);
            if let Some(before) = first.checked_sub(1).filter(|before| *before >= start) {
                self.0.insert(start, (before, value.clone()));
            }
            if let Some(after) = last.checked_add(1).filter(|after| *after <= end) {
                self.0.insert(after, (end, value));
            }
        }
    }

    /// Gives to `value` what nobody has of `first..=last`.
    pub(crate) fn fill(&mut self, first: u32, last: u32, value: &V) {
        let mut from = Some(first);
        while let Some(start) = from.filter(|start| *start <= last) {
            match self.overlap(start, last).map(|(s, e, _)| (s, e)) {
                Some((taken, end)) => {
                    if let Some(before) = taken.checked_sub(1).filter(|before| *before >= start) {
                        self.0.insert(start, (before, value.clone()));
                    }
                    from = end.checked_add(1);
                }
                None => {
                    self.0.insert(start, (last, value.clone()));
                    from = None;
                }
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All ranges, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, u32, &V)> {
        self.0.iter().map(|(first, (last, value))| (*first, *last, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// Against an array, for every pair of ranges in a small space.
    #[test]
    fn ranges_behave_like_an_array_of_values() {
        for seed in 0..2000u32 {
            let mut random = seed.wrapping_mul(0x9e37_79b9) | 1;
            let mut next = || {
                random ^= random << 13;
                random ^= random >> 17;
                random ^= random << 5;
                random
            };
            let (mut spans, mut array) = (Spans::default(), [None; 16]);
            for value in 0..6u32 {
                let (a, b) = (next() % 16, next() % 16);
                let (first, last) = (a.min(b), a.max(b));
                let slots = first as usize..=last as usize;
                match next() % 3 {
                    0 => {
                        spans.fill(first, last, &value);
                        array[slots].iter_mut().for_each(|slot| *slot = slot.or(Some(value)));
                    }
                    1 => {
                        spans.clear(first, last);
                        array[slots].fill(None);
                    }
                    _ => {
                        spans.set(first, last, value);
                        array[slots].fill(Some(value));
                    }
                }
            }
            let seen: Vec<_> = (0..16).map(|at| spans.overlap(at, at).map(|it| *it.2)).collect();
            assert_eq!(seen, array, "seed {seed}");
        }
    }

    #[test]
    fn the_ends_of_the_space_are_ids_too() {
        let mut spans = Spans::default();
        spans.fill(0, u32::MAX, &1);
        spans.set(u32::MAX, u32::MAX, 2);
        spans.set(0, 0, 3);
        let all: Vec<_> = spans.iter().map(|(first, last, value)| (first, last, *value)).collect();
        assert_eq!(all, [(0, 0, 3), (1, u32::MAX - 1, 1), (u32::MAX, u32::MAX, 2)]);
    }
}
