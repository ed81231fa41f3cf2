//! The subsystem: the entry point, registration and deferral.

use crate::description::{DeviceDescription, DomainType, FwNode};
use crate::device::Device;
use crate::error::Unconfirmed;
use crate::group::{GroupState, IommuGroup, Owner};
use crate::hooks::{Safeguard, omitted};
use crate::instance::IommuDevice;
use crate::node::{Node, NodeState, SlotState, Undelivered};
use crate::omit;
use crate::ops::{Fault, ReadyInstance, ReportedFault, Serviced};
use crate::topology::{AddDeviceError, Topology};
use crate::work::{Work, WorkQueue};
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;
use portcullis_platform::{Lock, LockLabel, Mutex, Platform, RawEvent};

/// What is left to choose where the description leaves a choice.
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

/// Why an instance was not taken; it is given back unharmed.
#[derive(Debug)]
pub struct RegisterError {
    /// The node that has an instance already.
    pub node: FwNode,
    /// The instance that was to be registered.
    pub instance: ReadyInstance,
}

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an instance is registered at {} already: unregister it first", self.node)
    }
}

impl core::error::Error for RegisterError {}

/// Why an instance is still there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnregisterError {
    /// A device behind it is in use.
    Busy {
        /// One such device.
        path: String,
    },
    /// Nothing is registered at the node.
    NotRegistered(FwNode),
    /// It is no longer registered, but hardware did not confirm that it stopped, or that the devices behind it are blocked.
    Unconfirmed(Unconfirmed),
}

impl fmt::Display for UnregisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy { path } => write!(f, "{path} is in use: unbind it first"),
            Self::NotRegistered(node) => write!(f, "nothing is registered at {node}"),
            Self::Unconfirmed(error) => write!(f, "unregistered, but not known to be off: {error}"),
        }
    }
}

impl core::error::Error for UnregisterError {}

/// Why a group did not change its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerError {
    /// A kernel driver is bound to one of its devices, or somebody else outside owns it.
    Busy,
    /// The token owns nothing here.
    NotOwner,
    /// The device has no group: it is behind no IOMMU.
    NoGroup,
    /// Hardware did not confirm that the group's devices are blocked.
    Unconfirmed(Unconfirmed),
}

impl fmt::Display for OwnerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => f.write_str("the group is in use: unbind its devices first"),
            Self::NotOwner => f.write_str("the group is not owned by this token"),
            Self::NoGroup => f.write_str("the device is behind no IOMMU"),
            Self::Unconfirmed(unconfirmed) => write!(f, "{unconfirmed}"),
        }
    }
}

impl core::error::Error for OwnerError {}

/// The IOMMU subsystem of one machine. All methods may be called from any number of threads.
pub struct Subsystem<P: Platform> {
    platform: Arc<P>,
    policy: Policy,
    topology: Lock<P, Topology<P>>,
    work: WorkQueue<P>,
}

impl<P: Platform> Subsystem<P> {
    /// A subsystem that knows no device yet.
    pub fn new(platform: Arc<P>, policy: Policy) -> Self {
        let topology = Mutex::new(LockLabel::new("topology", 0), Topology::new());
        Self { platform, policy, topology, work: WorkQueue::new() }
    }

    /// The system it runs on.
    pub fn platform(&self) -> &Arc<P> {
        &self.platform
    }

    /// What was chosen at the start.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// Takes a device in. It joins the group of the devices that it cannot be told apart from; if that would join groups that are in use, it stays blocked. Where its IOMMU
    /// serves already, its group's domain is queued, for whoever calls [`run_deferred`](Self::run_deferred).
    ///
    /// # Errors
    ///
    /// [`AddDeviceError`] for a description that contradicts itself.
    #[doc(alias = "device_add")]
    pub fn add_device(
        &self,
        description: DeviceDescription,
    ) -> Result<Arc<Device<P>>, AddDeviceError> {
        let device = self.topology.lock().add(description)?;
        if let Some(group) = device.group()
            && group.with(|_, state| state.wants_set_up())
        {
            self.work.push([Work::SetUpGroup(Arc::downgrade(group))]);
        }
        Ok(device)
    }

    /// Makes an instance visible. It must serve already: reset, tables installed, all streams blocked.
    ///
    /// Exactly the devices that wait for `node` are queued for their next attempt, and every group behind it for its domain; whoever calls
    /// [`run_deferred`](Self::run_deferred), or a client that arrives earlier, does the work. Costs O(waiters + groups behind the node).
    ///
    /// # Errors
    ///
    /// [`RegisterError`] where one is registered already.
    #[doc(alias = "iommu_device_register")]
    pub fn register(&self, node: FwNode, instance: ReadyInstance) -> Result<(), RegisterError> {
        let node = self.node(node);
        let waiters = {
            let mut slot = node.slot.lock();
            if let SlotState::Registered(_) | SlotState::Closing(_) = slot.state {
                return Err(RegisterError { node: node.id, instance });
            }
            let instance = IommuDevice { node: node.id, ops: instance };
            slot.state = SlotState::Registered(Arc::new(instance));
            slot.arrivals += 1;
            let left =
                if omitted::<P>(Safeguard::WokenLeave) { slot.waiters.clone() } else { Vec::new() };
            core::mem::replace(&mut slot.waiters, left)
        };
        self.wake(&node, waiters);
        Ok(())
    }

