//! Which pages of RAM are set apart for hardware, and as what they were allocated.

use alloc::boxed::Box;
use core::ops::Range;
use core::sync::atomic::{AtomicU8, Ordering};

/// Bytes of a page: the unit in which memory is set apart.
pub(crate) const PAGE: u64 = 4096;

/// Not allocated for hardware.
const FREE: u8 = 0;
/// Belongs to the allocation that begins before it.
const CONTINUED: u8 = 1;
/// An allocation begins here, aligned to two to the power of the rest.
const FIRST: u8 = 2;

/// One byte a page of RAM: 256 KiB a GiB. Whoever makes up an address finds its page free here, and gets no further.
pub(crate) struct Pages(Box<[AtomicU8]>);

impl Pages {
    /// `count` free pages.
    pub(crate) fn new(count: u64) -> Self {
        let count = usize::try_from(count).expect("RAM fits the address space");
        Self((0..count).map(|_| AtomicU8::new(FREE)).collect())
    }

    /// Whether all of them are allocated.
    #[inline]
    pub(crate) fn are_taken(&self, pages: Range<usize>) -> bool {
        let pages = self.0.get(pages);
        pages.is_some_and(|pages| pages.iter().all(|page| page.load(Ordering::Acquire) != FREE))
    }

    /// Notes an allocation with this alignment, a power of two.
    pub(crate) fn take(&self, pages: Range<usize>, align: usize) {
        for page in &self.0[pages.start + 1..pages.end] {
            page.store(CONTINUED, Ordering::Release);
        }
        self.0[pages.start].store(first(align), Ordering::Release);
    }

    /// Takes the note back; `false`, and nothing is changed, unless these pages are one allocation with this alignment. Of two that ask at the same time one is right.
    pub(crate) fn give_back(&self, pages: Range<usize>, align: usize) -> bool {
        let Some(own) = self.0.get(pages.clone()).filter(|own| !own.is_empty()) else {
            return false;
        };
        let is_continued = |page: &AtomicU8| page.load(Ordering::Acquire) == CONTINUED;
        let whole =
            own[1..].iter().all(is_continued) && !self.0.get(pages.end).is_some_and(is_continued);
        let claim =
            || own[0].compare_exchange(first(align), FREE, Ordering::AcqRel, Ordering::Relaxed);
        if !whole || claim().is_err() {
            return false;
        }
        own[1..].iter().for_each(|page| page.store(FREE, Ordering::Release));
        true
    }

    /// How many allocations there are.
    pub(crate) fn allocations(&self) -> usize {
        self.0.iter().filter(|page| page.load(Ordering::Relaxed) >= FIRST).count()
    }
}

const fn first(align: usize) -> u8 {
    FIRST + align.trailing_zeros() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_what_was_taken() {
        let pages = Pages::new(8);
        pages.take(1..3, 4096);
        pages.take(3..4, 16384);
        assert_eq!(pages.allocations(), 2);
        let wrong = [
            (1..2, 4096),
            (1..4, 4096),
            (2..3, 4096),
            (1..3, 8192),
            (0..1, 4096),
            (7..9, 4096),
            (1..1, 4096),
        ];
        for (range, align) in wrong {
            assert!(!pages.give_back(range.clone(), align), "{range:?} aligned to {align}");
        }
        assert!(
            pages.are_taken(1..4)
                && !pages.are_taken(0..2)
                && !pages.are_taken(3..5)
                && !pages.are_taken(7..9)
        );
        assert!(pages.give_back(1..3, 4096) && !pages.give_back(1..3, 4096));
        assert!(!pages.are_taken(1..2) && !pages.are_taken(2..3) && pages.are_taken(3..4));
        assert_eq!(pages.allocations(), 1);
    }
}
