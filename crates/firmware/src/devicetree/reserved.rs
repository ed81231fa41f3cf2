//! Memory, and what is reserved of it or of a device's address space.

use super::address::{Addresses, pairs};
use super::flat::MemoryReservation;
use super::iommus::{bad_phandle, kind_of};
use super::tree::{AddressCells, Node, Tree, cells};
use crate::machine::IommuKind;
use crate::problem::{Findings, Problem};
use crate::reserved::Span;
use crate::rules::rule;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::vec::Vec;
use portcullis::FwNode;
use portcullis_addr::{PhysAddr, PhysRange};

/// The `iommu-addresses` of one region: device -> its reserved ranges, as they stand there.
type ByDevice = BTreeMap<FwNode, Vec<Span>>;

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
        let scanned = scanned_out(tree);
        for node in tree.nodes() {
            if !node.has("iommu-addresses") && scanned.contains(&node.id()) {
                let message = "boot firmware scans this memory out, and no `iommu-addresses` names the display: it is shut out when its IOMMU is taken over";
                findings.note(&node.path(), rule::FRAMEBUFFER_NOT_KEPT, message);
            }
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

/// Reserved memory that boot firmware scans out by a display behind an enabled SMMU: what an enabled `simple-framebuffer` uses, and what is called after one.
///
/// A framebuffer's `display` names the display (binding `display/simple-framebuffer.yaml`). Where none does, any display of the tree may be the one.
fn scanned_out(tree: &Tree<'_>) -> BTreeSet<FwNode> {
    let some_display = tree.nodes().any(|node| is_display(node) && is_behind_smmu(tree, node));
    let used = tree.nodes().filter(|node| {
        let display = node.cell("display").and_then(|phandle| tree.by_phandle(phandle).ok());
        let behind = display.map_or(some_display, |display| is_behind_smmu(tree, display));
        let framebuffer = node.is_compatible("simple-framebuffer");
        node.enabled() && framebuffer && behind
    });
    let used = used.filter_map(|node| tree.by_phandle(node.cell("memory-region")?).ok());
    let reserved = tree.nodes().find(|node| node.name() == "reserved-memory");
    let below = reserved.iter().flat_map(|node| node.children()).filter(|_| some_display);
    let called = below.filter(|node| {
        let starts = ["splash", "cont-splash", "cont_splash", "framebuffer"];
        node.enabled()
            && node.has("reg")
            && starts.iter().any(|start| node.name().starts_with(start))
    });
    used.chain(called).map(|node| node.id()).collect()
}

/// Whether a node is called as the display of an SoC is: Devicetree Specification v0.4, 2.2.2 (`display`, `display-controller`), and what vendors call theirs. One that is disabled counts: no driver
/// may use it, but firmware does.
fn is_display(node: Node<'_, '_>) -> bool {
    let names =
        ["display", "display-controller", "display-subsystem", "mdss", "dc", "vop", "dpu", "hdlcd"];
    let name = node.name().split('@').next().unwrap_or_default();
    names.contains(&name)
}

/// Whether the first entry of a node's `iommus` leads to an enabled SMMU.
fn is_behind_smmu(tree: &Tree<'_>, node: Node<'_, '_>) -> bool {
    let phandle = node.property("iommus").and_then(cells).and_then(|ids| ids.first().copied());
    let smmu = phandle.and_then(|phandle| tree.by_phandle(phandle).ok());
    smmu.is_some_and(|smmu| {
        let known = [IommuKind::SmmuV2, IommuKind::SmmuV3].contains(&kind_of(smmu));
        smmu.enabled() && known
    })
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
        let ends = (start, last);
        let span = if direct { Span::direct(ends) } else { Span::kept_free(ends) };
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
