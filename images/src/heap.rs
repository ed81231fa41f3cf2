//! Two pools of RAM: the kernel's heap, and what hardware reaches. Both are counted, so that a leak is seen.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicUsize, Ordering};
use linked_list_allocator::Heap as FreeList;
use portcullis_iommu::bare::IrqSpinLock;
use portcullis_iommu::platform::RawIrqLock;

pub struct Heap {
    lock: IrqSpinLock,
    free: UnsafeCell<FreeList>,
    used: AtomicUsize,
}

// SAFETY: the free list is reached with the lock held only.
unsafe impl Sync for Heap {}

impl Heap {
    const fn new() -> Self {
        Self {
            lock: IrqSpinLock::unlabelled(),
            free: UnsafeCell::new(FreeList::empty()),
            used: AtomicUsize::new(0),
        }
    }

    fn with<R>(&self, act: impl FnOnce(&mut FreeList) -> R) -> R {
        let saved = self.lock.lock();
        // SAFETY: the lock is held.
        let result = act(unsafe { &mut *self.free.get() });
        // SAFETY: locked above, and nothing was locked since.
        unsafe { self.lock.unlock(saved) };
        result
    }

    /// Gives the heap its memory.
    ///
    /// # Safety
    ///
    /// `size` bytes at `base` are RAM that nobody else uses, and this is called once.
    pub unsafe fn init(&self, base: usize, size: usize) {
        // SAFETY: the caller's.
        self.with(|free| unsafe { free.init(base as *mut u8, size) });
    }

    /// Bytes that are allocated now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

// SAFETY: linked_list_allocator's promise, under a lock.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let block = self.with(|free| free.allocate_first_fit(layout));
        if block.is_ok() {
            self.used.fetch_add(layout.size(), Ordering::Relaxed);
        }
        block.map_or(null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        self.used.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: allocated here with this layout, by the trait's contract.
        self.with(|free| unsafe { free.deallocate(NonNull::new_unchecked(block), layout) });
    }
}

// SAFETY: as above.
unsafe impl GlobalAlloc for &'static Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        unsafe { (**self).alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { (**self).dealloc(block, layout) }
    }
}

#[global_allocator]
pub static HEAP: Heap = Heap::new();
/// What tables, queues and buffers are made of.
pub static POOL: Heap = Heap::new();
