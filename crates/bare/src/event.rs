//! Waiting until something happened, by looking.

use crate::arch;
use crate::clock::CounterClock;
use crate::platform::Kernel;
use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU64, Ordering};
use portcullis_platform::{LockLabel, Nanos, RawEvent, wait_for};

/// A generation that waiters look at, calling [`Kernel::idle`] between two looks.
pub struct SpinEvent<K> {
    generation: AtomicU64,
    kernel: PhantomData<fn() -> K>,
}

impl<K: Kernel> RawEvent for SpinEvent<K> {
    fn new(_label: LockLabel) -> Self {
        Self { generation: AtomicU64::new(0), kernel: PhantomData }
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn wait(&self, seen: u64) {
        // A CPU remembers an event that was sent after the look, so `idle` does not oversleep.
        while self.generation() == seen {
            K::idle();
        }
    }

    fn wait_at_most(&self, seen: u64, bound: Nanos) -> bool {
        let clock = CounterClock::new(K::counter_frequency());
        wait_for(&clock, bound, || self.generation() != seen).is_ok()
    }

    fn notify_all(&self) {
        self.generation.fetch_add(1, Ordering::Release);
        arch::send_event();
    }
}

impl<K> fmt::Debug for SpinEvent<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SpinEvent").field(&self.generation).finish()
    }
}
