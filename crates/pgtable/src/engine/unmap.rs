//! Unmapping and reclaiming: look at the whole range, then clear. Never allocates.

use super::{IoPageTable, Slot};
use crate::format::leaf_size;
use crate::{FlushRange, Format, IotlbGather, UnmapError};
use portcullis_addr::{Iova, PhysAddr};
use portcullis_platform::DmaMemory;

/// One table of the tree and the first address that it covers.
#[derive(Clone, Copy)]
struct Node {
    table: PhysAddr,
    /// Shift of its entries.
    shift: u32,
    base: u64,
}

/// Addresses, both ends inclusive.
#[derive(Clone, Copy)]
struct Span {
    first: u64,
    last: u64,
}

impl Span {
    fn covers(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    fn clamp(self, other: Self) -> Self {
        Self { first: self.first.max(other.first), last: self.last.min(other.last) }
    }
}

/// Leaves side by side that are to be reported as one range.
struct LeafRun {
    span: Span,
    shift: u32,
}

impl<F: Format, M: DmaMemory> IoPageTable<F, M> {
    pub(super) fn unmap_range(
        &self,
        iova: Iova,
        len: u64,
        gather: &mut IotlbGather,
    ) -> Result<(), UnmapError> {
        self.check_range(iova, len)?;
        let span = Span { first: iova.raw(), last: iova.raw() + (len - 1) };
        let (slot, count) = self.mapped_run(span)?;
        if (count as u64) << slot.shift != len {
            return self.unmap_many(span, gather);
        }
        if count == self.geometry.entries(slot.shift) {
            // All of a table: it leaves the tree.
            self.clear(self.root(), span, gather);
        } else {
            self.clear_run(slot.address, count);
            self.owe(gather, LeafRun { span, shift: slot.shift });
        }
        Ok(())
    }

    /// A range over several tables.
    #[inline(never)]
    fn unmap_many(&self, span: Span, gather: &mut IotlbGather) -> Result<(), UnmapError> {
        self.survey_mapped(span)?;
        self.clear(self.root(), span, gather);
        Ok(())
    }

    /// Checks that all of `span` is mapped by leaves that do not leave it.
    fn survey_mapped(&self, mut span: Span) -> Result<(), UnmapError> {
        loop {
            let (slot, count) = self.mapped_run(span)?;
            let bytes = (count as u64) << slot.shift;
            if bytes > span.last - span.first {
                return Ok(());
            }
            span.first += bytes;
        }
    }

    /// The leaf at the start of `span`, and how many leaves of the same table from there on lie inside `span`.
    #[inline(always)]
    fn mapped_run(&self, span: Span) -> Result<(Slot, usize), UnmapError> {
        let slot = self.descend::<false>(span.first, self.geometry.leaf_shift());
        let last_level = self.is_last(slot.shift);
        if !F::is_leaf(slot.entry, last_level) {
            return Err(UnmapError::NotMapped { iova: Iova::new(span.first) });
        }
        let size = 1u64 << slot.shift;
        let whole = (span.last - span.first + 1) >> slot.shift;
        if whole == 1 && span.first & (size - 1) == 0 {
            return Ok((slot, 1));
        }
        if span.first & (size - 1) != 0 || whole == 0 {
            let leaf = Iova::new(span.first).align_down(size);
            return Err(UnmapError::SplitsLeaf { leaf, size: leaf_size(slot.shift) });
        }
        let index = self.geometry.index(span.first, slot.shift);
        let room = self.geometry.entries(slot.shift) - index;
        let wanted = usize::try_from(whole).map_or(room, |count| count.min(room));
        let is_leaf = |offset: &usize| F::is_leaf(self.load_at(slot.address, *offset), last_level);
        let count = 1 + (1..wanted).take_while(is_leaf).count();
        Ok((slot, count))
    }

    /// Clears every leaf of `span` below `node` and takes out the tables that lie wholly inside. All leaves that `span` meets lie inside it.
    fn clear(&self, node: Node, span: Span, gather: &mut IotlbGather) {
        let indices = self.indices(node, span);
        let mut run: Option<LeafRun> = None;
        for index in indices.clone() {
            let address = super::entry_at(node.table, index);
            let entry = self.memory.load64(address);
            let here = self.slot_span(node, index);
            if F::is_leaf(entry, self.is_last(node.shift)) {
                self.memory.store64(address, 0);
                let first = run.map_or(here.first, |run| run.span.first);
                run = Some(LeafRun { span: Span { first, last: here.last }, shift: node.shift });
                continue;
            }
            if let Some(run) = run.take() {
                self.owe(gather, run);
            }
            if !self.is_last(node.shift) && F::is_table(entry) {
                let child = self.child(node, index, entry);
                if span.covers(here) && gather.tables.accepts(self.config.root) {
                    self.memory.store64(address, 0);
                    self.take_out(child, gather);
                } else {
                    self.clear(child, span.clamp(here), gather);
                }
            }
        }
        if let Some(run) = run {
            self.owe(gather, run);
        }
        self.publish(super::entry_at(node.table, *indices.start()), indices.count() * 8);
    }

