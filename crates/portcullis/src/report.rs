//! Looking at the subsystem from outside.

use crate::attachment::Attachment;
use crate::description::{DmaPath, DomainType, FwNode, FwSpec};
use crate::device::Device;
use crate::dma::Reach;
use crate::group::GroupId;
use crate::node::Blocking;
use crate::status::DeviceStage;
use crate::subsystem::Subsystem;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use hashbrown::HashMap;
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
    /// How it reaches memory now. A device behind an IOMMU without a domain has [`Reach::Blocked`], or [`Reach::Unknown`] where nobody knows that the IOMMU refuses its accesses.
    pub reach: Reach,
    /// How far it has come.
    pub stage: DeviceStage,
    /// How often its driver's probe was called.
    pub probes: u32,
    /// How often a bind was put off.
    pub defers: u32,
    /// Faults of which its driver was not told, because it was being probed or removed.
    pub missed_faults: u64,
}

/// How many devices, groups and so on there are. A failed operation leaves all of these as before it.
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
    /// Bytes that hardware did not confirm to have forgotten: in address spaces that are in use, and in those that were given up.
    pub quarantined: u64,
}

impl<P: Platform> Subsystem<P> {
    /// Where every device stands, sorted by path; one whose driver is being probed or removed, where it stood before. Costs O(n log n).
    pub fn reports(&self) -> Vec<DeviceReport> {
        let mut devices: Vec<_> = self.topology().lock().devices().cloned().collect();
        devices.sort_by(|a, b| a.path().cmp(b.path()));
        let mut numbers: HashMap<GroupId, u32> = HashMap::new();
        devices.iter().map(|device| self.report(device, &mut numbers)).collect()
    }

    /// How many devices, groups and so on there are. Takes every lock in turn, so the numbers agree with each other only while nothing happens.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts { queued: self.work().len(), ..Counts::default() };
        let (devices, nodes) = {
            let topology = self.topology().lock();
            let devices: Vec<_> = topology.devices().cloned().collect();
            (devices, topology.nodes().cloned().collect::<Vec<_>>())
        };
        counts.devices = devices.len();
        counts.waiters = nodes.iter().map(|node| node.slot.lock().waiters.len()).sum();
        // A space behind two IOMMUs may be left at both.
        let mut left: Vec<_> = nodes.iter().flat_map(|node| node.quarantine.spaces()).collect();
        left.sort_by_key(Arc::as_ptr);
        left.dedup_by(|one, other| Arc::ptr_eq(one, other));
        counts.quarantined = left.iter().map(|space| space.bytes()).sum();
        let mut seen: HashMap<GroupId, ()> = HashMap::new();
        for device in &devices {
            counts.bound += usize::from(device.status.is_bound());
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

    fn report(&self, device: &Device<P>, numbers: &mut HashMap<GroupId, u32>) -> DeviceReport {
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
            DmaPath::Unusable(_) => (Vec::new(), Reach::Unknown),
            DmaPath::Translated(spec) => {
                (spec.iommus(), reach_of(domain).unwrap_or_else(|| self.unattached(spec)))
            }
        };
        let path = device.description().path.clone();
        let status = &device.status;
        DeviceReport {
            path,
            iommus,
            group,
            domain,
            reach,
            stage: status.stage(),
            probes: status.probes(),
            defers: status.defers(),
            missed_faults: status.missed_faults(),
        }
    }

    /// What a device reaches that no domain is attached to.
    fn unattached(&self, spec: &FwSpec) -> Reach {
        let unknown = spec.streams.iter().any(|stream| {
            self.known_node(stream.iommu).is_none_or(|node| {
                node.blocking() == Blocking::Unknown
                    || node.quarantine.doubts(stream.spec()).is_some()
            })
        });
        if unknown { Reach::Unknown } else { Reach::Blocked }
    }
}

fn reach_of(domain: Option<DomainType>) -> Option<Reach> {
    Some(match domain? {
        DomainType::Dma | DomainType::DmaLazy => Reach::Translated,
        DomainType::Identity => Reach::Identity,
        DomainType::Blocked => Reach::Blocked,
    })
}
