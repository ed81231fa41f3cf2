//! A value that many threads use without a lock, until one takes it away and knows that nobody is inside any more.
//!
//! Each CPU counts the threads that entered on it in a word of its own, so that two CPUs that use the value at the same time share no cache line that either writes.
//! What a CPU caches of the value (free addresses, say) can therefore be used between entering and leaving, and be emptied after [`Revocable::revoke`] has returned.
#![expect(
    unsafe_code,
    reason = "an UnsafeCell that is emptied only when the counters show nobody inside"
)]

use core::cell::UnsafeCell;
use core::fmt;
use core::ops::Deref;
use core::sync::atomic::Ordering;
use portcullis_platform::{LockLabel, PerCpu, Platform, RawAtomic, RawEvent};

/// Set in every counter once nobody may enter any more.
const CLOSED: u64 = 1 << 63;

/// A value that can be taken away from its users.
///
/// # Invariants
///
/// `value` is `Some` until [`revoke`](Self::revoke) empties it, and that happens once, when every thread that entered before the counters were closed has left.
#[doc(alias = "percpu_ref")]
pub(crate) struct Revocable<T, P: Platform> {
    value: UnsafeCell<Option<T>>,
    /// Threads inside, by the CPU on which they entered.
    inside: PerCpu<P::Atomic>,
    /// How many of those who were inside when the counters were closed have left since.
    left: P::Atomic,
    someone_left: P::Event,
}

// SAFETY: threads share `&T` while they are inside (T: Sync); one of them takes the value out (T: Send). The seams' types are Send + Sync by their traits.
unsafe impl<T: Send + Sync, P: Platform> Sync for Revocable<T, P> {}

impl<T, P: Platform> Revocable<T, P> {
    /// `value`, open to everybody. The seams know its parts by the number `index`.
    pub(crate) fn new(platform: &P, index: u64, value: T) -> Self {
        let label = LockLabel::new("gate", index);
        Self {
            value: UnsafeCell::new(Some(value)),
            inside: PerCpu::new(platform, |_| P::Atomic::new(label, 0)),
            left: P::Atomic::new(label, 0),
            someone_left: P::Event::new(label),
        }
    }

    /// The value, which stays until the guard is dropped; `None` once it was revoked.
    #[inline]
    pub(crate) fn enter(&self, platform: &P) -> Option<Inside<'_, T, P>> {
        let count = self.inside.here(platform);
        if count.fetch_add(1, Ordering::Acquire) & CLOSED != 0 {
            // Was not counted among those inside, so nobody waits for this one to leave.
            count.fetch_sub(1, Ordering::Release);
            return None;
        }
        // SAFETY: this thread was counted before the counter was closed, and leaves by dropping the guard: by the type's invariant the value stays until then.
        let value = unsafe { (*self.value.get()).as_ref() };
        let value = value.expect("emptied only when nobody is inside");
        Some(Inside { value, count, revocable: self })
    }

    /// Lets nobody in any more, waits until nobody is inside, and takes the value out. Only the first call does; the others return `None` at once.
    ///
    /// The wait is as long as the longest operation of those inside, which wait for nothing but hardware, each for a bounded time.
    pub(crate) fn revoke(&self) -> Option<T> {
        let mut inside = 0;
        for count in self.inside.iter() {
            let before = count.fetch_or(CLOSED, Ordering::AcqRel);
            if before & CLOSED != 0 {
                return None;
            }
            inside += before;
        }
        loop {
            let seen = self.someone_left.generation();
            if self.left.load(Ordering::Acquire) == inside {
                break;
            }
            self.someone_left.wait(seen);
        }
        // SAFETY: only the thread that closed the first counter comes here. Whoever entered before a counter was closed has left (its accesses happened before: release
        // of `count` or `left`, acquired above), and nobody enters a closed counter.
        unsafe { (*self.value.get()).take() }
    }
}

impl<T, P: Platform> fmt::Debug for Revocable<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revocable").finish_non_exhaustive()
    }
}

/// A thread's stay inside a [`Revocable`].
pub(crate) struct Inside<'a, T, P: Platform> {
    value: &'a T,
    count: &'a P::Atomic,
    revocable: &'a Revocable<T, P>,
}

impl<T, P: Platform> Deref for Inside<'_, T, P> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.value
    }
}

impl<T, P: Platform> Drop for Inside<'_, T, P> {
    #[inline]
    fn drop(&mut self) {
        if self.count.fetch_sub(1, Ordering::Release) & CLOSED != 0 {
            self.revocable.left.fetch_add(1, Ordering::Release);
            self.revocable.someone_left.notify_all();
        }
    }
}
