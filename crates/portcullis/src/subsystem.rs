//! The subsystem: the entry point, and what its other rooms share.

use crate::description::{DeviceDescription, DomainType, FwNode};
use crate::device::{Device, DeviceNode, Group};
use crate::flushes::Flushes;
use crate::omit;
use crate::topology::{self, AddDeviceError, Topology};
use crate::work::{Work, WorkQueue};
use alloc::sync::Arc;
use core::fmt;
use portcullis_platform::{Lock, LockLabel, Mutex, Platform};

/// What the caller decides where the description leaves a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The domain of a group none of whose devices needs a particular one.
    pub default_domain: DomainType,
}

impl Default for Policy {
    fn default() -> Self {
        Self { default_domain: DomainType::Dma }
    }
}

/// The IOMMU subsystem of one machine. All methods may be called from any number of threads.
pub struct Subsystem<P: Platform> {
    platform: Arc<P>,
    policy: Policy,
    topology: Lock<P, Topology<P>>,
    work: WorkQueue<P>,
    flushes: Flushes<P>,
}

impl<P: Platform> Subsystem<P> {
    /// A subsystem that knows no device yet.
    pub fn new(platform: Arc<P>, policy: Policy) -> Self {
        let topology = Mutex::new(LockLabel::new("topology", 0), Topology::new());
        let (work, flushes) = (WorkQueue::new(), Flushes::new());
        Self { platform, policy, topology, work, flushes }
    }

    /// The system it runs on.
    pub fn platform(&self) -> &Arc<P> {
        &self.platform
    }

    /// What was chosen at the start.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// Adds a device. It joins the group of the devices that it cannot be told apart from; if that would join groups that are in use, it stays blocked. Where its IOMMU
    /// serves already, its group's domain is queued, for whoever calls [`run_deferred`](Self::run_deferred).
    ///
    /// Waits for hardware only where the device joins a group of which a domain is being set up or given up right now; nobody else waits with it.
    ///
    /// # Errors
    ///
    /// [`AddDeviceError`] for a description that contradicts itself.
    #[doc(alias = "device_add")]
    pub fn add_device(
        &self,
        description: DeviceDescription,
    ) -> Result<Arc<Device<P>>, AddDeviceError> {
        topology::check(&description)?;
        let plug = self.topology.lock().plug(description);
        let joined = plug.join();
        let device = self.topology.lock().finish(plug, joined);
        if let Some(group) = device.group()
            && group.with(|_, state| state.wants_set_up())
        {
            self.work.push([Work::SetUpGroup(Arc::downgrade(group))]);
        }
        Ok(device)
    }

    /// The node, created if nobody has named it yet.
    pub(crate) fn node(&self, id: FwNode) -> Arc<DeviceNode<P>> {
        self.topology.lock().node(id)
    }

    /// The node, if anybody has named it.
    pub(crate) fn known_node(&self, id: FwNode) -> Option<Arc<DeviceNode<P>>> {
        self.topology.lock().known_node(id)
    }

    pub(crate) fn topology(&self) -> &Lock<P, Topology<P>> {
        &self.topology
    }

    pub(crate) fn work(&self) -> &WorkQueue<P> {
        &self.work
    }

    pub(crate) fn flushes(&self) -> &Flushes<P> {
        &self.flushes
    }

    /// Devices without a driver get their group's domain too: its reserved regions and isolation do not wait for a driver.
    pub(crate) fn set_up_group(&self, group: &Arc<Group<P>>) {
        if omit::domain(group, self.policy.default_domain, None).is_some() {
            return;
        }
        // Whoever binds later learns the reason; nothing is lost by not keeping it here.
        let _ = group.with(|_, state| {
            // In the order of the cache lines: most groups of a boot were attached by their devices' retries.
            if state.attached.is_some() || state.members.is_empty() {
                return Ok(());
            }
            state.ensure_attached(self.policy.default_domain, None).map(drop)
        });
    }
}

impl<P: Platform> fmt::Debug for Subsystem<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (nodes, devices) = {
            let topology = self.topology.lock();
            (topology.nodes().count(), topology.devices().count())
        };
        f.debug_struct("Subsystem")
            .field("policy", &self.policy)
            .field("nodes", &nodes)
            .field("devices", &devices)
            .finish_non_exhaustive()
    }
}
