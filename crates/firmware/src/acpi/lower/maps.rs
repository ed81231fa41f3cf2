//! IORT and RIMT: nodes whose ids are mapped, through as many nodes as there are, to a unit.

use super::Lowering;
use super::segment::{LAST, Way};
use crate::acpi::iort::{IdMapping, Iort, NodeKind};
use crate::acpi::rimt::{self, Rimt};
use crate::acpi::{AcpiError, Fault, Signature};
use crate::machine::{IommuKind, Quirk};
use crate::pci::RequesterId;
use crate::problem::Problem;
use crate::reserved::Span;
use crate::rules::rule;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::vec::Vec;
use portcullis::{FwNode, FwStream};
use portcullis_addr::StreamId;

/// Mappings that are followed in one table at most, and looks at who uses reserved memory. The largest real table has below 2,000; some milliseconds of a processor.
const MOST_STEPS: u32 = 1 << 17;
/// Nodes on the way from a device to its unit at most; the specification's own are one.
const MOST_HOPS: usize = 16;
/// More ids than this of one named device are not listed.
const MOST_IDS: u32 = 4096;
/// More ids than this of all named devices together are not listed either: 350 devices of which each has as many as it can have fit into a real table's 6 KiB, and each id costs some microseconds until all checks are done.
const MOST_NAMED_IDS: usize = 1 << 12;

/// A range of ids on its way, and what it has become.
#[derive(Clone, Copy)]
struct Range {
    /// The first id as the device issues it.
    origin: u32,
    /// The first id here.
    first: u32,
    /// How many more there are.
    beyond: u32,
}

/// Ids that have reached a unit.
#[derive(Clone, Copy)]
struct Arrived {
    range: Range,
    iommu: FwNode,
}

/// A node as the walk sees it.
struct Place<'n> {
    offset: usize,
    /// The unit that it is.
    iommu: Option<FwNode>,
    /// Where interrupts are translated: ids that get here have passed no unit.
    is_its: bool,
    mappings: &'n [IdMapping],
}

struct Walk<'n> {
    table: Signature,
    places: Vec<Place<'n>>,
    steps: u32,
    arrived: Vec<Arrived>,
}

impl Walk<'_> {
    fn error(&self, at: usize, fault: Fault) -> AcpiError {
        let offset = self.places.get(at).map_or(0, |place| place.offset);
        AcpiError { table: self.table, offset, field: "ID mapping", fault }
    }

    /// Follows `range` of ids from the node at `at`, as far as its mappings lead. `way` holds the nodes passed.
    fn follow(
        &mut self,
        at: usize,
        range: Option<Range>,
        way: &mut Vec<usize>,
    ) -> Result<(), AcpiError> {
        if way.contains(&at) {
            return Err(self.error(at, Fault::Cycle));
        }
        if way.len() >= MOST_HOPS {
            return Err(self.error(at, Fault::TooMany));
        }
        way.push(at);
        let mappings = self.places.get(at).map_or(&[][..], |place| place.mappings);
        for mapping in mappings {
            self.steps = self
                .steps
                .checked_add(1)
                .filter(|steps| *steps <= MOST_STEPS)
                .ok_or_else(|| self.error(at, Fault::TooMany))?;
            let Some(range) = through(mapping, range) else { continue };
            let Some(target) = self.places.get(mapping.target) else { continue };
            match (target.iommu, target.is_its) {
                (Some(iommu), _) => self.arrived.push(Arrived { range, iommu }),
                (None, true) => {}
                (None, false) => self.follow(mapping.target, Some(range), way)?,
            }
        }
        way.pop();
        Ok(())
    }

    /// All that the ids of the node at `at` become.
    fn from(&mut self, at: usize) -> Result<Vec<Arrived>, AcpiError> {
        self.follow(at, None, &mut Vec::new())?;
        Ok(core::mem::take(&mut self.arrived))
    }
}

