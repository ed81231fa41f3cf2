//! Memory, and what is reserved of it or of a device's address space.

use super::address::{Addresses, pairs};
use super::flat::MemoryReservation;
use super::iommus::bad_phandle;
use super::tree::{AddressCells, Node, Tree, cells};
use crate::problem::{Findings, Problem};
use crate::rules::rule;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec::Vec;
use portcullis::{FwNode, ReservedKind, ReservedRegion};
use portcullis_addr::{Iova, IovaRange, PhysAddr, PhysRange};

/// The `iommu-addresses` of one region: device -> its reserved ranges, as they stand there.
type ByDevice = BTreeMap<FwNode, Vec<Span>>;

/// The smallest granule of any table format: what a device's regions are rounded to here. The core rounds further where its granule is larger.
const PAGE: u64 = 0x1000;

/// A reserved range, first to last address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span {
    first: u64,
    last: u64,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Direct,
    Reserved,
}

impl Span {
    /// Addresses that must not be handed out.
    pub(super) fn kept_free((first, last): (u64, u64)) -> Self {
        Self { first, last, kind: Kind::Reserved }
    }

    /// A region that has been read before.
    pub(super) fn of(region: &ReservedRegion) -> Self {
        let kind = match region.kind {
            ReservedKind::Direct => Kind::Direct,
            ReservedKind::Reserved => Kind::Reserved,
        };
        Self { first: region.range.start().raw(), last: region.range.last().raw(), kind }
    }

    fn is_whole(&self) -> bool {
        self.first.is_multiple_of(PAGE) && self.last & (PAGE - 1) == PAGE - 1
    }

    /// All pages that it touches.
    fn rounded(self) -> Self {
        Self { first: self.first & !(PAGE - 1), last: self.last | (PAGE - 1), ..self }
    }

    fn region(&self) -> Option<ReservedRegion> {
        let kind = match self.kind {
            Kind::Direct => ReservedKind::Direct,
            Kind::Reserved => ReservedKind::Reserved,
        };
        // A range of all 2^64 addresses has no length; it ends one page earlier.
        let len = self.last.checked_sub(self.first)?.checked_add(1);
        let len = len.unwrap_or(!(PAGE - 1));
        let range = IovaRange::new(Iova::new(self.first), len).ok()?;
        Some(ReservedRegion { range, kind })
    }
}

/// What is reserved of one device's address space, in whole pages.
pub(super) struct Reserved {
    /// Ascending; no two overlap.
    pub(super) regions: Vec<ReservedRegion>,
    /// A region to be mapped 1:1 that overlaps addresses to be kept free.
    pub(super) overlap: Option<(u64, u64)>,
}

impl Reserved {
    /// Merges equal and overlapping regions of one kind. Where a region that is mapped 1:1 overlaps one that is kept free, it is mapped.
    pub(super) fn merged(spans: impl IntoIterator<Item = Span>) -> Self {
        let mut spans: Vec<Span> = spans.into_iter().map(Span::rounded).collect();
        spans.sort_unstable_by_key(|span| (span.kind, span.first, span.last));
        let direct = spans.partition_point(|span| span.kind == Kind::Direct);
        let (direct, free) = spans.split_at(direct);
        let (direct, free) = (merge(direct), merge(free));
        let (free, overlap) = without(&free, &direct);
        let mut all = [direct, free].concat();
        all.sort_unstable();
        Self { regions: all.iter().filter_map(Span::region).collect(), overlap }
    }
}

/// Joins overlapping and adjacent spans of an ascending list.
fn merge(spans: &[Span]) -> Vec<Span> {
    let mut merged: Vec<Span> = Vec::new();
    for span in spans {
        match merged.last_mut() {
            Some(before) if span.first <= before.last.saturating_add(1) => {
                before.last = before.last.max(span.last);
            }
            _ => merged.push(*span),
        }
    }
    merged
}

/// `free` without what `direct` covers, both ascending and without overlaps of their own; and the first overlap, if there is one.
fn without(free: &[Span], direct: &[Span]) -> (Vec<Span>, Option<(u64, u64)>) {
    let (mut left, mut overlap) = (Vec::new(), None);
    let mut cuts = direct.iter().peekable();
    for span in free {
        let mut from = Some(span.first);
        while let Some(cut) = cuts.peek().filter(|cut| cut.first <= span.last) {
            let Some(first) = from.filter(|first| *first <= cut.last) else {
                cuts.next();
                continue;
            };
            overlap.get_or_insert((cut.first.max(first), cut.last.min(span.last)));
            if let Some(last) = cut.first.checked_sub(1).filter(|last| *last >= first) {
                left.push(Span { first, last, ..*span });
            }
            from = cut.last.checked_add(1).filter(|after| *after <= span.last);
            if from.is_none() {
                break;
            }
        }
        left.extend(from.map(|first| Span { first, ..*span }));
    }
    (left, overlap)
}

