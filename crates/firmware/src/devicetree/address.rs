//! Addresses: `reg`, `ranges` and `dma-ranges`.

use super::tree::{AddressCells, Node, Tree, cells};
use crate::problem::Problem;
use crate::rules::rule;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use portcullis::FwNode;
use portcullis_addr::{PhysAddr, PhysRange};

/// A number of `count` big-endian cells. Only the low 64 bits count: PCI addresses have a third cell on top that holds flags.
fn number(cells: &[u32]) -> u64 {
    cells.iter().fold(0, |value, cell| (value << 32) | u64::from(*cell))
}

/// Takes the first `count` cells off `rest` as one number.
fn take(rest: &mut &[u32], count: u32) -> Option<u64> {
    let (head, tail) = rest.split_at_checked(count as usize)?;
    *rest = tail;
    Some(number(head))
}

/// The (address, size) pairs of a value with those cell counts; `None` where it is not a whole number of such pairs, or the counts are impossible.
pub(super) fn pairs(value: &[u8], counts: AddressCells) -> Option<Vec<(u64, u64)>> {
    if counts.address > 3 || counts.size > 2 || counts.address == 0 {
        return None;
    }
    let cells = cells(value)?;
    let mut rest = cells.as_slice();
    let mut pairs = Vec::new();
    while !rest.is_empty() {
        pairs.push((take(&mut rest, counts.address)?, take(&mut rest, counts.size)?));
    }
    Some(pairs)
}

/// One entry of `ranges` or `dma-ranges`.
struct BusRange {
    child: u64,
    parent: u64,
    len: u64,
}

fn bus_ranges(bus: Node<'_, '_>, value: &[u8]) -> Option<Vec<BusRange>> {
    let (below, above) = (bus.child_cells(), bus.own_cells());
    if below.address > 3 || above.address > 3 || below.size > 2 || below.size == 0 {
        return None;
    }
    let cells = cells(value)?;
    let mut rest = cells.as_slice();
    let mut ranges = Vec::new();
    while !rest.is_empty() {
        ranges.push(BusRange {
            child: take(&mut rest, below.address)?,
            parent: take(&mut rest, above.address)?,
            len: take(&mut rest, below.size)?,
        });
    }
    Some(ranges)
}

/// How many `ranges` entries one description may have followed, over all IOMMUs. Real ones need below 1,000.
const RANGES_BUDGET: u32 = 1_000_000;

/// Answers questions about addresses; remembers what it has worked out per bus.
pub(super) struct Addresses<'t, 'a> {
    tree: &'t Tree<'a>,
    ranges_left: Cell<u32>,
    dma_ranges: BTreeMap<FwNode, Result<DmaRanges, Problem>>,
    dma_parents: RefCell<BTreeMap<FwNode, Option<FwNode>>>,
}

/// What one bus says of DMA through it.
#[derive(Clone, Copy)]
enum DmaRanges {
    Absent,
    OneToOne,
    Limited {
        /// Addresses of that many bits reach memory.
        bits: u8,
        /// Whether they come out as other ones.
        moves: bool,
    },
}

impl Node<'_, '_> {
    /// Its registers: the first eight entries of `reg` as the CPU addresses them, through the `ranges` of every bus above. An entry that cannot be followed ends the list.
    #[doc(alias = "of_address_to_resource")]
    pub fn registers(self) -> Vec<PhysRange> {
        Addresses::new(self.tree()).register_windows(self)
    }
}

impl<'t, 'a> Addresses<'t, 'a> {
    pub(super) fn new(tree: &'t Tree<'a>) -> Self {
        Self {
            tree,
            ranges_left: Cell::new(RANGES_BUDGET),
            dma_ranges: BTreeMap::new(),
            dma_parents: RefCell::new(BTreeMap::new()),
        }
    }

    /// The first `reg` entries of `node`, at most eight, as the CPU sees them; an entry that cannot be followed ends the list.
    pub(super) fn register_windows(&self, node: Node<'t, 'a>) -> Vec<PhysRange> {
        let entries = node.property("reg").and_then(|reg| pairs(reg, node.own_cells()));
        let entries = entries.unwrap_or_default();
        entries.iter().take(8).map_while(|(start, len)| self.window(node, *start, *len)).collect()
    }

    fn window(&self, node: Node<'t, 'a>, start: u64, len: u64) -> Option<PhysRange> {
        let mut address = start;
        for bus in node.up().skip(1).take_while(|bus| bus.parent().is_some()) {
            address = self.through_bus(bus, address, len)?;
        }
        PhysRange::new(PhysAddr::new(address), len).ok()
    }

    /// `address` on `bus` as seen one level up; `None` where `ranges` is missing, malformed or does not cover all of it.
    fn through_bus(&self, bus: Node<'t, 'a>, address: u64, len: u64) -> Option<u64> {
        let value = bus.property("ranges")?;
        if value.is_empty() {
            return Some(address);
        }
        let entries = u32::try_from(value.len() / 12).ok()?;
        self.ranges_left.set(self.ranges_left.get().checked_sub(entries)?);
        bus_ranges(bus, value)?.iter().find_map(|range| {
            let offset = address.checked_sub(range.child)?;
            let fits = offset.checked_add(len)? <= range.len;
            range.parent.checked_add(offset).filter(|_| fits)
        })
    }

