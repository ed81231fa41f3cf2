//! Which devices, nodes and groups there are. Only adding and removing devices changes that.
//!
//! Nothing here waits: no group's lock is taken while the topology is locked, because somebody may hold one for as long as hardware takes to answer. So a device is
//! added in three steps: [`Topology::plug`] notes its streams, [`Plug::join`] brings its groups together, [`Topology::finish`] shows it.

use crate::description::{DeviceDescription, DmaPath, FwNode, FwStream};
use crate::device::{Device, DeviceNode, Group};
use crate::group::{GroupId, IommuGroup};
use crate::member::{DeviceId, Member};
use crate::neighbours::Neighbours;
use crate::node::Node;
use crate::reason::BlockedReason;
use crate::stream_index::StreamIndex;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use hashbrown::HashMap;
use portcullis_addr::StreamId;
use portcullis_platform::Platform;

/// Why a device was not added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddDeviceError {
    /// [`DmaPath::Translated`] without a stream: it would be behind nothing.
    NoStreams {
        /// The device.
        path: String,
    },
    /// The width of its addresses is not in 1..=64.
    AddressBits {
        /// The device.
        path: String,
        /// The width.
        bits: u8,
    },
}

impl fmt::Display for AddDeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoStreams { path } => {
                write!(f, "{path}: translated, but with no stream: name at least one or say Direct")
            }
            Self::AddressBits { path, bits } => {
                write!(f, "{path}: {bits} address bits; must be 1 to 64")
            }
        }
    }
}

impl core::error::Error for AddDeviceError {}

pub(crate) struct Topology<P: Platform> {
    nodes: HashMap<FwNode, Arc<DeviceNode<P>>>,
    devices: BTreeMap<DeviceId, Arc<Device<P>>>,
    streams: StreamIndex<Arc<Group<P>>>,
    neighbours: Neighbours<Arc<Group<P>>>,
    devices_made: u64,
    groups_made: u64,
}

/// A device on its way in: its streams are noted, nobody sees it yet.
pub(crate) struct Plug<P: Platform> {
    id: DeviceId,
    description: Arc<DeviceDescription>,
    /// The groups of the streams and of the isolation set that it shares; a new one where it shares none. Empty for a device behind no IOMMU.
    candidates: Vec<Arc<Group<P>>>,
    nodes: Vec<Arc<DeviceNode<P>>>,
}

impl<P: Platform> Topology<P> {
    pub(crate) fn new() -> Self {
        Self {
            nodes: HashMap::new(),
            devices: BTreeMap::new(),
            streams: StreamIndex::new(),
            neighbours: Neighbours::new(),
            devices_made: 0,
            groups_made: 0,
        }
    }

    /// The node, created if nobody has named it yet.
    pub(crate) fn node(&mut self, id: FwNode) -> Arc<DeviceNode<P>> {
        Arc::clone(self.nodes.entry(id).or_insert_with(|| Arc::new(Node::new(id))))
    }

    /// The node, if anybody has named it.
    pub(crate) fn known_node(&self, id: FwNode) -> Option<Arc<DeviceNode<P>>> {
        self.nodes.get(&id).cloned()
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Arc<DeviceNode<P>>> {
        self.nodes.values()
    }

    pub(crate) fn devices(&self) -> impl Iterator<Item = &Arc<Device<P>>> {
        self.devices.values()
    }

    pub(crate) fn device(&self, id: DeviceId) -> Option<&Arc<Device<P>>> {
        self.devices.get(&id)
    }

    /// Gives a device its number and notes its streams and its isolation set, so that whoever adds one with the same from now on finds it.
    pub(crate) fn plug(&mut self, description: DeviceDescription) -> Plug<P> {
        let id = DeviceId(self.devices_made);
        self.devices_made += 1;
        let streams = description.streams();
        let mut candidates: Vec<Arc<Group<P>>> = Vec::new();
        self.streams.groups(streams, |group| {
            // Neighbours often repeat; the rest is made unique when they become one.
            if !candidates.last().is_some_and(|last| Arc::ptr_eq(last, group)) {
                candidates.push(Arc::clone(group));
            }
        });
        let isolation = description.isolation_set();
        candidates.extend(isolation.and_then(|set| self.neighbours.group(set)).cloned());
        if candidates.is_empty() && !streams.is_empty() {
            candidates.push(Arc::new(IommuGroup::new(GroupId(self.groups_made))));
            self.groups_made += 1;
        }
        if let Some(home) = candidates.first() {
            self.streams.add(streams, id, home);
            if let Some(set) = isolation {
                self.neighbours.add(set, home);
            }
        }
        let nodes = streams.iter().map(|stream| self.node(stream.iommu)).collect();
        Plug { id, description: Arc::new(description), candidates, nodes }
    }

    /// Shows a device that has joined its group, or was refused.
    pub(crate) fn finish(
        &mut self,
        plug: Plug<P>,
        joined: Result<Option<Arc<Group<P>>>, BlockedReason>,
    ) -> Arc<Device<P>> {
        let Plug { id, description, .. } = plug;
        let streams = description.streams();
        match &joined {
            Ok(_) => self.streams.settle(streams),
            Err(_) => self.forget(id, &description),
        }
        let device = Arc::new(match joined {
            Ok(group) => Device::new(id, description, group),
            Err(reason) => Device::refused(id, description, reason),
        });
        self.devices.insert(id, Arc::clone(&device));
        device
    }

    /// Takes a device, which has left its group, out of the index.
    pub(crate) fn remove(&mut self, device: &Device<P>) {
        self.devices.remove(&device.id());
        if device.group().is_some() {
            self.forget(device.id(), device.description());
        }
    }

    fn forget(&mut self, id: DeviceId, description: &DeviceDescription) {
        self.streams.remove(description.streams(), id);
        if let Some(set) = description.isolation_set() {
            self.neighbours.remove(set);
        }
    }

    /// The first device that emits `stream` at `node`.
    pub(crate) fn emitter(&self, node: FwNode, stream: StreamId) -> Option<&Arc<Device<P>>> {
        self.device(self.streams.device(&FwStream::new(node, stream))?)
    }
}

impl<P: Platform> Plug<P> {
    /// Merges the groups that the device's streams belong to, and adds the device to the result.
    ///
    /// # Errors
    ///
    /// When several must become one and one of them is in use: its domain may not change under a driver. Nothing has changed then.
    pub(crate) fn join(&self) -> Result<Option<Arc<Group<P>>>, BlockedReason> {
        if self.candidates.is_empty() {
            return Ok(None);
        }
        let home = IommuGroup::unite(&self.candidates)?;
        let member = Member::new(self.id, Arc::clone(&self.description));
        home.add_member(member, &self.nodes);
        Ok(Some(home))
    }
}

/// Whether a description contradicts itself.
pub(crate) fn check(description: &DeviceDescription) -> Result<(), AddDeviceError> {
    let path = || description.path.clone();
    if let DmaPath::Translated(spec) = &description.dma
        && spec.streams.is_empty()
    {
        return Err(AddDeviceError::NoStreams { path: path() });
    }
    if !(1..=64).contains(&description.address_bits) {
        return Err(AddDeviceError::AddressBits { path: path(), bits: description.address_bits });
    }
    Ok(())
}
