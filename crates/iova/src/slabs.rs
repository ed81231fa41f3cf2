//! The fast path in front of the tree: slabs of equal ranges with one bit each.

use crate::chunk::{Chunk, Class, Found, SLABS};
use crate::error::{AllocateError, FreeError, NewError};
use crate::{IovaAllocator, IovaRequest, Placement};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::borrow::BorrowMut;
use core::fmt;
use core::sync::atomic::Ordering;
use once_cell::race::OnceBox;
use portcullis_addr::{Iova, IovaRange, PageSize};
use portcullis_platform::{Lock, LockLabel, Platform, RawAtomic};

/// log2 of the bytes of a chunk: 16 MiB of addresses that the tree gave to one size of ranges.
const CHUNK_LOG2: u32 = 24;
/// The most chunks: 4 GiB, all that 32-bit devices reach.
const MAX_CHUNKS: u64 = 256;
/// With fewer there is no room for a chunk of each size and something beside them.
const MIN_CHUNKS: u64 = 64;
/// The most sizes: 1 to 512 pages of 4 KiB.
const CLASSES: usize = 10;
/// The most CPUs that have a slab of their own for each size.
const MAX_STRIPES: usize = 16;
/// No slab.
const NONE: u64 = u64::MAX;

/// A cache of address ranges in front of an [`IovaAllocator`] that several users share: ranges of up to 512 pages come and go with one atomic instruction each way and
/// without the tree's lock, from any CPU.
///
/// Addresses below 4 GiB are taken from the tree in *chunks* of 16 MiB, each for ranges of one power of two of pages; a *slab* is 64 of them with a word of free
/// bits. A CPU takes from a slab of its own while that lasts. Giving back sets the bit, whoever does it; a range that is not out is noticed by the same
/// instruction. All other requests go to the tree: longer ones, limits below 4 GiB, alignments above the length, windows of less than 1 GiB, and
/// allocators with [`Placement::Anywhere`].
///
/// The price is address space (each size in use holds 16 MiB), and that a length of no power of two takes the next one's. When the tree has no room, chunks without a
/// range in use go back to it first. Memory: a cache line a slab, 64 bytes a chunk, and 8 bytes more a range of 3 pages or more, whose exact
/// length is kept: at most 16 bytes a live range where chunks are full, 1 for single pages. The object itself takes 2 KiB and 128 bytes a CPU (16 at most).
pub struct IovaSlabs<P: Platform> {
    granule: PageSize,
    /// How many sizes are served; none where the tree's window is too small.
    classes: u32,
    /// Number of the window's first chunk, counted from address 0.
    first_chunk: u64,
    /// The window's last address.
    last: u64,
    chunks: Box<[Place<P::Atomic>]>,
    /// For each size the chunks that may have a slab to offer, a bit each.
    offers: [[P::Atomic; MAX_CHUNKS as usize / 64]; CLASSES],
    stripes: Box<[Stripe<P::Atomic>]>,
}

/// Where a chunk is, once its addresses have served slabs. (A list of one is what can be made without a panic where there is no memory.)
type Place<A> = OnceBox<[Chunk<A>; 1]>;

/// The slab of each size that a CPU takes from: chunk times 64 plus slab.
#[repr(align(128))]
struct Stripe<A>([A; CLASSES]);

impl<P: Platform> IovaSlabs<P> {
    /// A cache without ranges for the part of `tree`'s aperture that it can serve.
    ///
    /// # Errors
    ///
    /// [`NewError::NoMemory`].
    pub fn new(platform: &P, tree: &IovaAllocator) -> Result<Self, NewError> {
        let aperture = tree.aperture();
        let first_chunk = aperture.start().raw().div_ceil(1 << CHUNK_LOG2);
        let end = (aperture.last().raw() >> CHUNK_LOG2)
            + u64::from(aperture.last().raw() & ((1 << CHUNK_LOG2) - 1) == (1 << CHUNK_LOG2) - 1);
        // The low 4 GiB, or as much from the start on where the aperture begins above them.
        let limit = if first_chunk < MAX_CHUNKS { MAX_CHUNKS } else { first_chunk + MAX_CHUNKS };
        let count = end.min(limit).saturating_sub(first_chunk);
        let unwanted = count < MIN_CHUNKS || tree.placement() != Placement::LowFirst;
        let count = if unwanted { 0 } else { count as usize };
        let atomic = |value| P::Atomic::new(LockLabel::new("slab", 0), value);
        let stripe = || Stripe(core::array::from_fn(|_| atomic(NONE)));
        Ok(Self {
            granule: tree.granule(),
            classes: if unwanted { 0 } else { Class::count(chunk_log2(tree.granule())) },
            first_chunk,
            last: ((first_chunk + count as u64) << CHUNK_LOG2).wrapping_sub(1),
            chunks: boxed(count, OnceBox::new)?,
            offers: core::array::from_fn(|_| core::array::from_fn(|_| atomic(0))),
            stripes: boxed(platform.cpus().clamp(1, MAX_STRIPES).next_power_of_two(), stripe)?,
        })
    }

