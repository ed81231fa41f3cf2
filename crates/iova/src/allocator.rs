//! The allocator: bytes and policy on top of the tree of pages.

use crate::error::{AllocateError, FreeError, NewError, ReserveError};
use crate::node::free_value;
use crate::tree::{Kind, Mark, Tree};
use core::fmt;
use portcullis_addr::{Iova, IovaRange, PageSize};

/// The last address that 32 bits reach.
const LAST_LOW: u64 = 0xffff_ffff;

/// Where ranges are put when the request leaves a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Placement {
    /// Below 4 GiB while there is room, then above.
    #[default]
    LowFirst,
    /// As high as the limit allows.
    #[doc(alias = "iommu.forcedac")]
    Anywhere,
}

/// What is wanted: how much, up to where, on which boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IovaRequest {
    pub(crate) len: u64,
    pub(crate) limit: Iova,
    pub(crate) align: u64,
}

impl IovaRequest {
    /// `len` bytes anywhere in the aperture, aligned to their size as the crate's head says.
    pub const fn new(len: u64) -> Self {
        Self { len, limit: Iova::new(u64::MAX), align: 1 }
    }

    /// No byte above `limit`, inclusive: the device's DMA mask.
    #[must_use]
    #[doc(alias = "dma_mask")]
    pub const fn up_to(mut self, limit: Iova) -> Self {
        self.limit = limit;
        self
    }

    /// The first byte on a multiple of `align` bytes, a power of two.
    #[must_use]
    pub const fn aligned_to(mut self, align: u64) -> Self {
        self.align = align;
        self
    }

    /// Whether the range of `len` bytes from `start` on is an answer to the request: as long as it asks for, on its boundary and below its limit.
    #[inline]
    pub const fn is_met_by(&self, start: Iova, len: u64) -> bool {
        len == self.len
            && start.raw().saturating_add(len.saturating_sub(1)) <= self.limit.raw()
            && start.is_aligned(self.align)
    }
}

/// The free, reserved and live ranges of one aperture. All lengths are multiples of the page size; all methods are deterministic.
#[doc(alias = "iova_domain")]
pub struct IovaAllocator {
    tree: Tree,
    granule: PageSize,
    placement: Placement,
    /// First and last page of the aperture.
    aperture: (u64, u64),
    live: usize,
    live_pages: u64,
}

impl IovaAllocator {
    /// An allocator whose pages of `granule` bytes are those that lie wholly inside `aperture`, all free, [`Placement::LowFirst`].
    ///
    /// # Errors
    ///
    /// [`NewError::EmptyAperture`] where no page does; [`NewError::NoMemory`].
    #[doc(alias = "init_iova_domain")]
    pub fn new(granule: PageSize, aperture: IovaRange) -> Result<Self, NewError> {
        let shift = granule.log2();
        let start = aperture.start().raw();
        let first = (start >> shift) + u64::from(!aperture.start().is_aligned(granule.bytes()));
        let end = pages_up_to(aperture.last(), granule);
        let last = end.checked_sub(1).filter(|last| first <= *last);
        let last = last.ok_or(NewError::EmptyAperture { aperture, granule })?;
        let mut tree = Tree::new(last)?;
        tree.ensure()?;
        tree.mark(first, last, Mark::Free);
        let placement = Placement::default();
        Ok(Self { tree, granule, placement, aperture: (first, last), live: 0, live_pages: 0 })
    }

