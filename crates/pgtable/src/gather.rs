//! What an unmap still owes.

use portcullis_addr::{Iova, PageSize};

/// One contiguous range of leaves of one size whose translations hardware may still hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushRange {
    /// First address.
    pub start: Iova,
    /// Last address, inclusive.
    pub last: Iova,
    /// What one entry covered that was removed: the stride of the invalidation. A leaf of several entries may be cached entry by entry.
    pub leaf: PageSize,
    /// Whether hardware has lost the way to a table page too, so that walk caches must be told (Arm: no `LEAF` hint). Set as well where leaves of several sizes are in the range, of which `leaf` is the
    /// smallest: no hint about levels may go with the invalidation then either.
    pub tables_freed: bool,
}

/// The invalidations that unmaps still owe. Until they are paid no frame that was unmapped may be reused.
///
/// Table pages that [`reclaim`](crate::PageTable::reclaim) took out of the tree belong to the debt, because a walk cache may still lead hardware into
/// them. They come out by one way only: [`confirm`](Self::confirm), called when hardware has confirmed the invalidation, makes the [`Flushed`] that
/// [`PageTable::retire`](crate::PageTable::retire) takes. Where that never happens, because the invalidation failed or the gather was dropped, the pages
/// stay with their table until it is dropped itself, when no hardware walks it any more.
#[must_use = "the unmapped range stays reachable for the device until the gather is flushed"]
#[derive(Debug, Default)]
#[doc(alias = "iommu_iotlb_gather")]
// The compiler clears `tables` by one store of 16 bytes. On a boundary of 16 that never lies across two pages of memory, where it costs 17 ns and more: it waits for all stores before it. A
// stack frame that lies so stays so, so a whole process was slower. (Not by aligning `TakenOut`, which would no longer be returned in two registers.)
#[repr(C, align(16))]
pub struct IotlbGather {
    pub(crate) tables: TakenOut,
    range: Option<FlushRange>,
    everything: bool,
}

impl IotlbGather {
    /// Owes nothing yet.
    #[inline]
    pub const fn new() -> Self {
        Self { range: None, everything: false, tables: TakenOut::NONE }
    }

    /// Whether nothing is owed.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.range.is_none() && !self.everything && self.tables.is_empty()
    }

    /// Adds `[start, last]` of leaves of size `leaf`. A range that adjoins the one already gathered makes it longer, so that a run of addresses that was mapped piece by piece is one
    /// range. One that does not widens the debt to the whole address space rather than losing part of it.
    #[inline]
    pub fn add(&mut self, range: FlushRange) {
        if !self.add_first(range) {
            // In pieces, so that the range need not stand in memory.
            self.merge(range.start, range.last, range.leaf, range.tables_freed);
        }
    }

    /// [`add`](Self::add) to a gather that owes nothing yet; `false` where it does.
    #[inline(always)]
    pub(crate) fn add_first(&mut self, range: FlushRange) -> bool {
        let first = self.range.is_none();
        if first {
            self.range = Some(range);
        }
        first
    }

    #[inline(never)]
    pub(crate) fn merge(&mut self, start: Iova, last: Iova, leaf: PageSize, tables_freed: bool) {
        let range = FlushRange { start, last, leaf, tables_freed };
        match &mut self.range {
            Some(old) if adjoins(old, &range) => {
                old.start = old.start.min(range.start);
                old.last = old.last.max(range.last);
                old.tables_freed |= range.tables_freed || old.leaf != range.leaf;
                old.leaf = old.leaf.min(range.leaf);
            }
            _ => self.everything = true,
        }
    }

    /// Owes an invalidation of the whole address space.
    pub fn add_everything(&mut self) {
        self.everything = true;
    }

    /// The one range that is owed; `None` when nothing or everything is.
    pub fn range(&self) -> Option<FlushRange> {
        self.as_range().copied()
    }

    /// As [`range`](Self::range), where it stands: a copy is made of its parts while they are still being written.
    #[inline]
    pub fn as_range(&self) -> Option<&FlushRange> {
        if self.everything { None } else { self.range.as_ref() }
    }

    /// Whether the whole address space must be invalidated.
    pub fn is_everything(&self) -> bool {
        self.everything
    }

    /// Table pages that wait for the invalidation.
    #[inline]
    pub fn tables(&self) -> usize {
        self.tables.count()
    }

    /// States that hardware has confirmed every invalidation that this gather owes, and leaves it empty. The table pages inside are free to go:
    /// hand the result to [`PageTable::retire`](crate::PageTable::retire) of the table that was unmapped.
    ///
    /// Calling it without that confirmation is the one mistake that this type cannot see.
    #[inline]
    pub fn confirm(&mut self) -> Flushed {
        self.range = None;
        self.everything = false;
        Flushed(core::mem::take(&mut self.tables))
    }
}

