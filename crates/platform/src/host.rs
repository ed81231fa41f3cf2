//! The seams on top of the standard library, for programs that run on an operating system.
#![expect(unsafe_code, reason = "RawLock promises exclusion to Mutex")]

use crate::{Clock, LockLabel, Nanos, RawEvent, RawLock};
use core::fmt;
use parking_lot::lock_api::RawMutex as _;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

/// A sleeping lock: parking_lot's, one byte, no system call while nobody waits.
pub struct HostLock(parking_lot::RawMutex);

// SAFETY: parking_lot's RawMutex makes the same promise (lock_api's `RawMutex` contract), and every call goes straight to it.
unsafe impl RawLock for HostLock {
    fn new(_label: LockLabel) -> Self {
        Self(parking_lot::RawMutex::INIT)
    }

    fn lock(&self) {
        self.0.lock();
    }

    fn try_lock(&self) -> bool {
        self.0.try_lock()
    }

    unsafe fn unlock(&self) {
        // SAFETY: the caller holds the lock, by this method's contract.
        unsafe { self.0.unlock() }
    }
}

impl fmt::Debug for HostLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostLock").finish_non_exhaustive()
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

#[cfg(test)]
mod tests {
    use super::*;

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
    }

    #[test]
    fn a_bounded_wait_ends() {
        let clock = HostClock::start();
        assert_eq!(crate::wait_for(&clock, 1000, || false), Err(crate::Timeout { after: 1000 }));
        assert_eq!(crate::wait_for(&clock, 1000, || true), Ok(()));
    }
}
