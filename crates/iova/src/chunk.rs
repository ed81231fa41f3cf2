//! 16 MiB of addresses, cut into slabs of equal ranges.

use crate::error::AllocateError;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use portcullis_platform::{LockLabel, Platform, RawAtomic};

/// The most slabs of a chunk.
pub(crate) const SLABS: usize = 64;
/// The most ranges of a slab: the bits of a word.
const RANGES_LOG2: u32 = 6;
/// log2 of the words of a cache line.
const LINE_LOG2: u32 = 3;
/// A size is served where a chunk has at least so many ranges of it.
const FEWEST_LOG2: u32 = 3;

/// Ranges of 2^n pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Class(u8);

impl Class {
    /// How many classes chunks of 2^`chunk_log2` pages serve.
    pub(crate) fn count(chunk_log2: u32) -> u32 {
        (chunk_log2 + 1).saturating_sub(FEWEST_LOG2)
    }

    /// The smallest class with ranges of `pages` pages or more, where it is one of the first `count`.
    #[inline(always)]
    pub(crate) fn of(pages: u64, count: u32) -> Option<Self> {
        // No pages are more than all.
        let log2 = u64::BITS - pages.wrapping_sub(1).leading_zeros();
        (log2 < count).then_some(Self(log2 as u8))
    }

    #[inline(always)]
    pub(crate) fn number(self) -> usize {
        usize::from(self.0)
    }

    /// Pages of a range.
    #[inline(always)]
    pub(crate) fn pages(self) -> u64 {
        1 << self.0
    }

    /// Whether ranges can be shorter than their class's: there is no number of pages between 1 and 2.
    #[inline(always)]
    fn has_lengths(self) -> bool {
        self.0 >= 2
    }
}

/// What stands where a range was to be given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// No range that is out.
    Free,
    /// A range of another number of pages.
    Live(u64),
}

/// One chunk.
///
/// A set bit in `free` is a range that can be taken. A chunk that is not attached has no bit set; it keeps its memory for the next time.
pub(crate) struct Chunk<A> {
    class: Class,
    /// log2 of the ranges of a slab.
    ranges_log2: u8,
    /// A slab with so many free ranges is worth taking from: a quarter of a large slab, half of a small one.
    enough: u8,
    attached: A,
    /// Slabs that are worth taking from: enough of their ranges came back, and no CPU has claimed them since.
    offered: A,
    /// A word a slab, 2^`spread` places apart.
    free: Box<[A]>,
    /// Slabs of one chunk that different CPUs take from must not share a cache line.
    spread: u8,
    /// Pages of each range that is out, for classes where they can be fewer than the class's.
    lengths: Box<[A]>,
}

impl<A: RawAtomic> Chunk<A> {
    /// A chunk of 2^`chunk_log2` pages for `class`, detached.
    pub(crate) fn boxed(class: Class, chunk_log2: u32) -> Result<Box<[Self; 1]>, AllocateError> {
        let ranges_log2 = (chunk_log2 - u32::from(class.0)).min(RANGES_LOG2);
        let slabs_log2 = chunk_log2 - u32::from(class.0) - ranges_log2;
        let count = if class.has_lengths() { 1 << (slabs_log2 + ranges_log2) } else { 0 };
        let spread = if slabs_log2 == 0 { 0 } else { LINE_LOG2 };
        let chunk = Self {
            class,
            ranges_log2: ranges_log2 as u8,
            enough: (1u8 << ranges_log2).div_ceil(if ranges_log2 == RANGES_LOG2 { 4 } else { 2 }),
            attached: A::new(LABEL, 0),
            offered: A::new(LABEL, 0),
            free: zeroes(1 << (slabs_log2 + spread))?,
            spread: spread as u8,
            lengths: zeroes(count)?,
        };
        let mut list = Vec::new();
        list.try_reserve_exact(1).map_err(|_| AllocateError::NoMemory)?;
        list.push(chunk);
        Ok(list.into_boxed_slice().try_into().unwrap_or_else(|_| unreachable!("one was pushed")))
    }

    pub(crate) fn class(&self) -> Class {
        self.class
    }

    #[inline(always)]
    pub(crate) fn is_attached(&self) -> bool {
        self.attached.load(Ordering::Acquire) != 0
    }

    fn slabs(&self) -> usize {
        self.free.len() >> self.spread
    }

    /// The slabs' words.
    fn words(&self) -> impl Iterator<Item = &A> {
        self.free.iter().step_by(1 << self.spread)
    }

    /// The word of a slab, if there is one of that number.
    #[inline(always)]
    fn word(&self, slab: usize) -> Option<&A> {
        self.free.get(slab << self.spread)
    }

    /// A slab with every range free.
    fn all(&self) -> u64 {
        u64::MAX >> (64 - (1u32 << self.ranges_log2))
    }

    /// Makes all ranges free; says whether slabs other than the first are offered. Under the tree's lock, with the chunk's addresses taken from the tree.
    pub(crate) fn attach(&self) -> bool {
        self.words().for_each(|slab| slab.store(self.all(), Ordering::Relaxed));
        let others = (u64::MAX >> (64 - self.slabs())) & !1;
        self.offered.store(others, Ordering::Relaxed);
        self.attached.store(1, Ordering::Release);
        others != 0
    }

