//! The seams on top of the standard library, for programs that run on an operating system.
#![expect(unsafe_code, reason = "RawIrqLock promises exclusion")]

pub use crate::host_memory::{HostMemory, NoMemory};
use crate::{
    Clock, DmaMemory, LockApi, LockLabel, Nanos, NativeAtomic, Platform, RawEvent, RawIrqLock,
    Threads,
};
use core::fmt;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// A sleeping lock: parking_lot's, one byte, no system call while nobody waits.
pub type HostLock = LockApi<parking_lot::RawMutex>;

/// A spinning lock, as a kernel's short locks are; a program has no interrupts to mask. Whoever finds it taken for long gives up its time slice.
#[derive(Debug, Default)]
pub struct HostIrqLock(AtomicBool);

impl HostIrqLock {
    /// How often a taken lock is looked at before the time slice is given up.
    const LOOKS: u32 = 128;

    #[cold]
    fn wait(&self) {
        loop {
            for _ in 0..Self::LOOKS {
                if !self.0.load(Ordering::Relaxed) && !self.0.swap(true, Ordering::Acquire) {
                    return;
                }
                std::hint::spin_loop();
            }
            std::thread::yield_now();
        }
    }
}

// SAFETY: who changes `false` to `true` holds it, and acquires what the last holder's store of `false` released; there are no interrupt handlers.
unsafe impl RawIrqLock for HostIrqLock {
    type Saved = ();

    fn new(_label: LockLabel) -> Self {
        Self::default()
    }

    #[inline]
    fn lock(&self) {
        if self.0.swap(true, Ordering::Acquire) {
            self.wait();
        }
    }

    #[inline]
    unsafe fn unlock(&self, (): ()) {
        self.0.store(false, Ordering::Release);
    }
}

/// A condition variable with a generation.
#[derive(Debug)]
pub struct HostEvent {
    generation: Mutex<u64>,
    changed: Condvar,
}

impl RawEvent for HostEvent {
    fn new(_label: LockLabel) -> Self {
        Self { generation: Mutex::new(0), changed: Condvar::new() }
    }

    fn generation(&self) -> u64 {
        *self.generation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, seen: u64) {
        let mut generation = self.generation.lock().unwrap_or_else(PoisonError::into_inner);
        while *generation == seen {
            generation = self.changed.wait(generation).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn wait_at_most(&self, seen: u64, bound: Nanos) -> bool {
        let generation = self.generation.lock().unwrap_or_else(PoisonError::into_inner);
        let unchanged = |generation: &mut u64| *generation == seen;
        let waited =
            self.changed.wait_timeout_while(generation, Duration::from_nanos(bound), unchanged);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn notify_all(&self) {
        *self.generation.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.changed.notify_all();
    }
}

/// Time since the clock was made.
#[derive(Debug)]
pub struct HostClock(Instant);

impl HostClock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self(Instant::now())
    }
}

impl Clock for HostClock {
    fn now(&self) -> Nanos {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn relax(&self) {
        std::thread::yield_now();
    }
}

/// Threads of the operating system. A thread keeps the CPU number that it was given first: as a hint that is as good as the true one, and costs no system call.
#[derive(Debug)]
pub struct HostThreads;

impl Threads for HostThreads {
    type Lock = HostLock;
    type IrqLock = HostIrqLock;
    type Event = HostEvent;
    type Atomic = NativeAtomic;

    fn cpus() -> usize {
        static CPUS: OnceLock<usize> = OnceLock::new();
        *CPUS.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
    }

    #[inline]
    fn cpu() -> usize {
        thread_local! {
            static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
        }
        #[cold]
        fn first_time() -> usize {
            static NEXT: AtomicUsize = AtomicUsize::new(0);
            let cpu = NEXT.fetch_add(1, Ordering::Relaxed) % HostThreads::cpus();
            MINE.set(cpu);
            cpu
        }
        match MINE.get() {
            usize::MAX => first_time(),
            cpu => cpu,
        }
    }

