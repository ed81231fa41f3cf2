//! How an interrupt reaches its IOMMU without a lock that a thread may hold for long.

use crate::instance::IommuDevice;
use crate::ops::{Fault, Serviced};
use crate::port::{KEPT, Port};
use alloc::sync::{Arc, Weak};
use core::fmt;
use portcullis_platform::Platform;

/// An IOMMU as its interrupt handlers see it, from [`Subsystem::interrupt_handle`](crate::Subsystem::interrupt_handle).
///
/// Everything here may be called at any time on any CPU, by an interrupt that interrupts any other call: it takes no lock that a thread may hold for long, allocates nothing and
/// waits for nothing. Once the IOMMU is unregistered, nothing happens any more; a handle that somebody keeps then keeps nothing of the IOMMU.
pub struct InterruptHandle<P: Platform> {
    port: Arc<Port<P>>,
    instance: Weak<IommuDevice<P>>,
}

impl<P: Platform> InterruptHandle<P> {
    pub(crate) fn new(instance: &Arc<IommuDevice<P>>) -> Self {
        Self { port: Arc::clone(&instance.port), instance: Arc::downgrade(instance) }
    }

    /// Acknowledges what the IOMMU reports, and keeps the faults for the next [`Subsystem::drain_faults`](crate::Subsystem::drain_faults), which a thread should call soon: 64
    /// fit, the others wait in hardware ([`Serviced::more`]).
    pub fn collect(&self) -> Serviced {
        let kept = &self.port.kept;
        self.reach(|instance| {
            let room = kept.with(|kept| {
                let room = KEPT - kept.faults.len() - kept.promised;
                kept.promised += room;
                room
            });
            let found = instance.ops.service(room, &mut |fault| {
                kept.with(|kept| kept.faults.push(fault));
            });
            kept.with(|kept| {
                kept.promised -= room;
                kept.told = found.after(kept.told);
            });
            found
        })
    }

    /// [`IommuOps::service`](crate::IommuOps::service), for a caller that keeps faults itself. No driver is told of the faults that are taken here.
    pub fn service(&self, budget: usize, sink: &mut dyn FnMut(Fault)) -> Serviced {
        self.reach(|instance| instance.ops.service(budget, sink))
    }

    fn reach(&self, f: impl FnOnce(&IommuDevice<P>) -> Serviced) -> Serviced {
        let found = self.port.inside(|| self.instance.upgrade().map(|instance| f(&instance)));
        found.flatten().unwrap_or_default()
    }
}

impl<P: Platform> Clone for InterruptHandle<P> {
    fn clone(&self) -> Self {
        Self { port: Arc::clone(&self.port), instance: Weak::clone(&self.instance) }
    }
}

impl<P: Platform> fmt::Debug for InterruptHandle<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InterruptHandle").finish_non_exhaustive()
    }
}
