//! Which parts of a range of bytes are free.

use std::collections::BTreeMap;

/// Free and used extents of a range. First fit; neighbours merge when freed.
#[derive(Debug)]
pub(crate) struct Extents {
    free: BTreeMap<u64, u64>,
    used: BTreeMap<u64, u64>,
    used_bytes: u64,
}

impl Extents {
    /// `[start, end)`, all free.
    pub(crate) fn new(start: u64, end: u64) -> Self {
        let free = if start < end { BTreeMap::from([(start, end)]) } else { BTreeMap::new() };
        Self { free, used: BTreeMap::new(), used_bytes: 0 }
    }

    /// `size` bytes at the lowest multiple of `align` (a power of two) where they fit, none of them above `limit`.
    pub(crate) fn take(&mut self, size: u64, align: u64, limit: u64) -> Option<u64> {
        let fits = |(&start, &end): (&u64, &u64)| {
            let at = start.checked_next_multiple_of(align)?;
            let last = at.checked_add(size)?;
            (last <= end && last - 1 <= limit).then_some((start, end, at, last))
        };
        let (start, end, at, last) = self.free.iter().find_map(fits)?;
        self.free.remove(&start);
        if start < at {
            self.free.insert(start, at);
        }
        if last < end {
            self.free.insert(last, end);
        }
        self.used.insert(at, size);
        self.used_bytes += size;
        Some(at)
    }

    /// Gives back what [`take`](Self::take) returned at `at`; `false` when nothing of that size is in use there.
    pub(crate) fn give_back(&mut self, at: u64, size: u64) -> bool {
        if self.used.get(&at) != Some(&size) {
            return false;
        }
        self.used.remove(&at);
        self.used_bytes -= size;
        let mut start = at;
        let mut end = at + size;
        if let Some((&before, _)) = self.free.range(..at).next_back().filter(|(_, e)| **e == at) {
            self.free.remove(&before);
            start = before;
        }
        if let Some(after) = self.free.remove(&end) {
            end = after;
        }
        self.free.insert(start, end);
        true
    }

    /// Bytes in use.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_merges_to_one_extent() {
        let mut extents = Extents::new(0x1000, 0x10000);
        let a = extents.take(0x100, 64, u64::MAX).expect("room");
        let b = extents.take(0x1000, 0x1000, u64::MAX).expect("room");
        let c = extents.take(0x40, 64, u64::MAX).expect("room");
        assert_eq!((a, b, c), (0x1000, 0x2000, 0x1100));
        for (at, size) in [(b, 0x1000), (a, 0x100), (c, 0x40)] {
            assert!(extents.give_back(at, size));
        }
        assert_eq!(extents.free, BTreeMap::from([(0x1000, 0x10000)]));
        assert_eq!(extents.used_bytes(), 0);
    }

    #[test]
    fn nothing_is_handed_out_twice_or_outside() {
        let mut extents = Extents::new(0x1000, 0x3000);
        assert_eq!(extents.take(0x2000, 0x2000, u64::MAX), None);
        assert_eq!(extents.take(0x1000, 0x2000, u64::MAX), Some(0x2000));
        assert_eq!(extents.take(0x1000, 1, u64::MAX), Some(0x1000));
        assert_eq!(extents.take(1, 1, u64::MAX), None);
        assert!(!extents.give_back(0x1000, 0x800), "another size");
        assert!(extents.give_back(0x1000, 0x1000));
        assert!(!extents.give_back(0x1000, 0x1000), "twice");
    }
}
