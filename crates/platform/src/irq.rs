//! Short locks, which an interrupt handler may take too.
#![expect(unsafe_code, reason = "a mutex is an UnsafeCell behind a promise of exclusion")]

use crate::LockLabel;
use core::cell::UnsafeCell;
use core::fmt;

/// A short lock: held for a few loads and stores, by threads and by interrupt handlers. On a kernel it is a spin lock that masks interrupts on the CPU that holds it
/// (Linux's `spin_lock_irqsave`); where there are no interrupts, any lock.
///
/// # Safety
///
/// Between a return of [`lock`](Self::lock) and the matching [`unlock`](Self::unlock) no other caller may return from `lock`, an interrupt handler on the same
/// CPU included; what was written before an `unlock` is visible after the next `lock` (acquire and release ordering).
pub unsafe trait RawIrqLock: Send + Sync + 'static {
    /// What `lock` must remember for `unlock`: on a kernel whether interrupts were masked before. `()` elsewhere.
    type Saved;

    /// A free lock.
    fn new(label: LockLabel) -> Self;
    /// Returns once the caller holds the lock, with interrupts masked on this CPU.
    fn lock(&self) -> Self::Saved;
    /// Gives the lock back and restores what `lock` found.
    ///
    /// # Safety
    ///
    /// The calling thread or handler holds the lock, `saved` is what `lock` returned for it, and what it locked since is unlocked again.
    unsafe fn unlock(&self, saved: Self::Saved);
}

/// Data that is reached only while holding a short lock of kind `L`.
///
/// There is no guard: the section is a closure, so sections nest properly and each restores the interrupt state that it found. Inside a section nothing sleeps, waits for
/// hardware, allocates, calls a driver, or takes a [`Mutex`](crate::Mutex). The schedule explorer reports a section that takes a long lock or waits.
pub struct IrqMutex<T, L> {
    raw: L,
    data: UnsafeCell<T>,
}

// SAFETY: the data moves between threads only inside the exclusion that RawIrqLock promises, so T: Send is enough.
unsafe impl<T: Send, L: RawIrqLock> Sync for IrqMutex<T, L> {}

impl<T, L> IrqMutex<T, L> {
    /// `data` behind `raw`, which must be free. For a `static`, with a lock that has a `const` constructor of its own.
    pub const fn from_raw(raw: L, data: T) -> Self {
        Self { raw, data: UnsafeCell::new(data) }
    }

    /// The data, without locking: `&mut self` proves that nobody else can.
    pub const fn get_mut(&mut self) -> &mut T {
        self.data.get_mut()
    }
}

impl<T, L: RawIrqLock> IrqMutex<T, L> {
    /// `data` behind a fresh lock.
    pub fn new(label: LockLabel, data: T) -> Self {
        Self::from_raw(L::new(label), data)
    }

    /// Runs `section` with the lock held. Not recursive.
    #[inline]
    pub fn with<R>(&self, section: impl FnOnce(&mut T) -> R) -> R {
        struct Held<'a, L: RawIrqLock>(&'a L, Option<L::Saved>);
        impl<L: RawIrqLock> Drop for Held<'_, L> {
            fn drop(&mut self) {
                if let Some(saved) = self.1.take() {
                    // SAFETY: locked below by this very thread, `saved` is from there, and closures nest.
                    unsafe { self.0.unlock(saved) }
                }
            }
        }
        let _held = Held(&self.raw, Some(self.raw.lock()));
        // SAFETY: the lock is held until `_held` is dropped, so nobody else has a reference to the data.
        section(unsafe { &mut *self.data.get() })
    }
}

impl<T, L> fmt::Debug for IrqMutex<T, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IrqMutex").finish_non_exhaustive()
    }
}
