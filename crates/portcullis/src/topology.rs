//! Which devices, nodes and groups there are: changed only by adding and removing.

use crate::description::{DeviceDescription, DmaPath, FwNode, FwStream};
use crate::device::Device;
use crate::group::{GroupId, IommuGroup};
use crate::member::{DeviceId, Member};
use crate::node::Node;
use crate::reason::BlockedReason;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use hashbrown::HashMap;
use portcullis_addr::StreamId;
use portcullis_platform::Platform;

/// Why a device was not taken in.
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
    nodes: HashMap<FwNode, Arc<Node<P>>>,
    /// Index = [`DeviceId`]; a hole is a removed device.
    devices: Vec<Option<Arc<Device<P>>>>,
    exact: HashMap<(FwNode, StreamId), Arc<IommuGroup<P>>>,
    /// Streams with a match mask. Few (SMMUv2 has at most 128), so a list.
    masked: Vec<(FwStream, Arc<IommuGroup<P>>)>,
    groups_made: u32,
}

impl<P: Platform> Topology<P> {
    pub(crate) fn new() -> Self {
        Self {
            nodes: HashMap::new(),
            devices: Vec::new(),
            exact: HashMap::new(),
            masked: Vec::new(),
            groups_made: 0,
        }
    }

    pub(crate) fn node(&mut self, id: FwNode) -> Arc<Node<P>> {
        Arc::clone(self.nodes.entry(id).or_insert_with(|| Arc::new(Node::new(id))))
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Arc<Node<P>>> {
        self.nodes.values()
    }

    pub(crate) fn devices(&self) -> impl Iterator<Item = &Arc<Device<P>>> {
        self.devices.iter().flatten()
    }

    pub(crate) fn device(&self, id: DeviceId) -> Option<&Arc<Device<P>>> {
        self.devices.get(id.0 as usize)?.as_ref()
    }

    /// Takes a device in and puts it into the group of whoever it cannot be told apart from.
    pub(crate) fn add(
        &mut self,
        description: DeviceDescription,
    ) -> Result<Arc<Device<P>>, AddDeviceError> {
        check(&description)?;
        let description = Arc::new(description);
        let id = DeviceId(u32::try_from(self.devices.len()).expect("fewer than 2^32 devices"));
        let group = match &description.dma {
            DmaPath::Translated(spec) => self.join_group(id, &description, &spec.streams).map(Some),
            DmaPath::Direct | DmaPath::Unusable(_) => Ok(None),
        };
        let device = Arc::new(match group {
            Ok(group) => Device::new(id, description, group),
            Err(reason) => Device::refused(id, description, reason),
        });
        self.devices.push(Some(Arc::clone(&device)));
        Ok(device)
    }

    /// Takes a device, which has left its group, out of the index.
    pub(crate) fn remove(&mut self, device: &Device<P>) {
        if let Some(slot) = self.devices.get_mut(device.id().0 as usize) {
            *slot = None;
        }
        if let (Some(group), DmaPath::Translated(spec)) =
            (device.group(), &device.description().dma)
        {
            let mut streams = spec.streams.clone();
            group.with(|_, state| {
                let kept = |stream: &FwStream| {
                    state.members.iter().any(|member| member.streams().contains(stream))
                };
                streams.retain(|stream| !kept(stream));
            });
            self.forget_streams(&streams);
        }
    }

    fn forget_streams(&mut self, streams: &[FwStream]) {
        for stream in streams {
            if stream.mask == 0 {
                self.exact.remove(&(stream.iommu, stream.id));
            } else {
                self.masked.retain(|(other, _)| other != stream);
            }
        }
    }

    /// The first device that emits `stream` at `node`.
    pub(crate) fn member_of(&self, node: FwNode, stream: StreamId) -> Option<DeviceId> {
        let stream = FwStream::new(node, stream);
        let exact = self.exact.get(&(stream.iommu, stream.id));
        let masked = || self.masked.iter().find(|(other, _)| other.overlaps(&stream));
        let group = exact.or_else(|| masked().map(|(_, group)| group))?;
        group.with(|_, state| {
            let emits =
                |member: &&Member| member.streams().iter().any(|other| other.overlaps(&stream));
            state.members.iter().find(emits).map(|member| member.id)
        })
    }

    fn join_group(
        &mut self,
        id: DeviceId,
        description: &Arc<DeviceDescription>,
        streams: &[FwStream],
    ) -> Result<Arc<IommuGroup<P>>, BlockedReason> {
        let mut found: Vec<Arc<IommuGroup<P>>> = Vec::new();
        for stream in streams {
            for group in self.groups_overlapping(stream) {
                let group = group.root();
                if !found.iter().any(|other| Arc::ptr_eq(other, &group)) {
                    found.push(group);
                }
            }
        }
        found.sort_by_key(|group| group.id());
        IommuGroup::merge(&found)?;
        let group = found.first().cloned().unwrap_or_else(|| self.new_group());
        let nodes: Vec<_> = streams.iter().map(|stream| self.node(stream.iommu)).collect();
        group.add_member(Member { id, description: Arc::clone(description) }, &nodes);
        self.index(streams, &group);
        Ok(group)
    }

    fn groups_overlapping(&self, stream: &FwStream) -> Vec<Arc<IommuGroup<P>>> {
        let masked = self.masked.iter().filter(|(other, _)| other.overlaps(stream));
        let mut groups: Vec<_> = masked.map(|(_, group)| Arc::clone(group)).collect();
        if stream.mask == 0 {
            groups.extend(self.exact.get(&(stream.iommu, stream.id)).cloned());
        } else {
            let exact = self.exact.iter();
            let hits = exact.filter(|((node, id), _)| FwStream::new(*node, *id).overlaps(stream));
            groups.extend(hits.map(|(_, group)| Arc::clone(group)));
        }
        groups
    }

    fn index(&mut self, streams: &[FwStream], group: &Arc<IommuGroup<P>>) {
        for stream in streams {
            if stream.mask == 0 {
                self.exact.insert((stream.iommu, stream.id), Arc::clone(group));
            } else {
                self.masked.push((*stream, Arc::clone(group)));
            }
        }
    }

    fn new_group(&mut self) -> Arc<IommuGroup<P>> {
        let id = GroupId(self.groups_made);
        self.groups_made += 1;
        Arc::new(IommuGroup::new(id))
    }
}

fn check(description: &DeviceDescription) -> Result<(), AddDeviceError> {
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
