//! Faults, from the IOMMU to the driver whose device caused them.

use crate::description::FwNode;
use crate::device::{Device, DeviceNode};
use crate::node::Undelivered;
use crate::ops::{Fault, ReportedFault, Serviced};
use crate::subsystem::Subsystem;
use alloc::sync::Arc;
use alloc::vec::Vec;
use portcullis_addr::StreamId;
use portcullis_platform::Platform;

impl<P: Platform> Subsystem<P> {
    /// Takes the faults that the instance at `node` recorded, gives each to the driver of the device that caused it and to `sink`, and returns what else the
    /// instance had to say. A driver whose device is being probed or unbound at that moment is passed over, which
    /// [`DeviceReport::missed_faults`](crate::DeviceReport::missed_faults) counts; `sink` is not. If a
    /// driver panics, its fault does not reach `sink`, and the faults behind it are delivered by the next call.
    ///
    /// For threads: an interrupt handler calls [`InterruptHandle::collect`](crate::InterruptHandle::collect).
    pub fn drain_faults(
        &self,
        node: FwNode,
        mut sink: impl FnMut(&ReportedFault, Option<&Arc<Device<P>>>),
    ) -> Serviced {
        let Some(known) = self.known_node(node) else { return Serviced::default() };
        let (instance, earlier) = {
            let mut slot = known.slot.lock();
            let Some(instance) = slot.instance().cloned() else { return Serviced::default() };
            (instance, core::mem::take(&mut slot.undelivered))
        };
        let Undelivered { mut faults, told } = earlier;
        let kept = instance.port.take(&mut faults);
        let found = instance.ops.service(usize::MAX, &mut |fault| faults.push(fault));
        let told = found.after(kept).after(told);
        let mut batch = Batch { node: &known, faults: faults.into_iter(), told };
        for fault in batch.faults.by_ref() {
            let device = self.device_of(node, fault.stream);
            if let Some(device) = &device {
                device.deliver(self.platform(), &fault);
            }
            sink(&ReportedFault { iommu: node, fault }, device.as_ref());
        }
        core::mem::take(&mut batch.told)
    }

    /// The device that emits `stream` on the IOMMU at `node`; of several that cannot be told apart, the first.
    pub fn device_of(&self, node: FwNode, stream: StreamId) -> Option<Arc<Device<P>>> {
        self.topology().lock().emitter(node, stream).cloned()
    }
}

/// Faults on their way to their drivers. If one of these panics, the stack unwinds through here and the rest waits for the next call.
struct Batch<'a, P: Platform> {
    node: &'a DeviceNode<P>,
    faults: alloc::vec::IntoIter<Fault>,
    told: Serviced,
}

impl<P: Platform> Drop for Batch<'_, P> {
    fn drop(&mut self) {
        let faults: Vec<_> = self.faults.by_ref().collect();
        if !faults.is_empty() || self.told.is_ours() {
            self.node.slot.lock().undelivered = Undelivered { faults, told: self.told };
        }
    }
}
