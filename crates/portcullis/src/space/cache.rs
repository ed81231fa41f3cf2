//! Addresses that a CPU has given back and takes again next.
//!
//! Whoever has a CPU's slot of the gate to itself ([`Inside::slot`](crate::revocable::Inside::slot)) takes from that CPU's cache and gives back to it by plain loads and stores: taking the slot was the
//! atomic instruction that it costs. To everybody else in front of it, slabs and tree, what is cached is handed out. That a range is given back once is what the table sees: it was unmapped just before.

use core::sync::atomic::{AtomicU64, Ordering};
use portcullis_addr::{Iova, IovaRange};
use portcullis_iova::IovaRequest;
use portcullis_platform::{LockLabel, Platform, RawAtomic};

/// The most ranges that a CPU keeps for a lease: as many as Linux's network drivers complete at a time (`NAPI_POLL_WEIGHT`).
const MOST: usize = 64;
/// How many of them may be longer than [`LONG`], so that they hold no more than 32 MiB of addresses a CPU where ranges are up to 2 MiB.
const MOST_LONG: usize = 8;
/// Bytes.
const LONG: u64 = 256 << 10;
/// How far down a range is looked for that is not on top.
const LOOKS: usize = 8;

/// What one CPU keeps for one lease, as a stack: addresses used a moment ago have their tables in the CPU's cache.
///
/// The words are atomic so that reports can look at the count, and so that no more than addresses are lost if somebody writes who has not the slot; nothing is ordered by them. The explorer sees
/// the count, which says what the others hold.
pub(crate) struct AddressCache<P: Platform> {
    count: P::Atomic,
    /// First address and bytes.
    ranges: [(AtomicU64, AtomicU64); MOST],
}

impl<P: Platform> AddressCache<P> {
    /// Without a range.
    pub(super) fn new() -> Self {
        Self {
            count: P::Atomic::new(LockLabel::new("kept", 0), 0),
            ranges: [const { (AtomicU64::new(0), AtomicU64::new(0)) }; MOST],
        }
    }

    /// Ranges that are kept now.
    #[inline]
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed) as usize
    }

    #[inline]
    fn at(&self, place: usize) -> (u64, u64) {
        let (start, len) = &self.ranges[place % MOST];
        (start.load(Ordering::Relaxed), len.load(Ordering::Relaxed))
    }

    #[inline]
    fn put(&self, place: usize, (start, len): (u64, u64)) {
        let range = &self.ranges[place % MOST];
        range.0.store(start, Ordering::Relaxed);
        range.1.store(len, Ordering::Relaxed);
    }

    /// Takes a range that is what `request` asks for, if one is kept. For whoever has the slot.
    #[inline(always)]
    pub(super) fn take(&self, request: &IovaRequest) -> Option<IovaRange> {
        let top = self.count().checked_sub(1)?;
        let place = if self.meets(top, request) { top } else { self.find(top, request)? };
        let (start, len) = self.at(place);
        if place != top {
            // The last one fills the place.
            self.put(place, self.at(top));
        }
        self.count.store(top as u64, Ordering::Relaxed);
        IovaRange::new(Iova::new(start), len).ok()
    }

    /// A place below `top` with a range that is what `request` asks for.
    #[inline(never)]
    fn find(&self, top: usize, request: &IovaRequest) -> Option<usize> {
        (top.saturating_sub(LOOKS)..top).rev().find(|place| self.meets(*place, request))
    }

    #[inline]
    fn meets(&self, place: usize, request: &IovaRequest) -> bool {
        let (start, len) = self.at(place);
        request.is_met_by(Iova::new(start), len)
    }

    /// Keeps a range that is free; `false` where there is no room. For whoever has the slot.
    #[inline]
    pub(super) fn give(&self, range: IovaRange) -> bool {
        let count = self.count();
        if count >= if range.len() > LONG { MOST_LONG } else { MOST } {
            return false;
        }
        self.put(count, (range.start().raw(), range.len()));
        self.count.store(count as u64 + 1, Ordering::Relaxed);
        true
    }

    /// Takes whatever is kept, one after the other. For whoever has the slot, or knows that nobody will.
    pub(super) fn drain(&self) -> impl Iterator<Item = IovaRange> + '_ {
        core::iter::from_fn(|| {
            let place = self.count().checked_sub(1)?;
            self.count.store(place as u64, Ordering::Relaxed);
            let (start, len) = self.at(place);
            IovaRange::new(Iova::new(start), len).ok()
        })
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use portcullis_platform::host::{HostPlatform, NoMemory};

    type Cache = AddressCache<HostPlatform<NoMemory>>;

    fn page(number: u64) -> IovaRange {
        IovaRange::new(Iova::new(number << 12), 1 << 12).expect("a page")
    }

    #[test]
    fn what_was_given_last_is_taken_first_and_nothing_twice() {
        let cache = Cache::new();
        let request = IovaRequest::new(1 << 12);
        assert_eq!(cache.take(&request), None);
        assert!((1..=3).all(|number| cache.give(page(number))));
        let taken: [_; 4] = core::array::from_fn(|_| cache.take(&request));
        assert_eq!(taken, [Some(page(3)), Some(page(2)), Some(page(1)), None]);
    }

    #[test]
    fn a_range_is_taken_only_if_it_is_what_was_asked_for() {
        let cache = Cache::new();
        let long = IovaRange::new(Iova::new(0x8000), 0x3000).expect("three pages");
        assert!(cache.give(page(0x101)) && cache.give(long) && cache.give(page(0x103)));
        let one = IovaRequest::new(0x1000);
        assert_eq!(cache.take(&IovaRequest::new(0x2000)), None, "a part of three pages");
        assert_eq!(cache.take(&one.aligned_to(0x2000)), None);
        assert_eq!(cache.take(&one.up_to(Iova::new(0x10_1ffe))), None, "its last byte is above");
        assert_eq!(cache.take(&one.up_to(Iova::new(0x10_1fff))), Some(page(0x101)));
        assert_eq!(cache.take(&IovaRequest::new(0x3000)), Some(long));
        assert_eq!(cache.take(&one), Some(page(0x103)));
        assert_eq!(cache.count(), 0);
    }

    #[test]
    fn a_full_cache_takes_no_more_and_gives_all_of_it_back() {
        let cache = Cache::new();
        assert!((0..MOST as u64).all(|number| cache.give(page(number))));
        assert!(!cache.give(page(99)));
        let long = IovaRange::new(Iova::new(1 << 30), 1 << 21).expect("2 MiB");
        cache.drain().take(MOST - MOST_LONG).for_each(drop);
        assert!(!cache.give(long), "long ones fill fewer places");
        assert!((MOST_LONG as u64..MOST as u64).all(|number| cache.give(page(number))));
        let kept = cache.drain();
        assert!(kept.map(|range| range.start().raw() >> 12).eq((0..MOST as u64).rev()));
        assert_eq!(cache.count(), 0);
    }
}