/// Table pages that hardware can no longer reach, by [`IotlbGather::confirm`]. Dropping it keeps them with their table until that is dropped.
#[must_use = "table pages can be freed only after `PageTable::retire`"]
#[derive(Debug)]
pub struct Flushed(pub(crate) TakenOut);

impl Flushed {
    /// How many table pages it stands for.
    pub fn tables(&self) -> usize {
        self.0.count()
    }
}

/// Table pages that were taken out of one table's tree, by their places in that table's list of such pages.
///
/// # Invariants
///
/// `places` is not empty only where `owner` is a table's number; a place is in one value only.
#[derive(Debug, Default)]
pub(crate) struct TakenOut {
    /// The number of the table.
    pub(crate) owner: u64,
    /// One bit a place.
    pub(crate) places: u64,
}

impl TakenOut {
    const NONE: Self = Self { owner: 0, places: 0 };

    fn is_empty(&self) -> bool {
        self.places == 0
    }

    pub(crate) fn count(&self) -> usize {
        self.places.count_ones() as usize
    }

    /// Whether pages of the table with number `owner` may join.
    pub(crate) fn accepts(&self, owner: u64) -> bool {
        self.is_empty() || self.owner == owner
    }
}

fn adjoins(a: &FlushRange, b: &FlushRange) -> bool {
    let touches = |low: &FlushRange, high: &FlushRange| {
        low.last.checked_add(1).is_none_or(|next| high.start <= next)
    };
    if a.start <= b.start { touches(a, b) } else { touches(b, a) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, last: u64, leaf: PageSize) -> FlushRange {
        FlushRange { start: Iova::new(start), last: Iova::new(last), leaf, tables_freed: false }
    }

    #[test]
    fn neighbours_merge_and_strangers_widen_to_everything() {
        let mut gather = IotlbGather::new();
        assert!(gather.is_empty());
        gather.add(range(0x2000, 0x2fff, PageSize::SIZE_4K));
        gather.add(range(0x1000, 0x1fff, PageSize::SIZE_4K));
        gather.add(range(0x3000, 0x4fff, PageSize::SIZE_4K));
        assert_eq!(gather.range(), Some(range(0x1000, 0x4fff, PageSize::SIZE_4K)));
        gather.add(range(0x6000, 0x6fff, PageSize::SIZE_4K));
        assert!(gather.is_everything(), "a gap is not forgotten");
        assert_eq!(gather.range(), None);
    }

    #[test]
    fn neighbours_of_two_leaf_sizes_are_one_range_without_hints() {
        let mut gather = IotlbGather::new();
        gather.add(range(0x20_0000, 0x3f_ffff, PageSize::SIZE_2M));
        gather.add(range(0x40_0000, 0x40_0fff, PageSize::SIZE_4K));
        gather.add(range(0x1f_f000, 0x1f_ffff, PageSize::SIZE_4K));
        let all = range(0x1f_f000, 0x40_0fff, PageSize::SIZE_4K);
        assert_eq!(gather.range(), Some(FlushRange { tables_freed: true, ..all }));
        gather.add(range(0x40_2000, 0x40_2fff, PageSize::SIZE_4K));
        assert!(gather.is_everything(), "a gap is not forgotten");
    }

    #[test]
    fn what_is_cleared_by_one_store_lies_in_one_page_of_memory() {
        assert_eq!(core::mem::offset_of!(IotlbGather, tables) % 16, 0);
        assert!(align_of::<IotlbGather>() >= 16 && size_of::<IotlbGather>() <= 48);
    }

    #[test]
    fn the_last_page_adjoins_nothing_above_it() {
        let mut gather = IotlbGather::new();
        gather.add(range(u64::MAX - 0xfff, u64::MAX, PageSize::SIZE_4K));
        gather.add(range(u64::MAX - 0x1fff, u64::MAX - 0x1000, PageSize::SIZE_4K));
        assert_eq!(gather.range(), Some(range(u64::MAX - 0x1fff, u64::MAX, PageSize::SIZE_4K)));
        assert_eq!(gather.confirm().tables(), 0);
        assert!(gather.is_empty(), "a confirmed debt is gone");
    }
}
