//! The registry of IOMMU instances (and other suppliers): one slot for each firmware node, and the devices that wait for it.
//!
//! What a node knows of devices and groups is only that they can be woken or set up, so their types (`D`, `G`) are parameters.

use crate::description::FwNode;
use crate::hooks::{Safeguard, omitted};
use crate::instance::IommuDevice;
use crate::ops::{Fault, Serviced};
use crate::quarantine::Quarantine;
use crate::reason::BlockedReason;
use crate::waiters::{Seat, WaitList};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;
use portcullis_platform::{Lock, LockLabel, Mutex, Platform};

/// What stands at a node, as seen from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Nothing is registered yet; whoever needs it waits.
    Absent,
    /// An IOMMU serves.
    Registered {
        /// The name of its driver.
        driver: &'static str,
    },
    /// A supplier that is not an IOMMU has been announced.
    Announced,
    /// Nothing will be registered, for this reason; whoever needs it is blocked, unless something is registered after all.
    Failed(String),
}

/// What an IOMMU that does not serve does with its devices' accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blocking {
    /// It is known to refuse all of them.
    Confirmed,
    /// It may let them through: many IOMMUs do out of reset, and one that broke down may do anything. To be sure, keep the devices from doing DMA
    /// (clear their bus mastering).
    Unknown,
}

impl fmt::Display for Blocking {
    /// What it means for the devices behind the IOMMU, and what is to be done.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Confirmed => "its devices are blocked",
            Self::Unknown => {
                "whether its devices are blocked is unknown: turn their bus mastering off"
            }
        })
    }
}

/// Why nothing will be registered at a node. Made from a string alone, it claims nothing about the devices behind the node: [`Unknown`](Blocking::Unknown).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFailure {
    /// In the words of whoever found out.
    pub words: String,
    /// What becomes of the accesses of the devices behind it.
    pub blocking: Blocking,
}

impl From<String> for NodeFailure {
    fn from(words: String) -> Self {
        Self { words, blocking: Blocking::Unknown }
    }
}

impl From<&str> for NodeFailure {
    fn from(words: &str) -> Self {
        String::from(words).into()
    }
}

impl fmt::Display for NodeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl core::error::Error for NodeFailure {}

pub(crate) enum SlotState<P: Platform> {
    Absent,
    Registered(Arc<IommuDevice<P>>),
    /// Being unregistered: whoever comes now waits as if it were absent.
    Closing(Arc<IommuDevice<P>>),
    Announced,
    Failed(String),
}

/// What an IOMMU reported and nobody was told.
#[derive(Default)]
pub(crate) struct Undelivered {
    pub(crate) faults: Vec<Fault>,
    pub(crate) told: Serviced,
}

pub(crate) struct Slot<P: Platform, D, G> {
    pub(crate) state: SlotState<P>,
    /// What happens to accesses while nothing serves here.
    pub(crate) blocking: Blocking,
    /// How often something was registered or announced here.
    pub(crate) arrivals: u64,
    /// Devices whose bind needs this node; a registration or failure wakes each once.
    pub(crate) waiters: WaitList<D>,
    /// Groups with a stream here. Whoever goes through them shares the list meanwhile; who changes it then, changes a copy.
    pub(crate) groups: Arc<Vec<Weak<G>>>,
    /// What a driver's panic kept from being told.
    pub(crate) undelivered: Undelivered,
}

impl<P: Platform, D, G> Slot<P, D, G> {
    /// Remembers a group. Entries of groups that are gone are reused, so that plugging in and out does not make the list grow.
    pub(crate) fn note_group(&mut self, group: Weak<G>) {
        let groups = Arc::make_mut(&mut self.groups);
        if groups.len() == groups.capacity() {
            groups.retain(|group| group.strong_count() > 0);
        }
        groups.push(group);
    }

    /// Takes everybody off the list of waiters.
    pub(crate) fn wake(&mut self) -> Vec<Weak<D>> {
        if omitted::<P>(Safeguard::WokenLeave) {
            return self.waiters.leave_behind();
        }
        self.waiters.take()
    }

    /// What is registered, also while it is being unregistered.
    pub(crate) fn instance(&self) -> Option<&Arc<IommuDevice<P>>> {
        match &self.state {
            SlotState::Registered(instance) | SlotState::Closing(instance) => Some(instance),
            SlotState::Absent | SlotState::Announced | SlotState::Failed(_) => None,
        }
    }
}

/// A firmware node that something may be registered for.
pub(crate) struct Node<P: Platform, D, G> {
    pub(crate) id: FwNode,
    pub(crate) slot: Lock<P, Slot<P, D, G>>,
    /// What the IOMMUs that served here did not confirm. Outlives them.
    pub(crate) quarantine: Arc<Quarantine<P>>,
}