    /// Takes a free range, from a slab where the request allows it. The lock may hold more than the tree, which it lends.
    ///
    /// # Errors
    ///
    /// [`AllocateError`]; nothing has changed.
    pub fn allocate<T: BorrowMut<IovaAllocator>>(
        &self,
        platform: &P,
        tree: &Lock<P, T>,
        request: IovaRequest,
    ) -> Result<IovaRange, AllocateError> {
        match self.allocate_in_slab(platform, tree, request) {
            Some(range) => Ok(range),
            None => self.take_in_tree(tree, request),
        }
    }

    /// Takes a free range from a slab; `None` where the request is one for the tree, or no slab and no chunk is left for it. For callers that keep a record of what they took from
    /// the tree.
    #[inline]
    pub fn allocate_in_slab<T: BorrowMut<IovaAllocator>>(
        &self,
        platform: &P,
        tree: &Lock<P, T>,
        request: IovaRequest,
    ) -> Option<IovaRange> {
        let (class, pages) = self.class_of(&request)?;
        let current = &self.stripes[platform.cpu() & (self.stripes.len() - 1)].0[class.number()];
        let at = current.load(Ordering::Relaxed);
        if at != NONE
            && let Some(range) = self.take(at, class, pages)
        {
            return Some(range);
        }
        self.refill(tree, (class, pages), current)
    }

    /// Gives back a range that [`allocate`](Self::allocate) handed out, exactly as it was handed out, from any CPU. Needs no memory.
    ///
    /// # Errors
    ///
    /// [`FreeError`]; nothing has changed. If two threads give the same range back, one of them gets the error.
    pub fn free<T: BorrowMut<IovaAllocator>>(
        &self,
        tree: &Lock<P, T>,
        range: IovaRange,
    ) -> Result<(), FreeError> {
        match self.free_in_slab(range) {
            Some(freed) => freed,
            None => tree_in(&mut *tree.lock()).free(range),
        }
    }

    /// As [`free`](Self::free) where `range` begins in a slab; `None` where it does not, so that it is the tree's.
    #[inline(always)]
    pub fn free_in_slab(&self, range: IovaRange) -> Option<Result<(), FreeError>> {
        let number = (range.start().raw() >> CHUNK_LOG2).wrapping_sub(self.first_chunk);
        let chunk = self.attached(number)?;
        Some(self.give(number, chunk, range))
    }

    #[inline(always)]
    fn give(
        &self,
        number: u64,
        chunk: &Chunk<P::Atomic>,
        range: IovaRange,
    ) -> Result<(), FreeError> {
        let offset = range.start().raw() & ((1 << CHUNK_LOG2) - 1);
        if offset & (self.granule.bytes() - 1) != 0 {
            return Err(FreeError::NotAllocated { range });
        }
        let page = offset >> self.granule.log2();
        let live = |pages: u64| {
            IovaRange::new(range.start(), pages << self.granule.log2()).expect("inside a chunk")
        };
        let pages = range.len() >> self.granule.log2();
        let whole = range.len() & (self.granule.bytes() - 1) == 0;
        match chunk.give(page, whole.then_some(pages)) {
            Ok(offered) => {
                if let Some(slab) = offered {
                    self.offer(number, chunk, slab);
                }
                Ok(())
            }
            Err(Found::Free) => Err(FreeError::NotAllocated { range }),
            Err(Found::Live(pages)) => Err(FreeError::OtherLength { range, live: live(pages) }),
        }
    }

