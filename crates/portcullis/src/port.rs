//! Where interrupt handlers enter an instance, and leave what they find.

use crate::ops::{Fault, Serviced};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use portcullis_platform::{IrqMutex, LockLabel, Nanos, Platform, RawAtomic, wait_for};

/// Faults that interrupts can keep until a thread collects them. More wait in hardware.
pub(crate) const KEPT: usize = 64;
/// How long an unregistration waits for a handler that is inside: far longer than any handler may run.
const HANDLER_BOUND: Nanos = 1_000_000_000;
/// Nobody may enter any more.
const CLOSED: u64 = 1;
/// One handler inside.
const INSIDE: u64 = 2;

/// Where interrupt handlers enter one instance.
pub(crate) struct Port<P: Platform> {
    /// [`CLOSED`] plus [`INSIDE`] for each handler.
    gate: P::Atomic,
    pub(crate) kept: IrqMutex<Kept, P::IrqLock>,
}

/// What interrupts found and no thread has collected.
pub(crate) struct Kept {
    /// Never longer than [`KEPT`], for which there is room from the start.
    pub(crate) faults: Vec<Fault>,
    /// Places that handlers have taken and not yet filled.
    pub(crate) promised: usize,
    pub(crate) told: Serviced,
}

impl<P: Platform> Port<P> {
    pub(crate) fn new(index: u64) -> Self {
        let kept =
            Kept { faults: Vec::with_capacity(KEPT), promised: 0, told: Serviced::default() };
        Self {
            gate: P::Atomic::new(LockLabel::new("port", index), 0),
            kept: IrqMutex::new(LockLabel::new("port", index), kept),
        }
    }

    /// Runs `f` unless the port is closed.
    pub(crate) fn inside<R>(&self, f: impl FnOnce() -> R) -> Option<R> {
        struct Leaving<'a, A: RawAtomic>(&'a A);
        impl<A: RawAtomic> Drop for Leaving<'_, A> {
            fn drop(&mut self) {
                self.0.fetch_sub(INSIDE, Ordering::Release);
            }
        }
        let before = self.gate.fetch_add(INSIDE, Ordering::Acquire);
        let _leaving = Leaving(&self.gate);
        (before & CLOSED == 0).then(f)
    }

    /// Keeps handlers out, and waits until none is inside, so that none of them is the last to let go of the instance. One that does not come out in time
    /// keeps it alive and drops it then.
    pub(crate) fn close(&self, clock: &P::Clock) {
        self.gate.fetch_or(CLOSED, Ordering::AcqRel);
        let _out = wait_for(clock, HANDLER_BOUND, || self.gate.load(Ordering::Acquire) == CLOSED);
    }

    /// What interrupts have kept.
    pub(crate) fn take(&self, faults: &mut Vec<Fault>) -> Serviced {
        faults.reserve(KEPT);
        self.kept.with(|kept| {
            faults.append(&mut kept.faults);
            core::mem::take(&mut kept.told)
        })
    }
}
