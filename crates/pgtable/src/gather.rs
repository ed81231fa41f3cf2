//! What an unmap still owes.

use portcullis_addr::{Iova, PageSize, PhysAddr};

/// One contiguous range of leaves of one size whose translations hardware may still hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushRange {
    /// First address.
    pub start: Iova,
    /// Last address, inclusive.
    pub last: Iova,
    /// The size of the leaves that were removed: the stride of the invalidation.
    pub leaf: PageSize,
    /// Whether a table page was removed too, so that walk caches must be told (Arm: no `LEAF` hint).
    pub tables_freed: bool,
}

/// The invalidations that unmaps still owe, and the table pages that go back to their owner when that debt is paid. Until then no frame that was
/// unmapped may be reused.
///
/// Table pages that an unmap took out of the tree travel inside the gather, because a walk cache may still lead hardware into them. They come
/// out by one way only: [`confirm`](Self::confirm), called when hardware has confirmed the invalidation, makes the [`Flushed`] that
/// [`PageTable::retire`](crate::PageTable::retire) takes. A gather whose invalidation failed goes to
/// [`PageTable::quarantine`](crate::PageTable::quarantine); one that is dropped with pages inside leaks them, which is safe.
#[must_use = "the unmapped range stays reachable for the device until the gather is flushed"]
#[derive(Debug, Default)]
#[doc(alias = "iommu_iotlb_gather")]
pub struct IotlbGather {
    range: Option<FlushRange>,
    everything: bool,
    pub(crate) tables: TableChain,
}

impl IotlbGather {
    /// Owes nothing yet.
    pub const fn new() -> Self {
        Self { range: None, everything: false, tables: TableChain::EMPTY }
    }

    /// Whether nothing is owed.
    pub fn is_empty(&self) -> bool {
        self.range.is_none() && !self.everything && self.tables.count == 0
    }

    /// Adds `[start, last]` of leaves of size `leaf`. A range that does not adjoin the one already gathered, or has another leaf size, widens the
    /// debt to the whole address space rather than losing part of it.
    pub fn add(&mut self, range: FlushRange) {
        self.range = match self.range {
            None => Some(range),
            Some(mut old) if old.leaf == range.leaf && adjoins(&old, &range) => {
                old.start = old.start.min(range.start);
                old.last = old.last.max(range.last);
                old.tables_freed |= range.tables_freed;
                Some(old)
            }
            Some(old) => {
                self.everything = true;
                Some(old)
            }
        };
    }

    /// Owes an invalidation of the whole address space.
    pub fn add_everything(&mut self) {
        self.everything = true;
    }

    /// The one range that is owed; `None` when nothing or everything is.
    pub fn range(&self) -> Option<FlushRange> {
        if self.everything { None } else { self.range }
    }

    /// Whether the whole address space must be invalidated.
    pub fn is_everything(&self) -> bool {
        self.everything
    }

    /// Table pages that wait inside for the invalidation.
    pub fn tables(&self) -> usize {
        self.tables.count
    }

    /// States that hardware has confirmed every invalidation that this gather owes, and leaves it empty. The table pages inside are free to go:
    /// hand the result to [`PageTable::retire`](crate::PageTable::retire) of the table that was unmapped.
    ///
    /// Calling it without that confirmation is the one mistake that this type cannot see.
    pub fn confirm(&mut self) -> Flushed {
        Flushed(core::mem::take(self).tables)
    }
}

/// Table pages that hardware can no longer reach, by [`IotlbGather::confirm`]. Dropping it leaks them.
#[must_use = "table pages go back to their memory only through `PageTable::retire`"]
#[derive(Debug)]
pub struct Flushed(pub(crate) TableChain);

impl Flushed {
    /// How many table pages it holds.
    pub fn tables(&self) -> usize {
        self.0.count
    }
}

/// Table pages of one table, linked through the first word of each page, so that an unmap needs no memory to remember them. The link has
/// zeroes in its low bits, so that hardware that still walks into the page reads "not present" there.
///
/// # Invariants
///
/// `count == 0` exactly if `head`, `tail` and `owner` are meaningless; each page is in one chain only.
#[derive(Debug, Default)]
pub(crate) struct TableChain {
    /// The root of the table that the pages belong to.
    pub(crate) owner: PhysAddr,
    pub(crate) head: PhysAddr,
    pub(crate) tail: PhysAddr,
    pub(crate) count: usize,
}

impl TableChain {
    pub(crate) const EMPTY: Self =
        Self { owner: PhysAddr::new(0), head: PhysAddr::new(0), tail: PhysAddr::new(0), count: 0 };

    /// Whether a page of the table with root `owner` may join.
    pub(crate) fn accepts(&self, owner: PhysAddr) -> bool {
        self.count == 0 || self.owner == owner
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
        let mut gather = IotlbGather::new();
        gather.add(range(0, 0xfff, PageSize::SIZE_4K));
        gather.add(range(0x1000, 0x20_0fff, PageSize::SIZE_2M));
        assert!(gather.is_everything(), "one stride cannot cover two leaf sizes");
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
