//! DMAR and IVRS: units that name PCI functions.

use super::Lowering;
use super::segment::{LAST, Way};
use crate::acpi::dmar::{Dmar, Drhd, Rmrr, Scope, ScopeKind};
use crate::acpi::ivrs::{Entry, Ivhd, Ivmd, Ivrs};
use crate::machine::{InterruptSource, IommuKind, SourceKind};
use crate::pci::{PciScope, RequesterId};
use crate::problem::Problem;
use crate::reserved::Span;
use crate::rules::rule;
use crate::spans::Spans;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use portcullis::{FwNode, FwStream};
use portcullis_addr::StreamId;

impl Scope {
    /// The requester id, where no bridge is on the way.
    fn requester(&self) -> Option<RequesterId> {
        match self.path.as_slice() {
            [(device, function)] => Some(RequesterId::pci(self.start_bus, *device, *function)),
            _ => None,
        }
    }
}

impl Lowering {
    pub(in crate::acpi) fn dmar(&mut self, table: &Dmar) {
        let names: BTreeMap<u8, &String> =
            table.names.iter().map(|name| (name.number, &name.name)).collect();
        for unit in &table.units {
            self.drhd(unit, &names);
        }
        for region in &table.regions {
            self.rmrr(region);
        }
        self.unknown("DMAR", &table.unknown);
    }

    fn drhd(&mut self, unit: &Drhd, names: &BTreeMap<u8, &String>) {
        let path = format!("DMAR/drhd@{:x}", unit.registers);
        let window = (unit.registers, unit.size);
        let node = self.unit(path.clone(), IommuKind::VtD, "intel,vt-d", window);
        let segment = self.segments.entry(unit.segment).or_default();
        if unit.include_all {
            match segment.rest {
                None => segment.rest = Some(node),
                Some(_) => {
                    let what = "it is the second unit of its segment to claim all other functions";
                    let problem = Problem::new(rule::ACPI_CONFLICT, what, "the first one counts");
                    self.findings.refuse(true, &path, &problem);
                }
            }
        }
        for scope in &unit.scopes {
            self.scope(unit.segment, node, scope, names);
        }
    }

    fn scope(&mut self, number: u16, node: FwNode, scope: &Scope, names: &BTreeMap<u8, &String>) {
        let requester = scope.requester();
        let kind = match scope.kind {
            ScopeKind::IoApic => SourceKind::IoApic,
            ScopeKind::Hpet => SourceKind::Hpet,
            ScopeKind::Namespace => return self.namespace_device(node, scope, names),
            ScopeKind::Endpoint | ScopeKind::SubHierarchy | ScopeKind::Other(_) => {
                let segment = self.segments.entry(number).or_default();
                segment.root_buses.insert(scope.start_bus);
                let below = scope.kind == ScopeKind::SubHierarchy;
                if let Some(RequesterId(rid)) = requester {
                    segment.claim(rid, rid, Way::Shifted { iommu: node, shift: 0 });
                    segment.functions.insert(rid);
                }
                if below || requester.is_none() {
                    let (start_bus, path) = (scope.start_bus, scope.path.clone());
                    segment.scopes.push(PciScope { iommu: node, start_bus, path, below });
                }
                return;
            }
        };
        self.sources.push(InterruptSource {
            kind,
            id: scope.enumeration_id,
            segment: number,
            requester,
            iommu: node,
        });
    }

    /// A device in the ACPI namespace: its requester id is in the scope, its name in an ANDD record.
    fn namespace_device(&mut self, node: FwNode, scope: &Scope, names: &BTreeMap<u8, &String>) {
        let number = scope.enumeration_id;
        let name = names.get(&number).map(|name| (*name).clone());
        let device = self.named(&name.clone().unwrap_or(format!("ACPI device {number}")));
        match scope.requester() {
            Some(requester) => device.streams.push(FwStream::new(node, StreamId::new(requester.0))),
            None => {
                let what = "its scope leads through a bridge";
                device.problem =
                    Some(Problem::new(rule::ACPI_UNRESOLVED, what, "it stays blocked"));
            }
        }
        if name.is_none() {
            let message = format!("a scope names ACPI device {number}, which no ANDD record names");
            self.findings.note("DMAR", rule::ACPI_UNKNOWN, message);
        }
    }

