//! The IOVA contestants, bare and behind a mutex, in a 32-bit space of 4 KiB pages.

use buddy_system_allocator::FrameAllocator;
use offset_allocator::{Allocation, Allocator};
use portcullis_addr::{Iova, IovaRange, PageSize};
use portcullis_iova::{IovaAllocator, IovaRequest, IovaSlabs};
use portcullis_platform::host::{HostLock, HostPlatform, NoMemory};
use portcullis_platform::{LockLabel, Mutex as HostMutex};
use range_alloc::RangeAllocator;
use std::ops::Range;
use std::sync::{Arc, Mutex};

pub const PAGES: u64 = 1 << 20;

pub trait Space {
    type Handle: Copy;
    fn allocate(&mut self, pages: u64) -> Self::Handle;
    fn free(&mut self, handle: Self::Handle);
}

pub struct Ours(IovaAllocator);

impl Ours {
    pub fn new() -> Self {
        let aperture = IovaRange::new(Iova::new(4096), (PAGES - 1) * 4096).expect("not empty");
        Self(IovaAllocator::new(PageSize::SIZE_4K, aperture).expect("memory"))
    }
}

impl Space for Ours {
    type Handle = IovaRange;

    #[inline(never)]
    fn allocate(&mut self, pages: u64) -> IovaRange {
        self.0.allocate(IovaRequest::new(pages * 4096)).expect("room")
    }

    #[inline(never)]
    fn free(&mut self, handle: IovaRange) {
        self.0.free(handle).expect("live");
    }
}

type Host = HostPlatform<NoMemory>;

struct Shared {
    platform: Host,
    tree: HostMutex<IovaAllocator, HostLock>,
    slabs: IovaSlabs<Host>,
}

/// Ours as several threads use it: slabs in front of the tree in its lock.
#[derive(Clone)]
pub struct Slabs(Arc<Shared>);

impl Slabs {
    pub fn new() -> Self {
        let platform = Host::new(Arc::default());
        let Ours(tree) = Ours::new();
        let slabs = IovaSlabs::new(&platform, &tree).expect("memory");
        let tree = HostMutex::new(LockLabel::new("tree", 0), tree);
        Self(Arc::new(Shared { platform, tree, slabs }))
    }
}

impl Space for Slabs {
    type Handle = IovaRange;

    #[inline(never)]
    fn allocate(&mut self, pages: u64) -> IovaRange {
        let Shared { platform, tree, slabs } = &*self.0;
        slabs.allocate(platform, tree, IovaRequest::new(pages * 4096)).expect("room")
    }

    #[inline(never)]
    fn free(&mut self, handle: IovaRange) {
        self.0.slabs.free(&self.0.tree, handle).expect("live");
    }
}

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

/// Any of them behind a lock, as a subsystem with several CPUs would have to use it.
pub struct Locked<S>(pub Mutex<S>);

impl<S: Space> Space for Locked<S> {
    type Handle = S::Handle;

    fn allocate(&mut self, pages: u64) -> S::Handle {
        self.0.lock().expect("not poisoned").allocate(pages)
    }

    fn free(&mut self, handle: S::Handle) {
        self.0.lock().expect("not poisoned").free(handle);
    }
}