/// Where a device stands in a list of waiters, or stood before that was taken.
pub(crate) struct Standing<P: Platform, D, G> {
    node: Arc<Node<P, D, G>>,
    seat: Seat,
}

impl<P: Platform, D, G> Standing<P, D, G> {
    /// Takes the device out, if it is still there.
    pub(crate) fn leave(self, device: &Arc<D>) {
        if !omitted::<P>(Safeguard::WaitOnce) {
            self.node.slot.lock().waiters.leave(device, self.seat);
        }
    }
}

/// Who waits when a node is not there yet.
pub(crate) struct Waiter<'a, P: Platform, D, G> {
    pub(crate) device: &'a Arc<D>,
    pub(crate) standing: &'a mut Option<Standing<P, D, G>>,
}

/// What [`Node::need`] found.
pub(crate) enum Need<P: Platform> {
    /// It serves.
    Serves(Arc<IommuDevice<P>>),
    /// Not there: the device is in the list of waiters now.
    Wait,
    /// It will not come; the device is in the list of waiters in case it does after all.
    Failed(Box<BlockedReason>),
}

impl<P: Platform, D, G> Node<P, D, G> {
    pub(crate) fn new(id: FwNode) -> Self {
        let slot = Slot {
            state: SlotState::Absent,
            blocking: Blocking::Unknown,
            arrivals: 0,
            waiters: WaitList::new(),
            groups: Arc::default(),
            undelivered: Undelivered::default(),
        };
        let index = u64::from(id.0);
        let quarantine = Arc::new(Quarantine::new(index));
        Self { id, slot: Mutex::new(LockLabel::new("node", index), slot), quarantine }
    }

    /// The instance, or a place in the list of waiters: decided under one lock, so a registration cannot slip in between.
    /// Where it serves, the device that asks does not wait here any more.
    pub(crate) fn need(self: &Arc<Self>, waiter: Option<&mut Waiter<'_, P, D, G>>) -> Need<P> {
        let mut slot = self.slot.lock();
        let answer = match &slot.state {
            SlotState::Registered(instance) => {
                let serves = Need::Serves(Arc::clone(instance));
                if let Some(waiter) = waiter {
                    self.dismiss(&mut slot, waiter);
                }
                return serves;
            }
            SlotState::Announced => Need::Failed(Box::new(BlockedReason::NotAnIommu(self.id))),
            SlotState::Absent | SlotState::Closing(_) => Need::Wait,
            SlotState::Failed(words) => {
                Need::Failed(Box::new(BlockedReason::NodeFailed(self.id, words.clone())))
            }
        };
        if omitted::<P>(Safeguard::LookAndWaitTogether) {
            drop(slot);
            slot = self.slot.lock();
        }
        let stays = !(omitted::<P>(Safeguard::WaitOnFailure) && matches!(answer, Need::Failed(_)));
        if let Some(waiter) = waiter.filter(|_| stays) {
            let elsewhere = self.enlist(&mut slot, waiter);
            drop(slot);
            elsewhere.into_iter().for_each(|standing| standing.leave(waiter.device));
        }
        answer
    }

    /// Takes a device into the list of waiters. Returns where else it stood, which it must leave once the slot's lock is given back.
    pub(crate) fn enlist(
        self: &Arc<Self>,
        slot: &mut Slot<P, D, G>,
        waiter: &mut Waiter<'_, P, D, G>,
    ) -> Option<Standing<P, D, G>> {
        let here = |standing: &Standing<P, D, G>| Arc::ptr_eq(&standing.node, self);
        let before = waiter.standing.as_ref().filter(|standing| here(standing));
        let before = before.filter(|_| !omitted::<P>(Safeguard::WaitOnce));
        let seat = slot.waiters.enter(waiter.device, before.map(|standing| standing.seat));
        let standing = Standing { node: Arc::clone(self), seat };
        waiter.standing.replace(standing).filter(|standing| !here(standing))
    }

    /// Takes a device that stands here, or stood here before it was woken, out of the list.
    fn dismiss(self: &Arc<Self>, slot: &mut Slot<P, D, G>, waiter: &mut Waiter<'_, P, D, G>) {
        let standing = waiter.standing.take_if(|standing| Arc::ptr_eq(&standing.node, self));
        if let Some(standing) = standing.filter(|_| !omitted::<P>(Safeguard::WaitOnce)) {
            slot.waiters.leave(waiter.device, standing.seat);
        }
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

    /// What happens to the accesses of a device that the IOMMU here was not told to let through.
    pub(crate) fn blocking(&self) -> Blocking {
        let slot = self.slot.lock();
        if slot.instance().is_some() { Blocking::Confirmed } else { slot.blocking }
    }
}

impl<P: Platform, D, G> fmt::Debug for Node<P, D, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({})", self.id)
    }
}
