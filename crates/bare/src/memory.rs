//! RAM that is mapped all the time, as memory for hardware.
#![expect(unsafe_code, reason = "memory is reached by pointer, and comes from an allocator")]

use crate::arch;
use crate::pages::{PAGE, Pages};
use core::alloc::{GlobalAlloc, Layout};
use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering, fence};
use portcullis_addr::{PhysAddr, PhysRange};
use portcullis_platform::{AllocError, Coherency, DmaMemory, PageLayout};

/// Where RAM stands in the kernel's address space: physical address plus an offset.
#[derive(Clone, Copy, Debug)]
pub struct LinearMap {
    ram: PhysRange,
    offset: u64,
}

impl LinearMap {
    /// `ram` at its physical address plus `offset` (modulo 2^64): 0 for an identity map.
    ///
    /// # Safety
    ///
    /// What an allocator that is used with this map returns lies at these addresses and is mapped there as normal cached memory, readable and writable, for ever.
    #[must_use]
    pub const unsafe fn new(ram: PhysRange, offset: u64) -> Self {
        Self { ram, offset }
    }

    fn physical(self, pointer: NonNull<u8>) -> PhysAddr {
        PhysAddr::new((pointer.addr().get() as u64).wrapping_sub(self.offset))
    }

    /// Where the kernel sees the byte at `address`.
    #[inline]
    fn pointer(self, address: PhysAddr) -> *mut u8 {
        core::ptr::with_exposed_provenance_mut(address.raw().wrapping_add(self.offset) as usize)
    }

    /// Which pages the `len` bytes at `address` touch, counted from the beginning of RAM; `None` unless all of them are in RAM.
    #[inline]
    fn pages(self, address: PhysAddr, len: usize) -> Option<Range<usize>> {
        let offset = address.raw().checked_sub(self.ram.start().raw())?;
        let end = offset.checked_add(len as u64)?;
        let pages = (offset / PAGE) as usize..end.div_ceil(PAGE) as usize;
        (len > 0 && end <= self.ram.len()).then_some(pages)
    }
}

/// [`DmaMemory`] over an allocator whose memory is mapped linearly.
///
/// Everything is allocated in whole pages of 4 KiB, and one byte a page says that it is set apart for hardware: safe code cannot reach the rest of the kernel's memory through
/// the trait, whatever address it makes up. That check is one load; the bytes take 256 KiB a GiB of RAM. No lock is taken besides the allocator's own.
///
/// A limit on addresses ([`PageLayout::within_bits`]) cannot be passed on to a [`GlobalAlloc`]: what comes back too high is given back and the allocation refused. A
/// machine with such hardware gives this type an allocator of low memory.
pub struct LinearMemory<A> {
    frames: A,
    map: LinearMap,
    /// Bytes that cache maintenance works on; `None` where that is unknown and there is none.
    line: Option<usize>,
    pages: Pages,
}

impl<A: GlobalAlloc> LinearMemory<A> {
    /// Memory from `frames`, found by `map`.
    ///
    /// # Panics
    ///
    /// When the range of `map` does not begin on a page.
    pub fn new(frames: A, map: LinearMap) -> Self {
        let start = map.ram.start();
        assert!(start.raw().is_multiple_of(PAGE), "RAM from {start}: not on a page");
        Self {
            frames,
            map,
            line: arch::cache_line(),
            pages: Pages::new(map.ram.len().div_ceil(PAGE)),
        }
    }

    /// The same, with cache maintenance in steps of `bytes`, a power of two. riscv64 needs this for observers that do not snoop: the devicetree's `riscv,cbom-block-size`. Elsewhere the
    /// CPU says it.
    ///
    /// # Panics
    ///
    /// When `bytes` is no power of two.
    ///
    /// # Safety
    ///
    /// The CPUs have the instructions of [`arch::clean_line`], enabled for the kernel, and their blocks have this size.
    #[must_use]
    pub unsafe fn with_cache_block(self, bytes: usize) -> Self {
        assert!(bytes.is_power_of_two(), "a cache block of {bytes} bytes");
        Self { line: Some(bytes), ..self }
    }