    fn rmrr(&mut self, region: &Rmrr) {
        let path = format!("DMAR/rmrr@{:x}", region.first);
        if region.last < region.first {
            let what = format!("its last address, {:#x}, is below its first", region.last);
            let problem = Problem::new(rule::ACPI_REGION, what, "it is left out");
            return self.findings.warn(&path, &problem);
        }
        let span = Span::direct((region.first, region.last));
        if !span.is_whole() {
            let message =
                "it is no whole number of pages: all pages that it touches are mapped 1:1";
            self.findings.note(&path, rule::IOMMU_ADDRESSES_ROUNDED, message);
        }
        let mut unresolved = 0u32;
        for scope in &region.scopes {
            match scope.requester() {
                Some(RequesterId(rid)) => {
                    let segment = self.segments.entry(region.segment).or_default();
                    segment.functions.insert(rid);
                    segment.regions.push((rid, rid, span));
                }
                None => unresolved = unresolved.saturating_add(1),
            }
        }
        if unresolved > 0 {
            let message = format!(
                "{unresolved} of its devices are behind bridges; it is not kept for them until enumeration finds them"
            );
            self.findings.note(&path, rule::ACPI_UNRESOLVED, message);
        }
    }

    pub(in crate::acpi) fn ivrs(&mut self, table: &Ivrs) {
        for unit in &table.units {
            self.ivhd(unit);
        }
        for region in &table.regions {
            self.ivmd(region);
        }
        self.unknown("IVRS", &table.unknown);
    }

    fn ivhd(&mut self, unit: &Ivhd) {
        let path = format!("IVRS/ivhd@{:x}", unit.registers);
        // The registers up to the counters; the counter banks are not needed (48882, section 3.4).
        let node = self.unit(path, IommuKind::AmdVi, "amd,iommu", (unit.registers, 0x4000));
        if let Some(iommu) = self.last_unit() {
            iommu.coherent = unit.flags & 0x20 != 0;
        }
        let same = Way::Shifted { iommu: node, shift: 0 };
        let mut ids = Spans::default();
        let segment = self.segments.entry(unit.segment).or_default();
        for entry in &unit.entries {
            match entry {
                Entry::All => ids.set(0, LAST, same),
                Entry::Range { first, last, alias } => {
                    let way = alias.map_or(same, |id| Way::One { iommu: node, id: u32::from(id) });
                    ids.set(u32::from(*first), u32::from(*last), way);
                    if first == last {
                        segment.functions.insert(u32::from(*first));
                    }
                }
                Entry::Special { .. } | Entry::Named { .. } => {}
            }
        }
        // The unit is a function of the bus that it serves, and no client of itself.
        ids.clear(u32::from(unit.device), u32::from(unit.device));
        segment.functions.remove(&u32::from(unit.device));
        for (first, last, way) in ids.iter() {
            segment.claim(first, last, *way);
        }
        for entry in &unit.entries {
            self.ivhd_other(unit, node, entry);
        }
    }

    /// What is not on PCI.
    fn ivhd_other(&mut self, unit: &Ivhd, node: FwNode, entry: &Entry) {
        match entry {
            Entry::Special { variety, handle, device } => {
                let kind = match variety {
                    1 => SourceKind::IoApic,
                    2 => SourceKind::Hpet,
                    _ => {
                        let message = format!("a special device of variety {variety} was skipped");
                        return self.findings.note("IVRS", rule::ACPI_UNKNOWN, message);
                    }
                };
                self.sources.push(InterruptSource {
                    kind,
                    id: *handle,
                    segment: unit.segment,
                    requester: Some(RequesterId(u32::from(*device))),
                    iommu: node,
                });
            }
            Entry::Named { name, device } => {
                let stream = FwStream::new(node, StreamId::new(u32::from(*device)));
                self.named(name).streams.push(stream);
            }
            Entry::All | Entry::Range { .. } => {}
        }
    }

    fn ivmd(&mut self, region: &Ivmd) {
        let path = format!("IVRS/ivmd@{:x}", region.start);
        let last = region.len.checked_sub(1).and_then(|beyond| region.start.checked_add(beyond));
        let Some(last) = last else {
            let what = format!("it has {:#x} bytes", region.len);
            let problem = Problem::new(rule::ACPI_REGION, what, "it is left out");
            return self.findings.warn(&path, &problem);
        };
        let (first_id, last_id) = region.devices.unwrap_or((0, u16::MAX));
        // Unity: mapped 1:1. Exclusion: not translated at all, which comes to the same addresses.
        let span = match region.flags & 0b1001 {
            0 => Span::kept_free((region.start, last)),
            _ => Span::direct((region.start, last)),
        };
        let segment = self.segments.entry(region.segment).or_default();
        segment.regions.push((u32::from(first_id), u32::from(last_id), span));
        if first_id == last_id {
            segment.functions.insert(u32::from(first_id));
        }
    }
}
