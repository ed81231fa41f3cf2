//! Calls into a device's driver, and what is left to do when one panics.
//!
//! The core has no way to catch a panic. Where panics unwind, a guard on the stack is dropped, and ends the bind. Where they do not, none of this happens.

use crate::description::DmaPath;
use crate::device::{Bound, Device};
use crate::dma::{DmaHandle, Lease};
use crate::driver::{BoundDriver, Driver, ProbeContext, ProbeError};
use crate::error::Unconfirmed;
use crate::hooks::{Safeguard, omitted};
use crate::ops::{Fault, OpsError};
use crate::reason::{Callback, FailedReason};
use crate::status::DeviceStage;
use alloc::boxed::Box;
use alloc::sync::Arc;
use portcullis_platform::Platform;

/// Ends a bind when it is dropped, because the driver is panicking. Defused when the callback has returned.
struct Panicking<'a, P: Platform> {
    device: &'a Device<P>,
    /// `None` once it has ended in the regular way.
    lease: Option<&'a Lease<P>>,
    callback: Callback,
}

impl<'a, P: Platform> Panicking<'a, P> {
    fn guard(device: &'a Device<P>, lease: &'a Lease<P>, callback: Callback) -> Self {
        Self { device, lease: Some(lease), callback }
    }

    fn defuse(self) {
        core::mem::forget(self);
    }
}

impl<P: Platform> Drop for Panicking<'_, P> {
    fn drop(&mut self) {
        if omitted::<P>(Safeguard::EndAfterPanic) {
            return;
        }
        if let Some(lease) = self.lease {
            // Where it is not confirmed, the group's reports say so.
            let _on_record = end_lease(self.device, lease);
        }
        if let Some(group) = self.device.group() {
            group.with(|_, group| group.shut_out(self.device.id()));
        }
        let reason = FailedReason::Panicked(self.callback);
        self.device.status.show(DeviceStage::Failed(reason));
    }
}

/// Voids the handles of a bind, and takes the bind from the owners of the device's group.
pub(crate) fn end_lease<P: Platform>(
    device: &Device<P>,
    lease: &Lease<P>,
) -> Result<(), Unconfirmed> {
    let ending = Ending { device, lease };
    let closed = lease.close();
    let end = match device.group() {
        Some(group) => group.with(|_, group| group.give_up(closed)),
        None => closed,
    };
    core::mem::forget(ending);
    lease.end(end);
    end
}

/// Says how a lease ended even if the thread that ends it panics (in an IOMMU's driver, say): not confirmed. Without this an unmap would wait for the answer for ever.
struct Ending<'a, P: Platform> {
    device: &'a Device<P>,
    lease: &'a Lease<P>,
}

impl<P: Platform> Drop for Ending<'_, P> {
    fn drop(&mut self) {
        let first = match &self.device.description().dma {
            DmaPath::Translated(spec) => spec.streams.first(),
            DmaPath::Direct | DmaPath::Unusable(_) => None,
        };
        let end = first.map_or(Ok(()), |stream| {
            Err(Unconfirmed { node: stream.iommu, error: OpsError::Dead })
        });
        self.lease.end(end);
    }
}

/// Has the driver take the device over.
pub(crate) fn probe<P: Platform>(
    platform: &P,
    device: &Device<P>,
    driver: &dyn Driver<P>,
    lease: &Arc<Lease<P>>,
) -> Result<Box<dyn BoundDriver>, ProbeError> {
    let context = ProbeContext::new(device.id(), device.description());
    let handle = DmaHandle::new(Arc::clone(lease));
    let panicking = Panicking::guard(device, lease, Callback::Probe);
    let probed = device.call(platform, || driver.probe(&context, handle));
    panicking.defuse();
    probed
}

/// Takes the driver away from the device.
pub(crate) fn remove<P: Platform>(
    platform: &P,
    device: &Device<P>,
    bound: Bound<P>,
) -> Result<(), Unconfirmed> {
    let Bound { mut driver, lease } = bound;
    let mut panicking = Panicking::guard(device, &lease, Callback::Remove);
    device.call(platform, || driver.remove());
    panicking.lease = None;
    // Before the driver is dropped, so that one invalidation covers all that it still has mapped.
    let ended = end_lease(device, &lease);
    device.call(platform, || drop(driver));
    panicking.defuse();
    ended
}

impl<P: Platform> Device<P> {
    /// Tells the bound driver of a fault, unless the device is being probed or unbound right now (perhaps by the caller).
    pub(crate) fn deliver(&self, platform: &P, fault: &Fault) {
        let Some(mut state) = self.state.try_lock() else {
            return self.status.count_missed_fault();
        };
        // Taken out, so that nobody finds a driver that has panicked.
        let Some(mut bound) = state.bound.take() else { return };
        let panicking = Panicking::guard(self, &bound.lease, Callback::OnFault);
        self.call(platform, || bound.driver.on_fault(fault));
        panicking.defuse();
        state.bound = Some(bound);
    }
}
