//! Which pages of the machine's memory are in use: a buddy allocator that remembers what it handed out.

use portcullis_platform::PageLayout;
use std::collections::BTreeMap;

/// log2 of the allocation unit: 4 KiB. Smaller requests get a page of their own, so that a use after free of any of them is seen.
pub(crate) const PAGE_SHIFT: u32 = 12;
/// Blocks of up to 2^18 pages, 1 GiB.
const ORDERS: usize = 19;

/// Why a block could not be given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FreeError {
    /// Nothing was ever allocated there, or it is inside a block.
    Foreign,
    /// It was allocated, and given back before.
    Double,
    /// It was allocated with another layout.
    Layout(PageLayout),
}

/// Page numbers count from the start of memory.
#[derive(Debug)]
pub(crate) struct Allocator {
    pages: u32,
    /// Pages from here on were never handed out: no list needs to be built for them.
    frontier: u32,
    /// Candidates by order; one is real when `head` says so (entries are dropped lazily).
    free: [Vec<u32>; ORDERS],
    /// For the first page of a free block its order, otherwise absent.
    head: BTreeMap<u32, u8>,
    live: BTreeMap<u32, PageLayout>,
    freed: BTreeMap<u32, PageLayout>,
    live_bytes: u64,
}

/// A block that was handed out or taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) first: u32,
    pub(crate) pages: u32,
    /// Whether its pages may hold what an earlier owner left.
    pub(crate) used_before: bool,
}

fn order_of(layout: PageLayout) -> usize {
    let bytes = layout.size().max(layout.align()).max(1 << PAGE_SHIFT).next_power_of_two();
    bytes.ilog2() as usize - PAGE_SHIFT as usize
}

impl Allocator {
    pub(crate) fn new(pages: u32) -> Self {
        Self {
            pages,
            frontier: 0,
            free: Default::default(),
            head: BTreeMap::new(),
            live: BTreeMap::new(),
            freed: BTreeMap::new(),
            live_bytes: 0,
        }
    }

    /// Allocates a block that lies within the first `within` pages.
    pub(crate) fn allocate(&mut self, layout: PageLayout, within: u32) -> Option<Block> {
        let order = order_of(layout);
        let taken =
            if within < self.pages { self.take_low(order, within) } else { self.take(order) };
        let (first, used_before) = match taken {
            Some(first) => (first, true),
            None => (self.extend(order, within)?, false),
        };
        let pages = 1 << order;
        self.forget_freed(first, pages);
        self.live.insert(first, layout);
        self.live_bytes += layout.size() as u64;
        Some(Block { first, pages, used_before })
    }

    pub(crate) fn free(&mut self, first: u32, layout: PageLayout) -> Result<Block, FreeError> {
        match self.live.get(&first) {
            None if self.freed.contains_key(&first) => return Err(FreeError::Double),
            None => return Err(FreeError::Foreign),
            Some(given) if *given != layout => return Err(FreeError::Layout(*given)),
            Some(_) => {}
        }
        self.live.remove(&first);
        self.freed.insert(first, layout);
        self.live_bytes -= layout.size() as u64;
        let order = order_of(layout);
        self.put(first, order);
        Ok(Block { first, pages: 1 << order, used_before: true })
    }