    fn thread() -> usize {
        thread_local! {
            static MARK: u8 = const { 0 };
        }
        // An address of the thread's own is nobody else's while it lives.
        MARK.with(|mark| core::ptr::from_ref(mark).addr())
    }
}

/// This process as a platform: its locks and threads, with memory `M` and clock `C`.
pub struct HostPlatform<M, C = HostClock> {
    memory: Arc<M>,
    clock: C,
}

impl<M> HostPlatform<M> {
    /// The platform with `memory`, and time from now on.
    pub fn new(memory: Arc<M>) -> Self {
        Self::with_clock(memory, HostClock::start())
    }
}

impl<M, C> HostPlatform<M, C> {
    /// The platform with `memory` and `clock`.
    pub const fn with_clock(memory: Arc<M>, clock: C) -> Self {
        Self { memory, clock }
    }
}

impl<M, C> fmt::Debug for HostPlatform<M, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostPlatform").finish_non_exhaustive()
    }
}

impl<M: DmaMemory, C: Clock> Platform for HostPlatform<M, C> {
    type Lock = HostLock;
    type IrqLock = HostIrqLock;
    type Event = HostEvent;
    type Atomic = NativeAtomic;
    type Memory = M;
    type Clock = C;

    #[inline]
    fn memory(&self) -> &Arc<M> {
        &self.memory
    }

    #[inline]
    fn clock(&self) -> &C {
        &self.clock
    }

    #[inline]
    fn cpus(&self) -> usize {
        HostThreads::cpus()
    }

    #[inline]
    fn cpu(&self) -> usize {
        HostThreads::cpu()
    }

    fn thread(&self) -> usize {
        HostThreads::thread()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RawAtomic as _, RawLock as _};

    #[test]
    fn the_lock_excludes_and_the_event_loses_nothing() {
        let lock = HostLock::new(LockLabel::new("test", 0));
        let data = crate::Mutex::<u64, HostLock>::new(LockLabel::new("test", 1), 0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| *data.lock() += 1));
            }
        });
        assert_eq!(*data.lock(), 4000);
        lock.lock();
        assert!(!lock.try_lock());
        let held = data.lock();
        assert!(data.try_lock().is_none());
        assert!(data.try_lock().is_none(), "a failed attempt does not unlock what another holds");
        drop(held);
        assert!(data.try_lock().is_some());
        let event = HostEvent::new(LockLabel::new("test", 2));
        let seen = event.generation();
        event.notify_all();
        event.wait(seen);
        assert!(event.wait_at_most(seen, u64::MAX), "at once: it has changed");
        assert!(!event.wait_at_most(seen + 1, 1));
        std::thread::scope(|scope| {
            scope.spawn(|| event.notify_all());
            assert!(event.wait_at_most(seen + 1, u64::MAX), "when it changes");
        });
    }

    #[test]
    fn a_bounded_wait_ends() {
        let clock = HostClock::start();
        assert_eq!(crate::wait_for(&clock, 1000, || false), Err(crate::Timeout { after: 1000 }));
        assert_eq!(crate::wait_for(&clock, 1000, || true), Ok(()));
    }

    #[test]
    fn short_sections_exclude_and_survive_a_panic() {
        let data = crate::IrqMutex::<u64, HostIrqLock>::new(LockLabel::new("test", 0), 0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| data.with(|data| *data += 1)));
            }
        });
        let section = std::panic::AssertUnwindSafe(|| data.with(|_| panic!("planted")));
        assert!(std::panic::catch_unwind(section).is_err());
        assert_eq!(data.with(|data| *data), 4000);
    }

    #[test]
    fn each_cpu_has_its_own_copy_and_a_thread_keeps_its_cpu() {
        let platform = HostPlatform::new(Arc::<NoMemory>::default());
        let counts = crate::PerCpu::new(&platform, |_| NativeAtomic::unlabelled(0));
        let add = || _ = counts.here(&platform).fetch_add(1, Ordering::Relaxed);
        std::thread::scope(|scope| {
            for _ in 0..2 * platform.cpus() {
                scope.spawn(|| {
                    let before = platform.cpu();
                    add();
                    assert_eq!(platform.cpu(), before);
                    assert!(before < platform.cpus());
                });
            }
        });
        let seen: Vec<_> = counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        assert_eq!(seen.len(), platform.cpus());
        assert_eq!(seen.iter().sum::<u64>(), 2 * platform.cpus() as u64);
        let places: Vec<_> = counts.iter().map(|count| std::ptr::from_ref(count).addr()).collect();
        assert!(places.iter().all(|place| place % 128 == 0), "{places:x?}");
    }
}
