//! Mutual exclusion by spinning.
#![expect(unsafe_code, reason = "RawLock and RawIrqLock promise exclusion")]

use crate::arch;
use crate::platform::Kernel;
use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicBool, Ordering};
use portcullis_platform::{LockLabel, RawIrqLock, RawLock};

/// The word that both kinds of lock spin on.
struct Held(AtomicBool);

impl Held {
    const fn free() -> Self {
        Self(AtomicBool::new(false))
    }

    fn take(&self) -> bool {
        // Looked at first: a failing exchange would take the line away from whoever holds the lock.
        !self.0.load(Ordering::Relaxed) && !self.0.swap(true, Ordering::Acquire)
    }

    fn release(&self) {
        self.0.store(false, Ordering::Release);
    }
}

/// The long lock, by spinning. Interrupts stay as they are, so an interrupt handler must not take it.
///
/// It is held across a driver's probe and across waits for hardware: whoever waits calls [`Kernel::relax`], where a kernel with a scheduler yields. Not fair.
pub struct SpinLock<K> {
    held: Held,
    kernel: PhantomData<fn() -> K>,
}

impl<K> SpinLock<K> {
    /// A free lock, in a `static` too.
    #[must_use]
    pub const fn unlabelled() -> Self {
        Self { held: Held::free(), kernel: PhantomData }
    }
}

// SAFETY: `take` returns true to one caller until `release`; acquire and release ordering pair up.
unsafe impl<K: Kernel> RawLock for SpinLock<K> {
    fn new(_label: LockLabel) -> Self {
        Self::unlabelled()
    }

    fn lock(&self) {
        while !self.held.take() {
            K::relax();
        }
    }

    fn try_lock(&self) -> bool {
        self.held.take()
    }

    unsafe fn unlock(&self) {
        self.held.release();
    }
}

impl<K> fmt::Debug for SpinLock<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SpinLock").field(&self.held.0).finish()
    }
}

/// The short lock: spins, and masks interrupts on its CPU while it waits and while it is held.
#[doc(alias = "spin_lock_irqsave")]
pub struct IrqSpinLock(Held);

impl IrqSpinLock {
    /// A free lock, in a `static` too.
    #[must_use]
    pub const fn unlabelled() -> Self {
        Self(Held::free())
    }
}

// SAFETY: as for SpinLock; with interrupts masked, no handler runs on this CPU before `unlock`.
unsafe impl RawIrqLock for IrqSpinLock {
    type Saved = arch::Interrupts;

    fn new(_label: LockLabel) -> Self {
        Self::unlabelled()
    }

    fn lock(&self) -> arch::Interrupts {
        let saved = arch::mask_interrupts();
        while !self.0.take() {
            core::hint::spin_loop();
        }
        saved
    }

    unsafe fn unlock(&self, saved: arch::Interrupts) {
        self.0.release();
        arch::restore_interrupts(saved);
    }
}

impl fmt::Debug for IrqSpinLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IrqSpinLock").field(&self.0.0).finish()
    }
}
