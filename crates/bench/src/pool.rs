//! One pool of zeroed pages for every contestant, and the fast [`DmaMemory`] on top of it: physical memory as a kernel with a linear map has it.
#![expect(
    unsafe_code,
    reason = "a linear map without a check is what is measured, and runs of words are stored wide"
)]

use portcullis::Lendable;
use portcullis_addr::{PhysAddr, PhysRange};
use portcullis_platform::{AllocError, Coherency, DmaMemory, PageLayout};
use std::alloc::{Layout, alloc_zeroed};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, OnceLock};

/// Bytes of the pool: the leaf tables of the largest workload and some.
const BYTES: usize = 256 << 20;
const PAGE: usize = 4096;
/// The physical address of the pool's first byte; low, so that no process has its memory below it.
const BASE: usize = 0x20_0000;

/// Size and boundary of a page.
const ONE_PAGE: (usize, usize) = (PAGE, PAGE);

static SIZE: AtomicUsize = AtomicUsize::new(BYTES);

/// Makes the pool of `bytes` instead of 256 MiB. Has no effect after the pool's first use.
pub fn small(bytes: usize) {
    SIZE.store(bytes, Ordering::Relaxed);
}

struct Pool {
    bytes: usize,
    /// The pool's first byte.
    memory: usize,
    free: Mutex<Free>,
}

/// What nobody has, as distances from the pool's first byte.
struct Free {
    /// Everything from here on.
    rest: usize,
    /// The lowest comes out first, so that every contestant's tables stand in ascending order: who got those of the one before in reverse paid 1 ns more a call for lines that nobody had fetched ahead.
    pages: BinaryHeap<Reverse<usize>>,
    /// Other blocks, by size and boundary.
    blocks: BTreeMap<(usize, usize), Vec<usize>>,
}

impl Free {
    /// The next block of `size` bytes on a boundary of `align` bytes.
    fn take(&mut self, size: usize, align: usize, bytes: usize) -> Option<usize> {
        let key = (size, align);
        let used = if key == ONE_PAGE {
            self.pages.pop().map(|Reverse(at)| at)
        } else {
            self.blocks.get_mut(&key).and_then(Vec::pop)
        };
        if used.is_some() {
            return used;
        }
        let at = self.rest.next_multiple_of(align);
        self.rest = at.checked_add(size).filter(|end| *end <= bytes)?;
        Some(at)
    }
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
        let free = Free { rest: 0, pages: BinaryHeap::new(), blocks: BTreeMap::new() };
        Pool { bytes, memory, free: Mutex::new(free) }
    })
}

/// What must be added to a physical address of the pool to make it a pointer.
pub fn offset() -> usize {
    pool().memory.wrapping_sub(BASE)
}

/// A zeroed page, by physical address.
pub fn take() -> Option<usize> {
    take_block(ONE_PAGE)
}

fn take_block((size, align): (usize, usize)) -> Option<usize> {
    let pool = pool();
    let at = pool.free.lock().expect("no panic inside").take(size, align, pool.bytes)?;
    // SAFETY: the block lies inside the pool and belongs to nobody.
    unsafe { std::ptr::write_bytes((pool.memory + at) as *mut u8, 0, size) };
    Some(BASE + at)
}

/// Gives a page back.
pub fn give(phys: usize) {
    pool().free.lock().expect("no panic inside").pages.push(Reverse(phys - BASE));
}

fn give_block(phys: usize, block: (usize, usize)) {
    if block == ONE_PAGE {
        return give(phys);
    }
    pool().free.lock().expect("no panic inside").blocks.entry(block).or_default().push(phys - BASE);
}

/// Size and boundary of the block that serves a layout: whole pages.
fn block(layout: PageLayout) -> (usize, usize) {
    (layout.size().next_multiple_of(PAGE), layout.align().max(PAGE))
}

/// The pool as the product's memory. `WIDE`: runs of words by stores and loads of 16 bytes, which this CPU does in one piece or as two whole words; else word by
/// word, as the trait's defaults do.
#[derive(Debug)]
pub struct FastMemory<const WIDE: bool = true> {
    offset: usize,
}

impl<const WIDE: bool> FastMemory<WIDE> {
    /// The whole pool.
    ///
    /// # Safety
    ///
    /// Whoever is given it calls its methods with addresses of memory only that [`DmaMemory::allocate`] of it has returned. There is no check, as there is none in a kernel with a linear map.
    pub unsafe fn new() -> Self {
        Self { offset: offset() }
    }

