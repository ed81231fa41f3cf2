//! Words that several threads change without a lock.

use crate::LockLabel;
use core::fmt;
use core::sync::atomic::Ordering;

/// A 64-bit word that threads and interrupt handlers share without a lock. The core and the drivers use this and not `core::sync::atomic`, so that a schedule explorer sees
/// each access as a step of its own.
///
/// Orderings mean what they mean in [`core::sync::atomic`], and those that make no sense there (a releasing load, an acquiring store) panic here too. A platform may
/// give a stronger ordering than asked for; the explorer's is always sequentially consistent.
///
/// A machine without 64-bit atomic instructions (riscv32, Cortex-M) implements it with interrupts masked and a spin lock; [`NativeAtomic`] exists where the target has them.
pub trait RawAtomic: Send + Sync + fmt::Debug + 'static {
    /// A word that holds `value`.
    fn new(label: LockLabel, value: u64) -> Self;
    /// Reads.
    fn load(&self, order: Ordering) -> u64;
    /// Writes.
    fn store(&self, value: u64, order: Ordering);
    /// Writes and returns what was there.
    fn swap(&self, value: u64, order: Ordering) -> u64;
    /// Replaces `old` by `new`. Does not fail spuriously.
    ///
    /// # Errors
    ///
    /// The value found, when it is not `old`; it was read with ordering `failure`.
    fn compare_exchange(
        &self,
        old: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<(), u64>;
    /// Adds, modulo 2^64, and returns what was there.
    fn fetch_add(&self, value: u64, order: Ordering) -> u64;
    /// Subtracts, modulo 2^64, and returns what was there.
    fn fetch_sub(&self, value: u64, order: Ordering) -> u64;
    /// Sets the bits of `mask` and returns what was there.
    fn fetch_or(&self, mask: u64, order: Ordering) -> u64;
    /// Keeps the bits of `mask` only and returns what was there.
    fn fetch_and(&self, mask: u64, order: Ordering) -> u64;
}

/// The processor's own atomic word, for every platform whose target has one. Ignores its label.
#[cfg(target_has_atomic = "64")]
#[repr(transparent)]
pub struct NativeAtomic(core::sync::atomic::AtomicU64);

#[cfg(target_has_atomic = "64")]
impl NativeAtomic {
    /// A word that holds `value`, in a `static` too.
    pub const fn unlabelled(value: u64) -> Self {
        Self(core::sync::atomic::AtomicU64::new(value))
    }
}

#[cfg(target_has_atomic = "64")]
impl RawAtomic for NativeAtomic {
    #[inline]
    fn new(_label: LockLabel, value: u64) -> Self {
        Self::unlabelled(value)
    }

    #[inline]
    fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }

    #[inline]
    fn store(&self, value: u64, order: Ordering) {
        self.0.store(value, order);
    }

    #[inline]
    fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.0.swap(value, order)
    }

    #[inline]
    fn compare_exchange(
        &self,
        old: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<(), u64> {
        self.0.compare_exchange(old, new, success, failure).map(drop)
    }

    #[inline]
    fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        self.0.fetch_add(value, order)
    }

    #[inline]
    fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
        self.0.fetch_sub(value, order)
    }

    #[inline]
    fn fetch_or(&self, mask: u64, order: Ordering) -> u64 {
        self.0.fetch_or(mask, order)
    }

    #[inline]
    fn fetch_and(&self, mask: u64, order: Ordering) -> u64 {
        self.0.fetch_and(mask, order)
    }
}

#[cfg(target_has_atomic = "64")]
impl fmt::Debug for NativeAtomic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