    /// How many allocations have not been given back. Looks at every page of RAM: for tests and reports.
    pub fn live(&self) -> usize {
        self.pages.allocations()
    }

    /// Where the kernel sees the `len` bytes at `address`; `None` unless all of them are allocated from here. Valid until they are given back.
    #[doc(alias = "phys_to_virt")]
    pub fn pointer(&self, address: PhysAddr, len: usize) -> Option<NonNull<u8>> {
        self.is_ours(address, len).then(|| NonNull::new(self.map.pointer(address)))?
    }

    #[inline]
    fn is_ours(&self, address: PhysAddr, len: usize) -> bool {
        self.map.pages(address, len).is_some_and(|pages| self.pages.are_taken(pages))
    }

    /// The `words` words at `address`.
    ///
    /// # Panics
    ///
    /// When they are not allocated or not aligned: a driver's bug.
    #[inline]
    fn words(&self, address: PhysAddr, words: usize) -> &[AtomicU64] {
        let ours = words == 0 || self.is_ours(address, words * 8);
        assert!(
            ours && address.raw().is_multiple_of(8),
            "{words} words at {address}: not allocated for hardware"
        );
        let first = if words == 0 {
            NonNull::dangling().as_ptr()
        } else {
            self.map.pointer(address).cast()
        };
        // SAFETY: these pages were set apart for this trait and are mapped, by `LinearMap::new`'s contract; they are reached as atomic words only until they are given back.
        unsafe { core::slice::from_raw_parts(first, words) }
    }

    #[inline]
    fn word(&self, address: PhysAddr) -> &AtomicU64 {
        &self.words(address, 1)[0]
    }

    /// Does `act` to each cache line of the range, which is ours.
    fn each_line(&self, address: PhysAddr, len: usize, act: unsafe fn(usize)) {
        assert!(self.is_ours(address, len), "{len} bytes at {address}: not allocated for hardware");
        let line = self
            .line
            .expect("memory that is not coherent needs Zicbom: see LinearMemory::with_cache_block");
        let start = self.map.pointer(address).addr();
        for at in (start & !(line - 1)..start + len).step_by(line) {
            // SAFETY: a line of memory that is mapped; the instructions change no byte, by `with_cache_block`'s contract or the architecture's.
            unsafe { act(at) };
        }
    }
}

/// What is asked of the allocator: whole pages.
fn whole_pages(layout: PageLayout) -> Option<Layout> {
    let size = layout.size().checked_next_multiple_of(PAGE as usize)?;
    Layout::from_size_align(size, layout.align().max(PAGE as usize)).ok()
}

