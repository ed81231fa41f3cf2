//! One PCI segment: which requester ids lead to which unit.

use super::unusable;
use crate::machine::{DescribedDevice, IommuNode};
use crate::pci::{IommuMap, PciBus, PciScope, RequesterId};
use crate::problem::{Findings, Problem};
use crate::reserved::Span;
use crate::rules::rule;
use crate::spans::Spans;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use portcullis::{DeviceDescription, DmaPath, FwNode};

/// The last requester id of a segment.
pub(super) const LAST: u32 = 0xffff;

/// Where a requester id leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To the unit, with the id that is `shift` higher (modulo 2^32).
    Shifted { iommu: FwNode, shift: u32 },
    /// To the unit, with this id.
    One { iommu: FwNode, id: u32 },
    /// Two units claim it: nowhere.
    Refused,
}

impl Way {
    fn iommu(self) -> Option<FwNode> {
        match self {
            Self::Shifted { iommu, .. } | Self::One { iommu, .. } => Some(iommu),
            Self::Refused => None,
        }
    }
}

/// What the tables say of one segment.
pub(super) struct Segment {
    pub(super) ids: Spans<Way>,
    /// Functions that a table names.
    pub(super) functions: BTreeSet<u32>,
    /// What only enumeration can tell.
    pub(super) scopes: Vec<PciScope>,
    /// The unit of every function that no other unit names.
    pub(super) rest: Option<FwNode>,
    /// Buses that no bridge is in front of, as far as the tables show.
    pub(super) root_buses: BTreeSet<u8>,
    /// First and last requester id, and the region.
    pub(super) regions: Vec<(u32, u32, Span)>,
    pub(super) coherent: bool,
    pub(super) address_bits: u8,
    pub(super) ats: Option<bool>,
    /// A table leads ids of it to a unit, also such that no function of a segment has: the first of these.
    pub(super) beyond: Option<u32>,
    conflicts: BTreeMap<(FwNode, FwNode), (u32, u32)>,
    /// How many overlaps may still be looked at.
    patience: u32,
}

/// Overlapping claims of one segment that are looked at. Real tables have none.
const PATIENCE: u32 = 1 << 14;

impl Default for Segment {
    fn default() -> Self {
        Self {
            ids: Spans::default(),
            functions: BTreeSet::new(),
            scopes: Vec::new(),
            rest: None,
            root_buses: BTreeSet::from([0]),
            regions: Vec::new(),
            coherent: true,
            address_bits: 64,
            ats: None,
            beyond: None,
            conflicts: BTreeMap::new(),
            patience: PATIENCE,
        }
    }
}

impl Segment {
    /// Leads `first..=last` to `way`. Ids that lead elsewhere already lead nowhere from then on.
    pub(super) fn claim(&mut self, first: u32, last: u32, way: Way) {
        let mut from = Some(first);
        while let Some(start) = from.filter(|start| *start <= last) {
            let Some((taken, end, other)) =
                self.ids.overlap(start, last).map(|(s, e, w)| (s, e, *w))
            else {
                break;
            };
            let Some(left) = self.patience.checked_sub(1) else {
                return self.ids.set(0, LAST, Way::Refused);
            };
            self.patience = left;
            let (taken, end_here) = (taken.max(start), end.min(last));
            if other != way {
                if let (Some(one), Some(two)) = (other.iommu(), way.iommu()) {
                    self.conflicts.entry((one, two)).or_insert((taken, end_here));
                }
                self.ids.set(taken, end_here, Way::Refused);
            }
            from = end_here.checked_add(1);
        }
        self.ids.fill(first, last, &way);
    }