    /// The same allocator with another placement.
    #[must_use]
    pub fn with_placement(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// The page size.
    pub fn granule(&self) -> PageSize {
        self.granule
    }

    /// Where it puts ranges.
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// The pages that it was made for, reserved ones included.
    pub fn aperture(&self) -> IovaRange {
        self.range(self.aperture.0, self.aperture.1)
    }

    /// Takes a free range.
    ///
    /// # Errors
    ///
    /// [`AllocateError`]; nothing has changed.
    #[doc(alias = "alloc_iova")]
    pub fn allocate(&mut self, request: IovaRequest) -> Result<IovaRange, AllocateError> {
        let pages = self.pages_of(request.len)?;
        if !request.align.is_power_of_two() {
            return Err(AllocateError::Align { align: request.align });
        }
        // Before the search, so that it is not for nothing.
        self.tree.ensure()?;
        let align_log2 = request.align.ilog2().saturating_sub(u32::from(self.granule.log2()));
        let no_space = AllocateError::NoSpace { len: request.len, limit: request.limit };
        let low = self.placement == Placement::LowFirst && request.limit.raw() > LAST_LOW;
        let first = low
            .then(|| self.find(pages, align_log2, Iova::new(LAST_LOW)))
            .flatten()
            .or_else(|| self.find(pages, align_log2, request.limit))
            .ok_or(no_space)?;
        Ok(self.take(first, first + (pages - 1)))
    }

    /// Takes exactly `range`.
    ///
    /// # Errors
    ///
    /// [`AllocateError::Length`] where start or length is no multiple of the page size, [`AllocateError::InUse`] where not all of it is free,
    /// [`AllocateError::NoMemory`]; nothing has changed.
    pub fn allocate_at(&mut self, range: IovaRange) -> Result<(), AllocateError> {
        if !range.is_aligned(self.granule.bytes()) {
            return Err(AllocateError::Length { len: range.len(), granule: self.granule });
        }
        let (first, last) = self.pages_in(range);
        let used = if first >= self.tree.pages() {
            Some(first)
        } else {
            let used = self.tree.next(first, Kind::Used).filter(|used| *used <= last);
            used.or((last >= self.tree.pages()).then(|| self.tree.pages()))
        };
        if let Some(used) = used {
            return Err(AllocateError::InUse { range, first: self.address(used) });
        }
        self.tree.ensure()?;
        self.take(first, last);
        Ok(())
    }

    /// Gives back a range that was handed out, exactly as it was handed out. Needs no memory.
    ///
    /// # Errors
    ///
    /// [`FreeError`]; nothing has changed.
    #[doc(alias = "free_iova")]
    pub fn free(&mut self, range: IovaRange) -> Result<(), FreeError> {
        let (first, last) = self.pages_in(range);
        let inside = self.aperture.0 <= first && first <= self.aperture.1;
        let aligned = range.start().is_aligned(self.granule.bytes());
        let end = (inside && aligned).then(|| self.tree.live_end(first)).flatten();
        let end = end.ok_or(FreeError::NotAllocated { range })?;
        if end != last || !range.is_aligned(self.granule.bytes()) {
            return Err(FreeError::OtherLength { range, live: self.range(first, end) });
        }
        self.tree.mark(first, last, Mark::Free);
        self.live -= 1;
        self.live_pages -= last - first + 1;
        Ok(())
    }

    /// Keeps every page that `range` touches from being handed out, for good. Pages that are reserved already, or outside the aperture, are
    /// left as they are.
    ///
    /// # Errors
    ///
    /// [`ReserveError::InUse`] where a live range is in the way; [`ReserveError::NoMemory`]. Nothing has changed.
    #[doc(alias = "reserve_iova")]
    pub fn reserve(&mut self, range: IovaRange) -> Result<(), ReserveError> {
        let (first, last) = self.pages_in(range);
        let (first, last) = (first.max(self.aperture.0), last.min(self.aperture.1));
        if first > last {
            return Ok(());
        }
        if let Some(live) = self.live_from(first).filter(|live| self.pages_in(*live).0 <= last) {
            return Err(ReserveError::InUse { range, live });
        }
        self.tree.ensure()?;
        self.tree.mark(first, last, Mark::Reserved);
        Ok(())
    }

    /// The live ranges, ascending.
    pub fn live(&self) -> LiveRanges<'_> {
        LiveRanges { allocator: self, next: Some(self.aperture.0) }
    }

