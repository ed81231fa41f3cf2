//! Unmapping: look at the whole range, then clear. Never allocates.

use super::IoPageTable;
use super::walk::{COMMON_PAGE, Slot, common_level};
use crate::geometry::leaf_size;
use crate::{FlushRange, Format, IotlbGather, UnmapError};
use portcullis_addr::{Iova, PageSize};
use portcullis_platform::DmaMemory;

/// Addresses, both ends inclusive.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) first: u64,
    pub(super) last: u64,
}

/// Leaves side by side in one table.
pub(super) struct Run {
    pub(super) slot: Slot,
    pub(super) entries: usize,
}

impl Run {
    /// The last address that it covers, from `first` on.
    pub(super) fn last(&self, first: u64) -> u64 {
        first + (((self.entries as u64) << self.slot.level.shift) - 1)
    }
}

impl<F: Format, M: DmaMemory> IoPageTable<F, M> {
    #[inline(always)]
    pub(super) fn unmap_range(
        &self,
        iova: Iova,
        len: u64,
        gather: &mut IotlbGather,
    ) -> Result<(), UnmapError> {
        if len == COMMON_PAGE && self.take_one::<0, true>(iova.raw(), COMMON_PAGE - 1) {
            return owe_one::<0>(iova.raw(), gather);
        }
        self.unmap_block(iova, len, gather)
    }

    /// A block of the common tree, or anything else that [`take_one`](Self::take_one) did not. A function of its own, so that neither it nor its caller keeps a stack frame.
    #[inline(never)]
    fn unmap_block(
        &self,
        iova: Iova,
        len: u64,
        gather: &mut IotlbGather,
    ) -> Result<(), UnmapError> {
        const BLOCK: u64 = 1 << common_level(1).shift;
        if len == BLOCK && self.block == BLOCK && self.take_one::<1, true>(iova.raw(), BLOCK - 1) {
            return owe_one::<1>(iova.raw(), gather);
        }
        self.unmap_pages(iova, len, gather)
    }

    /// Several smallest pages in one table of the common tree, or anything else.
    #[inline(never)]
    fn unmap_pages(
        &self,
        iova: Iova,
        len: u64,
        gather: &mut IotlbGather,
    ) -> Result<(), UnmapError> {
        if self.unmap_in_one_table::<true>(iova.raw(), len, gather) {
            return Ok(());
        }
        self.unmap_more(iova, len, gather)
    }

    /// Takes one leaf of one entry out, of level number `DOWN` and 1 + `below` bytes, whose invalidation the caller notes; the errors are for the long way. `COMMON`: see [`slot`](Self::slot).
    #[inline(always)]
    fn take_one<const DOWN: u8, const COMMON: bool>(&self, iova: u64, below: u64) -> bool {
        if iova & below != 0 || iova > self.reach() {
            return false;
        }
        let Some(address) = self.slot::<DOWN, COMMON>(iova) else { return false };
        let level = if COMMON { common_level(DOWN) } else { self.geometry.level(DOWN) };
        let entry = self.memory.load64(address);
        let single = || self.format.leaf_size(entry, level) == level.shift;
        if !self.format.is_leaf(entry, level) || !single() {
            return false;
        }
        self.memory.store64(address, 0);
        self.publish(address, 8);
        true
    }

    /// More pages than one, or one that [`take_one`](Self::take_one) did not take in the common tree.
    #[inline(never)]
    fn unmap_more(&self, iova: Iova, len: u64, gather: &mut IotlbGather) -> Result<(), UnmapError> {
        let one = (len == self.block && self.take_one::<1, false>(iova.raw(), len - 1))
            || (len == self.page() && self.take_one::<0, false>(iova.raw(), len - 1));
        if one {
            let span = Span { first: iova.raw(), last: iova.raw() + (len - 1) };
            owe(gather, span, leaf_size(len.trailing_zeros()), false);
            return Ok(());
        }
        if self.unmap_in_one_table::<false>(iova.raw(), len, gather) {
            return Ok(());
        }
        self.unmap_anything(iova, len, gather)
    }

    /// Unmaps smallest pages whose entries stand in one table, where all of them are mapped. `COMMON`: see [`slot`](Self::slot).
    #[inline(always)]
    fn unmap_in_one_table<const COMMON: bool>(
        &self,
        iova: u64,
        len: u64,
        gather: &mut IotlbGather,
    ) -> bool {
        let last = iova.wrapping_add(len.wrapping_sub(1));
        let whole = len != 0 && (iova | len) & self.below_page == 0;
        // Leaves of several entries look like others: tables that may have them take the long way.
        let pages_only = self.second_size >= self.left_of_table::<COMMON>(0);
        if !whole
            || last < iova
            || last > self.reach()
            || !pages_only
            || len > self.left_of_table::<COMMON>(iova)
        {
            return false;
        }
        let Some(first) = self.slot::<0, COMMON>(iova) else { return false };
        let level = self.last_level::<COMMON>();
        let entry = self.memory.load64(first);
        let count = (len >> level.shift) as usize;
        let all = || self.memory.all_set(first, count, self.format.presence(entry));
        if !self.format.is_leaf(entry, level) || !all() {
            return false;
        }
        let gone = self.is_whole_table(count) && self.make_idle(iova);
        if !gone {
            self.memory.clear(first, count);
            self.publish(first, count * 8);
        }
        let leaf = if COMMON { PageSize::SIZE_4K } else { self.params.granule };
        owe(gather, Span { first: iova, last }, leaf, gone);
        true
    }

    /// Every unmap that is not [`unmap_in_one_table`](Self::unmap_in_one_table).
    #[inline(never)]
    fn unmap_anything(
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
    pub(super) fn for_each_run(
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
        let pages = run.slot.level.is_last() && self.is_whole_table(run.entries);
        let gone = pages && self.make_idle(first);
        if !gone {
            self.memory.clear(run.slot.address, run.entries);
            self.publish(run.slot.address, run.entries * 8);
        }
        let leaf = leaf_size(run.slot.level.shift);
        owe(gather, Span { first, last: run.last(first) }, leaf, gone);
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

/// Notes that the leaf of level number `NUMBER` of the common tree at `iova` was removed. Its result is the unmap's, so that the call of [`owe_more`], where the gather owes something already, is a tail call and needs no stack frame.
#[inline(always)]
fn owe_one<const NUMBER: u8>(iova: u64, gather: &mut IotlbGather) -> Result<(), UnmapError> {
    let leaf = if NUMBER == 0 { PageSize::SIZE_4K } else { PageSize::SIZE_2M };
    let last = iova | (leaf.bytes() - 1);
    let (start, last) = (Iova::new(iova), Iova::new(last));
    if gather.add_first(FlushRange { start, last, leaf, tables_freed: false }) {
        return Ok(());
    }
    owe_more(start, last, leaf, gather)
}

#[inline(never)]
fn owe_more(
    start: Iova,
    last: Iova,
    leaf: PageSize,
    gather: &mut IotlbGather,
) -> Result<(), UnmapError> {
    gather.merge(start, last, leaf, false);
    Ok(())
}

/// Notes that entries of `leaf` bytes each were removed for the addresses of `span`.
#[inline(always)]
pub(super) fn owe(gather: &mut IotlbGather, span: Span, leaf: PageSize, tables_freed: bool) {
    let (start, last) = (Iova::new(span.first), Iova::new(span.last));
    gather.add(FlushRange { start, last, leaf, tables_freed });
}