    /// The bus with its functions.
    pub(super) fn lower(
        mut self,
        number: u16,
        node: FwNode,
        iommus: &[IommuNode],
        findings: &mut Findings,
    ) -> DescribedDevice {
        let path = format!("PCI segment {number:04x}");
        self.report(&path, iommus, findings);
        self.fill_rest();
        let described = self.rest.is_some()
            || self.beyond.is_some()
            || !self.scopes.is_empty()
            || !self.ids.is_empty();
        let bus = self.bus(number, iommus);
        let dma = match (described, bus.maps().is_empty()) {
            (false, _) => DmaPath::Direct,
            (true, false) => bus.summary(),
            (true, true) => {
                DmaPath::Unusable("no unit that can be used is known for its functions".into())
            }
        };
        let description = DeviceDescription {
            coherent: self.coherent,
            address_bits: self.address_bits,
            ..DeviceDescription::new(path, dma)
        };
        let listed = self.functions.iter().filter(|_| described);
        let functions = listed.map(|rid| {
            let requester = RequesterId(*rid);
            let mut description = bus.function(name(number, requester), &[requester], &description);
            let way = self.ids.overlap(*rid, *rid).and_then(|(_, _, way)| way.iommu());
            if let Some(problem) = way.and_then(|iommu| unusable(iommus, iommu)) {
                description.dma = DmaPath::Unusable(problem.what);
            }
            crate::pci::PciFunction { requester, description }
        });
        let functions = functions.collect();
        DescribedDevice {
            node,
            description,
            enabled: true,
            compatible: Vec::new(),
            streams: Vec::new(),
            bus: described.then_some(bus),
            functions,
            msi: Vec::new(),
        }
    }

    /// Gives to the unit of the rest what is surely its. Where bridges stand in front of other units' devices, only the buses in front of all bridges are.
    fn fill_rest(&mut self) {
        let Some(iommu) = self.rest else { return };
        let way = Way::Shifted { iommu, shift: 0 };
        if self.scopes.is_empty() {
            self.ids.fill(0, LAST, &way);
            return;
        }
        for bus in &self.root_buses {
            let first = u32::from(*bus) << 8;
            self.ids.fill(first, first | 0xff, &way);
        }
    }

    /// What leads to a unit that cannot be used is left out: its functions stay blocked.
    fn bus(&mut self, number: u16, iommus: &[IommuNode]) -> PciBus {
        let usable = |iommu: FwNode| unusable(iommus, iommu).is_none();
        let maps = self.ids.iter().filter_map(|(first, last, way)| {
            let (iommu, id_base, constant) = match *way {
                Way::Shifted { iommu, shift } => (iommu, first.wrapping_add(shift), false),
                Way::One { iommu, id } => (iommu, id, true),
                Way::Refused => return None,
            };
            if !usable(iommu) {
                return None;
            }
            let length = last.checked_sub(first)?.checked_add(1)?;
            Some(IommuMap {
                rid_base: first,
                iommu,
                id_base,
                length,
                constant,
                mask: 0,
                iommu_enabled: true,
            })
        });
        // Spans do not overlap, and so do their maps not.
        let bus = PciBus::new(u32::MAX, maps.collect());
        let bus = bus.unwrap_or_else(|_| PciBus::empty());
        let mut scopes = core::mem::take(&mut self.scopes);
        scopes.retain(|scope| usable(scope.iommu));
        let regions = core::mem::take(&mut self.regions);
        let rest = self.rest.filter(|rest| usable(*rest));
        bus.of_segment(number, scopes, rest, regions, self.ats)
    }

    fn report(&self, path: &str, iommus: &[IommuNode], findings: &mut Findings) {
        let name = |node: &FwNode| iommus.get(node.0 as usize).map_or("?", |iommu| &iommu.path);
        for ((one, two), (first, last)) in &self.conflicts {
            let what = format!(
                "{} and {} both claim {} to {}",
                name(one),
                name(two),
                RequesterId(*first),
                RequesterId(*last)
            );
            let problem = Problem::new(rule::ACPI_CONFLICT, what, "these functions stay blocked");
            findings.refuse(true, path, &problem);
        }
        if let Some(first) = self.beyond {
            let what =
                format!("id mappings from {first:#x} on are for ids that no PCI function has");
            let remedy = "functions that no other mapping covers stay blocked";
            findings.warn(path, &Problem::new(rule::ACPI_ID_RANGE, what, remedy));
        }
        if !self.scopes.is_empty() {
            let message = format!(
                "{} scopes are behind bridges: enumeration must say which bus numbers they have; until then what is behind a bridge stays blocked",
                self.scopes.len()
            );
            findings.note(path, rule::ACPI_UNRESOLVED, message);
        }
    }
}

/// A function's name, as Linux writes it.
fn name(segment: u16, requester: RequesterId) -> String {
    format!("{segment:04x}:{requester}")
}