    /// Hands the tables from `node` down to the gather, with the debt for the leaves that they hold. Their parent does not lead to them any more.
    fn take_out(&self, node: Node, gather: &mut IotlbGather) {
        let span = self.node_span(node);
        if self.is_last(node.shift) {
            self.owe_tables(gather, span);
        } else {
            for index in 0..self.geometry.entries(node.shift) {
                let entry = super::entry_at(node.table, index);
                let entry = self.memory.load64(entry);
                if F::is_table(entry) {
                    self.take_out(self.child(node, index, entry), gather);
                } else if F::is_leaf(entry, false) {
                    let run = LeafRun { span: self.slot_span(node, index), shift: node.shift };
                    self.owe(gather, run);
                }
            }
            // Upper tables: the hint "leaf entries only" would be wrong for the range.
            self.owe_tables(gather, span);
        }
        self.unhooked(&mut gather.tables, node.table);
    }

    /// Takes out the empty tables that lie wholly inside `[iova, iova + len)` and counts them.
    pub(super) fn reclaim_range(&self, iova: u64, len: u64, gather: &mut IotlbGather) -> usize {
        let before = gather.tables.count;
        if gather.tables.accepts(self.config.root) {
            self.prune(self.root(), Span { first: iova, last: iova + (len - 1) }, gather);
        }
        gather.tables.count - before
    }

    /// Takes out what is empty below `node` inside `span`; says whether those entries of `node` that `span` meets are empty now.
    fn prune(&self, node: Node, span: Span, gather: &mut IotlbGather) -> bool {
        let mut empty = true;
        let mut changed = false;
        let indices = self.indices(node, span);
        for index in indices.clone() {
            let address = super::entry_at(node.table, index);
            let entry = self.memory.load64(address);
            if entry == 0 {
                continue;
            }
            if self.is_last(node.shift) {
                return false;
            }
            let here = self.slot_span(node, index);
            let child_is_empty = F::is_table(entry)
                && self.prune(self.child(node, index, entry), span.clamp(here), gather);
            if child_is_empty && span.covers(here) {
                self.memory.store64(address, 0);
                self.owe_tables(gather, here);
                self.unhooked(&mut gather.tables, PhysAddr::new(F::address(entry)));
                changed = true;
            } else {
                empty = false;
            }
        }
        if changed {
            let first = super::entry_at(node.table, *indices.start());
            self.publish(first, indices.count() * 8);
        }
        empty
    }

    /// Removes what a map has stored before it failed; its caller broke the rules, so the range may hold anything.
    #[cold]
    pub(super) fn forget(&self, iova: u64, len: u64) {
        if len > 0 {
            let mut gather = IotlbGather::new();
            self.clear(self.root(), Span { first: iova, last: iova + (len - 1) }, &mut gather);
            // Nobody will invalidate, so tables that were taken out must not be used again.
            self.keep_chain(&gather.confirm().0);
        }
    }

    fn root(&self) -> Node {
        Node { table: self.config.root, shift: self.geometry.root_shift(), base: 0 }
    }

    fn child(&self, node: Node, index: usize, entry: u64) -> Node {
        let base = self.slot_span(node, index).first;
        Node {
            table: PhysAddr::new(F::address(entry)),
            shift: node.shift - self.geometry.index_bits(),
            base,
        }
    }

    /// The entries of `node` that `span`, which lies below `node`, meets.
    fn indices(&self, node: Node, span: Span) -> core::ops::RangeInclusive<usize> {
        let index = |iova| self.geometry.index(iova, node.shift);
        index(span.first)..=index(span.last)
    }

    fn slot_span(&self, node: Node, index: usize) -> Span {
        let first = node.base + ((index as u64) << node.shift);
        Span { first, last: first + ((1 << node.shift) - 1) }
    }

    fn node_span(&self, node: Node) -> Span {
        let last = self.slot_span(node, self.geometry.entries(node.shift) - 1).last;
        Span { first: node.base, last }
    }

    fn owe(&self, gather: &mut IotlbGather, run: LeafRun) {
        gather.add(FlushRange {
            start: Iova::new(run.span.first),
            last: Iova::new(run.span.last),
            leaf: leaf_size(run.shift),
            tables_freed: false,
        });
    }

    /// The debt for tables that were taken out: their whole range, at the stride of the smallest page.
    fn owe_tables(&self, gather: &mut IotlbGather, span: Span) {
        gather.add(FlushRange {
            start: Iova::new(span.first),
            last: Iova::new(span.last),
            leaf: self.config.granule,
            tables_freed: true,
        });
    }
}
