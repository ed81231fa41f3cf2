//! The IOVA contestants that others wrote, in a 32-bit space of 4 KiB pages.

use buddy_system_allocator::FrameAllocator;
use offset_allocator::{Allocation, Allocator};
use portcullis_bench::spaces::{PAGES, Space};
use range_alloc::RangeAllocator;
use std::ops::Range;

pub struct Buddy(FrameAllocator<33>);

impl Buddy {
    pub fn new() -> Self {
        let mut buddy = FrameAllocator::new();
        buddy.add_frame(1, PAGES as usize);
        Self(buddy)
    }
}

impl Space for Buddy {
    type Handle = (usize, usize);

    #[inline(never)]
    fn allocate(&mut self, pages: u64) -> (usize, usize) {
        (self.0.alloc(pages as usize).expect("room"), pages as usize)
    }

    #[inline(never)]
    fn free(&mut self, (first, pages): (usize, usize)) {
        self.0.dealloc(first, pages);
    }
}

pub struct Offset(Allocator<u32>);

impl Offset {
    pub fn new() -> Self {
        Self(Allocator::with_max_allocs(PAGES as u32, 512 * 1024))
    }
}

impl Space for Offset {
    type Handle = Allocation<u32>;

    #[inline(never)]
    fn allocate(&mut self, pages: u64) -> Allocation<u32> {
        self.0.allocate(pages as u32).expect("room")
    }

    #[inline(never)]
    fn free(&mut self, handle: Allocation<u32>) {
        self.0.free(handle);
    }
}

pub struct Ranges(RangeAllocator<u64>);

impl Ranges {
    pub fn new() -> Self {
        Self(RangeAllocator::new(1..PAGES))
    }
}

impl Space for Ranges {
    type Handle = (u64, u64);

    #[inline(never)]
    fn allocate(&mut self, pages: u64) -> (u64, u64) {
        let Range { start, end } = self.0.allocate_range(pages).expect("room");
        (start, end)
    }

    #[inline(never)]
    fn free(&mut self, (start, end): (u64, u64)) {
        self.0.free_range(start..end);
    }
}