    #[inline]
    fn pointer(&self, address: PhysAddr) -> *mut u64 {
        self.offset.wrapping_add(address.raw() as usize) as *mut u64
    }

    #[inline]
    fn word(&self, address: PhysAddr) -> &AtomicU64 {
        // SAFETY: the maker of this value has promised that the address lies in a block from `allocate`; these lie inside the pool, which is never freed.
        unsafe { AtomicU64::from_ptr(self.pointer(address)) }
    }
}

// SAFETY: as `word` says, whose promise stands for the check that the trait asks for; blocks are handed out once.
unsafe impl<const WIDE: bool> DmaMemory for FastMemory<WIDE> {
    fn allocate(&self, layout: PageLayout) -> Result<PhysAddr, AllocError> {
        let taken = take_block(block(layout));
        let address = taken.map(|at| PhysAddr::new(at as u64)).ok_or(AllocError { layout })?;
        if layout.fits(address) {
            return Ok(address);
        }
        self.free(address, layout);
        Err(AllocError { layout })
    }

    fn free(&self, address: PhysAddr, layout: PageLayout) {
        give_block(address.raw() as usize, block(layout));
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

    /// Hardware snoops: what Linux's `dma_wmb` is on this CPU.
    #[inline]
    fn publish(&self, _address: PhysAddr, _len: usize, _to: Coherency) {
        fence(Ordering::Release);
    }

    #[inline]
    fn refresh(&self, _address: PhysAddr, _len: usize, _from: Coherency) {
        fence(Ordering::Acquire);
    }

    #[inline(always)]
    fn is_zero(&self, address: PhysAddr, words: usize) -> bool {
        #[cfg(target_arch = "x86_64")]
        if WIDE && words >= 2 {
            // SAFETY: as `word` says, for all of the words.
            return unsafe { wide::any(self.pointer(address), words) == 0 };
        }
        (0..words as u64).all(|word| self.load64(PhysAddr::new(address.raw() + word * 8)) == 0)
    }

    #[inline(always)]
    fn all_set(&self, address: PhysAddr, words: usize, mask: u64) -> bool {
        #[cfg(target_arch = "x86_64")]
        if WIDE && words >= 2 {
            // SAFETY: as `word` says, for all of the words.
            return unsafe { wide::all(self.pointer(address), words) & mask == mask };
        }
        let set = |word| self.load64(PhysAddr::new(address.raw() + word * 8)) & mask == mask;
        (0..words as u64).all(set)
    }

    #[inline(always)]
    fn fill(&self, address: PhysAddr, words: usize, first: u64, step: u64) {
        #[cfg(target_arch = "x86_64")]
        if WIDE && words >= 2 {
            // SAFETY: as `word` says, for all of the words.
            return unsafe { wide::fill(self.pointer(address), words, first, step) };
        }
        let mut value = first;
        for word in 0..words as u64 {
            self.word(PhysAddr::new(address.raw() + word * 8)).store(value, Ordering::Release);
            value = value.wrapping_add(step);
        }
    }

    #[inline(always)]
    fn clear(&self, address: PhysAddr, words: usize) {
        self.fill(address, words, 0, 0);
    }
}

/// Pages of the pool, by address and length: what a driver lends that has memory of its own. Dropped, it is lost for the pool.
#[derive(Debug)]
pub struct Piece {
    range: PhysRange,
}

impl Piece {
    /// `pages` zeroed pages, which begin where no larger leaf could; `None` where the pool is used up.
    pub fn new(pages: usize) -> Option<Self> {
        let (block, skipped) = Self::block(pages);
        let start = PhysAddr::new((take_block(block)? + skipped) as u64);
        PhysRange::new(start, (pages * PAGE) as u64).ok().map(|range| Self { range })
    }

    /// Gives it back to the pool.
    pub fn give_back(self) {
        let (block, skipped) = Self::block(self.range.len() as usize / PAGE);
        give_block(self.range.start().raw() as usize - skipped, block);
    }