    /// Ends the use of a chunk without a range that is out; says whether there is none. Under the tree's lock.
    pub(crate) fn detach(&self) -> bool {
        let all = self.all();
        let claim =
            |slab: &A| slab.compare_exchange(all, 0, Ordering::Acquire, Ordering::Relaxed).is_ok();
        let claimed = self.words().take_while(|slab| claim(slab)).count();
        if claimed < self.slabs() {
            let back = self.words().take(claimed);
            back.for_each(|slab| _ = slab.fetch_or(all, Ordering::Release));
            return false;
        }
        self.attached.store(0, Ordering::Release);
        true
    }

    /// Takes a range of the slab for `pages` pages; gives its first page.
    #[inline(always)]
    pub(crate) fn take<P: Platform>(&self, class: Class, slab: usize, pages: u64) -> Option<u64> {
        let word = self.word(slab)?;
        let mut free = word.load(Ordering::Relaxed);
        loop {
            if free == 0 {
                return None;
            }
            let bit = free.trailing_zeros();
            let rest = free & (free - 1);
            let taken = if P::omits("take-in-one-step") {
                word.store(rest, Ordering::Release);
                Ok(())
            } else {
                // What was looked at is what is exchanged, so one look is enough.
                word.compare_exchange(free, rest, Ordering::Acquire, Ordering::Relaxed)
            };
            match taken {
                Err(found) => free = found,
                // A bit in a detached chunk was set by somebody who gave back twice just when the chunk went.
                Ok(()) if !self.is_attached() => return None,
                Ok(()) => return Some(self.hand_out(class, slab, bit, pages)),
            }
        }
    }

    /// The first page of the range that was taken at `bit` of `slab`.
    #[inline(always)]
    fn hand_out(&self, class: Class, slab: usize, bit: u32, pages: u64) -> u64 {
        let range = (slab << self.ranges_log2) + bit as usize;
        if class.has_lengths() {
            self.lengths[range].store(pages, Ordering::Relaxed);
        }
        (range as u64) << class.0
    }

    /// Gives the range that begins with `page` back, if it is out and has `pages` pages (`None`: no number of pages that it could have). Says which slab is worth offering
    /// now: one release tells.
    #[inline(always)]
    pub(crate) fn give(&self, page: u64, pages: Option<u64>) -> Result<Option<usize>, Found> {
        let range = (page >> self.class.0) as usize;
        let (slab, bit) = (range >> self.ranges_log2, range & ((1 << self.ranges_log2) - 1));
        let word = &self.free[slab << self.spread];
        let live = if self.class.has_lengths() {
            self.lengths[range].load(Ordering::Relaxed)
        } else {
            self.class.pages()
        };
        if page & (self.class.pages() - 1) != 0 || pages != Some(live) {
            let begins = page & (self.class.pages() - 1) == 0;
            let out = begins && word.load(Ordering::Relaxed) >> bit & 1 == 0;
            return Err(if out { Found::Live(live) } else { Found::Free });
        }
        let old = word.fetch_or(1 << bit, Ordering::Release);
        if old >> bit & 1 == 1 {
            return Err(Found::Free);
        }
        Ok((old.count_ones() + 1 == u32::from(self.enough)).then_some(slab))
    }

    pub(crate) fn offer(&self, slab: usize) {
        self.offered.fetch_or(1 << slab, Ordering::AcqRel);
    }

    pub(crate) fn has_offer(&self) -> bool {
        self.offered.load(Ordering::Acquire) != 0
    }

    /// Takes an offered slab for a CPU.
    pub(crate) fn claim_offer(&self) -> Option<usize> {
        let mut offered = self.offered.load(Ordering::Acquire);
        while offered != 0 {
            let slab = offered.trailing_zeros();
            let old = self.offered.fetch_and(!(1 << slab), Ordering::AcqRel);
            if old >> slab & 1 == 1 {
                return Some(slab as usize);
            }
            offered = old & !(1 << slab);
        }
        None
    }

    /// First page and number of pages of each range that is out, ascending.
    pub(crate) fn live(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let ranges = self.slabs() << self.ranges_log2;
        let is_out = |range: &usize| {
            let slab = (range >> self.ranges_log2) << self.spread;
            let word = self.free[slab].load(Ordering::Acquire);
            word >> (range & ((1 << self.ranges_log2) - 1)) & 1 == 0
        };
        (0..ranges).filter(is_out).map(|range| {
            let length = self.lengths.get(range).map(|length| length.load(Ordering::Relaxed));
            ((range as u64) << self.class.0, length.unwrap_or(self.class.pages()))
        })
    }

    /// Heap memory, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.free) + size_of_val(&*self.lengths)
    }
}

const LABEL: LockLabel = LockLabel::new("slab", 0);

/// `count` words of 0.
fn zeroes<A: RawAtomic>(count: usize) -> Result<Box<[A]>, AllocateError> {
    let mut words = Vec::new();
    words.try_reserve_exact(count).map_err(|_| AllocateError::NoMemory)?;
    words.resize_with(count, || A::new(LABEL, 0));
    Ok(words.into_boxed_slice())
}
