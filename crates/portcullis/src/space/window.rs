//! The addresses of one space: which are handed out, to which lease, and which are in quarantine.
//!
//! Each lease has a [`Holding`]: what it takes from the space's tree of addresses, and, once it has taken a few ranges, slabs of its own in front of the tree. Slabs hand out and take back
//! without a lock, and what they have handed out is the lease's, so nobody writes down whose it is. Ranges from the tree are noted with their lease.

use super::cache::AddressCache;
use super::lazy::{Amount, Parking};
use crate::description::ReservedRegion;
use crate::error::{DmaError, WindowError};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::borrow::{Borrow, BorrowMut};
use core::sync::atomic::{AtomicU64, Ordering};
use hashbrown::HashMap;
use once_cell::race::OnceBox;
use portcullis_addr::{Iova, IovaRange, PageSize};
use portcullis_iova::{AllocateError, IovaAllocator, IovaRequest, IovaSlabs};
use portcullis_platform::{Lock, LockLabel, Mutex, Nanos, PerCpu, Platform};

/// One bind of one driver. No two have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LeaseId(u64);

/// The number of the next lease. The address of a lease would not do as its name, because memory is reused.
static LEASES: AtomicU64 = AtomicU64::new(1);

impl LeaseId {
    /// Nobody's, for what is never given back.
    pub(crate) const NOBODY: Self = Self(0);

    /// A name that nobody had before.
    pub(crate) fn fresh() -> Self {
        Self(LEASES.fetch_add(1, Ordering::Relaxed))
    }
}

/// How many ranges a lease takes from the tree before it gets slabs: a driver with a few rings needs none, and their memory, 5 KiB and up, would be wasted on it.
const FIRST_IN_TREE: u32 = 16;

/// What one lease has of a space's addresses.
pub(crate) struct Holding<P: Platform> {
    lease: LeaseId,
    /// Filled once, by whoever fills it first. No step of the explorer: who looks finds nothing and asks the tree, or all of it.
    quick: OnceBox<Quick<P>>,
    /// What was unmapped and waits for a flush; made by the first that is.
    parking: OnceBox<Parking<P>>,
}

/// What stands between a busy lease and the tree.
struct Quick<P: Platform> {
    slabs: IovaSlabs<P>,
    /// In front of the slabs.
    caches: PerCpu<AddressCache<P>>,
}

/// Who uses a space: a lease, through a thread that is inside its gate.
pub(crate) struct User<'a, P: Platform> {
    pub(crate) platform: &'a P,
    pub(crate) holding: &'a Holding<P>,
    /// The CPU that the thread has to itself, if any.
    pub(crate) slot: Option<usize>,
}

impl<P: Platform> User<'_, P> {
    /// What its CPU keeps for it.
    #[inline]
    fn cache(&self) -> Option<&AddressCache<P>> {
        self.holding.cache(self.slot?)
    }
}

impl<P: Platform> Holding<P> {
    fn slabs(&self) -> Option<&IovaSlabs<P>> {
        self.quick.get().map(|quick| &quick.slabs)
    }

    /// What CPU `slot` keeps, for whoever has that CPU to itself; `None` where no CPU keeps anything.
    #[inline(always)]
    pub(crate) fn cache(&self, slot: usize) -> Option<&AddressCache<P>> {
        self.quick.get().map(|quick| quick.caches.at(slot))
    }

    /// Ranges that CPUs keep for the next user.
    fn cached(&self) -> usize {
        let caches = self.quick.get().into_iter().flat_map(|quick| quick.caches.iter());
        caches.map(AddressCache::count).sum()
    }

    /// Where mappings wait for a flush.
    #[inline]
    pub(super) fn parking_for(&self, platform: &P) -> &Parking<P> {
        self.parking.get_or_init(|| Box::new(Parking::new(platform)))
    }

    /// The same, if anything ever waited.
    pub(super) fn parking(&self) -> Option<&Parking<P>> {
        self.parking.get()
    }

    /// When there must be a flush; `None` where nothing waits.
    pub(crate) fn flush_due(&self) -> Option<Nanos> {
        self.parking()?.due()
    }

    /// Mappings that wait.
    fn parked(&self) -> usize {
        self.parking().map_or(0, |parking| parking.parked().mappings())
    }

    /// The ranges that its slabs have handed out.
    fn in_slabs(&self) -> impl Iterator<Item = IovaRange> + '_ {
        self.slabs().into_iter().flat_map(IovaSlabs::live)
    }
}

/// What is handed out of an address space.
pub(super) struct Window<P: Platform> {
    books: Lock<P, Books<P>>,
}

/// A range that comes from the tree.
#[derive(Clone, Copy)]
struct Direct {
    lease: LeaseId,
    len: u64,
}

struct Books<P: Platform> {
    tree: IovaAllocator,
    /// The live ranges from the tree, apart from what slabs are cut from, by first address.
    direct: HashMap<Iova, Direct>,
    /// The live ranges that hardware did not confirm to have forgotten: first address and bytes.
    quarantine: HashMap<Iova, u64>,
    /// Every lease that has addresses, with how many ranges it took from the tree so far.
    holdings: Vec<(Arc<Holding<P>>, u32)>,
}

