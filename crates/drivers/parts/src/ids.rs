//! The small numbers under which hardware tags what it caches: ASIDs, VMIDs, PSCIDs.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use portcullis_platform::{LockLabel, RawAtomic};

/// Which ids are in use. Taking and freeing needs a lock of the caller's ([`Search`] lives under it); looking does not.
#[derive(Debug)]
pub struct Ids<A> {
    /// One bit each.
    used: Vec<A>,
}

/// Where the search for a free id goes on, so that ids are reused as late as possible.
#[derive(Debug)]
pub struct Search(usize);

impl Search {
    /// Begins with id 1.
    pub const START: Self = Self(1);
}

impl<A: RawAtomic> Ids<A> {
    /// The ids `1..count`, all free. Id 0 is never given out.
    pub fn new(count: usize, label: LockLabel) -> Self {
        let used: Vec<A> = (0..count.div_ceil(64)).map(|_| A::new(label, 0)).collect();
        for id in (count..used.len() * 64).chain([0]) {
            used[id / 64].fetch_or(1 << (id % 64), Ordering::Relaxed);
        }
        Self { used }
    }

    /// Whether somebody has the id.
    #[inline]
    pub fn is_used(&self, id: u16) -> bool {
        let word = self.used.get(usize::from(id) / 64);
        word.is_some_and(|word| id != 0 && word.load(Ordering::Acquire) >> (id % 64) & 1 == 1)
    }

    /// Takes a free one; `None` where there is none below 2^16.
    pub fn take(&self, search: &mut Search) -> Option<u16> {
        let words = self.used.len();
        // One word more than there are: the first is looked at again for the ids below `search`.
        for step in 0..=words {
            let word = (search.0 / 64 + step) % words;
            let skipped = if step == 0 { (1u64 << (search.0 % 64)) - 1 } else { 0 };
            let free = !(self.used[word].load(Ordering::Relaxed) | skipped);
            if free != 0 {
                let bit = free.trailing_zeros() as usize;
                self.used[word].fetch_or(1 << bit, Ordering::Release);
                let id = word * 64 + bit;
                search.0 = (id + 1) % (words * 64);
                return u16::try_from(id).ok();
            }
        }
        None
    }

    /// Takes this one, if nobody has it.
    pub fn reserve(&self, id: u16) -> bool {
        let (word, bit) = (self.used.get(usize::from(id) / 64), 1 << (id % 64));
        word.is_some_and(|word| word.fetch_or(bit, Ordering::AcqRel) & bit == 0)
    }

    /// Gives one back.
    pub fn free(&self, id: u16) {
        self.used[usize::from(id) / 64].fetch_and(!(1 << (id % 64)), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_platform::NativeAtomic;

    #[test]
    fn ids_are_reused_as_late_as_possible() {
        let ids = Ids::<NativeAtomic>::new(4, LockLabel::new("test", 0));
        let mut search = Search::START;
        assert_eq!([1, 2, 3].map(|_| ids.take(&mut search)), [Some(1), Some(2), Some(3)]);
        assert_eq!(ids.take(&mut search), None);
        ids.free(2);
        ids.free(1);
        assert!(!ids.is_used(0) && !ids.is_used(2) && ids.is_used(3) && !ids.is_used(64));
        assert_eq!([ids.take(&mut search), ids.take(&mut search)], [Some(1), Some(2)]);
        assert_eq!(ids.take(&mut search), None);
    }

    #[test]
    fn an_id_can_be_reserved_once() {
        let ids = Ids::<NativeAtomic>::new(4, LockLabel::new("test", 0));
        assert!(ids.reserve(2) && !ids.reserve(2) && !ids.reserve(0) && !ids.reserve(64));
        let mut search = Search::START;
        assert_eq!([1, 2, 3].map(|_| ids.take(&mut search)), [Some(1), Some(3), None]);
    }
}