/// The part of `range` (`None`: all that there is) that `mapping` takes, as it comes out.
fn through(mapping: &IdMapping, range: Option<Range>) -> Option<Range> {
    if mapping.single {
        let origin = range.map_or(0, |range| range.origin);
        return Some(Range { origin, first: mapping.output, beyond: 0 });
    }
    let last = range.map_or(mapping.input_last, |range| range.first.saturating_add(range.beyond));
    let first = range.map_or(mapping.input, |range| range.first).max(mapping.input);
    let beyond = last.min(mapping.input_last).checked_sub(first)?;
    let origin = match range {
        Some(range) => range.origin.checked_add(first.checked_sub(range.first)?)?,
        None => first,
    };
    let first = mapping.output.checked_add(first.checked_sub(mapping.input)?)?;
    Some(Range { origin, first, beyond })
}

/// Memory that whoever uses these ids of the unit uses as it is.
struct Kept {
    arrived: Vec<Arrived>,
    spans: Vec<Span>,
}

impl Lowering {
    pub(in crate::acpi) fn iort(&mut self, table: &Iort) -> Result<(), AcpiError> {
        let places = table.nodes.iter().map(|node| Place {
            offset: node.offset,
            iommu: self.smmu(&node.kind),
            is_its: matches!(node.kind, NodeKind::ItsGroup),
            mappings: &node.mappings,
        });
        let places = places.collect();
        let mut walk = Walk { table: Signature(*b"IORT"), places, steps: 0, arrived: Vec::new() };
        let (mut kept, mut unknown) = (Vec::new(), Vec::new());
        for (at, node) in table.nodes.iter().enumerate() {
            match &node.kind {
                NodeKind::NamedComponent { name, address_bits, coherent } => {
                    let arrived = walk.from(at)?;
                    self.component(name, &arrived);
                    let named = self.named(name);
                    named.coherent = *coherent;
                    named.address_bits = bits(*address_bits);
                }
                NodeKind::RootComplex { segment, address_bits, coherent, ats } => {
                    let arrived = walk.from(at)?;
                    self.root_complex(*segment, &arrived, Some(*ats));
                    let segment = self.segments.entry(*segment).or_default();
                    segment.coherent = *coherent;
                    segment.address_bits = bits(*address_bits);
                }
                NodeKind::ReservedMemory { ranges } => {
                    let arrived = walk.from(at)?;
                    kept.push(Kept { arrived, spans: self.kept_spans(node.offset, ranges) });
                }
                NodeKind::Other(kind) => unknown.push((u16::from(*kind), node.offset)),
                NodeKind::ItsGroup
                | NodeKind::Counters
                | NodeKind::SmmuV2 { .. }
                | NodeKind::SmmuV3 { .. } => {}
            }
        }
        let regions = kept.iter().map(|kept| kept.arrived.len().saturating_add(kept.spans.len()));
        let looks = regions.fold(0, usize::saturating_add).saturating_mul(self.clients());
        if looks > MOST_STEPS as usize {
            return Err(walk.error(0, Fault::TooMany));
        }
        kept.iter().for_each(|kept| self.keep(kept));
        self.unknown("IORT", &unknown);
        if let Some(offset) = table.untargeted.first() {
            let message = format!(
                "{} id mappings have no target, the first in the node at {offset:#x}; they were skipped",
                table.untargeted.len()
            );
            self.findings.note("IORT", rule::ACPI_UNTARGETED, message);
        }
        Ok(())
    }

    /// The unit that a node describes, if it is one.
    fn smmu(&mut self, node: &NodeKind) -> Option<FwNode> {
        match *node {
            NodeKind::SmmuV2 { registers, size, model, coherent, context_interrupts } => {
                let name = match model {
                    0 => "arm,smmu-v1",
                    2 => "arm,mmu-400",
                    3 => "arm,mmu-500",
                    4 => "arm,mmu-401",
                    5 => "cavium,smmu-v2",
                    _ => "arm,smmu-v2",
                };
                let path = format!("IORT/smmu@{registers:x}");
                let node = self.unit(path, IommuKind::SmmuV2, name, (registers, size.max(1)));
                let iommu = self.last_unit()?;
                iommu.coherent = coherent;
                iommu.context_banks = Some(context_interrupts as usize).filter(|banks| *banks > 0);
                Some(node)
            }
            NodeKind::SmmuV3 { registers, flags, model } => {
                let path = format!("IORT/smmuv3@{registers:x}");
                let node = self.unit(path, IommuKind::SmmuV3, "arm,smmu-v3", (registers, 0x2_0000));
                self.smmuv3_quirks(model);
                let iommu = self.last_unit()?;
                iommu.coherent = flags & 1 != 0;
                Some(node)
            }
            _ => None,
        }
    }

