//! Which commands the unit refused, to be found by whoever waits for them. Written under the queue's lock, read without it.

use core::sync::atomic::Ordering;
use portcullis_platform::{LockLabel, RawAtomic};

/// How many refused commands are remembered one by one.
const REMEMBERED: usize = 8;
/// Bits of a record that hold the error code; the position stands above.
const CODE_BITS: u32 = 8;

/// The positions of some queued commands, `first..after`, counted from 0 on and without end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Submitted {
    /// The first of them.
    pub first: u64,
    /// The position behind the last.
    pub after: u64,
    /// How many failures there were before.
    pub failures: u64,
}

/// Commands that were refused and overwritten.
#[derive(Debug)]
pub struct Failures<A> {
    count: A,
    /// The last ones: position and code. The record of failure `n` stands at `n % REMEMBERED`.
    recent: [A; REMEMBERED],
}

impl<A: RawAtomic> Failures<A> {
    /// None yet. `index` tells two units apart.
    pub fn new(index: u64) -> Self {
        let label = LockLabel::new("iommu.failures", index);
        Self { count: A::new(label, 0), recent: core::array::from_fn(|_| A::new(label, 0)) }
    }

    /// How many there have been.
    #[inline]
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Records one, with the unit's own code of at most eight bits for why, and returns how many there are now. Only one caller at a time.
    pub fn add(&self, position: u64, code: u64) -> u64 {
        let count = self.count.load(Ordering::Relaxed);
        let record = position << CODE_BITS | code;
        self.recent[(count % REMEMBERED as u64) as usize].store(record, Ordering::SeqCst);
        self.count.store(count + 1, Ordering::SeqCst);
        count + 1
    }

    /// Counts every ticket that was given out so far as hit; returns the count for tickets from now on.
    pub fn fail_all(&self) -> u64 {
        let count = self.count.load(Ordering::Relaxed);
        self.count.store(count + REMEMBERED as u64, Ordering::SeqCst);
        count + REMEMBERED as u64
    }

    /// The code of the first failure in the ticket's range. Where too many happened since to tell, the ticket counts as hit, with code 0.
    pub fn hit(&self, ticket: &Submitted) -> Option<u64> {
        let count = self.count();
        if count == ticket.failures {
            return None;
        }
        let lost = |count: u64| count - ticket.failures >= REMEMBERED as u64;
        let found = (ticket.failures..count).find_map(|n| {
            let slot = &self.recent[(n % REMEMBERED as u64) as usize];
            let record = slot.load(Ordering::SeqCst);
            let mine = (ticket.first..ticket.after).contains(&(record >> CODE_BITS));
            mine.then_some(record & ((1 << CODE_BITS) - 1))
        });
        // Looked at again: a record may have been overwritten while it was read.
        if lost(self.count.load(Ordering::SeqCst)) { found.or(Some(0)) } else { found }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_platform::NativeAtomic;

    #[test]
    fn a_ticket_finds_its_own_failure_and_no_other() {
        let failures = Failures::<NativeAtomic>::new(0);
        let ticket = |first, after| Submitted { first, after, failures: 0 };
        assert_eq!(failures.hit(&ticket(0, 10)), None);
        failures.add(3, 1);
        failures.add(10, 2);
        assert_eq!(failures.hit(&ticket(0, 3)), None);
        assert_eq!(failures.hit(&ticket(3, 4)), Some(1));
        assert_eq!(failures.hit(&ticket(4, 11)), Some(2));
        assert_eq!(
            failures.hit(&Submitted { failures: 2, ..ticket(0, 20) }),
            None,
            "before its time"
        );
    }

    #[test]
    fn when_too_many_failed_to_remember_each_ticket_counts_as_hit() {
        let failures = Failures::<NativeAtomic>::new(0);
        for position in 0..REMEMBERED as u64 - 1 {
            failures.add(position, 1);
        }
        let untouched = Submitted { first: 100, after: 101, failures: 0 };
        assert_eq!(failures.hit(&untouched), None);
        failures.add(50, 1);
        assert_eq!(failures.hit(&untouched), Some(0), "its record may be gone");
        assert_eq!(failures.hit(&Submitted { failures: 1, ..untouched }), None);
    }
}
