//! IOMMUs and other suppliers come and go.

use crate::description::FwNode;
use crate::device::{Device, DeviceNode, Group};
use crate::error::Unconfirmed;
use crate::group::{GroupState, Owner};
use crate::hooks::{Safeguard, omitted};
use crate::instance::IommuDevice;
use crate::interrupt::InterruptHandle;
use crate::node::{Blocking, NodeFailure, NodeState, SlotState};
use crate::ops::ReadyInstance;
use crate::port::Port;
use crate::subsystem::Subsystem;
use crate::work::Work;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;
use portcullis_platform::Platform;

/// Why an instance was not registered. It is given back as it was.
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

/// Why an unregistration failed.
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

/// Why an IOMMU has not confirmed what it left unconfirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReconfirmError {
    /// Nothing is registered at the node.
    NotRegistered(FwNode),
    /// It did not confirm this time either.
    Unconfirmed(Unconfirmed),
}

impl fmt::Display for ReconfirmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRegistered(node) => write!(f, "nothing is registered at {node}"),
            Self::Unconfirmed(unconfirmed) => write!(f, "{unconfirmed}"),
        }
    }
}

impl core::error::Error for ReconfirmError {}

impl<P: Platform> Subsystem<P> {
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
        let latest = node.quarantine.latest();
        let waiters = {
            let mut slot = node.slot.lock();
            if slot.instance().is_some() {
                return Err(RegisterError { node: node.id, instance });
            }
            let instance = IommuDevice {
                node: node.id,
                ops: instance,
                quarantine: Arc::clone(&node.quarantine),
                port: Arc::new(Port::new(u64::from(node.id.0))),
            };
            slot.state = SlotState::Registered(Arc::new(instance));
            slot.arrivals += 1;
            slot.wake()
        };
        // Its bring-up has settled whatever an earlier one did not confirm.
        node.quarantine.settle(latest);
        self.wake(&node, waiters);
        Ok(())
    }

    /// Says that a supplier which is not an IOMMU (a clock, a regulator) is there, for drivers that [defer](crate::ProbeError::Defer) on it.
    pub fn announce(&self, node: FwNode) {
        self.settle(node, SlotState::Announced, None);
    }

    /// Says that nothing will be registered at `node`, and why. Whoever needs it is blocked with that reason, unless something is registered there after all.
    pub fn fail_node(&self, node: FwNode, failure: impl Into<NodeFailure>) {
        let NodeFailure { words, blocking } = failure.into();
        self.settle(node, SlotState::Failed(words), Some(blocking));
    }

    fn settle(&self, node: FwNode, state: SlotState<P>, blocking: Option<Blocking>) {
        let node = self.node(node);
        let waiters = {
            let mut slot = node.slot.lock();
            if slot.instance().is_some() {
                return;
            }
            slot.arrivals += u64::from(matches!(state, SlotState::Announced));
            slot.state = state;
            slot.blocking = blocking.unwrap_or(slot.blocking);
            slot.waiters.take()
        };
        self.work().push(waiters.into_iter().map(Work::Retry));
    }

    /// What stands at `node`.
    pub fn node_state(&self, node: FwNode) -> NodeState {
        self.known_node(node).map_or(NodeState::Absent, |node| node.state())
    }

    /// The handle by which interrupts reach the IOMMU at `node`: fetch it once, when the IOMMU has been registered. `None` where none is.
    pub fn interrupt_handle(&self, node: FwNode) -> Option<InterruptHandle<P>> {
        let node = self.known_node(node)?;
        let slot = node.slot.lock();
        slot.instance().map(InterruptHandle::new)
    }

    /// Asks the IOMMU at `node` to confirm whatever it did not confirm before. On success the address spaces that were given up without confirmation are freed, and
    /// what its devices reach is known again.
    ///
    /// # Errors
    ///
    /// [`ReconfirmError`]; everything is as before.
    pub fn reconfirm(&self, node: FwNode) -> Result<(), ReconfirmError> {
        let instance = self.instance_at(node).ok_or(ReconfirmError::NotRegistered(node))?;
        let latest = instance.quarantine.latest();
        let confirmed = instance.ops.forget_all();
        confirmed.map_err(|error| ReconfirmError::Unconfirmed(instance.unconfirmed(error)))?;
        instance.quarantine.settle(latest);
        Ok(())
    }

    fn instance_at(&self, node: FwNode) -> Option<Arc<IommuDevice<P>>> {
        self.known_node(node)?.slot.lock().instance().cloned()
    }

    /// Takes an instance out and stops it: all groups behind it are blocked first. Devices that are bound later wait until it is registered again.
    ///
    /// # Errors
    ///
    /// [`UnregisterError::Busy`] while a device behind it is in use: everything is as before (a group that was given up, because a driver was bound only while this call
    /// was under way, has its domain again). [`UnregisterError::NotRegistered`]. [`UnregisterError::Unconfirmed`] when hardware did not confirm: it is out all the same.
    #[doc(alias = "iommu_device_unregister")]
    pub fn unregister(&self, node: FwNode) -> Result<(), UnregisterError> {
        let node = self.known_node(node).ok_or(UnregisterError::NotRegistered(node))?;
        let (instance, groups) = close(&node)?;
        match block_unused(&groups) {
            Ok(()) => {
                instance.port.close(self.platform().clock());
                let latest = instance.quarantine.latest();
                // A unit that stopped aborts everything, so what its groups could not confirm is confirmed by that.
                let stopped = instance.ops.shutdown().map_err(|error| instance.unconfirmed(error));
                if stopped.is_ok() {
                    instance.quarantine.settle(latest);
                }
                let mut slot = node.slot.lock();
                slot.state = SlotState::Absent;
                slot.blocking =
                    if stopped.is_ok() { Blocking::Confirmed } else { Blocking::Unknown };
                stopped.map_err(UnregisterError::Unconfirmed)
            }
            Err(Refused { path, detached }) => {
                let waiters = {
                    let mut slot = node.slot.lock();
                    slot.state = SlotState::Registered(instance);
                    slot.waiters.take()
                };
                if !omitted::<P>(Safeguard::RestoreAfterRefusal) {
                    detached.iter().for_each(|group| self.set_up_group(group));
                    // Those that came meanwhile.
                    self.work().push([Work::SetUpGroups(node)]);
                }
                if !omitted::<P>(Safeguard::WakeAfterRefusal) {
                    self.work().push(waiters.into_iter().map(Work::Retry));
                }
                Err(UnregisterError::Busy { path })
            }
        }
    }

    fn wake(&self, node: &Arc<DeviceNode<P>>, waiters: Vec<Weak<Device<P>>>) {
        let retries = waiters.into_iter().map(Work::Retry);
        self.work().push(retries.chain([Work::SetUpGroups(Arc::clone(node))]));
    }
}