    /// Says that a supplier which is not an IOMMU (a clock, a regulator) is there, for drivers that [defer](crate::ProbeError::Defer) on it.
    pub fn announce(&self, node: FwNode) {
        self.settle(node, SlotState::Announced);
    }

    /// Says that nothing will be registered at `node`, and why. Who needs it is blocked with that reason; a later registration lifts it.
    pub fn fail_node(&self, node: FwNode, reason: impl Into<String>) {
        self.settle(node, SlotState::Failed(reason.into()));
    }

    fn settle(&self, node: FwNode, state: SlotState) {
        let node = self.node(node);
        let waiters = {
            let mut slot = node.slot.lock();
            if let SlotState::Registered(_) | SlotState::Closing(_) = slot.state {
                return;
            }
            slot.arrivals += u64::from(matches!(state, SlotState::Announced));
            slot.state = state;
            core::mem::take(&mut slot.waiters)
        };
        self.work.push(waiters.into_iter().map(Work::Retry));
    }

    /// What stands at `node`.
    pub fn node_state(&self, node: FwNode) -> NodeState {
        self.node(node).state()
    }

    /// Takes an instance out and stops it: all groups behind it are blocked first. Devices that are bound later wait until it is registered again.
    ///
    /// # Errors
    ///
    /// [`UnregisterError::Busy`] while a device behind it is in use: everything is as before. [`UnregisterError::NotRegistered`].
    /// [`UnregisterError::Unconfirmed`] when hardware did not confirm: it is out all the same.
    #[doc(alias = "iommu_device_unregister")]
    pub fn unregister(&self, node: FwNode) -> Result<(), UnregisterError> {
        let node = self.node(node);
        let (instance, groups) = {
            let mut slot = node.slot.lock();
            let SlotState::Registered(instance) = &slot.state else {
                return Err(UnregisterError::NotRegistered(node.id));
            };
            let instance = Arc::clone(instance);
            // From here on nobody new attaches; who is attaching now holds its group's lock, which is taken below.
            slot.state = SlotState::Closing(Arc::clone(&instance));
            slot.groups.retain(|group| group.strong_count() > 0);
            (instance, slot.groups.clone())
        };
        let busy = groups.iter().filter_map(Weak::upgrade).find_map(|group| block_unused(&group));
        let (state, outcome) = match busy {
            Some(path) => (SlotState::Registered(instance), Err(UnregisterError::Busy { path })),
            None => {
                // A unit that stopped aborts everything, so what its groups could not confirm is confirmed by that.
                let stopped = instance.ops.shutdown().map_err(|error| instance.unconfirmed(error));
                (SlotState::Absent, stopped.map_err(UnregisterError::Unconfirmed))
            }
        };
        let reopened = matches!(state, SlotState::Registered(_));
        let waiters = {
            let mut slot = node.slot.lock();
            slot.state = state;
            if reopened { core::mem::take(&mut slot.waiters) } else { Vec::new() }
        };
        if reopened {
            self.wake(&node, waiters);
        }
        outcome
    }

    /// Gives the group of `device` to an owner outside the kernel, known by `token`: its streams are blocked until released. Counted: each claim needs a release.
    ///
    /// # Errors
    ///
    /// [`OwnerError::Busy`], [`OwnerError::NoGroup`]. [`OwnerError::Unconfirmed`] when hardware did not confirm that the group's devices are blocked: nobody owns it then.
    #[doc(alias = "iommu_device_claim_dma_owner")]
    pub fn claim_group(&self, device: &Device<P>, token: u64) -> Result<(), OwnerError> {
        let group = device.group().ok_or(OwnerError::NoGroup)?;
        let claimed = group.with(|_, group| group.claim_external(token));
        claimed.ok_or(OwnerError::Busy)?.map_err(OwnerError::Unconfirmed)
    }

    /// Undoes one [`claim_group`](Self::claim_group).
    ///
    /// # Errors
    ///
    /// [`OwnerError::NotOwner`], [`OwnerError::NoGroup`].
    #[doc(alias = "iommu_device_release_dma_owner")]
    pub fn release_group(&self, device: &Device<P>, token: u64) -> Result<(), OwnerError> {
        let group = device.group().ok_or(OwnerError::NoGroup)?;
        let released = group.with(|_, group| group.release_external(token));
        released.then_some(()).ok_or(OwnerError::NotOwner)
    }

