//! 16 MiB of addresses, cut into slabs of equal ranges.

use crate::error::AllocateError;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU16, Ordering};
use portcullis_platform::{LockLabel, Platform, RawAtomic};

/// The most slabs of a chunk.
pub(crate) const SLABS: usize = 64;
/// The most ranges of a slab: the bits of a word.
const RANGES_LOG2: u32 = 6;
/// log2 of the lanes: slabs whose numbers differ in so many low bits have words on different cache lines, because different CPUs take from them.
const LANES_LOG2: u32 = 3;
/// log2 of the words from lane to lane: eight words of a lane, and as much again, so that no line has words of two lanes, wherever the first word is.
const LANE_LOG2: u32 = 4;
/// log2 of the lengths from lane to lane, where a lane has only one: a cache line.
const LENGTHS_LOG2: u32 = 5;
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
        // Up to the next power of two; no pages are more than all.
        let log2 = (pages << 1).wrapping_sub(1).checked_ilog2()?;
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

/// One chunk.
///
/// A set bit in `free` is a range that can be taken. A chunk that is not attached has no bit set; it keeps its memory for the next time.
pub(crate) struct Chunk<A> {
    class: Class,
    /// log2 of the ranges of a slab.
    ranges_log2: u8,
    /// A slab with so many free ranges is worth taking from: a quarter of a large slab, half of a small one.
    enough: u8,
    /// log2 of the slabs.
    slabs_log2: u8,
    notes: Notes,
    attached: A,
    /// Slabs that a CPU has taken from and no CPU takes from now.
    idle: A,
    /// How many slabs, from the first on, CPUs have taken from.
    used: A,
    /// A word a slab, in the order of [`place`].
    free: Box<[A]>,
    /// Pages of the ranges that are out, by [`Notes::of`]. No words of the platform: whoever has a range is the only one that writes or reads its length, but for a look at everything.
    lengths: Box<[AtomicU16]>,
}

/// Which length is a range's: one each, or, where ranges cannot be shorter than their class's, one for all slabs of a lane. Where there is a length for every class, no branch has to be foreseen.
#[derive(Clone, Copy)]
struct Notes {
    shift: u8,
    spread: u8,
    mask: u16,
}

impl Notes {
    fn new(class: Class, ranges: usize) -> Self {
        if class.has_lengths() {
            Self { shift: 0, spread: 0, mask: (ranges - 1) as u16 }
        } else {
            Self {
                shift: RANGES_LOG2 as u8,
                spread: LENGTHS_LOG2 as u8,
                mask: (1 << LANES_LOG2) - 1,
            }
        }
    }

    #[inline(always)]
    fn of(self, range: usize) -> usize {
        ((range >> self.shift) & usize::from(self.mask)) << self.spread
    }
}

/// Where the word of a slab stands.
#[inline(always)]
const fn place(slab: usize) -> usize {
    (slab & ((1 << LANES_LOG2) - 1)) << LANE_LOG2 | slab >> LANES_LOG2
}

impl<A: RawAtomic> Chunk<A> {
    /// A chunk of 2^`chunk_log2` pages for `class`, detached.
    pub(crate) fn boxed(class: Class, chunk_log2: u32) -> Result<Box<[Self; 1]>, AllocateError> {
        let ranges_log2 = (chunk_log2 - u32::from(class.0)).min(RANGES_LOG2);
        let slabs_log2 = chunk_log2 - u32::from(class.0) - ranges_log2;
        let notes = Notes::new(class, 1 << (slabs_log2 + ranges_log2));
        let chunk = Self {
            class,
            ranges_log2: ranges_log2 as u8,
            enough: (1u8 << ranges_log2).div_ceil(if ranges_log2 == RANGES_LOG2 { 4 } else { 2 }),
            slabs_log2: slabs_log2 as u8,
            notes,
            attached: A::new(LABEL, 0),
            idle: A::new(LABEL, 0),
            used: A::new(LABEL, 0),
            free: list(place((1 << slabs_log2) - 1) + 1, || A::new(LABEL, 0))?,
            // A length is written by whoever takes the range and counts for nothing before; zeroes are made by the word.
            lengths: list((usize::from(notes.mask) << notes.spread) + 1, || AtomicU16::new(0))?,
        };
        let mut one = Vec::new();
        one.try_reserve_exact(1).map_err(|_| AllocateError::NoMemory)?;
        one.push(chunk);
        Ok(one.into_boxed_slice().try_into().unwrap_or_else(|_| unreachable!("one was pushed")))
    }

    pub(crate) fn class(&self) -> Class {
        self.class
    }

    #[inline(always)]
    pub(crate) fn is_attached(&self) -> bool {
        self.attached.load(Ordering::Acquire) != 0
    }

    pub(crate) fn slabs(&self) -> usize {
        1 << self.slabs_log2
    }

