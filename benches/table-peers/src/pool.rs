//! One pool of zeroed pages for every contestant, and the fast [`DmaMemory`] on top of it: physical memory as a kernel with a linear map has it.

use portcullis_addr::PhysAddr;
use portcullis_platform::{AllocError, Coherency, DmaMemory, PageLayout};
use std::alloc::{Layout, alloc_zeroed};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, OnceLock};

/// Bytes of the pool: the leaf tables of the largest workload and some.
const BYTES: usize = 256 << 20;
const PAGE: usize = 4096;
/// The physical address of the pool's first byte; low, so that no process has its memory below it.
pub const BASE: usize = 0x20_0000;

/// Makes the pool of `bytes` instead of the full size. Before its first use.
pub fn small(bytes: usize) {
    SIZE.store(bytes, Ordering::Relaxed);
}

static SIZE: AtomicUsize = AtomicUsize::new(BYTES);

struct Pool {
    bytes: usize,
    /// The pool's first byte.
    memory: usize,
    pages: Mutex<(usize, Vec<usize>)>,
}

fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| {
        let bytes = SIZE.load(Ordering::Relaxed);
        let layout = Layout::from_size_align(bytes, 2 << 20).expect("a valid layout");
        // SAFETY: the layout's size is not zero.
        let memory = unsafe { alloc_zeroed(layout) } as usize;
        assert_ne!(memory, 0, "no memory for the pool");
        // Touch every page now, so that no contestant pays for the operating system's first fault.
        for page in (memory..memory + bytes).step_by(PAGE) {
            // SAFETY: the page lies inside the allocation above.
            unsafe { (page as *mut u64).write_volatile(0) };
        }
        Pool { bytes, memory, pages: Mutex::new((0, Vec::new())) }
    })
}

/// The address at which the CPU sees physical address 0: subtracting [`BASE`] is done once.
pub fn offset() -> usize {
    pool().memory.wrapping_sub(BASE)
}

/// A zeroed page, by physical address.
pub fn take() -> Option<usize> {
    let pool = pool();
    let mut pages = pool.pages.lock().expect("pool");
    let at = match pages.1.pop() {
        Some(at) => at,
        None if pages.0 < pool.bytes => {
            pages.0 += PAGE;
            pages.0 - PAGE
        }
        None => return None,
    };
    // SAFETY: the page lies inside the pool and belongs to nobody.
    unsafe { std::ptr::write_bytes((pool.memory + at) as *mut u8, 0, PAGE) };
    Some(BASE + at)
}

/// Gives a page back.
pub fn give(phys: usize) {
    pool().pages.lock().expect("pool").1.push(phys - BASE);
}

/// The pool as the product's memory.
#[derive(Debug)]
pub struct FastMemory {
    offset: usize,
}

impl FastMemory {
    pub fn new() -> Self {
        Self { offset: offset() }
    }

    fn word(&self, address: PhysAddr) -> &AtomicU64 {
        let pointer = self.offset.wrapping_add(address.raw() as usize) as *mut u64;
        // SAFETY: table code only uses addresses of pages that it has from `allocate`, which lie inside the pool for ever.
        unsafe { AtomicU64::from_ptr(pointer) }
    }
}

// SAFETY: as `word` says; this program has no other caller than the table code that is measured.
unsafe impl DmaMemory for FastMemory {
    fn allocate(&self, layout: PageLayout) -> Result<PhysAddr, AllocError> {
        assert!(layout.size() <= PAGE, "the workloads use 4 KiB tables only");
        take().map(|page| PhysAddr::new(page as u64)).ok_or(AllocError { layout })
    }

    fn free(&self, address: PhysAddr, _layout: PageLayout) {
        give(address.raw() as usize);
    }

    fn load64(&self, address: PhysAddr) -> u64 {
        self.word(address).load(Ordering::Acquire)
    }

    fn store64(&self, address: PhysAddr, value: u64) {
        self.word(address).store(value, Ordering::Release);
    }

    fn compare_exchange64(&self, address: PhysAddr, old: u64, new: u64) -> Result<(), u64> {
        self.word(address)
            .compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
            .map(|_| ())
    }

    /// Hardware snoops: what Linux's `dma_wmb` is on this CPU.
    fn publish(&self, _address: PhysAddr, _len: usize, _to: Coherency) {
        fence(Ordering::Release);
    }

    fn refresh(&self, _address: PhysAddr, _len: usize, _from: Coherency) {
        fence(Ordering::Acquire);
    }
}
