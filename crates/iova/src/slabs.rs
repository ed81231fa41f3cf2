//! The fast path in front of the tree: slabs of equal ranges with one bit each.

use crate::chunk::{Chunk, Class, SLABS};
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
/// Bytes of a chunk.
const CHUNK: u64 = 1 << CHUNK_LOG2;
/// The most chunks: 4 GiB, all that 32-bit devices reach.
const MAX_CHUNKS: u64 = 256;
/// With fewer there is no room for a chunk of each size and something beside them.
const MIN_CHUNKS: u64 = 64;
/// The most sizes: 1 to 512 pages of 4 KiB.
const CLASSES: usize = 10;
/// The most CPUs that have a slab of their own for each size.
const MAX_STRIPES: usize = 16;
/// How many idle slabs, and how many chunks, are looked at for free ranges, before an unused slab is taken.
const LOOKS: usize = 16;
/// No slab.
const NONE: u64 = u64::MAX;

/// A cache of address ranges in front of an [`IovaAllocator`] that several users share: ranges of up to 512 pages come and go with one atomic instruction each way and
/// without the tree's lock, from any CPU.
///
/// Addresses below 4 GiB are taken from the tree in *chunks* of 16 MiB, each for ranges of one power of two of pages; a *slab* is 64 of them with a word of free
/// bits. A CPU takes from a slab of its own while that lasts, and then leaves it for one that was left before and has enough free ranges by now, or for a new one. Giving back sets the bit,
/// whoever does it, and nothing else; a range that is not out is noticed by the same instruction. All other requests go to the tree: longer ones, limits below 4 GiB, alignments above the
/// length, windows of less than 1 GiB, and allocators with [`Placement::Anywhere`].
///
/// The price is address space (each size in use holds 16 MiB), and that a length of no power of two takes the next one's. When the tree has no room, chunks without a
/// range in use go back to it first. Memory: 1.5 KiB a chunk of single or double pages; of longer ranges at most 3 KiB, because exact lengths are kept, 2 bytes each. That is less than half a byte a
/// live range of one page where chunks are full, and at most 10 for the longest. The object itself takes 2.5 KiB and 128 bytes a CPU (16 at most).
pub struct IovaSlabs<P: Platform> {
    granule: PageSize,
    /// The bits of an address inside of a page.
    ragged: u64,
    /// How many sizes are served; none where the tree's window is too small.
    classes: u32,
    /// Number of the window's first chunk, counted from address 0.
    first_chunk: u64,
    /// The window's last address.
    last: u64,
    chunks: Box<[Place<P::Atomic>]>,
    /// For each size the chunk that was taken last, which may have slabs that were never used.
    newest: [P::Atomic; CLASSES],
    /// For each size the slab at which the next look for an idle one begins.
    next: [P::Atomic; CLASSES],
    /// For each size its chunks, a bit each.
    owned: [[P::Atomic; MAX_CHUNKS as usize / 64]; CLASSES],
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
        let first_chunk = aperture.start().raw().div_ceil(CHUNK);
        let end = (aperture.last().raw() >> CHUNK_LOG2)
            + u64::from(aperture.last().raw() & (CHUNK - 1) == CHUNK - 1);
        // The low 4 GiB, or as much from the start on where the aperture begins above them.
        let limit = if first_chunk < MAX_CHUNKS { MAX_CHUNKS } else { first_chunk + MAX_CHUNKS };
        let count = end.min(limit).saturating_sub(first_chunk);
        let unwanted = count < MIN_CHUNKS || tree.placement() != Placement::LowFirst;
        let count = if unwanted { 0 } else { count as usize };
        let atomic = |value| P::Atomic::new(LockLabel::new("slab", 0), value);
        let stripe = || Stripe(core::array::from_fn(|_| atomic(NONE)));
        Ok(Self {
            granule: tree.granule(),
            ragged: tree.granule().bytes() - 1,
            classes: if unwanted { 0 } else { Class::count(chunk_log2(tree.granule())) },
            first_chunk,
            last: ((first_chunk + count as u64) << CHUNK_LOG2).wrapping_sub(1),
            chunks: boxed(count, OnceBox::new)?,
            owned: core::array::from_fn(|_| core::array::from_fn(|_| atomic(0))),
            newest: core::array::from_fn(|_| atomic(NONE)),
            next: core::array::from_fn(|_| atomic(0)),
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
        match self.take_quickly(platform, &request) {
            Some(range) => Ok(range),
            None => self.take_slowly(platform, tree, request),
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
        match self.take_quickly(platform, &request) {
            Some(range) => Some(range),
            None => self.refill(platform, tree, &request),
        }
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
        match self.give(range) {
            Some(()) => Ok(()),
            None => self.free_in_tree(tree, range),
        }
    }

    /// What is out of no slab is the tree's, or nobody's.
    #[inline(never)]
    fn free_in_tree<T: BorrowMut<IovaAllocator>>(
        &self,
        tree: &Lock<P, T>,
        range: IovaRange,
    ) -> Result<(), FreeError> {
        match self.refusal(range) {
            Some(refused) => Err(refused),
            None => tree_in(&mut *tree.lock()).free(range),
        }
    }

    /// As [`free`](Self::free) where `range` begins in a slab; `None` where it does not, so that it is the tree's.
    #[inline(always)]
    pub fn free_in_slab(&self, range: IovaRange) -> Option<Result<(), FreeError>> {
        match self.give(range) {
            Some(()) => Some(Ok(())),
            None => self.refusal(range).map(Err),
        }
    }

    /// Gives `range` back if it is out of a slab.
    #[inline(always)]
    fn give(&self, range: IovaRange) -> Option<()> {
        let number = (range.start().raw() >> CHUNK_LOG2).wrapping_sub(self.first_chunk);
        let chunk = self.attached(number)?;
        let (offset, shift) = (range.start().raw() & (CHUNK - 1), self.granule.log2());
        if (offset | range.len()) & self.ragged != 0 {
            return None;
        }
        chunk.give(offset >> shift, range.len() >> shift)
    }

    /// Why a range was not taken back, where it begins in a slab.
    #[cold]
    #[inline(never)]
    fn refusal(&self, range: IovaRange) -> Option<FreeError> {
        let number = (range.start().raw() >> CHUNK_LOG2).wrapping_sub(self.first_chunk);
        let chunk = self.attached(number)?;
        let (offset, shift) = (range.start().raw() & (CHUNK - 1), self.granule.log2());
        let pages = if offset & self.ragged == 0 { chunk.live_at(offset >> shift) } else { None };
        let live = pages.and_then(|pages| IovaRange::new(range.start(), pages << shift).ok());
        Some(match live {
            // Exactly so, by now: another thread took it between the two looks.
            Some(live) if live != range => FreeError::OtherLength { range, live },
            _ => FreeError::NotAllocated { range },
        })
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
            && range.start().is_aligned(CHUNK)
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
                let class = chunk.map_or(0, |chunk| chunk.class().number());
                let (word, bit) = (*number as usize / 64, 1u64 << (number % 64));
                self.owned[class][word].fetch_and(!bit, Ordering::Relaxed);
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
        // A range begins on a multiple of its class's length; what is no power of two is the tree's to refuse.
        let below = request.align.wrapping_sub(1);
        let aligned = request.align & below == 0 && below >> shift < class.pages();
        let served = len & self.ragged == 0 && request.limit.raw() >= self.last && aligned;
        served.then_some((class, pages))
    }

    /// The place of the chunk with the slab at `at`.
    #[inline(always)]
    fn place(&self, at: u64) -> Option<&Place<P::Atomic>> {
        self.chunks.get((at / SLABS as u64) as usize)
    }

    #[inline(always)]
    fn attached(&self, number: u64) -> Option<&Chunk<P::Atomic>> {
        let [chunk] = self.chunks.get(usize::try_from(number).ok()?)?.get()?;
        chunk.is_attached().then_some(chunk)
    }

    /// The slab that the calling CPU takes ranges of `class` from; there is such a place for each.
    #[inline(always)]
    fn current(&self, platform: &P, class: Class) -> Option<&P::Atomic> {
        let stripe = self.stripes.get(platform.cpu() & (self.stripes.len() - 1))?;
        stripe.0.get(class.number())
    }

    /// A range from the CPU's own slab, if it has one.
    #[inline(always)]
    fn take_quickly(&self, platform: &P, request: &IovaRequest) -> Option<IovaRange> {
        let (class, pages) = self.class_of(request)?;
        let current = self.current(platform, class)?;
        self.take(current.load(Ordering::Relaxed), class, pages)
    }

    /// A range from the slab at `at`, if there is one.
    #[inline(always)]
    fn take(&self, at: u64, class: Class, pages: u64) -> Option<IovaRange> {
        let number = at / SLABS as u64;
        let [chunk] = self.place(at)?.get()?;
        debug_assert_eq!(chunk.class(), class, "a chunk serves one size for good");
        let page = chunk.take::<P>(at as usize % SLABS, pages)?;
        let shift = self.granule.log2();
        let start = ((self.first_chunk + number) << CHUNK_LOG2) + (page << shift);
        IovaRange::new(Iova::new(start), pages << shift).ok()
    }

    /// Finds a slab that has ranges for a CPU whose own has none, and takes from it.
    #[inline(never)]
    fn refill<T: BorrowMut<IovaAllocator>>(
        &self,
        platform: &P,
        tree: &Lock<P, T>,
        request: &IovaRequest,
    ) -> Option<IovaRange> {
        let (class, pages) = self.class_of(request)?;
        let current = self.current(platform, class)?;
        loop {
            let at = match self.next_slab(class) {
                Some(at) => at,
                None => match self.attach(tree, class) {
                    Ok(number) => number * SLABS as u64,
                    Err(_) => return self.last_resort(class, pages),
                },
            };
            let before = current.swap(at, Ordering::AcqRel);
            if let Some([chunk]) = self.place(before).and_then(OnceBox::get) {
                chunk.leave(before as usize % SLABS);
            }
            if let Some(range) = self.take(at, class, pages) {
                return Some(range);
            }
        }
    }

    /// A slab of `class` that is the caller's now: an idle one with enough free ranges where one is found soon, otherwise one that was never used. All slabs of a size are a ring, on which every
    /// look goes on where the last one ended, so the first to be looked at is the one that was left longest ago.
    fn next_slab(&self, class: Class) -> Option<u64> {
        let next = &self.next[class.number()];
        let mut at = next.load(Ordering::Relaxed);
        let (mut number, mut part) = (at / SLABS as u64, u64::MAX << (at % SLABS as u64));
        let mut looks = 0;
        for _ in 0..LOOKS {
            let chunk = self.attached(number).filter(|chunk| chunk.class() == class);
            let mut idle = chunk.map_or(0, Chunk::idle) & part;
            while idle != 0 && looks < LOOKS {
                let slab = idle.trailing_zeros() as usize;
                idle &= idle - 1;
                looks += 1;
                at = number * SLABS as u64 + slab as u64 + 1;
                if chunk.is_some_and(|chunk| chunk.claim_idle(slab)) {
                    next.store(at, Ordering::Relaxed);
                    return Some(at - 1);
                }
            }
            if looks == LOOKS {
                break;
            }
            number = self.chunk_from(class, number + 1).or_else(|| self.chunk_from(class, 0))?;
            part = u64::MAX;
        }
        next.store(at, Ordering::Relaxed);
        let newest = self.newest[class.number()].load(Ordering::Relaxed);
        let slab = self.attached(newest)?.claim_unused()?;
        Some(newest * SLABS as u64 + slab as u64)
    }

    /// The first chunk for `class` with the number `from` or a higher one.
    fn chunk_from(&self, class: Class, from: u64) -> Option<u64> {
        let mut part = u64::MAX << (from % 64);
        for (word, chunks) in (0..).zip(&self.owned[class.number()]).skip((from / 64) as usize) {
            let found = chunks.load(Ordering::Relaxed) & part;
            if found != 0 {
                return Some(word * 64 + u64::from(found.trailing_zeros()));
            }
            part = u64::MAX;
        }
        None
    }

    /// Takes a chunk from the tree for ranges of `class`; its first slab is the caller's.
    #[cold]
    fn attach<T: BorrowMut<IovaAllocator>>(
        &self,
        tree: &Lock<P, T>,
        class: Class,
    ) -> Result<u64, AllocateError> {
        let request = IovaRequest::new(CHUNK).aligned_to(CHUNK).up_to(Iova::new(self.last));
        let mut lender = tree.lock();
        let tree = tree_in(&mut *lender);
        let range = tree.allocate(request)?;
        let number = (range.start().raw() >> CHUNK_LOG2) - self.first_chunk;
        let fresh = || Chunk::boxed(class, chunk_log2(self.granule));
        match self.chunks[number as usize].get_or_try_init(fresh) {
            Ok([chunk]) if chunk.class() == class => {
                chunk.attach();
                let (word, bit) = (number as usize / 64, 1 << (number % 64));
                self.owned[class.number()][word].fetch_or(bit, Ordering::Relaxed);
                self.newest[class.number()].store(number, Ordering::Relaxed);
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

    /// The tree has no chunk for `class`: what is left anywhere in slabs.
    #[cold]
    fn last_resort(&self, class: Class, pages: u64) -> Option<IovaRange> {
        let slabs = |number: u64| {
            let count = self.attached(number).map_or(0, Chunk::slabs) as u64;
            (0..count).map(move |slab| number * SLABS as u64 + slab)
        };
        let numbers = core::iter::successors(self.chunk_from(class, 0), |number| {
            self.chunk_from(class, number + 1)
        });
        let mut all = numbers.flat_map(slabs);
        all.find_map(|at| self.take(at, class, pages))
    }

    /// A range of another slab, or of the tree, if need be after chunks without use went back to it.
    #[inline(never)]
    fn take_slowly<T: BorrowMut<IovaAllocator>>(
        &self,
        platform: &P,
        tree: &Lock<P, T>,
        request: IovaRequest,
    ) -> Result<IovaRange, AllocateError> {
        if let Some(range) = self.refill(platform, tree, &request) {
            return Ok(range);
        }
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
        IovaRange::new(start, CHUNK).expect("inside the aperture")
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
    CHUNK_LOG2.saturating_sub(u32::from(granule.log2()))
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