    fn smmuv3_quirks(&mut self, model: u32) {
        let quirk = match model {
            1 => Quirk::BrokenPrefetch,
            2 => Quirk::Page0RegistersOnly,
            _ => return,
        };
        let Some(iommu) = self.iommus.last_mut() else { return };
        iommu.quirks.push(quirk);
        if let Some(why) = quirk.unsupported() {
            let what = format!("model {model}: {why}");
            let problem = Problem::new(
                rule::IOMMU_QUIRK,
                what,
                "that is not supported; its clients stay blocked",
            );
            self.findings.refuse(true, &iommu.path, &problem);
            iommu.unusable = Some(problem.what);
        }
    }

    /// Lists the ids of a named device. One that has more than are listed has a problem, and is blocked for it.
    fn component(&mut self, name: &str, arrived: &[Arrived]) {
        let room = MOST_NAMED_IDS.saturating_sub(self.named_ids);
        let named = self.named(name);
        let before = named.streams.len();
        let most = (MOST_IDS as usize).min(before.saturating_add(room));
        let ids = |it: &Arrived| u64::from(it.range.beyond).saturating_add(1);
        let all = arrived.iter().map(ids).fold(before as u64, u64::saturating_add);
        if all > most as u64 {
            let what = format!("{all} of its ids lead to units, more than {most}");
            named.problem = Some(Problem::new(rule::TOO_MANY_STREAMS, what, "split the device"));
        }
        let each = arrived.iter().flat_map(|Arrived { range, iommu }| {
            (0..=range.beyond).map(|beyond| {
                FwStream::new(*iommu, StreamId::new(range.first.wrapping_add(beyond)))
            })
        });
        named.streams.extend(each.take(most.saturating_sub(before)));
        let listed = named.streams.len().saturating_sub(before);
        self.named_ids = self.named_ids.saturating_add(listed);
    }

    fn root_complex(&mut self, number: u16, arrived: &[Arrived], ats: Option<bool>) {
        let segment = self.segments.entry(number).or_default();
        segment.ats = ats.or(segment.ats);
        let mut arrived: Vec<Arrived> = arrived.to_vec();
        arrived.sort_by_key(|it| (it.range.origin, it.range.beyond));
        for (at, Arrived { range, iommu }) in arrived.iter().enumerate() {
            if range.origin > LAST {
                segment.beyond.get_or_insert(range.origin);
                continue;
            }
            let mut last = range.origin.saturating_add(range.beyond).min(LAST);
            // Some firmware counts the ids themselves rather than one less: the last id is then the next range's first.
            let next = arrived.get(at.saturating_add(1)).map(|it| it.range.origin);
            if next == Some(last) && last > range.origin {
                last = last.saturating_sub(1);
            }
            let shift = range.first.wrapping_sub(range.origin);
            segment.claim(range.origin, last, Way::Shifted { iommu: *iommu, shift });
        }
    }

    /// How many streams and ranges have been found.
    fn clients(&self) -> usize {
        let named = self.named.values().map(|named| named.streams.len());
        let ranges = self.segments.values().map(|segment| segment.ids.iter().count());
        named.chain(ranges).fold(0, usize::saturating_add)
    }

    fn kept_spans(&mut self, offset: usize, ranges: &[(u64, u64)]) -> Vec<Span> {
        let mut spans = Vec::new();
        for (start, len) in ranges {
            match len.checked_sub(1).and_then(|beyond| start.checked_add(beyond)) {
                Some(last) => spans.push(Span::direct((*start, last))),
                None => {
                    let what = format!("the reserved region at {start:#x} has {len:#x} bytes");
                    let problem = Problem::new(rule::ACPI_REGION, what, "it is left out");
                    self.findings.warn(&format!("IORT/rmr@{offset:x}"), &problem);
                }
            }
        }
        spans
    }

