//! Taking empty tables out of the tree. Never allocates.

use super::IoPageTable;
use super::idle::idle;
use super::unmap::{Span, owe};
use super::walk::entry_at;
use crate::{Format, IotlbGather, Level};
use portcullis_addr::PhysAddr;
use portcullis_platform::DmaMemory;

/// One table of the tree and the first address that it covers.
#[derive(Clone, Copy)]
pub(super) struct Node {
    pub(super) table: PhysAddr,
    pub(super) level: Level,
    pub(super) base: u64,
}

impl Node {
    /// What the entry with this index covers.
    fn entry_span(&self, index: usize) -> Span {
        let first = self.base + ((index as u64) << self.level.shift);
        Span { first, last: first + ((1 << self.level.shift) - 1) }
    }
}

impl<F: Format, M: DmaMemory> IoPageTable<F, M> {
    /// Takes out the empty tables that lie wholly inside `[iova, iova + len)` and counts them.
    pub(super) fn reclaim_range(&self, iova: u64, len: u64, gather: &mut IotlbGather) -> usize {
        let before = gather.tables();
        let top = self.top();
        let root = Node { table: top.root, level: top.level, base: 0 };
        self.prune(root, Span { first: iova, last: iova + (len - 1) }, gather);
        gather.tables() - before
    }

    /// Takes out what is empty below `node` inside `span`; says whether those entries of `node` that `span` meets are empty now.
    fn prune(&self, node: Node, span: Span, gather: &mut IotlbGather) -> bool {
        let mut empty = true;
        let index = |iova| self.geometry.index(iova, node.level);
        for index in index(span.first)..=index(span.last) {
            let entry = self.memory.load64(entry_at(node.table, index));
            if entry == 0 {
                continue;
            }
            if node.level.is_last() {
                return false;
            }
            empty &= self.prune_entry(node, index, entry, span, gather);
        }
        empty
    }

    /// Prunes below one entry, if it leads to a table, and takes that table out if it is idle or empty and wholly inside `span`. Says whether it did.
    fn prune_entry(
        &self,
        node: Node,
        index: usize,
        entry: u64,
        span: Span,
        gather: &mut IotlbGather,
    ) -> bool {
        let here = node.entry_span(index);
        let idle = idle(entry);
        if idle.is_none() && !self.format.is_table(entry, node.level) {
            return false;
        }
        let child = Node {
            table: idle.unwrap_or_else(|| PhysAddr::new(self.format.table_address(entry))),
            level: self.geometry.level(node.level.number - 1),
            base: here.first,
        };
        let inside = Span { first: span.first.max(here.first), last: span.last.min(here.last) };
        let empty = idle.is_some() || self.prune(child, inside, gather);
        let whole = inside.first == here.first && inside.last == here.last;
        if !empty || !whole {
            return false;
        }
        let Some(place) = self.taken_out.reserve(&gather.tables) else { return false };
        let address = entry_at(node.table, index);
        // Only one of two callers that both, against the rules, reclaim here may have the page.
        if self.memory.compare_exchange64(address, entry, 0).is_err() {
            self.taken_out.give_up(place);
            return false;
        }
        self.publish(address, 8);
        self.taken_out.keep(place, child.table, &mut gather.tables);
        // The whole range of the table, at the stride of the smallest page.
        owe(gather, here, self.params.granule, true);
        true
    }
}