// SAFETY: exclusive: whole pages of an allocator's, zeroed here, none of which another allocation has. Confined: every access is checked against the pages that are allocated.
// `free` takes exactly what was allocated. Cache maintenance cleans before it invalidates.
unsafe impl<A: GlobalAlloc + Send + Sync + 'static> DmaMemory for LinearMemory<A> {
    fn allocate(&self, layout: PageLayout) -> Result<PhysAddr, AllocError> {
        let none = AllocError { layout };
        let whole = whole_pages(layout).ok_or(none)?;
        // SAFETY: the layout is not empty.
        let pointer = NonNull::new(unsafe { self.frames.alloc_zeroed(whole) }).ok_or(none)?;
        let address = self.map.physical(pointer);
        let pages = self.map.pages(address, whole.size()).filter(|_| layout.fits(address));
        let Some(pages) = pages else {
            // SAFETY: allocated just now with this layout.
            unsafe { self.frames.dealloc(pointer.as_ptr(), whole) };
            return Err(none);
        };
        // From here on it is reached by addresses that `LinearMap::pointer` makes up again.
        let _address = pointer.as_ptr().expose_provenance();
        self.pages.take(pages, whole.align());
        Ok(address)
    }

    /// # Panics
    ///
    /// When nothing with this alignment and number of pages is allocated at `address`.
    fn free(&self, address: PhysAddr, layout: PageLayout) {
        let whole = whole_pages(layout).filter(|whole| {
            let pages = self.map.pages(address, whole.size());
            pages.is_some_and(|pages| self.pages.give_back(pages, whole.align()))
        });
        let whole = whole.unwrap_or_else(|| panic!("{layout:?} at {address} was not allocated"));
        // SAFETY: allocated with this layout, and nobody can reach it any more: its pages are not taken.
        unsafe { self.frames.dealloc(self.map.pointer(address), whole) };
    }

    #[inline]
    fn load64(&self, address: PhysAddr) -> u64 {
        self.word(address).load(Ordering::Acquire)
    }

    #[inline]
    fn store64(&self, address: PhysAddr, value: u64) {
        self.word(address).store(value, Ordering::Release);
    }

    #[inline]
    fn compare_exchange64(&self, address: PhysAddr, old: u64, new: u64) -> Result<(), u64> {
        self.word(address).compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).map(drop)
    }

    fn publish(&self, address: PhysAddr, len: usize, to: Coherency) {
        match to {
            Coherency::Coherent => arch::complete_stores(),
            Coherency::NonCoherent => {
                self.each_line(address, len, arch::clean_line);
                arch::complete_cleaning();
            }
        }
    }

    fn refresh(&self, address: PhysAddr, len: usize, from: Coherency) {
        match from {
            Coherency::Coherent => arch::order_loads(),
            Coherency::NonCoherent => {
                self.each_line(address, len, arch::clean_and_invalidate_line);
                arch::complete_invalidation();
            }
        }
    }

    fn is_zero(&self, address: PhysAddr, words: usize) -> bool {
        let zero = self.words(address, words).iter().all(|word| word.load(Ordering::Relaxed) == 0);
        fence(Ordering::Acquire);
        zero
    }

    fn all_set(&self, address: PhysAddr, words: usize, mask: u64) -> bool {
        let words = self.words(address, words);
        let set = words.iter().all(|word| word.load(Ordering::Relaxed) & mask == mask);
        fence(Ordering::Acquire);
        set
    }

    fn fill(&self, address: PhysAddr, words: usize, first: u64, step: u64) {
        fence(Ordering::Release);
        let mut value = first;
        for word in self.words(address, words) {
            word.store(value, Ordering::Relaxed);
            value = value.wrapping_add(step);
        }
    }
}

