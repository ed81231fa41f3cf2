//! Locks of the [`lock_api`](::lock_api) crate, which `spin`, `parking_lot` and many kernels offer, as long locks.
#![expect(unsafe_code, reason = "RawLock promises exclusion")]

use crate::{LockLabel, RawLock};
use ::lock_api::RawMutex;
use core::fmt;

/// A [`RawMutex`] of lock_api 0.4 as a [`RawLock`]. The label is ignored.
///
/// ```
/// use portcullis_platform::{LockApi, LockLabel, Mutex};
/// // parking_lot's; `spin::Mutex<()>` and a kernel's own are used the same way.
/// type SleepingLock = LockApi<parking_lot::RawMutex>;
///
/// let count: Mutex<u64, SleepingLock> = Mutex::new(LockLabel::new("count", 0), 0);
/// *count.lock() += 1;
/// assert_eq!(*count.lock(), 1);
/// ```
///
/// A lock that only spins will do where nobody sleeps while holding one; the core holds its long locks across a driver's probe and waits for hardware.
pub struct LockApi<L>(L);

impl<L: RawMutex> LockApi<L> {
    /// A free lock, in a `static` too.
    pub const fn unlabelled() -> Self {
        Self(L::INIT)
    }
}

// SAFETY: lock_api's RawMutex makes the same promise ("mutual exclusion: a lock can't be acquired while the mutex is already locked", with acquire and release ordering), and every call goes
// straight to it.
unsafe impl<L: RawMutex + Send + Sync + 'static> RawLock for LockApi<L> {
    fn new(_label: LockLabel) -> Self {
        Self::unlabelled()
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

impl<L> fmt::Debug for LockApi<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockApi").finish_non_exhaustive()
    }
}