    pub(crate) fn live(&self) -> impl Iterator<Item = (u32, PageLayout)> + '_ {
        self.live.iter().map(|(first, layout)| (*first, *layout))
    }

    pub(crate) fn live_count(&self) -> usize {
        self.live.len()
    }

    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Takes a free block of exactly `order`, splitting a larger one where needed. What was freed last is reused first: that shows a forgotten
    /// invalidation soonest.
    fn take(&mut self, order: usize) -> Option<u32> {
        let (found, first) = (order..ORDERS).find_map(|o| Some((o, self.pop(o)?)))?;
        Some(self.split(first, found, order))
    }

    /// As [`take`](Self::take), but the lowest free block within the first `within` pages.
    fn take_low(&mut self, order: usize, within: u32) -> Option<u32> {
        let low = self.head.range(..within.saturating_sub((1 << order) - 1));
        let (first, found) = low
            .map(|(first, order)| (*first, usize::from(*order)))
            .find(|(_, free)| *free >= order)?;
        self.head.remove(&first);
        Some(self.split(first, found, order))
    }

    /// Keeps the front of a block that is no longer in `head`, of order `found`.
    fn split(&mut self, first: u32, found: usize, order: usize) -> u32 {
        for smaller in (order..found).rev() {
            self.push(first + (1 << smaller), smaller);
        }
        first
    }

    fn pop(&mut self, order: usize) -> Option<u32> {
        while let Some(first) = self.free[order].pop() {
            if self.head.get(&first).is_some_and(|o| usize::from(*o) == order) {
                self.head.remove(&first);
                return Some(first);
            }
        }
        None
    }

    fn push(&mut self, first: u32, order: usize) {
        self.head.insert(first, order as u8);
        self.free[order].push(first);
    }

    /// Takes a block from the untouched end; the gap that alignment leaves becomes free blocks.
    fn extend(&mut self, order: usize, within: u32) -> Option<u32> {
        if order >= ORDERS {
            return None;
        }
        let size = 1u32 << order;
        let first = self.frontier.checked_next_multiple_of(size)?;
        let end = first.checked_add(size).filter(|end| *end <= self.pages.min(within))?;
        while self.frontier < first {
            let gap = self.frontier.trailing_zeros() as usize;
            self.push(self.frontier, gap);
            self.frontier += 1 << gap;
        }
        self.frontier = end;
        Some(first)
    }

    /// Gives a block back and joins it with its free buddies.
    fn put(&mut self, mut first: u32, mut order: usize) {
        while order + 1 < ORDERS {
            let buddy = first ^ (1 << order);
            if self.head.get(&buddy).is_none_or(|o| usize::from(*o) != order) {
                break;
            }
            self.head.remove(&buddy);
            first = first.min(buddy);
            order += 1;
        }
        self.push(first, order);
    }

    fn forget_freed(&mut self, first: u32, pages: u32) {
        while let Some((page, _)) = self.freed.range(first..first + pages).next() {
            let page = *page;
            self.freed.remove(&page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    const ALL: u32 = u32::MAX;

    fn layout(size: usize, align: usize) -> PageLayout {
        PageLayout::new(size, align).expect("test layout")
    }

    #[test]
    fn blocks_are_aligned_disjoint_and_come_back_whole() {
        let mut allocator = Allocator::new(1 << 10);
        let mut random = Random::new(11);
        let mut held: Vec<(Block, PageLayout)> = Vec::new();
        for _ in 0..4000 {
            if held.len() > 20 || (random.below(3) == 0 && !held.is_empty()) {
                let (block, layout) = held.swap_remove(random.below(held.len() as u64) as usize);
                assert!(allocator.free(block.first, layout).is_ok());
            } else {
                let wanted = layout(1 + random.below(0x9000) as usize, 0x1000 << random.below(5));
                let block = allocator.allocate(wanted, ALL).expect("20 blocks of 64 KiB fit 4 MiB");
                assert_eq!(u64::from(block.first) << PAGE_SHIFT & (wanted.align() as u64 - 1), 0);
                let end = block.first + block.pages;
                assert!(
                    held.iter().all(|(b, _)| end <= b.first || b.first + b.pages <= block.first)
                );
                held.push((block, wanted));
            }
        }
        for (block, layout) in held.drain(..) {
            allocator.free(block.first, layout).expect("held");
        }
        assert_eq!((allocator.live_count(), allocator.live_bytes()), (0, 0));
        let frontier = allocator.frontier as usize;
        let whole = layout((frontier.next_power_of_two() / 2) << PAGE_SHIFT, 4096);
        assert!(allocator.allocate(whole, ALL).is_some_and(|block| block.used_before));
    }

    #[test]
    fn wrong_frees_are_told_apart() {
        let mut allocator = Allocator::new(64);
        let page = layout(4096, 4096);
        let block = allocator.allocate(page, ALL).expect("fits");
        assert_eq!(allocator.free(block.first + 1, page), Err(FreeError::Foreign));
        let other = layout(64, 64);
        assert_eq!(allocator.free(block.first, other), Err(FreeError::Layout(page)));
        assert!(allocator.free(block.first, page).is_ok());
        assert_eq!(allocator.free(block.first, page), Err(FreeError::Double));
    }

    #[test]
    fn exhaustion_is_an_answer() {
        let mut allocator = Allocator::new(4);
        assert_eq!(allocator.allocate(layout(5 << 12, 4096), ALL), None);
        assert_eq!(allocator.allocate(layout(1 << 40, 4096), ALL), None);
        assert!((0..4).all(|_| allocator.allocate(layout(1, 1), ALL).is_some()));
        assert_eq!(allocator.allocate(layout(1, 1), ALL), None);
    }

    #[test]
    fn low_memory_is_found_among_freed_and_fresh_pages_and_nowhere_else() {
        let mut allocator = Allocator::new(64);
        let page = layout(4096, 4096);
        let first: Vec<_> = (0..8).filter_map(|_| allocator.allocate(page, ALL)).collect();
        assert_eq!(allocator.allocate(page, 8), None, "the first eight are taken");
        assert!(allocator.allocate(page, 9).is_some_and(|block| block.first == 8));
        for held in [6, 2, 5, 3] {
            allocator.free(first[held].first, page).expect("held");
        }
        let pair = layout(0x2000, 0x2000);
        assert!(allocator.allocate(pair, 4).is_some_and(|block| block.first == 2));
        assert_eq!(allocator.allocate(pair, 7), None, "5 and 6 are no aligned pair");
        assert!(allocator.allocate(page, 6).is_some_and(|block| block.first == 5));
        assert!(allocator.allocate(page, ALL).is_some_and(|block| block.first == 6));
        assert_eq!(allocator.allocate(page, 0), None);
    }
}