    /// Does all the work that is queued now, and what it brings about; returns how many items that were. Any number of threads may do this at once. Within a
    /// callback of a driver, the retry of its own device is left for later.
    #[doc(alias = "deferred_probe_work_func")]
    pub fn run_deferred(&self) -> usize {
        let mut done = 0;
        let mut later = Vec::new();
        while let Some(work) = self.work.pop() {
            match work {
                Work::Retry(device) => {
                    if device.upgrade().is_some_and(|device| !self.retry(&device)) {
                        later.push(Work::Retry(device));
                        continue;
                    }
                }
                Work::SetUpGroups(node) => self.set_up_groups(&node),
                Work::SetUpGroup(group) => {
                    if let Some(group) = group.upgrade() {
                        self.set_up_group(&group);
                    }
                }
            }
            done += 1;
        }
        if !later.is_empty() {
            self.work.push(later);
        }
        done
    }

    /// Runs deferred work until `finished` says so, sleeping while there is none. Call [`wake_workers`](Self::wake_workers) after `finished` changed.
    pub fn serve_deferred(&self, finished: impl Fn() -> bool) {
        loop {
            let seen = self.work.arrived().generation();
            self.run_deferred();
            if finished() {
                return;
            }
            self.work.arrived().wait(seen);
        }
    }

    /// Lets every [`serve_deferred`](Self::serve_deferred) look at its condition again.
    pub fn wake_workers(&self) {
        self.work.arrived().notify_all();
    }

    /// Takes the faults that the instance at `node` recorded, gives each to the driver of the device that caused it and to `sink`, and returns what else the
    /// instance had to say. A driver whose device is being probed or unbound at that moment is passed over; `sink` is not. If a
    /// driver panics, its fault does not reach `sink`, and the faults behind it are delivered by the next call.
    pub fn drain_faults(
        &self,
        node: FwNode,
        mut sink: impl FnMut(&ReportedFault, Option<&Arc<Device<P>>>),
    ) -> Serviced {
        let slot = self.node(node);
        let (instance, earlier) = {
            let mut slot = slot.slot.lock();
            let instance = match &slot.state {
                SlotState::Registered(instance) | SlotState::Closing(instance) => instance,
                SlotState::Absent | SlotState::Announced | SlotState::Failed(_) => {
                    return Serviced::default();
                }
            };
            (Arc::clone(instance), core::mem::take(&mut slot.undelivered))
        };
        let Undelivered { mut faults, told } = earlier;
        let found = instance.ops.service(usize::MAX, &mut |fault| faults.push(fault));
        let mut batch = Batch { node: &slot, faults: faults.into_iter(), told: found.after(told) };
        for fault in batch.faults.by_ref() {
            let device = self.device_of(node, fault.stream);
            if let Some(device) = &device {
                device.deliver(&self.platform, &fault);
            }
            sink(&ReportedFault { iommu: node, fault }, device.as_ref());
        }
        core::mem::take(&mut batch.told)
    }

    pub(crate) fn node(&self, id: FwNode) -> Arc<Node<P>> {
        self.topology.lock().node(id)
    }

    pub(crate) fn topology(&self) -> &Lock<P, Topology<P>> {
        &self.topology
    }

    pub(crate) fn work(&self) -> &WorkQueue<P> {
        &self.work
    }

    fn wake(&self, node: &Arc<Node<P>>, waiters: Vec<Weak<Device<P>>>) {
        let retries = waiters.into_iter().map(Work::Retry);
        self.work.push(retries.chain([Work::SetUpGroups(Arc::clone(node))]));
    }

    /// Devices without a driver get their group's domain too: its reserved regions and isolation do not wait for a driver.
    fn set_up_groups(&self, node: &Node<P>) {
        let groups = node.slot.lock().groups.clone();
        groups.iter().filter_map(Weak::upgrade).for_each(|group| self.set_up_group(&group));
    }

    fn set_up_group(&self, group: &Arc<IommuGroup<P>>) {
        if omit::domain(group, self.policy.default_domain, None).is_some() {
            return;
        }
        // Whoever binds later learns the reason; nothing is lost by not keeping it here.
        let _ = group.with(|_, state| {
            if state.members.is_empty() {
                return Ok(());
            }
            state.ensure_attached(self.policy.default_domain, None).map(drop)
        });
    }
}

/// Faults on their way to their drivers. If one of these panics, the stack unwinds through here and the rest waits for the next call.
struct Batch<'a, P: Platform> {
    node: &'a Node<P>,
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

/// Detaches the group unless somebody uses it; then returns the path of a member.
fn block_unused<P: Platform>(group: &Arc<IommuGroup<P>>) -> Option<String> {
    group.with(|_, state: &mut GroupState<P>| {
        if state.owner == Owner::Kernel(0) || omitted::<P>(Safeguard::RefuseWhileBound) {
            state.note_detach();
            return None;
        }
        // A group that is owned from outside has no domain of ours to lose.
        state.attached.as_ref()?;
        Some(state.members.first()?.description.path.clone())
    })
}

impl<P: Platform> fmt::Debug for Subsystem<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subsystem").field("policy", &self.policy).finish_non_exhaustive()
    }
}
