//! The registry of IOMMU instances (and other suppliers), one slot a firmware node, with who waits for it.

use crate::description::FwNode;
use crate::device::Device;
use crate::group::IommuGroup;
use crate::hooks::{Safeguard, omitted};
use crate::instance::IommuDevice;
use crate::ops::{Fault, Serviced};
use crate::reason::BlockedReason;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;
use portcullis_platform::{Lock, LockLabel, Mutex, Platform};

/// What stands at a node, as seen from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Nobody has registered yet: who needs it waits.
    Absent,
    /// An IOMMU serves.
    Registered {
        /// Its driver's word.
        driver: &'static str,
    },
    /// A supplier that is not an IOMMU has been announced.
    Announced,
    /// It will not come, for this reason: who needs it is blocked. A later registration lifts that.
    Failed(String),
}

pub(crate) enum SlotState {
    Absent,
    Registered(Arc<IommuDevice>),
    /// Being unregistered: whoever comes now waits as for an absent one.
    Closing(Arc<IommuDevice>),
    Announced,
    Failed(String),
}

/// What an IOMMU reported and nobody was told.
#[derive(Default)]
pub(crate) struct Undelivered {
    pub(crate) faults: Vec<Fault>,
    pub(crate) told: Serviced,
}

pub(crate) struct Slot<P: Platform> {
    pub(crate) state: SlotState,
    /// How often something was registered or announced here.
    pub(crate) arrivals: u64,
    /// Devices whose bind needs this node; a registration or failure wakes each once.
    pub(crate) waiters: Vec<Weak<Device<P>>>,
    /// Groups with a stream here.
    pub(crate) groups: Vec<Weak<IommuGroup<P>>>,
    /// What a driver's panic kept from being told.
    pub(crate) undelivered: Undelivered,
}

impl<P: Platform> Slot<P> {
    /// Remembers a group; those that are gone make room, so that plugging in and out does not add up.
    pub(crate) fn note_group(&mut self, group: Weak<IommuGroup<P>>) {
        if self.groups.len() == self.groups.capacity() {
            self.groups.retain(|group| group.strong_count() > 0);
        }
        self.groups.push(group);
    }
}

/// A firmware node that something may be registered for.
pub(crate) struct Node<P: Platform> {
    pub(crate) id: FwNode,
    pub(crate) slot: Lock<P, Slot<P>>,
}

/// What [`Node::need`] found.
pub(crate) enum Need {
    /// It serves.
    Serves(Arc<IommuDevice>),
    /// Not there: the device is in the list of waiters now.
    Wait,
    /// It will not come; the device is in the list of waiters in case it does after all.
    Failed(BlockedReason),
}

impl<P: Platform> Node<P> {
    pub(crate) fn new(id: FwNode) -> Self {
        let slot = Slot {
            state: SlotState::Absent,
            arrivals: 0,
            waiters: Vec::new(),
            groups: Vec::new(),
            undelivered: Undelivered::default(),
        };
        Self { id, slot: Mutex::new(LockLabel::new("node", u64::from(id.0)), slot) }
    }

    /// The instance, or a place in the list of waiters: decided under one lock, so a registration cannot slip in between.
    pub(crate) fn need(&self, waiter: Option<&Arc<Device<P>>>) -> Need {
        let mut slot = self.slot.lock();
        let answer = match &slot.state {
            SlotState::Registered(instance) => return Need::Serves(Arc::clone(instance)),
            SlotState::Announced => Need::Failed(BlockedReason::NotAnIommu(self.id)),
            SlotState::Absent | SlotState::Closing(_) => Need::Wait,
            SlotState::Failed(words) => {
                Need::Failed(BlockedReason::NodeFailed(self.id, words.clone()))
            }
        };
        if omitted::<P>(Safeguard::LookAndWaitTogether) {
            drop(slot);
            slot = self.slot.lock();
        }
        if !(omitted::<P>(Safeguard::WaitOnFailure) && matches!(answer, Need::Failed(_))) {
            slot.waiters.extend(waiter.map(Arc::downgrade));
        }
        answer
    }

    /// Takes a removed device out of the list of waiters. O(waiters).
    pub(crate) fn forget_waiter(&self, device: &Arc<Device<P>>) {
        let address = Arc::as_ptr(device);
        self.slot.lock().waiters.retain(|waiter| !core::ptr::eq(waiter.as_ptr(), address));
    }

    /// Whether an IOMMU serves here.
    pub(crate) fn serves(&self) -> bool {
        matches!(self.slot.lock().state, SlotState::Registered(_))
    }

    pub(crate) fn state(&self) -> NodeState {
        match &self.slot.lock().state {
            SlotState::Absent => NodeState::Absent,
            SlotState::Registered(instance) | SlotState::Closing(instance) => {
                NodeState::Registered { driver: instance.ops.driver_name() }
            }
            SlotState::Announced => NodeState::Announced,
            SlotState::Failed(reason) => NodeState::Failed(reason.clone()),
        }
    }
}

impl<P: Platform> fmt::Debug for Node<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({})", self.id)
    }
}