impl<P: Platform> Borrow<IovaAllocator> for Books<P> {
    fn borrow(&self) -> &IovaAllocator {
        &self.tree
    }
}

impl<P: Platform> BorrowMut<IovaAllocator> for Books<P> {
    fn borrow_mut(&mut self) -> &mut IovaAllocator {
        &mut self.tree
    }
}

impl<P: Platform> Books<P> {
    /// Takes a range from the tree for `lease`.
    fn allocate(
        &mut self,
        lease: LeaseId,
        request: IovaRequest,
    ) -> Result<IovaRange, AllocateError> {
        // Before anything changes.
        self.direct.try_reserve(1).map_err(|_| AllocateError::NoMemory)?;
        let range = self.tree.allocate(request)?;
        self.direct.insert(range.start(), Direct { lease, len: range.len() });
        Ok(range)
    }

    /// Whether `lease` has taken enough ranges by now for slabs to be worth their memory.
    fn is_busy(&mut self, lease: LeaseId) -> bool {
        let entry = self.holdings.iter_mut().find(|(holding, _)| holding.lease == lease);
        entry.is_some_and(|(_, taken)| {
            *taken = taken.saturating_add(1);
            *taken >= FIRST_IN_TREE
        })
    }

    fn free(&mut self, range: IovaRange) {
        let freed = self.tree.free(range);
        debug_assert!(freed.is_ok(), "a live range was not known: {freed:?}");
        if freed.is_ok() {
            self.direct.remove(&range.start());
        }
    }

    /// The ranges that `lease` has from the tree.
    fn of(&self, lease: LeaseId) -> impl Iterator<Item = IovaRange> + '_ {
        let its = self.direct.iter().filter(move |(_, direct)| direct.lease == lease);
        its.map(|(start, direct)| IovaRange::new(*start, direct.len).expect("it was handed out"))
    }
}

impl<P: Platform> Window<P> {
    /// All of `input` but the `reserved` ranges and the first page.
    pub(super) fn new(
        granule: PageSize,
        input: IovaRange,
        reserved: &[ReservedRegion],
        label: u64,
    ) -> Result<Self, DmaError> {
        let tree = IovaAllocator::new(granule, input);
        let mut tree = tree.map_err(|_| DmaError::Window(WindowError::NoMemory))?;
        // Address 0 is what a driver that forgot to set its address register emits.
        let zero = IovaRange::new(Iova::new(0), granule.bytes()).ok();
        for range in reserved.iter().map(|region| region.range).chain(zero) {
            tree.reserve(range).map_err(|_| DmaError::Window(WindowError::Reserved))?;
        }
        let (direct, quarantine, holdings) = Default::default();
        let books = Books { tree, direct, quarantine, holdings };
        Ok(Self { books: Mutex::new(LockLabel::new("space", label), books) })
    }

    /// A holding for `lease`, which has none yet.
    pub(super) fn admit(&self, lease: LeaseId) -> Arc<Holding<P>> {
        let mut books = self.books.lock();
        let known = books.holdings.iter().find(|(holding, _)| holding.lease == lease);
        if let Some((holding, _)) = known {
            return Arc::clone(holding);
        }
        let holding = Arc::new(Holding { lease, quick: OnceBox::new(), parking: OnceBox::new() });
        books.holdings.push((Arc::clone(&holding), 0));
        holding
    }

    /// Takes a free range for `user`.
    #[inline]
    pub(super) fn allocate(
        &self,
        user: &User<'_, P>,
        request: IovaRequest,
    ) -> Result<IovaRange, AllocateError> {
        if let Some(cache) = user.cache()
            && let Some(range) = cache.take(&request)
        {
            return Ok(range);
        }
        self.allocate_beyond_cache(user.platform, user.holding, request)
    }

    #[inline(never)]
    fn allocate_beyond_cache(
        &self,
        platform: &P,
        holding: &Holding<P>,
        request: IovaRequest,
    ) -> Result<IovaRange, AllocateError> {
        if let Some(slabs) = holding.slabs()
            && let Some(range) = slabs.allocate_in_slab(platform, &self.books, request)
        {
            return Ok(range);
        }
        self.allocate_in_tree(platform, holding, request)
    }