/// All reserved regions that have `iommu-addresses`, by their node.
pub(super) struct Regions {
    regions: BTreeMap<FwNode, Result<ByDevice, Problem>>,
}

impl Regions {
    /// Reads each region once, whoever refers to it.
    pub(super) fn read<'t, 'a>(
        tree: &'t Tree<'a>,
        addresses: &Addresses<'t, 'a>,
        findings: &mut Findings,
    ) -> Self {
        let mut regions = BTreeMap::new();
        for node in tree.nodes() {
            if let Some(value) = node.property("iommu-addresses") {
                let read = iommu_addresses(tree, addresses, node, value, findings);
                if let Err(problem) = &read {
                    findings.refuse(node.enabled(), &node.path(), problem);
                }
                regions.insert(node.id(), read);
            }
        }
        Self { regions }
    }

    /// What the regions in `memory-region` of `node` reserve of its address space.
    pub(super) fn of(&self, tree: &Tree<'_>, node: Node<'_, '_>) -> Result<Vec<Span>, Problem> {
        let Some(value) = node.property("memory-region") else { return Ok(Vec::new()) };
        let mut phandles = cells(value).ok_or_else(|| {
            Problem::new(
                rule::MEMORY_REGION,
                format!("`memory-region` has {} bytes", value.len()),
                "give it whole phandles",
            )
        })?;
        phandles.sort_unstable();
        phandles.dedup();
        let mut reserved: Vec<Span> = Vec::new();
        for phandle in phandles {
            let region = tree
                .by_phandle(phandle)
                .map_err(|error| bad_phandle(error, phandle, "`memory-region`"))?;
            match self.regions.get(&region.id()) {
                Some(Ok(devices)) => reserved.extend(devices.get(&node.id()).into_iter().flatten()),
                Some(Err(problem)) => {
                    let what = format!("`memory-region` names {}: {}", region.path(), problem.what);
                    return Err(Problem::new(rule::IOMMU_ADDRESSES, what, "mend that region"));
                }
                None => {}
            }
        }
        Ok(reserved)
    }
}

/// What a reader should know of one region's `iommu-addresses`.
#[derive(Default)]
struct Remarks {
    empty: bool,
    moved: bool,
    rounded: bool,
}

/// (device, address, size) tuples; the cell counts are those of the bus that each device's transactions travel on.
fn iommu_addresses<'t, 'a>(
    tree: &'t Tree<'a>,
    addresses: &Addresses<'t, 'a>,
    region: Node<'t, 'a>,
    value: &[u8],
    findings: &mut Findings,
) -> Result<ByDevice, Problem> {
    let memory = region.property("reg").and_then(|reg| pairs(reg, region.own_cells()));
    let memory = memory.unwrap_or_default();
    let cells = cells(value).ok_or_else(|| malformed("is not a whole number of cells"))?;
    let mut rest = cells.as_slice();
    let mut devices = ByDevice::new();
    let mut remarks = Remarks::default();
    while let Some((phandle, tuple)) = rest.split_first() {
        let device = tree
            .by_phandle(*phandle)
            .map_err(|error| bad_phandle(error, *phandle, "`iommu-addresses`"))?;
        let counts = addresses.dma_parent(device).unwrap_or(device).child_cells();
        let ((start, len), after) = address_and_size(tuple, counts)?;
        rest = after;
        let Some(beyond) = len.checked_sub(1) else {
            remarks.empty = true;
            continue;
        };
        let last = start.checked_add(beyond).ok_or_else(|| malformed("ends beyond 2^64"))?;
        let direct = memory.iter().take(16).any(|pair| *pair == (start, len));
        remarks.moved |= !direct && !memory.is_empty();
        let kind = if direct { Kind::Direct } else { Kind::Reserved };
        let span = Span { first: start, last, kind };
        remarks.rounded |= direct && !span.is_whole();
        devices.entry(device.id()).or_default().push(span);
    }
    remark(region, &remarks, findings);
    Ok(devices)
}

fn malformed(what: &str) -> Problem {
    let remedy = "give it tuples of device, address and size, in the cells of the device's bus";
    Problem::new(rule::IOMMU_ADDRESSES, format!("`iommu-addresses` {what}"), remedy)
}

/// The address and size at the front of `tuple`, and what comes after them.
fn address_and_size(tuple: &[u32], counts: AddressCells) -> Result<((u64, u64), &[u32]), Problem> {
    let end = (counts.address.min(3) as usize).saturating_add(counts.size.min(3) as usize);
    let own = tuple.get(..end).ok_or_else(|| malformed("ends within a tuple"))?;
    let bytes: Vec<u8> = own.iter().flat_map(|cell| cell.to_be_bytes()).collect();
    let pair = pairs(&bytes, counts).and_then(|pairs| pairs.first().copied());
    let pair =
        pair.ok_or_else(|| malformed("names a device on a bus with impossible cell counts"))?;
    Ok((pair, tuple.get(end..).unwrap_or_default()))
}

