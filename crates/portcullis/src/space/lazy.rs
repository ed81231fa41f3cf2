//! Mappings that are out of the table and wait for an invalidation together, and how long they may.
//!
//! A mapping is *parked* once it is out of the table. It belongs to the epoch that was begun last when it was parked. A flush begins the next epoch, has every instance forget the whole space, and then ends
//! it: what belonged to an earlier epoch was out of the table before the invalidation began, so no hardware holds it any more. Buffers and addresses are not kept here: whoever parks keeps both, and gives
//! the address back when the epoch is over ([`Parking::is_over`]).
//!
//! The order that this rests on: a thread takes leaves out, then counts itself by a read-modify-write (a full barrier), then looks which epoch was begun. A thread that flushes begins the epoch, then
//! invalidates. So whoever still found the earlier epoch has stored before the invalidation.
//!
//! Two bounds hold whatever a driver does later: a CPU flushes with the [`MOST_PARKED`]th mapping that it parks in one epoch, and the first mapping that is parked in an epoch sets the time at which there must be a
//! flush ([`Parking::due`]), for which a timer looks.

use crate::hooks::{Safeguard, omitted};
use core::sync::atomic::{AtomicU64, Ordering};
use portcullis_platform::{Clock, Lock, LockLabel, Mutex, Nanos, PerCpu, Platform, RawAtomic};

/// The most mappings that a CPU parks between two flushes.
pub(crate) const MOST_PARKED: u64 = 256;
/// How long after the first mapping was parked there must be a flush: 10 ms, as long as Linux's timer (`IOVA_DEFAULT_FQ_TIMEOUT`).
pub(crate) const MOST_NANOS: Nanos = 10_000_000;
/// What `due` holds where nothing is parked.
const NEVER: u64 = u64::MAX;

/// See the module. One for each lease.
pub(super) struct Parking<P: Platform> {
    cpus: PerCpu<Tally>,
    /// The epoch that was begun last, and the last that is over.
    begun: P::Atomic,
    over: P::Atomic,
    /// When there must be a flush.
    due: AtomicU64,
    /// Whether the last flush was not confirmed.
    failed: AtomicU64,
    /// Held by whoever flushes, over the wait: only threads of the same driver, which wait for the same.
    flushing: Lock<P, ()>,
}

/// What one CPU has parked. The explorer sees the epochs, on which everything hangs, and none of this.
struct Tally {
    /// Mappings that are parked, in the low half, and their pages above: what this CPU has added, less what it has taken away. The sum over all CPUs is what is parked.
    parked: AtomicU64,
    /// The epoch in which it parked last, and how many in that. Only bounds hang on them, so threads of one CPU may overwrite each other's.
    epoch: AtomicU64,
    count: AtomicU64,
}

/// Mappings and pages, as [`Tally::parked`] counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount(u64);

impl Amount {
    /// One mapping of so many pages.
    #[inline]
    pub(super) fn one(pages: u64) -> Self {
        Self(pages << 32 | 1)
    }

    pub(super) fn add(&mut self, other: Self) {
        self.0 = self.0.wrapping_add(other.0);
    }

    pub(super) fn mappings(self) -> usize {
        self.0 as u32 as usize
    }

    pub(super) fn pages(self) -> u64 {
        self.0 >> 32
    }
}

/// What came of parking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// The epoch after whose end hardware has forgotten it.
    pub(super) epoch: u64,
    /// What the caller has to see to.
    pub(super) then: Then,
}

/// What is to be done after a mapping was parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// Nothing.
    Nothing,
    /// A timer must learn that there is something to flush.
    TellTimer,
    /// It is time to flush.
    Flush,
}

impl<P: Platform> Parking<P> {
    /// Nothing parked.
    pub(super) fn new(platform: &P) -> Self {
        let word = || P::Atomic::new(LockLabel::new("parked", 0), 0);
        let tally = |_| Tally {
            parked: AtomicU64::new(0),
            epoch: AtomicU64::new(NEVER),
            count: AtomicU64::new(0),
        };
        Self {
            cpus: PerCpu::new(platform, tally),
            begun: word(),
            over: word(),
            due: AtomicU64::new(NEVER),
            failed: AtomicU64::new(0),
            flushing: Mutex::new(LockLabel::new("parked", 0), ()),
        }
    }

