//! Looking at the subsystem from outside.

use crate::attachment::Attachment;
use crate::description::{DmaPath, DomainType, FwNode};
use crate::device::{Device, DeviceStage, Status};
use crate::dma::Reach;
use crate::group::GroupId;
use crate::subsystem::Subsystem;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use hashbrown::HashMap;
use portcullis_addr::StreamId;
use portcullis_platform::Platform;

/// Where one device ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceReport {
    /// Its name.
    pub path: String,
    /// The IOMMUs that the description puts in front of it.
    pub iommus: Vec<FwNode>,
    /// Its group's number, counted in order of the members' paths: the same whatever came first.
    pub group: Option<u32>,
    /// The type of the domain that is attached.
    pub domain: Option<DomainType>,
    /// How it reaches memory now. [`Reach::Blocked`] for a device behind an IOMMU without a domain.
    pub reach: Reach,
    /// How far it has come.
    pub stage: DeviceStage,
    /// How often its driver's probe was called.
    pub probes: u32,
    /// How often a bind was put off.
    pub defers: u32,
}

/// How much of everything there is. A failed operation leaves all of these as before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Devices of the machine.
    pub devices: usize,
    /// Groups with at least one member.
    pub groups: usize,
    /// Groups with a domain attached.
    pub attached: usize,
    /// Drivers bound.
    pub bound: usize,
    /// Places in lists of waiters.
    pub waiters: usize,
    /// Items of deferred work.
    pub queued: usize,
    /// Mappings in force.
    pub mappings: usize,
    /// Bytes whose invalidation was never confirmed.
    pub quarantined: u64,
}

impl<P: Platform> Subsystem<P> {
    /// Where every device stands, sorted by path; one whose driver is being probed or removed, where it stood before. Costs O(n log n).
    pub fn reports(&self) -> Vec<DeviceReport> {
        let mut devices: Vec<_> = self.topology().lock().devices().cloned().collect();
        devices.sort_by(|a, b| a.path().cmp(b.path()));
        let mut numbers: HashMap<GroupId, u32> = HashMap::new();
        devices.iter().map(|device| report(device, &mut numbers)).collect()
    }

    /// How much of everything there is. Takes every lock in turn, so the numbers fit together only while nothing happens.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts { queued: self.work().len(), ..Counts::default() };
        let (devices, nodes) = {
            let topology = self.topology().lock();
            let devices: Vec<_> = topology.devices().cloned().collect();
            (devices, topology.nodes().cloned().collect::<Vec<_>>())
        };
        counts.devices = devices.len();
        counts.waiters = nodes.iter().map(|node| node.slot.lock().waiters.len()).sum();
        let mut seen: HashMap<GroupId, ()> = HashMap::new();
        for device in &devices {
            counts.bound += usize::from(device.stage() == DeviceStage::Bound);
            let Some(group) = device.group() else { continue };
            group.with(|group, state| {
                if seen.insert(group.id(), ()).is_none() {
                    counts.groups += 1;
                    if let Some(attached) = &state.attached {
                        counts.attached += 1;
                        counts.mappings += attached.domain().mapped();
                        counts.quarantined += attached.domain().quarantined();
                    }
                }
            });
        }
        counts
    }

    /// The device that emits `stream` on the IOMMU at `node`; of several that cannot be told apart, the first.
    pub fn device_of(&self, node: FwNode, stream: StreamId) -> Option<Arc<Device<P>>> {
        let topology = self.topology().lock();
        let id = topology.member_of(node, stream)?;
        topology.device(id).cloned()
    }
}

fn report<P: Platform>(device: &Device<P>, numbers: &mut HashMap<GroupId, u32>) -> DeviceReport {
    let Status { stage, probes, defers } = device.status();
    let (group, domain) = match device.group() {
        None => (None, None),
        Some(group) => {
            let (id, kind) = group.with(|group, state| {
                // A late member has no part in the domain until it is bound.
                let covers = |attached: &&Attachment<P>| attached.covers(device.id());
                let attached = state.attached.as_ref().filter(covers);
                (group.id(), attached.map(|attached| attached.domain().kind()))
            });
            let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
            (Some(*numbers.entry(id).or_insert(next)), kind)
        }
    };
    let (iommus, reach) = match &device.description().dma {
        DmaPath::Direct => (Vec::new(), Reach::Direct),
        DmaPath::Unusable(_) => (Vec::new(), Reach::Blocked),
        DmaPath::Translated(spec) => (spec.iommus(), reach_of(domain)),
    };
    DeviceReport {
        path: device.description().path.clone(),
        iommus,
        group,
        domain,
        reach,
        stage,
        probes,
        defers,
    }
}

fn reach_of(domain: Option<DomainType>) -> Reach {
    match domain {
        Some(DomainType::Dma) => Reach::Translated,
        Some(DomainType::Identity) => Reach::Identity,
        Some(DomainType::Blocked) | None => Reach::Blocked,
    }
}