    #[inline(never)]
    fn allocate_in_tree(
        &self,
        platform: &P,
        holding: &Holding<P>,
        request: IovaRequest,
    ) -> Result<IovaRange, AllocateError> {
        let mut books = self.books.lock();
        if holding.quick.get().is_none() && books.is_busy(holding.lease) {
            // Without the memory for them it goes on with the tree.
            if let Ok(slabs) = IovaSlabs::new(platform, &books.tree) {
                let caches = PerCpu::new(platform, |_| AddressCache::new());
                _ = holding.quick.set(Box::new(Quick { slabs, caches }));
            }
        }
        let first = books.allocate(holding.lease, request);
        if !matches!(first, Err(AllocateError::NoSpace { .. })) {
            return first;
        }
        let holdings: Vec<_> = books.holdings.iter().map(|(it, _)| Arc::clone(it)).collect();
        drop(books);
        let shrink = |holding: &Arc<Holding<P>>| {
            holding.slabs().map_or(0, |slabs| slabs.shrink(&self.books))
        };
        match holdings.iter().map(shrink).sum() {
            0usize => first,
            _ => self.books.lock().allocate(holding.lease, request),
        }
    }

    /// Gives back a range that is live and not in quarantine.
    #[inline]
    pub(super) fn give_back(&self, user: &User<'_, P>, range: IovaRange) {
        if user.cache().is_some_and(|cache| cache.give(range)) {
            return;
        }
        self.give_back_beyond_cache(user.holding, range);
    }

    /// Gives back what CPU `cpu` keeps for the lease of `holding`. For whoever has that CPU's slot.
    pub(super) fn give_back_cached(&self, holding: &Holding<P>, cpu: usize) {
        let kept = holding.cache(cpu).into_iter().flat_map(AddressCache::drain);
        kept.for_each(|range| self.give_back_beyond_cache(holding, range));
    }

    /// Gives back what all CPUs keep for the lease of `holding`, which nobody uses any more.
    fn give_back_all_cached(&self, holding: &Holding<P>) {
        let cpus = holding.quick.get().map_or(0, |quick| quick.caches.iter().len());
        (0..cpus).for_each(|cpu| self.give_back_cached(holding, cpu));
    }

    #[inline(never)]
    fn give_back_beyond_cache(&self, holding: &Holding<P>, range: IovaRange) {
        match holding.slabs().and_then(|slabs| slabs.free_in_slab(range)) {
            Some(freed) => {
                debug_assert!(freed.is_ok(), "a live range was not known: {freed:?}");
            }
            None => self.give_back_to_tree(range),
        }
    }

    #[cold]
    fn give_back_to_tree(&self, range: IovaRange) {
        self.books.lock().free(range);
    }

    /// Gives back a range that is live, from quarantine too.
    pub(super) fn free(&self, holding: &Holding<P>, range: IovaRange) {
        self.books.lock().quarantine.remove(&range.start());
        self.give_back_beyond_cache(holding, range);
    }

    /// Puts a live range into quarantine. Without memory for the note it is live until its lease ends, and counts as a mapping.
    pub(super) fn quarantine(&self, range: IovaRange) {
        let mut books = self.books.lock();
        if books.quarantine.try_reserve(1).is_ok() {
            books.quarantine.insert(range.start(), range.len());
        }
    }

    /// The lease's live ranges in ascending order, with those in quarantine; nobody takes or gives back any for it meanwhile, or will.
    pub(super) fn of(&self, holding: &Holding<P>) -> Vec<IovaRange> {
        self.give_back_all_cached(holding);
        let books = self.books.lock();
        let mut ranges: Vec<_> = books.of(holding.lease).chain(holding.in_slabs()).collect();
        drop(books);
        ranges.sort_unstable_by_key(IovaRange::start);
        ranges
    }

    /// Ends a lease without a live range. If it was the last one, calls `alone`, with the guarantee that no lease uses the space before it returns.
    pub(super) fn dismiss(&self, holding: &Holding<P>, alone: impl FnOnce()) {
        {
            let mut books = self.books.lock();
            books.holdings.retain(|(other, _)| other.lease != holding.lease);
            if books.holdings.is_empty() {
                alone();
            }
        }
        if let Some(slabs) = holding.slabs() {
            slabs.shrink(&self.books);
        }
    }

    /// The lease's mappings in force.
    pub(super) fn mapped_by(&self, holding: &Holding<P>) -> usize {
        let books = self.books.lock();
        let its = books.of(holding.lease).chain(holding.in_slabs());
        let out = its.filter(|range| !books.quarantine.contains_key(&range.start())).count();
        out.saturating_sub(holding.parked() + holding.cached())
    }

    /// Mappings in force.
    pub(super) fn mapped(&self) -> usize {
        let books = self.books.lock();
        let holdings = || books.holdings.iter().map(|(holding, _)| holding);
        let out: usize = holdings().map(|holding| holding.in_slabs().count()).sum();
        let parked: usize = holdings().map(|holding| holding.parked() + holding.cached()).sum();
        (books.direct.len() + out).saturating_sub(books.quarantine.len() + parked)
    }

    /// Bytes in quarantine, and pages that are parked after a flush which was not confirmed.
    pub(super) fn quarantined(&self) -> (u64, u64) {
        let books = self.books.lock();
        let parkings = books.holdings.iter().filter_map(|(holding, _)| holding.parking());
        let unconfirmed = parkings.map(|parking| Amount::pages(parking.unconfirmed())).sum();
        (books.quarantine.values().sum(), unconfirmed)
    }
}