    /// Parks a mapping that is out of the table.
    #[inline]
    pub(super) fn park(&self, platform: &P, amount: Amount) -> Outcome {
        let tally = self.cpus.here(platform);
        tally.parked.fetch_add(amount.0, Ordering::SeqCst);
        let epoch = self.begun.load(Ordering::SeqCst);
        if tally.epoch.load(Ordering::Relaxed) != epoch {
            return self.first_in(platform, tally, epoch);
        }
        let count = tally.count.load(Ordering::Relaxed) + 1;
        tally.count.store(count, Ordering::Relaxed);
        let then = if count < MOST_PARKED { Then::Nothing } else { Then::Flush };
        Outcome { epoch, then }
    }

    #[cold]
    fn first_in(&self, platform: &P, tally: &Tally, epoch: u64) -> Outcome {
        tally.epoch.store(epoch, Ordering::Relaxed);
        tally.count.store(1, Ordering::Relaxed);
        let then = if self.arm(platform) { Then::TellTimer } else { Then::Nothing };
        Outcome { epoch, then }
    }

    /// Sets the time of the next flush, unless it is set; whether it did.
    fn arm(&self, platform: &P) -> bool {
        if omitted::<P>(Safeguard::FlushInTime) {
            return false;
        }
        let due = platform.clock().now().saturating_add(MOST_NANOS).min(NEVER - 1);
        let order = (Ordering::SeqCst, Ordering::Relaxed);
        self.due.compare_exchange(NEVER, due, order.0, order.1).is_ok()
    }

    /// When there must be a flush; `None` where nothing is parked since the last one.
    pub(super) fn due(&self) -> Option<Nanos> {
        Some(self.due.load(Ordering::SeqCst)).filter(|due| *due != NEVER)
    }

    /// Takes away what is not parked any more.
    pub(super) fn take_away(&self, platform: &P, amount: Amount) {
        self.cpus.here(platform).parked.fetch_sub(amount.0, Ordering::Release);
    }

    /// Forgets what is parked: it is on record elsewhere now.
    pub(super) fn hand_over(&self) {
        self.cpus.iter().for_each(|tally| tally.parked.store(0, Ordering::Relaxed));
    }

    /// Whether hardware has forgotten what was parked in `epoch`.
    #[inline]
    pub(super) fn is_over(&self, epoch: u64) -> bool {
        omitted::<P>(Safeguard::WaitForFlush) || self.over.load(Ordering::Acquire) > epoch
    }

    /// Ends every epoch up to now by `invalidate`; nothing where `epoch` is over already.
    ///
    /// # Errors
    ///
    /// That of `invalidate`: all stay parked, and there must be another flush.
    pub(super) fn flush<E>(
        &self,
        platform: &P,
        epoch: u64,
        invalidate: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let _flushing = self.flushing.lock();
        if self.over.load(Ordering::Acquire) > epoch {
            return Ok(());
        }
        // Before the epoch begins: whoever parks in it sets the time anew.
        self.due.store(NEVER, Ordering::SeqCst);
        let now = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let flushed = invalidate();
        self.failed.store(flushed.is_err().into(), Ordering::Relaxed);
        match flushed {
            Ok(()) => self.over.store(now, Ordering::Release),
            Err(_) => _ = self.arm(platform),
        }
        flushed
    }

    /// What is parked now.
    pub(super) fn parked(&self) -> Amount {
        let words = self.cpus.iter().map(|tally| tally.parked.load(Ordering::Relaxed));
        Amount(words.fold(0, u64::wrapping_add))
    }

    /// Of that, what hardware was asked to forget and did not confirm.
    pub(super) fn unconfirmed(&self) -> Amount {
        if self.failed.load(Ordering::Relaxed) == 0 { Amount::default() } else { self.parked() }
    }