    /// Gives reserved memory to all who have the ids that it is for.
    fn keep(&mut self, kept: &Kept) {
        let ids: BTreeMap<FwNode, Vec<Range>> =
            kept.arrived.iter().fold(BTreeMap::new(), |mut ids, it| {
                ids.entry(it.iommu).or_insert_with(Vec::new).push(it.range);
                ids
            });
        let is_for = |stream: &FwStream| {
            let ranges = ids.get(&stream.iommu).into_iter().flatten();
            let mut ranges = ranges.filter_map(|range| {
                stream.id.raw().checked_sub(range.first).map(|at| at <= range.beyond)
            });
            ranges.any(|hit| hit)
        };
        for named in self.named.values_mut() {
            if named.streams.iter().any(is_for) {
                named.regions.extend(&kept.spans);
            }
        }
        for segment in self.segments.values_mut() {
            let mut hits = BTreeSet::new();
            for (first, last, way) in segment.ids.iter() {
                let Way::Shifted { iommu, shift } = *way else { continue };
                for range in ids.get(&iommu).into_iter().flatten() {
                    let low = range.first.wrapping_sub(shift).max(first);
                    let high =
                        range.first.saturating_add(range.beyond).wrapping_sub(shift).min(last);
                    hits.extend((low <= high).then_some((low, high)));
                }
            }
            for (low, high) in hits {
                segment.regions.extend(kept.spans.iter().map(|span| (low, high, *span)));
                segment.functions.extend((low == high).then_some(low));
            }
        }
    }

    pub(in crate::acpi) fn rimt(&mut self, table: &Rimt) -> Result<(), AcpiError> {
        let places = table.nodes.iter().map(|node| Place {
            offset: node.offset,
            iommu: self.riscv_unit(&node.kind),
            is_its: false,
            mappings: &node.mappings,
        });
        let places = places.collect();
        let mut walk = Walk { table: Signature(*b"RIMT"), places, steps: 0, arrived: Vec::new() };
        let mut unknown = Vec::new();
        for (at, node) in table.nodes.iter().enumerate() {
            match &node.kind {
                rimt::NodeKind::Iommu { .. } => {}
                rimt::NodeKind::RootComplex { segment, ats } => {
                    let arrived = walk.from(at)?;
                    self.root_complex(*segment, &arrived, Some(*ats));
                }
                rimt::NodeKind::Platform { name } => {
                    let arrived = walk.from(at)?;
                    self.component(name, &arrived);
                }
                rimt::NodeKind::Other(kind) => unknown.push((u16::from(*kind), node.offset)),
            }
        }
        for node in &table.nodes {
            // A unit that is a function of a bus that it serves is no client of itself.
            if let rimt::NodeKind::Iommu { pci: Some((segment, function)), .. } = node.kind {
                let segment = self.segments.entry(segment).or_default();
                segment.ids.clear(u32::from(function), u32::from(function));
            }
        }
        self.unknown("RIMT", &unknown);
        Ok(())
    }

    fn riscv_unit(&mut self, node: &rimt::NodeKind) -> Option<FwNode> {
        let rimt::NodeKind::Iommu { registers, pci } = *node else { return None };
        Some(match pci {
            Some((segment, function)) => {
                let path = format!("RIMT/{segment:04x}:{}", RequesterId(u32::from(function)));
                self.unit(path, IommuKind::RiscV, "riscv,pci-iommu", (0, 0))
            }
            None => {
                let path = format!("RIMT/iommu@{registers:x}");
                // RISC-V IOMMU 1.0, chapter 6: the register page has 4 KiB.
                self.unit(path, IommuKind::RiscV, "riscv,iommu", (registers, 0x1000))
            }
        })
    }
}

/// Width of addresses; the tables have 0 where they do not say.
fn bits(limit: u8) -> u8 {
    if (1..=64).contains(&limit) { limit } else { 64 }
}