/// An instance on its way out, and the groups behind it.
type Closing<P> = (Arc<IommuDevice<P>>, Vec<Arc<Group<P>>>);

/// From here on nobody new attaches; whoever is attaching now holds its group's lock.
fn close<P: Platform>(node: &DeviceNode<P>) -> Result<Closing<P>, UnregisterError> {
    let mut slot = node.slot.lock();
    let SlotState::Registered(instance) = &slot.state else {
        return Err(UnregisterError::NotRegistered(node.id));
    };
    let instance = Arc::clone(instance);
    slot.state = SlotState::Closing(Arc::clone(&instance));
    Arc::make_mut(&mut slot.groups).retain(|group| group.strong_count() > 0);
    Ok((instance, slot.groups.iter().filter_map(Weak::upgrade).collect()))
}

/// Why an instance stays.
struct Refused<P: Platform> {
    /// A device that is in use.
    path: String,
    /// The groups that have lost their domains before that was found.
    detached: Vec<Arc<Group<P>>>,
}

/// Detaches all groups, unless one of them is in use.
fn block_unused<P: Platform>(groups: &[Arc<Group<P>>]) -> Result<(), Refused<P>> {
    let mut detached = Vec::new();
    // Looked at first, so that a refusal changes nothing; between the two looks a device can still be bound to a domain that is attached.
    if let Some(path) = groups.iter().find_map(user) {
        return Err(Refused { path, detached });
    }
    for group in groups {
        let user = group.with(|_, state| {
            let user = user_of(state);
            if user.is_none() && state.attached.is_some() {
                state.abandon();
                detached.push(Arc::clone(group));
            }
            user
        });
        if let Some(path) = user {
            return Err(Refused { path, detached });
        }
    }
    Ok(())
}

fn user<P: Platform>(group: &Arc<Group<P>>) -> Option<String> {
    group.with(|_, state| user_of(state))
}

/// The path of a member of a group whose domain somebody uses. One that is owned from outside has no domain of ours to lose.
fn user_of<P: Platform, D>(state: &GroupState<P, D>) -> Option<String> {
    let used = state.owner != Owner::Kernel(0) && state.attached.is_some();
    let used = used && !omitted::<P>(Safeguard::RefuseWhileBound);
    state.members.first().filter(|_| used).map(|member| member.description.path.clone())
}
