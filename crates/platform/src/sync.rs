//! Mutual exclusion and sleeping, over what the platform offers.
#![expect(unsafe_code, reason = "a mutex is an UnsafeCell behind a promise of exclusion")]

use crate::Nanos;
use core::cell::UnsafeCell;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

/// Which lock, event or atomic this is: a class shared by all of one kind, and a number that tells two of them apart.
///
/// An ordinary platform ignores it. The schedule explorer names objects by it in the pictures that it draws, and a lock checker can order by class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LockLabel {
    /// Kind, e.g. `"group"`.
    pub class: &'static str,
    /// Number within the kind.
    pub index: u64,
}

impl LockLabel {
    /// The label of object `index` of `class`.
    pub const fn new(class: &'static str, index: u64) -> Self {
        Self { class, index }
    }
}

impl fmt::Display for LockLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.class, self.index)
    }
}

/// A long lock: one thread of execution holds it at a time, possibly for long. It is held across a driver's probe and across waits for hardware, so its waiters
/// should sleep, and an interrupt handler must never take it (that is what [`RawIrqLock`](crate::RawIrqLock) is for). The convention is that of the `lock_api`
/// crate's `RawMutex`, plus a label when it is made. Linux's counterpart is `struct mutex`.
///
/// # Safety
///
/// Between a return of [`lock`](Self::lock) (or of [`try_lock`](Self::try_lock) with `true`) and the matching [`unlock`](Self::unlock) no other
/// caller may return from `lock`, and what was written before an `unlock` is visible after the next `lock` (acquire and release ordering).
pub unsafe trait RawLock: Send + Sync + 'static {
    /// A free lock.
    fn new(label: LockLabel) -> Self;
    /// Returns once the caller holds the lock.
    fn lock(&self);
    /// Takes the lock if it is free; says whether it did.
    fn try_lock(&self) -> bool;
    /// Gives the lock back.
    ///
    /// # Safety
    ///
    /// The calling thread holds the lock.
    unsafe fn unlock(&self);
}

/// Sleeping until something happened, without losing a wake-up: read [`generation`](Self::generation), look at the condition, then
/// [`wait`](Self::wait) with the generation that was read; a [`notify_all`](Self::notify_all) in between makes the wait return at once.
pub trait RawEvent: Send + Sync + 'static {
    /// An event nobody has signalled yet.
    fn new(label: LockLabel) -> Self;
    /// A number that every [`notify_all`](Self::notify_all) changes.
    fn generation(&self) -> u64;
    /// Returns once [`generation`](Self::generation) differs from `seen`. Never called from an interrupt handler.
    fn wait(&self, seen: u64);
    /// As [`wait`](Self::wait), but returns after about `bound` nanoseconds too; says whether the generation differs. This is the timer of whoever has something to do later, such as an
    /// invalidation that was put off: it waits for new work for at most that long.
    fn wait_at_most(&self, seen: u64, bound: Nanos) -> bool;
    /// As [`wait`](Self::wait), but may return early, and returns after a tenth of a millisecond at the latest. For conditions that a plain store makes true: the thread that has stored looks whether
    /// anybody waits, and without a barrier in between it may overlook a waiter. Where accesses happen in program order, as in the schedule explorer, nothing is overlooked and this is `wait`.
    fn wait_briefly(&self, seen: u64) {
        self.wait_at_most(seen, 100_000);
    }
    /// Changes the generation and wakes everybody. May be called from an interrupt handler.
    fn notify_all(&self);
}

/// Data that is reached only while holding a lock of kind `L`. The lock stands in front of what it protects: most often they share a cache line.
#[repr(C)]
pub struct Mutex<T, L> {
    raw: L,
    data: UnsafeCell<T>,
}

// SAFETY: the data moves between threads only inside the exclusion that RawLock promises, so T: Send is enough.
unsafe impl<T: Send, L: RawLock> Sync for Mutex<T, L> {}

