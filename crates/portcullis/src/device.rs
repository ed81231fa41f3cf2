//! One device and where it stands.

use crate::description::{DeviceDescription, FwNode};
use crate::dma::Lease;
use crate::driver::{BoundDriver, Driver};
use crate::group::{GroupNode, GroupWaiter, IommuGroup};
use crate::member::DeviceId;
use crate::node::Standing;
use crate::reason::BlockedReason;
use crate::status::{DeviceStage, Status};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};
use portcullis_platform::{Lock, LockLabel, Mutex, Platform};

/// A group of devices.
pub(crate) type Group<P> = IommuGroup<P, Device<P>>;
/// A node that devices wait for.
pub(crate) type DeviceNode<P> = GroupNode<P, Device<P>>;
/// A device's place in a list of waiters.
pub(crate) type DeviceStanding<P> = Standing<P, Device<P>, Group<P>>;
/// A device that waits.
pub(crate) type DeviceWaiter<'a, P> = GroupWaiter<'a, P, Device<P>>;

/// A bound driver.
pub(crate) struct Bound<P: Platform> {
    pub(crate) driver: Box<dyn BoundDriver>,
    pub(crate) lease: Arc<Lease<P>>,
}

/// What the device lock protects, in the order in which a bind asks for it.
#[repr(C)]
pub(crate) struct DeviceState<P: Platform> {
    pub(crate) bound: Option<Bound<P>>,
    /// Set while a driver is bound or wants to be.
    pub(crate) driver: Option<Arc<dyn Driver<P>>>,
    /// The list of waiters in which the device stands, or stood before it was woken.
    pub(crate) standing: Option<DeviceStanding<P>>,
    /// The nodes whose arrival has caused an immediate retry already, with the number of that arrival; each node once.
    pub(crate) retried_for: Vec<(FwNode, u64)>,
}

/// One device of the machine.
// In the order in which a bind asks for it: a binding of many devices in any order waits for each cache line.
#[doc(alias = "struct device")]
#[repr(C)]
pub struct Device<P: Platform> {
    /// The thread that runs a callback of the device's driver; 0 for none. A thread can only find its own number here by having put it there.
    caller: AtomicUsize,
    /// `None` where the description puts the device behind no IOMMU, or is unusable, or its group could not be joined.
    group: Option<Arc<Group<P>>>,
    description: Arc<DeviceDescription>,
    /// Held while the device's driver is probed or removed: one attempt at a time.
    #[doc(alias = "device_lock")]
    pub(crate) state: Lock<P, DeviceState<P>>,
    pub(crate) status: Status<P>,
    id: DeviceId,
    /// Why it could not join its group.
    refused: Option<Box<BlockedReason>>,
}

impl<P: Platform> Device<P> {
    pub(crate) fn new(
        id: DeviceId,
        description: Arc<DeviceDescription>,
        group: Option<Arc<Group<P>>>,
    ) -> Self {
        let state =
            DeviceState { bound: None, driver: None, standing: None, retried_for: Vec::new() };
        let index = id.0;
        Self {
            id,
            description,
            group,
            refused: None,
            state: Mutex::new(LockLabel::new("device", index), state),
            status: Status::new(index),
            caller: AtomicUsize::new(0),
        }
    }

    /// One that is behind an IOMMU and could not join its group: it stays blocked for as long as it is in the machine.
    pub(crate) fn refused(
        id: DeviceId,
        description: Arc<DeviceDescription>,
        reason: BlockedReason,
    ) -> Self {
        Self { refused: Some(Box::new(reason)), ..Self::new(id, description, None) }
    }

    /// Its number.
    pub fn id(&self) -> DeviceId {
        self.id
    }

    /// What the machine's description says of it.
    pub fn description(&self) -> &DeviceDescription {
        &self.description
    }

    /// The name that reports use.
    pub fn path(&self) -> &str {
        &self.description.path
    }

    /// How far it has come. While its driver is being probed or removed, this is the stage before that.
    pub fn stage(&self) -> DeviceStage {
        self.status.stage()
    }

    /// Runs a callback of the driver, whose device lock the caller holds.
    pub(crate) fn call<R>(&self, platform: &P, callback: impl FnOnce() -> R) -> R {
        struct Inside<'a>(&'a AtomicUsize);
        impl Drop for Inside<'_> {
            fn drop(&mut self) {
                self.0.store(0, Ordering::Relaxed);
            }
        }
        self.caller.store(platform.thread(), Ordering::Relaxed);
        let _inside = Inside(&self.caller);
        callback()
    }

    /// Whether the calling thread runs a callback of the device's driver, so that it would wait for itself if it took the device lock.
    pub(crate) fn is_called_by(&self, platform: &P) -> bool {
        self.caller.load(Ordering::Relaxed) == platform.thread()
    }

    /// Reads what an attempt to bind asks for later, so that the memory answers all of it together. Of no use as a number.
    pub(crate) fn look(&self) -> usize {
        self.group.as_ref().map_or(0, Arc::strong_count) + usize::from(self.description.coherent)
    }

    /// Why it is behind an IOMMU and has no group.
    pub(crate) fn blocked_for(&self) -> BlockedReason {
        self.refused.as_deref().cloned().unwrap_or(BlockedReason::NoGroup)
    }

    pub(crate) fn group(&self) -> Option<&Arc<Group<P>>> {
        self.group.as_ref()
    }
}

impl<P: Platform> fmt::Debug for Device<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("id", &self.id).field("path", &self.path()).finish()
    }
}