fn remark(region: Node<'_, '_>, remarks: &Remarks, findings: &mut Findings) {
    if remarks.empty {
        let what = "`iommu-addresses` has an entry of length 0, which reserves nothing";
        let problem =
            Problem::new(rule::IOMMU_ADDRESSES_EMPTY, what, "remove it or give it its size");
        findings.warn(&region.path(), &problem);
    }
    if remarks.moved {
        let message = "`iommu-addresses` differs from `reg`: those addresses are reserved, but not mapped to the region";
        findings.note(&region.path(), rule::IOMMU_ADDRESSES_REMAPPED, message);
    }
    if remarks.rounded {
        let message = "`reg` is no whole number of pages: all pages that it touches are mapped 1:1, also for what else lies on them";
        findings.note(&region.path(), rule::IOMMU_ADDRESSES_ROUNDED, message);
    }
}

/// Main memory: `reg` of the enabled nodes with `device_type = "memory"`.
pub(super) fn memory(tree: &Tree<'_>, findings: &mut Findings) -> Vec<PhysRange> {
    let mut ranges = Vec::new();
    let root = tree.nodes().next();
    for node in root.into_iter().flat_map(Node::children) {
        if !node.enabled() || node.property("device_type") != Some(b"memory\0") {
            continue;
        }
        match node.property("reg").and_then(|reg| pairs(reg, node.own_cells())) {
            // Boot firmware fills in a length of 0.
            Some(pairs) => ranges.extend(pairs.into_iter().filter_map(range)),
            None => {
                let what = "`reg` is missing or not a whole number of address and size pairs";
                let problem = Problem::new(rule::MEMORY, what, "give the memory node its `reg`");
                findings.refuse(true, &node.path(), &problem);
            }
        }
    }
    ranges
}

/// Memory that must not be used: reservation entries and the children of `/reserved-memory` that say where they are.
pub(super) fn reserved_memory(
    tree: &Tree<'_>,
    reservations: &[MemoryReservation],
) -> Vec<PhysRange> {
    let mut ranges: Vec<_> =
        reservations.iter().filter_map(|entry| range((entry.start, entry.len))).collect();
    let root = tree.nodes().next();
    let parents = root.into_iter().flat_map(Node::children);
    for parent in parents.filter(|node| node.name() == "reserved-memory") {
        for region in parent.children().filter(|region| region.enabled()) {
            let reg = region.property("reg").and_then(|reg| pairs(reg, region.own_cells()));
            ranges.extend(reg.unwrap_or_default().into_iter().filter_map(range));
        }
    }
    ranges
}

fn range((start, len): (u64, u64)) -> Option<PhysRange> {
    PhysRange::new(PhysAddr::new(start), len).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn span(first: u64, last: u64, kind: Kind) -> Span {
        Span { first, last, kind }
    }

    fn merged(spans: Vec<Span>) -> Vec<(u64, u64, ReservedKind)> {
        let merged = Reserved::merged(spans).regions;
        merged.iter().map(|it| (it.range.start().raw(), it.range.last().raw(), it.kind)).collect()
    }

    #[test]
    fn regions_of_one_kind_become_one_in_whole_pages() {
        let spans = vec![
            span(0x8320_0036, 0x8331_9435, Kind::Direct),
            span(0x8331_a000, 0x8331_afff, Kind::Direct),
            span(0x8320_0000, 0x8320_0fff, Kind::Direct),
        ];
        assert_eq!(merged(spans), [(0x8320_0000, 0x8331_afff, ReservedKind::Direct)]);
    }

    #[test]
    fn what_is_mapped_is_cut_out_of_what_is_kept_free() {
        let spans = || {
            vec![
                span(0, 0xffff, Kind::Reserved),
                span(0x2_0000, u64::MAX, Kind::Reserved),
                span(0x1000, 0x1fff, Kind::Direct),
                span(0xf000, 0x2_0fff, Kind::Direct),
            ]
        };
        let (direct, free) = (ReservedKind::Direct, ReservedKind::Reserved);
        assert_eq!(
            merged(spans()),
            [
                (0, 0xfff, free),
                (0x1000, 0x1fff, direct),
                (0x2000, 0xefff, free),
                (0xf000, 0x2_0fff, direct),
                (0x2_1000, u64::MAX, free)
            ]
        );
        assert_eq!(Reserved::merged(spans()).overlap, Some((0x1000, 0x1fff)));
        assert_eq!(Reserved::merged(vec![span(0, 1, Kind::Direct)]).overlap, None);
    }
}