    /// The slabs' words.
    fn words(&self) -> impl Iterator<Item = &A> {
        (0..self.slabs()).map(|slab| &self.free[place(slab)])
    }

    /// A slab with every range free.
    fn all(&self) -> u64 {
        u64::MAX >> (64 - (1u32 << self.ranges_log2))
    }

    /// Opens a detached chunk with all its ranges free; its first slab is the caller's. Under the tree's lock, with the chunk's addresses taken from the tree.
    pub(crate) fn attach(&self) {
        // Lane by lane: slab by slab it is 500 instructions, a sixth of what the first allocation of a size does.
        let (all, of_a_lane) = (self.all(), self.slabs().div_ceil(1 << LANES_LOG2));
        for lane in self.free.chunks(1 << LANE_LOG2) {
            lane.iter().take(of_a_lane).for_each(|slab| slab.store(all, Ordering::Relaxed));
        }
        self.idle.store(0, Ordering::Relaxed);
        self.used.store(1, Ordering::Relaxed);
        self.attached.store(1, Ordering::Release);
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
    pub(crate) fn take<P: Platform>(&self, slab: usize, pages: u64) -> Option<u64> {
        let word = self.free.get(place(slab))?;
        let mut free = word.load(Ordering::Relaxed);
        loop {
            if free == 0 {
                return None;
            }
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
                Ok(()) => {
                    let range = (slab << self.ranges_log2) + free.trailing_zeros() as usize;
                    self.length(range)?.store(pages as u16, Ordering::Relaxed);
                    return Some((range as u64) << self.class.0);
                }
            }
        }
    }

    /// Where the length of a range is noted; every range of the chunk has such a place.
    #[inline(always)]
    fn length(&self, range: usize) -> Option<&AtomicU16> {
        self.lengths.get(self.notes.of(range))
    }

    /// Gives the range that begins with `page` back; says whether it was out, with so many pages.
    #[inline(always)]
    pub(crate) fn give(&self, page: u64, pages: u64) -> Option<()> {
        let range = (page >> self.class.0) as usize;
        let live = self.length(range)?.load(Ordering::Relaxed);
        if (range as u64) << self.class.0 != page || pages != u64::from(live) {
            return None;
        }
        let slab = range >> self.ranges_log2;
        let bit = 1 << (range & ((1 << self.ranges_log2) - 1));
        let old = self.free.get(place(slab))?.fetch_or(bit, Ordering::Release);
        (old & bit == 0).then_some(())
    }

    /// How many pages the range that begins with `page` has, if one is out.
    pub(crate) fn live_at(&self, page: u64) -> Option<u64> {
        self.live().find(|(first, _)| *first == page).map(|(_, pages)| pages)
    }

    /// No CPU takes from the slab any more.
    pub(crate) fn leave(&self, slab: usize) {
        self.idle.fetch_or(1 << slab, Ordering::Relaxed);
    }

    /// The slabs that a CPU has taken from and no CPU takes from now, a bit each.
    pub(crate) fn idle(&self) -> u64 {
        self.idle.load(Ordering::Relaxed)
    }

    /// Takes a slab for a CPU, if it is idle and has enough free ranges.
    pub(crate) fn claim_idle(&self, slab: usize) -> bool {
        let word = self.free.get(place(slab));
        let free = word.map_or(0, |word| word.load(Ordering::Relaxed).count_ones());
        free >= u32::from(self.enough)
            && self.idle.fetch_and(!(1 << slab), Ordering::Relaxed) >> slab & 1 == 1
    }

    /// Takes the next slab that no CPU has taken from, if there is one.
    pub(crate) fn claim_unused(&self) -> Option<usize> {
        let mut used = self.used.load(Ordering::Relaxed);
        while used < self.slabs() as u64 {
            match self.used.compare_exchange(used, used + 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(()) => return Some(used as usize),
                Err(found) => used = found,
            }
        }
        None
    }

    /// First page and number of pages of each range that is out, ascending.
    pub(crate) fn live(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let ranges = self.slabs() << self.ranges_log2;
        let is_out = |range: &usize| {
            let word = self.free[place(range >> self.ranges_log2)].load(Ordering::Acquire);
            word >> (range & ((1 << self.ranges_log2) - 1)) & 1 == 0
        };
        (0..ranges).filter(is_out).map(|range| {
            let pages = self.length(range).map_or(0, |length| length.load(Ordering::Relaxed));
            ((range as u64) << self.class.0, u64::from(pages))
        })
    }

    /// Heap memory, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.free) + size_of_val(&*self.lengths)
    }
}

const LABEL: LockLabel = LockLabel::new("slab", 0);

/// `count` values that `make` makes.
fn list<T>(count: usize, make: impl FnMut() -> T) -> Result<Box<[T]>, AllocateError> {
    let mut values = Vec::new();
    values.try_reserve_exact(count).map_err(|_| AllocateError::NoMemory)?;
    values.resize_with(count, make);
    Ok(values.into_boxed_slice())
}
