//! One device and where it stands.

use crate::description::{DeviceDescription, FwNode};
use crate::dma::Lease;
use crate::driver::{BoundDriver, Driver};
use crate::group::{GroupNode, GroupWaiter, IommuGroup};
use crate::member::DeviceId;
use crate::node::Standing;
use crate::reason::{BlockedReason, FailedReason};
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

/// How far a device has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceStage {
    /// Known, nothing asked of it yet.
    Described,
    /// A bind waits for the supplier at this node.
    Waiting(FwNode),
    /// A driver is bound.
    Bound,
    /// Nothing reaches memory on its behalf, for this reason. A registration of what was missing lifts it.
    Blocked(BlockedReason),
    /// Its driver's probe failed for this reason; its address space is attached and empty.
    Failed(FailedReason),
    /// Removed from the machine.
    Gone,
}

/// A bound driver.
pub(crate) struct Bound<P: Platform> {
    pub(crate) driver: Box<dyn BoundDriver>,
    pub(crate) lease: Arc<Lease<P>>,
}

/// What the device lock protects.
pub(crate) struct DeviceState<P: Platform> {
    pub(crate) bound: Option<Bound<P>>,
    /// Set while a driver is bound or wants to be.
    pub(crate) driver: Option<Arc<dyn Driver<P>>>,
    /// The list of waiters in which the device stands, or stood before it was woken.
    pub(crate) standing: Option<DeviceStanding<P>>,
    /// The nodes whose arrival, by number, has brought an attempt at once already; each node once.
    pub(crate) retried_for: Vec<(FwNode, u64)>,
}

/// What anybody may look at, also while a driver has the device lock.
#[derive(Clone, Debug)]
pub(crate) struct Status {
    pub(crate) stage: DeviceStage,
    pub(crate) probes: u32,
    pub(crate) defers: u32,
    pub(crate) missed_faults: u64,
}

/// One device of the machine.
#[doc(alias = "struct device")]
pub struct Device<P: Platform> {
    id: DeviceId,
    description: Arc<DeviceDescription>,
    /// `None` where the description puts the device behind no IOMMU, or is unusable, or its group could not be joined.
    group: Option<Arc<Group<P>>>,
    /// Why it could not join its group.
    refused: Option<BlockedReason>,
    /// Held while the device's driver is probed or removed: one attempt at a time.
    #[doc(alias = "device_lock")]
    pub(crate) state: Lock<P, DeviceState<P>>,
    /// Changed only by who holds `state`.
    status: Lock<P, Status>,
    /// The thread that runs a callback of the device's driver; 0 for none. A thread can only find its own number here by having put it there.
    caller: AtomicUsize,
}

impl<P: Platform> Device<P> {
    pub(crate) fn new(
        id: DeviceId,
        description: Arc<DeviceDescription>,
        group: Option<Arc<Group<P>>>,
    ) -> Self {
        let state =
            DeviceState { bound: None, driver: None, standing: None, retried_for: Vec::new() };
        let stage = DeviceStage::Described;
        let status = Status { stage, probes: 0, defers: 0, missed_faults: 0 };
        let index = id.0;
        Self {
            id,
            description,
            group,
            refused: None,
            state: Mutex::new(LockLabel::new("device", index), state),
            status: Mutex::new(LockLabel::new("status", index), status),
            caller: AtomicUsize::new(0),
        }
    }

    /// One that is behind an IOMMU and could not join its group: it stays blocked for as long as it is in the machine.
    pub(crate) fn refused(
        id: DeviceId,
        description: Arc<DeviceDescription>,
        reason: BlockedReason,
    ) -> Self {
        Self { refused: Some(reason), ..Self::new(id, description, None) }
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

    /// How far it has come. While its driver is being probed or removed: where it stood before.
    pub fn stage(&self) -> DeviceStage {
        self.status.lock().stage.clone()
    }

    /// Everything that may be looked at.
    pub(crate) fn status(&self) -> Status {
        self.status.lock().clone()
    }

    /// Changes what may be looked at.
    pub(crate) fn tell(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.status.lock());
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

    /// Why it is behind an IOMMU and has no group.
    pub(crate) fn blocked_for(&self) -> BlockedReason {
        self.refused.clone().unwrap_or(BlockedReason::NoGroup)
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
