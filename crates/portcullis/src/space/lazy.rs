//! Ranges that were unmapped and wait for an invalidation together: flush queues, one for each CPU of each lease.
//!
//! A range is *parked* once it is out of the table. It belongs to the epoch that was begun last when it was parked. A flush begins the next epoch, has every instance forget the whole space, and then ends
//! it: what belonged to an earlier epoch was out of the table before the invalidation began, so no hardware holds it any more, and its addresses are free. Frames are not kept here: whoever
//! parks keeps them, and asks [`FlushQueue::is_over`] before they are used.
//!
//! The order that this rests on: a thread takes leaves out, then passes its CPU's lock (a full barrier, like every lock that is taken and given back), then looks which epoch was begun. A thread
//! that flushes begins the epoch, then invalidates. So whoever still found the earlier epoch has stored before the invalidation.

use crate::hooks::{Safeguard, omitted};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use portcullis_addr::IovaRange;
use portcullis_platform::{
    Clock, IrqLock, IrqMutex, Lock, LockLabel, Mutex, Nanos, PerCpu, Platform, RawAtomic,
};
use smallvec::SmallVec;

/// The most ranges that a CPU parks before it flushes.
pub(crate) const MOST_PARKED: usize = 256;
/// How long a range is parked at most where the CPU goes on parking: 10 ms, as long as Linux's timer (`IOVA_DEFAULT_FQ_TIMEOUT`).
pub(crate) const MOST_NANOS: Nanos = 10_000_000;
/// How many ranges are taken from a queue at a time.
const AT_ONCE: usize = 32;
/// After how many ranges the clock is read again.
const LOOK_AT_CLOCK: usize = 16;

/// See the module.
pub(super) struct FlushQueue<P: Platform> {
    parked: PerCpu<IrqLock<P, Parked>>,
    /// The epoch that was begun last, and the last that is over.
    begun: P::Atomic,
    over: P::Atomic,
    /// Held by whoever flushes, over the wait: only threads of the same driver, which wait for the same.
    flushing: Lock<P, ()>,
}

/// What one CPU has parked, in order.
struct Parked {
    /// The range and its epoch. Never grows beyond [`MOST_PARKED`], for which there is room from the start.
    ranges: Vec<(IovaRange, u64)>,
    /// When the first of them was parked.
    since: Nanos,
}

/// What came of parking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It waits for the end of an epoch after that one.
    Parked(u64),
    /// As `Parked`, and it is time to flush.
    Due(u64),
    /// There is no room: flush first.
    Full,
}

impl<P: Platform> FlushQueue<P> {
    /// Nothing parked; `None` without the memory for it.
    pub(super) fn new(platform: &P) -> Option<Self> {
        let label = LockLabel::new("parked", 0);
        let room = || {
            let mut ranges = Vec::new();
            ranges.try_reserve_exact(MOST_PARKED).ok().map(|()| ranges)
        };
        let mut rooms = Vec::new();
        rooms.try_reserve_exact(platform.cpus().max(1)).ok()?;
        for _ in 0..platform.cpus().max(1) {
            rooms.push(room()?);
        }
        let mut take = || Parked { ranges: rooms.pop().unwrap_or_default(), since: 0 };
        Some(Self {
            parked: PerCpu::new(platform, |_| IrqMutex::new(label, take())),
            begun: P::Atomic::new(label, 0),
            over: P::Atomic::new(label, 0),
            flushing: Mutex::new(label, ()),
        })
    }

    /// Parks a range that is out of the table.
    pub(super) fn park(&self, platform: &P, range: IovaRange) -> Outcome {
        let (mut outcome, mut look) = (Outcome::Full, false);
        self.parked.here(platform).with(|parked| {
            let count = parked.ranges.len();
            if count == MOST_PARKED.min(parked.ranges.capacity()) {
                return;
            }
            look = count.is_multiple_of(LOOK_AT_CLOCK);
            let epoch = self.begun.load(Ordering::SeqCst);
            parked.ranges.push((range, epoch));
            outcome = Outcome::Parked(epoch);
        });
        match outcome {
            Outcome::Parked(epoch) if look && self.is_due(platform) => Outcome::Due(epoch),
            outcome => outcome,
        }
    }

    /// Whether what this CPU has parked has waited for long.
    #[cold]
    fn is_due(&self, platform: &P) -> bool {
        let now = platform.clock().now();
        self.parked.here(platform).with(|parked| {
            if parked.ranges.len() == 1 {
                parked.since = now;
            }
            now.saturating_sub(parked.since) >= MOST_NANOS
        })
    }

    /// Whether hardware has forgotten what was parked in `epoch`.
    #[inline]
    pub(super) fn is_over(&self, epoch: u64) -> bool {
        omitted::<P>(Safeguard::WaitForFlush) || self.over.load(Ordering::Acquire) > epoch
    }