    /// Size and boundary of the block that holds it, and the bytes in front of it.
    fn block(pages: usize) -> ((usize, usize), usize) {
        if pages < 512 {
            return ((pages * PAGE, PAGE), 0);
        }
        (((pages + 1) * PAGE, 2 << 20), PAGE)
    }
}

// SAFETY: the block is the value's alone until it is given back, is never freed, and holds no Rust object; it is read as atomic words if at all.
unsafe impl Lendable for Piece {
    #[inline]
    fn range(&self) -> PhysRange {
        self.range
    }
}

/// The memory for the code of this package.
pub(crate) fn memory<const WIDE: bool>() -> FastMemory<WIDE> {
    // SAFETY: page tables, the floor, and the core with its drivers are given it, which use addresses that they have from `allocate` only.
    unsafe { FastMemory::new() }
}

/// Runs of words, 16 bytes at a time. On x86-64 with AVX an aligned access of 16 bytes is atomic (Intel SDM volume 3A, 9.1.1; AMD has said the same), and without it
/// each half is. All stores are volatile: a run of others becomes a call of `memset`, which may store bytes.
#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::{
        __m128i, _mm_add_epi64, _mm_and_si128, _mm_cvtsi128_si64, _mm_load_si128, _mm_or_si128,
        _mm_set_epi64x, _mm_set1_epi64x, _mm_setzero_si128, _mm_unpackhi_epi64,
    };

    /// Words that are taken at a time while so many are left.
    const MANY: usize = 8;

    /// Combines `words` words from `p` on by `two`: pairs that stand on a boundary of 16 bytes, and the first and the last word where they have no partner.
    ///
    /// # Safety
    ///
    /// They are readable, at least 2.
    #[inline(always)]
    unsafe fn all_of(
        p: *mut u64,
        words: usize,
        neutral: __m128i,
        two: impl Fn(__m128i, __m128i) -> __m128i,
    ) -> u64 {
        // SAFETY: all accesses are to the caller's words; the wide ones are on their boundary.
        unsafe {
            let (mut q, end) = (p, p.add(words));
            let single = |word: *mut u64| _mm_set1_epi64x(*word as i64);
            let (mut a, mut b) = (neutral, neutral);
            if q as usize & 8 != 0 {
                a = single(q);
                q = q.add(1);
            }
            let pair = |q: *mut u64| _mm_load_si128(q.cast());
            while q <= end.wrapping_sub(MANY) {
                a = two(a, two(pair(q), pair(q.add(2))));
                b = two(b, two(pair(q.add(4)), pair(q.add(6))));
                q = q.add(MANY);
            }
            while q <= end.wrapping_sub(2) {
                a = two(a, pair(q));
                q = q.add(2);
            }
            if q != end {
                b = two(b, single(q));
            }
            let both = two(a, b);
            _mm_cvtsi128_si64(two(both, _mm_unpackhi_epi64(both, both))) as u64
        }
    }

    /// The OR of all words.
    ///
    /// # Safety
    ///
    /// `words` words from `p` on are readable, at least 2.
    #[inline(always)]
    pub(super) unsafe fn any(p: *mut u64, words: usize) -> u64 {
        // SAFETY: as the caller promises.
        unsafe { all_of(p, words, _mm_setzero_si128(), |a, b| _mm_or_si128(a, b)) }
    }

    /// The AND of all words.
    ///
    /// # Safety
    ///
    /// As [`any`].
    #[inline(always)]
    pub(super) unsafe fn all(p: *mut u64, words: usize) -> u64 {
        // SAFETY: as the caller promises.
        unsafe { all_of(p, words, _mm_set1_epi64x(-1), |a, b| _mm_and_si128(a, b)) }
    }

    /// Stores `first`, `first + step`, …
    ///
    /// # Safety
    ///
    /// `words` words from `p` on are writable, at least 2.
    #[inline(always)]
    pub(super) unsafe fn fill(p: *mut u64, words: usize, mut first: u64, step: u64) {
        // SAFETY: as in `all_of`.
        unsafe {
            let (mut q, end) = (p, p.add(words));
            if q as usize & 8 != 0 {
                q.write_volatile(first);
                first = first.wrapping_add(step);
                q = q.add(1);
            }
            let mut value = _mm_set_epi64x(first.wrapping_add(step) as i64, first as i64);
            let two = _mm_set1_epi64x(step.wrapping_mul(2) as i64);
            while q <= end.wrapping_sub(MANY) {
                for pair in 0..MANY / 2 {
                    q.cast::<__m128i>().add(pair).write_volatile(value);
                    value = _mm_add_epi64(value, two);
                }
                q = q.add(MANY);
            }
            while q <= end.wrapping_sub(2) {
                q.cast::<__m128i>().write_volatile(value);
                value = _mm_add_epi64(value, two);
                q = q.add(2);
            }
            if q != end {
                q.write_volatile(_mm_cvtsi128_si64(value) as u64);
            }
        }
    }
}
