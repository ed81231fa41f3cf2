//! What an unmap still owes.

use portcullis_addr::{Iova, PageSize};

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

/// The invalidations that unmaps still owe. Only a domain's flush consumes it; until then no frame that was unmapped may be reused.
#[must_use = "the unmapped range stays reachable for the device until the gather is flushed"]
#[derive(Debug, Default)]
#[doc(alias = "iommu_iotlb_gather")]
pub struct IotlbGather {
    range: Option<FlushRange>,
    everything: bool,
}

impl IotlbGather {
    /// Owes nothing yet.
    pub const fn new() -> Self {
        Self { range: None, everything: false }
    }

    /// Whether nothing is owed.
    pub fn is_empty(&self) -> bool {
        self.range.is_none() && !self.everything
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
}

fn adjoins(a: &FlushRange, b: &FlushRange) -> bool {
    let touches = |low: &FlushRange, high: &FlushRange| {
        low.last.checked_add(1).is_none_or(|next| high.start <= next)
    };
    if a.start <= b.start { touches(a, b) } else { touches(b, a) }
}