    /// The width in bits of the addresses that reach memory from below `bus`: that of the nearest bus that limits them, 64 where none does.
    ///
    /// The walk ends at the first bus without `dma-ranges`, as Linux's does. A translated device is held to it too: its bus is as
    /// narrow in front of the IOMMU. Only the offsets are the IOMMU's to replace.
    pub(super) fn dma_bits(&mut self, bus: Node<'t, 'a>) -> Result<u8, Problem> {
        let mut at = Some(bus);
        for _ in 0..super::tree::TreeLimits::DEPTH {
            let Some(bus) = at else { break };
            match self.dma_ranges_of(bus)? {
                DmaRanges::Absent => break,
                DmaRanges::OneToOne => at = self.dma_parent(bus),
                DmaRanges::Limited { bits, .. } => return Ok(bits),
            }
        }
        Ok(64)
    }

    /// Whether memory is elsewhere below `bus` than above it: `dma-ranges` that move addresses. The core has no such offset, so without an IOMMU to
    /// replace it a device there would reach the wrong memory.
    pub(super) fn dma_moves(&mut self, bus: Node<'t, 'a>) -> bool {
        let mut at = Some(bus);
        for _ in 0..super::tree::TreeLimits::DEPTH {
            let Some(bus) = at else { break };
            match self.dma_ranges_of(bus) {
                Ok(DmaRanges::Absent) | Err(_) => break,
                Ok(DmaRanges::Limited { moves: true, .. }) => return true,
                Ok(DmaRanges::OneToOne | DmaRanges::Limited { .. }) => at = self.dma_parent(bus),
            }
        }
        false
    }

    fn dma_ranges_of(&mut self, bus: Node<'t, 'a>) -> Result<DmaRanges, Problem> {
        let entry = self.dma_ranges.entry(bus.id());
        entry.or_insert_with(|| read_dma_ranges(bus)).clone()
    }

    /// The node whose bus `node`'s transactions travel on: its parent, or what the interconnect named `dma-mem` says.
    #[doc(alias = "of_get_dma_parent")]
    pub(super) fn dma_parent(&self, node: Node<'t, 'a>) -> Option<Node<'t, 'a>> {
        if !node.has("interconnect-names") {
            return node.parent();
        }
        let known = self.dma_parents.borrow().get(&node.id()).copied();
        let parent = known.unwrap_or_else(|| {
            let parent = self.interconnect(node).or_else(|| node.parent()).map(Node::id);
            self.dma_parents.borrow_mut().insert(node.id(), parent);
            parent
        });
        parent.and_then(|parent| self.tree.node(parent))
    }

    fn interconnect(&self, node: Node<'t, 'a>) -> Option<Node<'t, 'a>> {
        let at = node.strings("interconnect-names").position(|name| name == "dma-mem")?;
        let cells = cells(node.property("interconnects")?)?;
        let mut rest = cells.as_slice();
        for _ in 0..at {
            let target = self.tree.by_phandle(*rest.first()?).ok()?;
            let skip = target.cell("#interconnect-cells")?.checked_add(1)?;
            rest = rest.get(skip as usize..)?;
        }
        self.tree.by_phandle(*rest.first()?).ok()
    }

    /// Whether transactions of `node` snoop the CPU's caches: the nearest `dma-coherent` or `dma-noncoherent` on the way up decides; without one they do not.
    #[doc(alias = "of_dma_is_coherent")]
    pub(super) fn coherent(&self, node: Node<'t, 'a>) -> bool {
        self.coherency(node).unwrap_or(false)
    }

    /// The same; `None` where nothing on the way up says.
    pub(super) fn coherency(&self, node: Node<'t, 'a>) -> Option<bool> {
        let mut at = Some(node);
        for _ in 0..super::tree::TreeLimits::DEPTH {
            match at {
                Some(node) if node.has("dma-coherent") => return Some(true),
                Some(node) if node.has("dma-noncoherent") => return Some(false),
                Some(node) => at = self.dma_parent(node),
                None => return None,
            }
        }
        None
    }
}

fn read_dma_ranges(bus: Node<'_, '_>) -> Result<DmaRanges, Problem> {
    let Some(value) = bus.property("dma-ranges") else { return Ok(DmaRanges::Absent) };
    if value.is_empty() {
        return Ok(DmaRanges::OneToOne);
    }
    let malformed = |what: &str| {
        let counts = bus.child_cells();
        Problem::new(
            rule::DMA_RANGES,
            format!("`dma-ranges` of {} {what}", bus.path()),
            format!(
                "give it tuples of {} + {} + {} cells, or leave it empty for 1:1",
                counts.address,
                bus.own_cells().address,
                counts.size
            ),
        )
    };
    let ranges =
        bus_ranges(bus, value).ok_or_else(|| malformed("is not a whole number of tuples"))?;
    let mut last = 0;
    for range in &ranges {
        let beyond =
            range.len.checked_sub(1).ok_or_else(|| malformed("has a range of length 0"))?;
        let (child, parent) = (range.child.checked_add(beyond), range.parent.checked_add(beyond));
        let child = child.filter(|_| parent.is_some());
        last = last.max(child.ok_or_else(|| malformed("has a range that ends beyond 2^64"))?);
    }
    let bits = u64::BITS.saturating_sub(last.leading_zeros()).max(1);
    let moves = ranges.iter().any(|range| range.child != range.parent);
    Ok(DmaRanges::Limited { bits: u8::try_from(bits).unwrap_or(64), moves })
}