    /// The latest epoch.
    pub(super) fn latest(&self) -> u64 {
        self.begun.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use alloc::sync::Arc;
    use portcullis_platform::host::{HostPlatform, NoMemory};

    /// Time as a test sets it.
    #[derive(Default)]
    struct Set(AtomicU64);

    impl Clock for Set {
        fn now(&self) -> Nanos {
            self.0.load(Ordering::Relaxed)
        }
        fn relax(&self) {}
    }

    type Host = HostPlatform<NoMemory, Arc<Set>>;

    struct Stand {
        platform: Host,
        clock: Arc<Set>,
        parking: Parking<Host>,
    }

    impl Stand {
        fn new() -> Self {
            let clock = Arc::<Set>::default();
            let platform = Host::with_clock(Arc::default(), Arc::clone(&clock));
            let parking = Parking::new(&platform);
            Self { platform, clock, parking }
        }

        fn park(&self) -> Outcome {
            self.parking.park(&self.platform, Amount::one(2))
        }

        fn flush(&self, epoch: u64) -> Result<(), ()> {
            self.parking.flush(&self.platform, epoch, || Ok(()))
        }
    }

    #[test]
    fn what_is_parked_is_over_after_a_flush_that_began_later() {
        let stand = Stand::new();
        assert_eq!(stand.park(), Outcome { epoch: 0, then: Then::TellTimer });
        assert_eq!(stand.park(), Outcome { epoch: 0, then: Then::Nothing });
        assert!(!stand.parking.is_over(0));
        let mut late = None;
        let flushed = stand.parking.flush(&stand.platform, 0, || {
            // Somebody parks while hardware is being asked: it may have missed that one.
            late = Some(stand.park());
            Ok::<(), ()>(())
        });
        assert_eq!(flushed, Ok(()));
        assert_eq!(late, Some(Outcome { epoch: 1, then: Then::TellTimer }));
        assert!(stand.parking.is_over(0) && !stand.parking.is_over(1));
        let again = stand.parking.flush(&stand.platform, 0, || panic!("it is over"));
        assert_eq!(again, Ok::<(), ()>(()));
        assert_eq!(stand.flush(1), Ok(()));
        assert!(stand.parking.is_over(1));
    }

    #[test]
    fn a_flush_that_is_not_confirmed_ends_nothing_and_is_tried_again() {
        let stand = Stand::new();
        let epoch = stand.park().epoch;
        assert_eq!(stand.parking.unconfirmed(), Amount::default());
        let silent = stand.parking.flush(&stand.platform, epoch, || Err("silent"));
        assert_eq!(silent, Err("silent"));
        assert!(!stand.parking.is_over(epoch));
        assert_eq!(stand.parking.unconfirmed(), Amount::one(2), "at once");
        assert_eq!(stand.parking.due(), Some(MOST_NANOS));
        assert_eq!(stand.flush(epoch), Ok(()));
        assert_eq!((stand.parking.unconfirmed(), stand.parking.due()), (Amount::default(), None));
    }

    #[test]
    fn the_first_that_is_parked_sets_the_time_of_the_flush() {
        let stand = Stand::new();
        assert_eq!(stand.parking.due(), None);
        stand.clock.0.store(7, Ordering::Relaxed);
        stand.park();
        stand.clock.0.store(1000, Ordering::Relaxed);
        stand.park();
        assert_eq!(stand.parking.due(), Some(7 + MOST_NANOS));
        assert_eq!(stand.flush(0), Ok(()));
        assert_eq!(stand.parking.due(), None, "nothing was parked since");
        stand.park();
        assert_eq!(stand.parking.due(), Some(1000 + MOST_NANOS));
    }

    #[test]
    fn a_cpu_parks_so_many_and_then_flushes() {
        let stand = Stand::new();
        let then: alloc::vec::Vec<_> = (0..MOST_PARKED).map(|_| stand.park().then).collect();
        assert!(then[1..255].iter().all(|then| *then == Then::Nothing));
        assert_eq!(then[255], Then::Flush);
        assert_eq!(stand.park().then, Then::Flush, "until there was one");
        assert_eq!(stand.flush(0), Ok(()));
        assert_eq!(stand.park().then, Then::TellTimer);
    }

    #[test]
    fn what_is_parked_is_counted_whoever_takes_it_away() {
        let stand = Stand::new();
        let mut gone = Amount::default();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..100).for_each(|_| _ = stand.park()));
            scope.spawn(|| (0..100).for_each(|_| _ = stand.park()));
        });
        assert_eq!((stand.parking.parked().mappings(), stand.parking.parked().pages()), (200, 400));
        (0..150).for_each(|_| gone.add(Amount::one(2)));
        stand.parking.take_away(&stand.platform, gone);
        assert_eq!((stand.parking.parked().mappings(), stand.parking.parked().pages()), (50, 100));
    }
}
