//! Unmapping: look at the whole range, then clear. Never allocates.

use super::IoPageTable;
use super::walk::{Slot, entry_at};
use crate::geometry::leaf_size;
use crate::{FlushRange, Format, IotlbGather, Level, UnmapError};
use portcullis_addr::Iova;
use portcullis_platform::DmaMemory;

/// Addresses, both ends inclusive.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) first: u64,
    pub(super) last: u64,
}

/// Leaves side by side in one table.
struct Run {
    slot: Slot,
    entries: usize,
}

impl Run {
    /// The last address that it covers, from `first` on.
    fn last(&self, first: u64) -> u64 {
        first + (((self.entries as u64) << self.slot.level.shift) - 1)
    }
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
        let run = self.mapped_run(span)?;
        if run.last(span.first) == span.last {
            self.clear_run(&run, span.first, gather);
            return Ok(());
        }
        self.unmap_many(span, gather)
    }

    /// A range over several tables or of several leaf sizes.
    #[inline(never)]
    fn unmap_many(&self, span: Span, gather: &mut IotlbGather) -> Result<(), UnmapError> {
        self.for_each_run(span, |_, _| ())?;
        // Whoever unmaps the same range at the same time takes leaves from us: then we fail half-way, and what we removed is owed.
        self.for_each_run(span, |run, first| self.clear_run(run, first, gather))
    }

    /// Calls `act` with each run of leaves of `span` and the address where it begins, in ascending order.
    fn for_each_run(
        &self,
        mut span: Span,
        mut act: impl FnMut(&Run, u64),
    ) -> Result<(), UnmapError> {
        loop {
            let run = self.mapped_run(span)?;
            act(&run, span.first);
            let last = run.last(span.first);
            if last == span.last {
                return Ok(());
            }
            span.first = last + 1;
        }
    }

    /// The leaf at the start of `span`, and how many entries of leaves of its size follow it in the same table and inside `span`.
    #[inline(always)]
    fn mapped_run(&self, span: Span) -> Result<Run, UnmapError> {
        let slot = self.descend::<false>(span.first, 0);
        if !self.format.is_leaf(slot.entry, slot.level) {
            return Err(UnmapError::NotMapped { iova: Iova::new(span.first) });
        }
        let size = self.format.leaf_size(slot.entry, slot.level);
        let mask = (1u64 << size) - 1;
        // Inclusive, so that a range that ends with the last address does not overflow.
        let leaves_but_one = (span.last - span.first) >> size;
        if span.first & mask != 0 || span.last - span.first < mask {
            let leaf = Iova::new(span.first & !mask);
            return Err(UnmapError::SplitsLeaf { leaf, size: leaf_size(size) });
        }
        let leaves = leaves_but_one + u64::from((span.last - span.first) & mask == mask);
        let per_leaf = 1usize << (size - slot.level.shift);
        let room = self.geometry.entries(slot.level) - self.geometry.index(span.first, slot.level);
        let wanted = usize::try_from(leaves)
            .map_or(room, |leaves| leaves.saturating_mul(per_leaf).min(room));
        let entries = self.same_leaves(slot, size, wanted);
        Ok(Run {
            slot,
            entries: (entries >> (size - slot.level.shift) << (size - slot.level.shift))
                .max(per_leaf),
        })
    }

    /// How many entries from `slot` on belong to leaves of 2^`size` bytes, at most `wanted`; `slot` does.
    #[inline(always)]
    fn same_leaves(&self, slot: Slot, size: u32, wanted: usize) -> usize {
        let same = |offset: &usize| {
            let entry = self.load_at(slot.address, *offset);
            self.format.is_leaf(entry, slot.level)
                && self.format.leaf_size(entry, slot.level) == size
        };
        1 + (1..wanted).take_while(same).count()
    }

    /// Clears the entries of `run`, which begins at address `first`, and notes the debt.
    #[inline(always)]
    fn clear_run(&self, run: &Run, first: u64, gather: &mut IotlbGather) {
        for offset in 0..run.entries {
            self.memory.store64(entry_at(run.slot.address, offset), 0);
        }
        self.publish(run.slot.address, run.entries * 8);
        owe(gather, Span { first, last: run.last(first) }, run.slot.level, false);
    }

    /// Removes what a map has stored before it failed; its caller broke the rule of disjoint ranges, so the range may hold anything.
    #[cold]
    pub(super) fn forget(&self, iova: u64, len: u64) {
        let mut at = iova;
        while at < iova + len {
            let slot = self.descend::<false>(at, 0);
            if self.format.is_leaf(slot.entry, slot.level) {
                self.memory.store64(slot.address, 0);
                self.publish(slot.address, 8);
            }
            at = (at | ((1 << slot.level.shift) - 1)) + 1;
        }
    }
}

/// Notes that entries of `level` for the addresses of `span` were removed.
pub(super) fn owe(gather: &mut IotlbGather, span: Span, level: Level, tables_freed: bool) {
    gather.add(FlushRange {
        start: Iova::new(span.first),
        last: Iova::new(span.last),
        leaf: leaf_size(level.shift),
        tables_freed,
    });
}