impl<T, L> Mutex<T, L> {
    /// `data` behind `raw`, which must be free. For a `static`, with a lock that has a `const` constructor of its own:
    ///
    /// ```
    /// # #[cfg(feature = "std")] {
    /// use portcullis_platform::{Mutex, host::HostLock};
    /// static COUNT: Mutex<u64, HostLock> = Mutex::from_raw(HostLock::unlabelled(), 0);
    /// *COUNT.lock() += 1;
    /// assert_eq!(*COUNT.lock(), 1);
    /// # }
    /// ```
    pub const fn from_raw(raw: L, data: T) -> Self {
        Self { raw, data: UnsafeCell::new(data) }
    }

    /// The data, without locking: `&mut self` proves that nobody else can.
    pub const fn get_mut(&mut self) -> &mut T {
        self.data.get_mut()
    }

    /// The data, without the lock around it.
    pub fn into_inner(self) -> T {
        self.data.into_inner()
    }
}

impl<T, L: RawLock> Mutex<T, L> {
    /// `data` behind a fresh lock. [`from_raw`](Self::from_raw) is the `const` way: a trait's function cannot be called in one.
    pub fn new(label: LockLabel, data: T) -> Self {
        Self::from_raw(L::new(label), data)
    }

    /// Waits for the lock and gives access to the data until the guard is dropped. Not recursive.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T, L> {
        self.raw.lock();
        MutexGuard { mutex: self, thread: PhantomData }
    }

    /// Access to the data if nobody holds the lock now.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T, L>> {
        // Lazily: a guard that is made and dropped without the lock would unlock somebody else's.
        self.raw.try_lock().then(|| MutexGuard { mutex: self, thread: PhantomData })
    }
}

impl<T, L> fmt::Debug for Mutex<T, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutex").finish_non_exhaustive()
    }
}

/// Access to what a [`Mutex`] protects.
///
/// It stays with the thread that took the lock, and is shared with other threads only where the data may be, as std's and `lock_api`'s guards are:
///
/// ```compile_fail,E0277
/// # use portcullis_platform::{MutexGuard, RawLock};
/// fn shared<T: Sync>() {}
/// fn cell<L: RawLock>() { shared::<MutexGuard<'static, core::cell::Cell<u64>, L>>() }
/// ```
/// ```compile_fail,E0277
/// # use portcullis_platform::{MutexGuard, RawLock};
/// fn sent<T: Send>() {}
/// fn number<L: RawLock>() { sent::<MutexGuard<'static, u64, L>>() }
/// ```
/// ```
/// # use portcullis_platform::{MutexGuard, RawLock};
/// fn shared<T: Sync>() {}
/// fn number<L: RawLock>() { shared::<MutexGuard<'static, u64, L>>() }
/// ```
///
/// # Invariants
///
/// The thread that made it holds `mutex.raw`.
#[must_use = "the lock is free again as soon as the guard is dropped"]
pub struct MutexGuard<'a, T, L: RawLock> {
    mutex: &'a Mutex<T, L>,
    /// Neither `Send` (the lock is given back where it was taken) nor `Sync` by itself (below).
    thread: PhantomData<*mut ()>,
}

// SAFETY: a shared guard gives out `&T` only, and the lock is not given back through it.
unsafe impl<T: Sync, L: RawLock> Sync for MutexGuard<'_, T, L> {}

impl<T, L: RawLock> Deref for MutexGuard<'_, T, L> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: by the type's invariant the lock is held, so nobody has a `&mut` to the data.
        unsafe { &*self.mutex.data.get() }
    }
}

impl<T, L: RawLock> DerefMut for MutexGuard<'_, T, L> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: by the type's invariant the lock is held, and `&mut self` excludes another borrow through this guard.
        unsafe { &mut *self.mutex.data.get() }
    }
}

impl<T, L: RawLock> Drop for MutexGuard<'_, T, L> {
    fn drop(&mut self) {
        // SAFETY: by the type's invariant this thread holds the lock; it is given back once, here.
        unsafe { self.mutex.raw.unlock() }
    }
}

impl<T: fmt::Debug, L: RawLock> fmt::Debug for MutexGuard<'_, T, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}
