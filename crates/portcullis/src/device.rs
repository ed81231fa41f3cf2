//! One device and where it stands.

use crate::description::{DeviceDescription, FwNode};
use crate::dma::Lease;
use crate::driver::{BoundDriver, Driver};
use crate::group::IommuGroup;
use crate::member::DeviceId;
use crate::reason::{BlockedReason, FailedReason};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use portcullis_platform::{Lock, LockLabel, Mutex, Platform};

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

pub(crate) enum Phase<P: Platform> {
    Described,
    Waiting(FwNode),
    Bound { driver: Box<dyn BoundDriver>, lease: Arc<Lease<P>> },
    Blocked(BlockedReason),
    Failed(FailedReason),
    Gone,
}

impl<P: Platform> Phase<P> {
    pub(crate) fn stage(&self) -> DeviceStage {
        match self {
            Self::Described => DeviceStage::Described,
            Self::Waiting(node) => DeviceStage::Waiting(*node),
            Self::Bound { .. } => DeviceStage::Bound,
            Self::Blocked(reason) => DeviceStage::Blocked(reason.clone()),
            Self::Failed(reason) => DeviceStage::Failed(reason.clone()),
            Self::Gone => DeviceStage::Gone,
        }
    }
}

/// What the device lock protects.
pub(crate) struct DeviceState<P: Platform> {
    pub(crate) phase: Phase<P>,
    /// Set while a driver is bound or wants to be.
    pub(crate) driver: Option<Arc<dyn Driver<P>>>,
    /// The node in whose list of waiters (or, once woken, in the work queue) the device stands.
    pub(crate) waits_in: Option<FwNode>,
    /// The nodes whose arrival, by number, has brought an attempt at once already; each node once.
    pub(crate) retried_for: Vec<(FwNode, u64)>,
    pub(crate) probes: u32,
    pub(crate) defers: u32,
}

/// One device of the machine.
#[doc(alias = "struct device")]
pub struct Device<P: Platform> {
    id: DeviceId,
    description: Arc<DeviceDescription>,
    /// `None` where the description puts the device behind no IOMMU, or is unusable, or its group could not be joined.
    group: Option<Arc<IommuGroup<P>>>,
    /// Why it could not join its group.
    refused: Option<BlockedReason>,
    /// Held while the device's driver is probed or removed: one attempt at a time.
    #[doc(alias = "device_lock")]
    pub(crate) state: Lock<P, DeviceState<P>>,
}

impl<P: Platform> Device<P> {
    pub(crate) fn new(
        id: DeviceId,
        description: Arc<DeviceDescription>,
        group: Option<Arc<IommuGroup<P>>>,
    ) -> Self {
        let state = DeviceState {
            phase: Phase::Described,
            driver: None,
            waits_in: None,
            retried_for: Vec::new(),
            probes: 0,
            defers: 0,
        };
        let label = LockLabel::new("device", u64::from(id.0));
        Self { id, description, group, refused: None, state: Mutex::new(label, state) }
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

    /// How far it has come. Waits for a probe of the device that is under way.
    pub fn stage(&self) -> DeviceStage {
        self.state.lock().phase.stage()
    }

    /// Why it is behind an IOMMU and has no group.
    pub(crate) fn blocked_for(&self) -> BlockedReason {
        self.refused.clone().unwrap_or(BlockedReason::NoGroup)
    }

    pub(crate) fn group(&self) -> Option<&Arc<IommuGroup<P>>> {
        self.group.as_ref()
    }
}

impl<P: Platform> fmt::Debug for Device<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("id", &self.id).field("path", &self.path()).finish()
    }
}