    /// Ends every epoch up to now by `invalidate`, and gives each range that was parked in one of them to `free`; nothing where `epoch` is over already.
    ///
    /// # Errors
    ///
    /// That of `invalidate`: all stay parked.
    pub(super) fn flush<E>(
        &self,
        epoch: u64,
        invalidate: impl FnOnce() -> Result<(), E>,
        mut free: impl FnMut(IovaRange),
    ) -> Result<(), E> {
        let flushing = self.flushing.lock();
        if self.over.load(Ordering::Acquire) > epoch {
            return Ok(());
        }
        let now = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        invalidate()?;
        self.over.store(now, Ordering::Release);
        drop(flushing);
        for parked in self.parked.iter() {
            loop {
                let mut over = SmallVec::<[IovaRange; AT_ONCE]>::new();
                parked.with(|parked| parked.take_before(now, &mut over));
                let last = over.len() < AT_ONCE;
                over.into_iter().for_each(&mut free);
                if last {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Ranges that are parked now.
    pub(super) fn count(&self) -> usize {
        self.parked.iter().map(|parked| parked.with(|parked| parked.ranges.len())).sum()
    }

    /// The latest epoch.
    pub(super) fn latest(&self) -> u64 {
        self.begun.load(Ordering::SeqCst)
    }
}

impl Parked {
    /// Moves up to [`AT_ONCE`] ranges that were parked before epoch `now` was begun to `over`, which has room for them.
    fn take_before(&mut self, now: u64, over: &mut SmallVec<[IovaRange; AT_ONCE]>) {
        // From the end, so that nothing moves; later ones may stand there.
        let mut place = self.ranges.len();
        while place > 0 && over.len() < AT_ONCE {
            place -= 1;
            if self.ranges[place].1 < now {
                over.push(self.ranges.swap_remove(place).0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use alloc::sync::Arc;
    use core::sync::atomic::AtomicU64;
    use portcullis_addr::Iova;
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

    fn queue() -> (Host, Arc<Set>, FlushQueue<Host>) {
        let clock = Arc::<Set>::default();
        let platform = Host::with_clock(Arc::default(), Arc::clone(&clock));
        let queue = FlushQueue::new(&platform).expect("memory");
        (platform, clock, queue)
    }

    fn page(number: u64) -> IovaRange {
        IovaRange::new(Iova::new(number << 12), 1 << 12).expect("a page")
    }

    #[test]
    fn what_is_parked_is_free_after_a_flush_that_began_later() {
        let (platform, _, queue) = queue();
        assert_eq!(queue.park(&platform, page(1)), Outcome::Parked(0));
        assert_eq!(queue.park(&platform, page(2)), Outcome::Parked(0));
        assert!(!queue.is_over(0));
        let mut freed = Vec::new();
        let mut late = Outcome::Full;
        let flushed = queue.flush(
            0,
            || {
                // Somebody parks while hardware is being asked: it may have missed that one.
                late = queue.park(&platform, page(3));
                Ok::<(), ()>(())
            },
            |range| freed.push(range),
        );
        freed.sort_by_key(IovaRange::start);
        assert_eq!((flushed, freed), (Ok(()), alloc::vec![page(1), page(2)]));
        assert_eq!(late, Outcome::Parked(1));
        assert!(queue.is_over(0) && !queue.is_over(1));
        assert_eq!(queue.count(), 1);
        let again = queue.flush(0, || panic!("it is over"), |_| panic!("nothing is free"));
        assert_eq!(again, Ok::<(), ()>(()));
        assert_eq!(queue.flush(1, || Ok::<(), ()>(()), |range| assert_eq!(range, page(3))), Ok(()));
        assert_eq!(queue.count(), 0);
    }

    #[test]
    fn a_flush_that_is_not_confirmed_frees_nothing() {
        let (platform, _, queue) = queue();
        let Outcome::Parked(epoch) = queue.park(&platform, page(1)) else { panic!("not parked") };
        assert_eq!(queue.flush(epoch, || Err("silent"), |_| panic!("freed")), Err("silent"));
        assert!(!queue.is_over(epoch));
        assert_eq!(queue.count(), 1);
        let mut freed = 0;
        assert_eq!(queue.flush(epoch, || Ok::<(), ()>(()), |_| freed += 1), Ok(()));
        assert_eq!(freed, 1);
    }

    #[test]
    fn a_cpu_parks_so_many_and_not_longer_than_that() {
        let (platform, clock, queue) = queue();
        for number in 0..MOST_PARKED as u64 {
            assert_eq!(queue.park(&platform, page(number)), Outcome::Parked(0), "{number}");
        }
        assert_eq!(queue.park(&platform, page(1000)), Outcome::Full);
        assert_eq!(queue.flush(0, || Ok::<(), ()>(()), |_| ()), Ok(()));
        for number in 0..16 {
            assert_eq!(queue.park(&platform, page(number)), Outcome::Parked(1), "{number}");
        }
        clock.0.store(MOST_NANOS - 1, Ordering::Relaxed);
        assert_eq!(queue.park(&platform, page(16)), Outcome::Parked(1), "not yet");
        for number in 17..32 {
            assert_eq!(queue.park(&platform, page(number)), Outcome::Parked(1), "{number}");
        }
        clock.0.store(MOST_NANOS, Ordering::Relaxed);
        assert_eq!(
            queue.park(&platform, page(32)),
            Outcome::Due(1),
            "the first has waited so long"
        );
    }
}