impl<A> fmt::Debug for LinearMemory<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinearMemory").field("map", &self.map).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::alloc::System;
    use std::sync::atomic::AtomicUsize;

    extern crate std;

    /// Where the test's RAM begins for hardware.
    const RAM: u64 = 0x4000_0000;
    const RAM_BYTES: usize = 4 << 20;

    /// Memory of this process that is given out once, in order.
    struct Arena {
        start: NonNull<u8>,
        used: AtomicUsize,
        given_back: AtomicUsize,
    }

    // SAFETY: the memory is nobody else's, and each byte is given out once.
    unsafe impl Send for Arena {}
    // SAFETY: as above.
    unsafe impl Sync for Arena {}

    // SAFETY: what is given out is aligned (RAM is, to more than any test asks), of the size that was asked for, and given out once.
    unsafe impl GlobalAlloc for Arena {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            let take = |used: usize| {
                let end = used.checked_next_multiple_of(layout.align())? + layout.size();
                (end <= RAM_BYTES).then_some(end)
            };
            match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
                // SAFETY: inside of the arena, by `take`.
                Ok(used) => unsafe {
                    self.start.add(used.next_multiple_of(layout.align())).as_ptr()
                },
                Err(_) => core::ptr::null_mut(),
            }
        }

        unsafe fn dealloc(&self, _: *mut u8, layout: Layout) {
            self.given_back.fetch_add(layout.size(), Ordering::Relaxed);
        }
    }

    fn memory() -> LinearMemory<Arena> {
        let layout = Layout::from_size_align(RAM_BYTES, 1 << 20).expect("a layout");
        // SAFETY: not empty.
        let start = NonNull::new(unsafe { System.alloc(layout) }).expect("memory");
        let ram = PhysRange::new(PhysAddr::new(RAM), RAM_BYTES as u64).expect("a range");
        let offset = (start.addr().get() as u64).wrapping_sub(RAM);
        let arena = Arena { start, used: AtomicUsize::new(0), given_back: AtomicUsize::new(0) };
        // SAFETY: the arena's memory lies there, and is never freed.
        LinearMemory::new(arena, unsafe { LinearMap::new(ram, offset) })
    }

    fn layout(size: usize, align: usize) -> PageLayout {
        PageLayout::new(size, align).expect("a layout")
    }

    fn panics(act: impl FnOnce() + std::panic::UnwindSafe) -> bool {
        std::panic::catch_unwind(act).is_err()
    }

    #[test]
    fn memory_is_zeroed_aligned_and_reached_word_by_word() {
        let memory = memory();
        let small = layout(64, 64);
        let too_large = layout(RAM_BYTES + 1, 4096);
        assert_eq!(memory.allocate(too_large), Err(AllocError { layout: too_large }));
        let large = layout(20_000, 65_536);
        let (a, b) = (memory.allocate(small).unwrap(), memory.allocate(large).unwrap());
        assert!(small.fits(a) && large.fits(b));
        assert!(memory.is_zero(b, 2_500));
        memory.store64(a, 5);
        assert_eq!(memory.compare_exchange64(a, 5, 6), Ok(()));
        assert_eq!(memory.compare_exchange64(a, 5, 7), Err(6));
        memory.fill(b, 3, 0x1000_0003, 0x1000);
        let words = [0, 8, 16, 24].map(|at| memory.load64(PhysAddr::new(b.raw() + at)));
        assert_eq!(words, [0x1000_0003, 0x1000_1003, 0x1000_2003, 0]);
        assert!(memory.all_set(b, 3, 3) && !memory.all_set(b, 4, 3));
        for kind in [Coherency::Coherent, Coherency::NonCoherent] {
            memory.publish(b, 20_000, kind);
            memory.refresh(PhysAddr::new(b.raw() + 8), 8, kind);
        }
        assert_eq!(memory.live(), 2);
        memory.free(a, small);
        memory.free(b, large);
        assert_eq!(memory.live(), 0);
    }

    #[test]
    fn nothing_else_is_reached_and_nothing_else_is_freed() {
        let memory = memory();
        let page = layout(4096, 4096);
        let address = memory.allocate(page).unwrap();
        // RAM that the allocator would give to the rest of the kernel.
        let foreign = PhysAddr::new(RAM + 0x10_0000);
        let outside = PhysAddr::new(RAM - 4096);
        let past = PhysAddr::new(address.raw() + 4096);
        let unaligned = PhysAddr::new(address.raw() + 4);
        let memory = std::panic::AssertUnwindSafe(&memory);
        assert!(panics(|| _ = memory.load64(foreign)), "memory of somebody else's");
        assert!(panics(|| _ = memory.load64(outside)), "no RAM");
        assert!(panics(|| memory.store64(past, 1)), "past the end");
        assert!(panics(|| memory.fill(address, 513, 1, 0)), "a run that ends outside");
        assert!(panics(|| _ = memory.load64(unaligned)), "not aligned");
        assert!(panics(|| memory.publish(past, 8, Coherency::NonCoherent)), "cache lines outside");
        assert!(panics(|| memory.free(foreign, page)), "never allocated");
        assert!(panics(|| memory.free(address, layout(8192, 4096))), "another size");
        assert_eq!(memory.pointer(past, 1), None);
        assert!(memory.pointer(address, 4096).is_some());
        memory.free(address, page);
        assert!(panics(|| memory.free(address, page)), "freed twice");
        assert!(panics(|| _ = memory.load64(address)), "use after free");
    }

    #[test]
    fn what_comes_back_too_high_is_given_back() {
        let memory = memory();
        let low = layout(4096, 4096).within_bits(30);
        assert_eq!(memory.allocate(low), Err(AllocError { layout: low }));
        assert_eq!((memory.live(), memory.frames.given_back.load(Ordering::Relaxed)), (0, 4096));
        assert!(memory.allocate(layout(4096, 4096).within_bits(31)).is_ok());
    }
}