    /// The ranges that slabs have handed out, ascending. What other threads take and give meanwhile may be missing or not.
    pub fn live(&self) -> impl Iterator<Item = IovaRange> + '_ {
        (0..self.chunks.len() as u64).flat_map(move |number| {
            let chunk = self.attached(number);
            let base = (self.first_chunk + number) << CHUNK_LOG2;
            chunk.into_iter().flat_map(Chunk::live).map(move |(page, pages)| {
                let shift = self.granule.log2();
                let start = Iova::new(base + (page << shift));
                IovaRange::new(start, pages << shift).expect("inside a chunk")
            })
        })
    }

    /// Whether `range`, live in the tree, is one of the chunks that slabs are cut from.
    pub fn holds(&self, range: IovaRange) -> bool {
        let start = range.start().raw();
        let number = (start >> CHUNK_LOG2).wrapping_sub(self.first_chunk);
        range.len() == 1 << CHUNK_LOG2
            && range.start().is_aligned(1 << CHUNK_LOG2)
            && self.attached(number).is_some()
    }

    /// Gives the chunks without a range in use back to the tree, and counts them.
    pub fn shrink<T: BorrowMut<IovaAllocator>>(&self, tree: &Lock<P, T>) -> usize {
        let mut lender = tree.lock();
        let tree = tree_in(&mut *lender);
        let numbers = 0..self.chunks.len() as u64;
        let empty = numbers.filter(|number| {
            let chunk = self.attached(*number);
            chunk.is_some_and(Chunk::detach) && {
                let freed = tree.free(self.chunk_range(*number));
                debug_assert!(freed.is_ok(), "a chunk is live in the tree: {freed:?}");
                true
            }
        });
        empty.count()
    }

    /// Heap memory of the bookkeeping, in bytes.
    pub fn heap_bytes(&self) -> usize {
        let chunks = self.chunks.iter().filter_map(OnceBox::get);
        size_of_val(&*self.chunks)
            + size_of_val(&*self.stripes)
            + chunks.map(|[chunk]| chunk.bytes()).sum::<usize>()
    }

    /// The size and the number of pages of a request that slabs can serve.
    #[inline(always)]
    fn class_of(&self, request: &IovaRequest) -> Option<(Class, u64)> {
        let (len, shift) = (request.len, self.granule.log2());
        let pages = len >> shift;
        let class = Class::of(pages, self.classes)?;
        let served = len & (self.granule.bytes() - 1) == 0
            && request.limit.raw() >= self.last
            && request.align <= class.pages() << shift
            && request.align.is_power_of_two();
        served.then_some((class, pages))
    }

    fn attached(&self, number: u64) -> Option<&Chunk<P::Atomic>> {
        let [chunk] = self.chunks.get(usize::try_from(number).ok()?)?.get()?;
        chunk.is_attached().then_some(chunk)
    }

    /// A range from the slab at `at`, if it has one.
    #[inline(always)]
    fn take(&self, at: u64, class: Class, pages: u64) -> Option<IovaRange> {
        let (number, slab) = (at / SLABS as u64, at as usize % SLABS);
        let [chunk] = self.chunks[number as usize].get()?;
        let page = chunk.take::<P>(class, slab, pages)?;
        let start = ((self.first_chunk + number) << CHUNK_LOG2) + (page << self.granule.log2());
        IovaRange::new(Iova::new(start), pages << self.granule.log2()).ok()
    }

    /// Finds a slab that has ranges for a CPU whose own has none, and takes from it.
    #[inline(never)]
    fn refill<T: BorrowMut<IovaAllocator>>(
        &self,
        tree: &Lock<P, T>,
        (class, pages): (Class, u64),
        current: &P::Atomic,
    ) -> Option<IovaRange> {
        loop {
            let at = match self.next_offer(class) {
                Some(at) => at,
                None => match self.attach(tree, class) {
                    Ok(number) => number * SLABS as u64,
                    Err(_) => return self.last_resort(class, pages),
                },
            };
            current.store(at, Ordering::Relaxed);
            if let Some(range) = self.take(at, class, pages) {
                return Some(range);
            }
        }
    }

    /// A slab of `class` that is offered, which it is not any more.
    fn next_offer(&self, class: Class) -> Option<u64> {
        for (word, chunks) in self.offers[class.number()].iter().enumerate() {
            let mut bits = chunks.load(Ordering::Acquire);
            while bits != 0 {
                let bit = bits.trailing_zeros();
                let number = word as u64 * 64 + u64::from(bit);
                let [chunk] = self.chunks[number as usize].get()?;
                if let Some(slab) = chunk.claim_offer() {
                    return Some(number * SLABS as u64 + slab as u64);
                }
                chunks.fetch_and(!(1 << bit), Ordering::AcqRel);
                if chunk.has_offer() {
                    // Somebody offered between the two looks.
                    chunks.fetch_or(1 << bit, Ordering::AcqRel);
                }
                bits &= !(1 << bit);
            }
        }
        None
    }

    #[inline(never)]
    fn offer(&self, number: u64, chunk: &Chunk<P::Atomic>, slab: usize) {
        chunk.offer(slab);
        let word = &self.offers[chunk.class().number()][number as usize / 64];
        word.fetch_or(1 << (number % 64), Ordering::AcqRel);
    }

    /// Takes a chunk from the tree for ranges of `class`; all its slabs but the first are offered.
    #[cold]
    fn attach<T: BorrowMut<IovaAllocator>>(
        &self,
        tree: &Lock<P, T>,
        class: Class,
    ) -> Result<u64, AllocateError> {
        let len = 1u64 << CHUNK_LOG2;
        let request = IovaRequest::new(len).aligned_to(len).up_to(Iova::new(self.last));
        let mut lender = tree.lock();
        let tree = tree_in(&mut *lender);
        let range = tree.allocate(request)?;
        let number = (range.start().raw() >> CHUNK_LOG2) - self.first_chunk;
        let place = &self.chunks[number as usize];
        let fresh = || Chunk::boxed(class, chunk_log2(self.granule));
        let chunk = place.get_or_try_init(fresh);
        match chunk {
            Ok([chunk]) if chunk.class() == class => {
                let offered = chunk.attach();
                if offered {
                    let word = &self.offers[class.number()][number as usize / 64];
                    word.fetch_or(1 << (number % 64), Ordering::AcqRel);
                }
                Ok(number)
            }
            // No memory; or the addresses served another size before, and its notes do not fit.
            _ => {
                let freed = tree.free(range);
                debug_assert!(freed.is_ok(), "just taken: {freed:?}");
                Err(AllocateError::NoMemory)
            }
        }
    }

    /// The tree has no chunk for `class`: what is left in slabs that have too little to be offered.
    #[cold]
    fn last_resort(&self, class: Class, pages: u64) -> Option<IovaRange> {
        (0..self.chunks.len() as u64)
            .filter(|number| self.attached(*number).is_some_and(|chunk| chunk.class() == class))
            .flat_map(|number| (0..SLABS as u64).map(move |slab| number * SLABS as u64 + slab))
            .find_map(|at| self.take(at, class, pages))
    }

    /// A range of the tree, if need be after chunks without use went back to it.
    #[inline(never)]
    fn take_in_tree<T: BorrowMut<IovaAllocator>>(
        &self,
        tree: &Lock<P, T>,
        request: IovaRequest,
    ) -> Result<IovaRange, AllocateError> {
        let first = tree_in(&mut *tree.lock()).allocate(request);
        match first {
            Err(AllocateError::NoSpace { .. }) if self.shrink(tree) > 0 => {
                tree_in(&mut *tree.lock()).allocate(request)
            }
            result => result,
        }
    }

    fn chunk_range(&self, number: u64) -> IovaRange {
        let start = Iova::new((self.first_chunk + number) << CHUNK_LOG2);
        IovaRange::new(start, 1 << CHUNK_LOG2).expect("inside the aperture")
    }
}

impl<P: Platform> fmt::Debug for IovaSlabs<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attached = (0..self.chunks.len() as u64).filter(|n| self.attached(*n).is_some());
        f.debug_struct("IovaSlabs")
            .field("granule", &self.granule)
            .field("chunks", &attached.count())
            .finish_non_exhaustive()
    }
}

/// log2 of the pages of a chunk.
fn chunk_log2(granule: PageSize) -> u32 {
    CHUNK_LOG2 - u32::from(granule.log2())
}

/// The tree that a lock's content lends.
fn tree_in<T: BorrowMut<IovaAllocator>>(lender: &mut T) -> &mut IovaAllocator {
    lender.borrow_mut()
}

/// `count` values that `make` makes, or an error where there is no memory for them.
fn boxed<T>(count: usize, make: impl FnMut() -> T) -> Result<Box<[T]>, NewError> {
    let mut list = Vec::new();
    list.try_reserve_exact(count).map_err(|_| NewError::NoMemory)?;
    list.resize_with(count, make);
    Ok(list.into_boxed_slice())
}