    /// The free ranges, ascending, each as long as it can be.
    pub fn free_ranges(&self) -> FreeRanges<'_> {
        FreeRanges { allocator: self, next: Some(self.aperture.0) }
    }

    /// How many ranges are live.
    pub fn live_count(&self) -> usize {
        self.live
    }

    /// Bytes in live ranges.
    pub fn live_bytes(&self) -> u64 {
        self.live_pages << self.granule.log2()
    }

    /// Heap memory of the bookkeeping, in bytes.
    pub fn heap_bytes(&self) -> usize {
        self.tree.heap_bytes()
    }

    /// The first page of a hole for `pages` pages up to `limit`, aligned to 2^`align_log2` pages.
    fn find(&self, pages: u64, align_log2: u32, limit: Iova) -> Option<u64> {
        let limit = pages_up_to(limit, self.granule).min(self.aperture.1 + 1);
        if limit == 0 {
            return None;
        }
        let natural = pages.checked_next_power_of_two()?.ilog2();
        let found = self.tree.highest_block(natural.max(align_log2), limit);
        if found.is_some() || (pages.is_power_of_two() && align_log2 <= natural) {
            return found;
        }
        self.find_ragged(pages, align_log2.max(pages.trailing_zeros()), limit - 1)
    }

    /// Goes down from page `limit` through the holes that could take `pages` pages: a hole of `n` pages holds an aligned block of at least a quarter of
    /// `n`, so nodes without one are passed by.
    fn find_ragged(&self, pages: u64, align_log2: u32, limit: u64) -> Option<u64> {
        let kind = Kind::Free(free_value((pages + 1).ilog2() - 1));
        let mut from = limit;
        loop {
            let inside = self.tree.previous(from, kind)?;
            let first = self.tree.previous(inside, Kind::Used).map_or(0, |used| used + 1);
            // The hole may go on in a node that holds no such block of its own.
            let end =
                self.tree.next(inside, Kind::Used).map_or(limit + 1, |used| used.min(limit + 1));
            if end - first >= pages {
                let start = (end - pages) >> align_log2 << align_log2;
                if start >= first {
                    return Some(start);
                }
            }
            from = first.checked_sub(1)?;
        }
    }

    fn take(&mut self, first: u64, last: u64) -> IovaRange {
        self.tree.mark(first, last, Mark::Live);
        self.live += 1;
        self.live_pages += last - first + 1;
        self.range(first, last)
    }

    fn pages_of(&self, len: u64) -> Result<u64, AllocateError> {
        let granule = self.granule;
        if len == 0 || len & (granule.bytes() - 1) != 0 {
            return Err(AllocateError::Length { len, granule });
        }
        Ok(len >> granule.log2())
    }

    /// The first and last page that `range` touches.
    fn pages_in(&self, range: IovaRange) -> (u64, u64) {
        let shift = self.granule.log2();
        (range.start().raw() >> shift, range.last().raw() >> shift)
    }

    /// The live range with the lowest end at or above page `from`.
    fn live_from(&self, from: u64) -> Option<IovaRange> {
        let end = self.tree.next(from, Kind::End)?;
        let first = self.tree.previous(end, Kind::Start)?;
        Some(self.range(first, end))
    }

    fn address(&self, page: u64) -> Iova {
        Iova::new(page << self.granule.log2())
    }

    fn range(&self, first: u64, last: u64) -> IovaRange {
        let len = (last - first + 1) << self.granule.log2();
        IovaRange::new(self.address(first), len).expect("pages of the aperture make a range")
    }
}

impl fmt::Debug for IovaAllocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IovaAllocator")
            .field("aperture", &self.aperture())
            .field("granule", &self.granule)
            .field("placement", &self.placement)
            .field("live", &self.live)
            .field("live_bytes", &self.live_bytes())
            .field("nodes", &self.tree.nodes())
            .finish()
    }
}

/// The live ranges of an allocator, ascending; see [`IovaAllocator::live`].
#[derive(Debug)]
pub struct LiveRanges<'a> {
    allocator: &'a IovaAllocator,
    /// The page from which to look on; `None` at the end.
    next: Option<u64>,
}

impl Iterator for LiveRanges<'_> {
    type Item = IovaRange;

    fn next(&mut self) -> Option<IovaRange> {
        let tree = &self.allocator.tree;
        let first = tree.next(self.next?, Kind::Start);
        let end = first.and_then(|first| tree.live_end(first));
        self.next = end.map(|end| end + 1).filter(|next| *next < tree.pages());
        Some(self.allocator.range(first?, end?))
    }
}

/// The free ranges of an allocator, ascending; see [`IovaAllocator::free_ranges`].
#[derive(Debug)]
pub struct FreeRanges<'a> {
    allocator: &'a IovaAllocator,
    /// The page from which to look on; `None` at the end.
    next: Option<u64>,
}

impl Iterator for FreeRanges<'_> {
    type Item = IovaRange;

    fn next(&mut self) -> Option<IovaRange> {
        let tree = &self.allocator.tree;
        let first = tree.next(self.next?, Kind::Free(0));
        self.next = first.and_then(|first| tree.next(first, Kind::Used));
        let last = self.next.unwrap_or(tree.pages()) - 1;
        Some(self.allocator.range(first?, last))
    }
}

/// Pages that end at or below `last`.
fn pages_up_to(last: Iova, granule: PageSize) -> u64 {
    match last.checked_add(1) {
        Some(end) => end.raw() >> granule.log2(),
        None => 1 << (64 - granule.log2()),
    }
}
