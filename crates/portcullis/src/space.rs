//! One I/O address space: its table, its addresses, and what is in quarantine.

use crate::description::{DomainType, FwNode, ReservedKind, ReservedRegion};
use crate::error::{DmaError, Unconfirmed, WindowError};
use crate::instance::IommuDevice;
use crate::ops::{AddressSpace, OpsError, SpaceError, SpaceTag, Ticket};
use crate::reason::SetUpError;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use portcullis_addr::{Address, Iova, IovaRange, PhysAddr, Prot};
use portcullis_iova::{IovaAllocator, IovaRequest};
use portcullis_pgtable::IotlbGather;
use portcullis_platform::{Lock, LockLabel, Mutex, Platform};
use smallvec::SmallVec;

/// What each instance in front of a group calls an address space.
pub(crate) type Spaces = SmallVec<[(Arc<IommuDevice>, SpaceTag); 1]>;

/// An I/O address space.
#[doc(alias = "iommu_domain")]
pub(crate) struct Domain<P: Platform> {
    kind: DomainType,
    space: Option<Arc<dyn AddressSpace>>,
    /// What each instance in front of the group calls it.
    spaces: Spaces,
    reserved: Vec<ReservedRegion>,
    /// Made at the first mapping: most domains of a boot are looked at before they are used.
    window: Lock<P, Option<IovaAllocator>>,
    /// Bytes whose invalidation was never confirmed: their frames and addresses are not used again.
    quarantined: AtomicU64,
    mapped: AtomicUsize,
}

impl<P: Platform> Domain<P> {
    /// One of `kind`, translated by `space` where there is one. Its lock is labelled `label`.
    pub(crate) fn new(
        kind: DomainType,
        space: Option<Arc<dyn AddressSpace>>,
        spaces: Spaces,
        reserved: Vec<ReservedRegion>,
        label: u64,
    ) -> Self {
        Self {
            kind,
            space,
            spaces,
            reserved,
            window: Mutex::new(LockLabel::new("space", label), None),
            quarantined: AtomicU64::new(0),
            mapped: AtomicUsize::new(0),
        }
    }

    /// The instances that translate it, with the name that each has for it.
    pub(crate) fn spaces(&self) -> &Spaces {
        &self.spaces
    }

    /// Whether `region` was kept out of the addresses when the domain was made.
    pub(crate) fn keeps(&self, region: &ReservedRegion) -> bool {
        self.reserved.contains(region)
    }

    pub(crate) fn kind(&self) -> DomainType {
        self.kind
    }

    /// Bytes in quarantine.
    pub(crate) fn quarantined(&self) -> u64 {
        self.quarantined.load(Ordering::Relaxed)
    }

    /// Mappings that are in force.
    pub(crate) fn mapped(&self) -> usize {
        self.mapped.load(Ordering::Relaxed)
    }

    /// The smallest page, in bytes; 1 where nothing is translated.
    pub(crate) fn granule(&self) -> u64 {
        self.space.as_ref().map_or(1, |space| space.granule().bytes())
    }

    /// Finds room for `len` bytes at or below `limit` and maps it to `phys`. All are whole pages.
    pub(crate) fn map(
        &self,
        phys: PhysAddr,
        len: u64,
        limit: Iova,
        prot: Prot,
    ) -> Result<Iova, DmaError> {
        let space = self.space.as_ref().ok_or(DmaError::NotTranslated)?;
        let request = IovaRequest::new(len).up_to(limit);
        let range = self.with_window(space, |window| window.allocate(request))?;
        let iova = range.map_err(DmaError::Iova)?.start();
        if let Err(error) = self.map_at(space, iova, phys, len, prot) {
            if !matches!(error, DmaError::Quarantined { .. }) {
                self.give_back(iova, len);
            }
            return Err(error);
        }
        self.mapped.fetch_add(1, Ordering::Relaxed);
        Ok(iova)
    }

    fn map_at(
        &self,
        space: &Arc<dyn AddressSpace>,
        iova: Iova,
        phys: PhysAddr,
        len: u64,
        prot: Prot,
    ) -> Result<(), DmaError> {
        self.make_room(space, iova, len)?;
        let mut gather = IotlbGather::new();
        space
            .map(iova, phys, len, prot, &mut gather)
            .map_err(|error| self.refused(error, iova, len))?;
        // Nothing is owed unless hardware may hold "not present" or an older root.
        if gather.is_empty() { Ok(()) } else { self.settle(space, gather, iova, len) }
    }

    /// Takes empty tables out of the way of large leaves. Hardware must have forgotten them before the range is mapped (Arm's break-before-make).
    fn make_room(
        &self,
        space: &Arc<dyn AddressSpace>,
        iova: Iova,
        len: u64,
    ) -> Result<(), DmaError> {
        let granule = space.granule();
        if space.page_sizes().best_fit(iova.raw(), len).is_none_or(|size| size <= granule) {
            return Ok(());
        }
        let mut gather = IotlbGather::new();
        let taken = space.reclaim(iova, len, &mut gather);
        let taken = taken.map_err(|error| self.refused(error, iova, len))?;
        if taken == 0 { Ok(()) } else { self.settle(space, gather, iova, len) }
    }

    /// What a space's refusal means for `[iova, iova + len)`: where a request may have been carried out, neither addresses nor frames are used again.
    fn refused(&self, error: SpaceError, iova: Iova, len: u64) -> DmaError {
        match error {
            SpaceError::Map(error) => DmaError::Map(error),
            SpaceError::Unmap(error) => DmaError::Unmap(error),
            SpaceError::Request(error) => {
                // A space that is a channel is bound at the one instance that made it.
                let node = self.spaces.first().map_or(FwNode(u32::MAX), |(first, _)| first.node);
                if !error.is_unconfirmed() {
                    return DmaError::Refused(node, error);
                }
                self.quarantined.fetch_add(len, Ordering::Relaxed);
                DmaError::Quarantined { iova, len, node, error }
            }
        }
    }

    /// Pays what `gather` owes and gives its table pages back, or quarantines what `[iova, iova + len)` stands for.
    fn settle(
        &self,
        space: &Arc<dyn AddressSpace>,
        mut gather: IotlbGather,
        iova: Iova,
        len: u64,
    ) -> Result<(), DmaError> {
        if let Err(Unconfirmed { node, error }) = self.flush(&gather) {
            space.quarantine(&mut gather);
            self.quarantined.fetch_add(len, Ordering::Relaxed);
            return Err(DmaError::Quarantined { iova, len, node, error });
        }
        space.retire(gather.confirm());
        Ok(())
    }

    /// Removes the mapping of `[iova, iova + len)` and returns once every instance has confirmed that it forgot it.
    pub(crate) fn unmap(&self, iova: Iova, len: u64) -> Result<(), DmaError> {
        let space = self.space.as_ref().ok_or(DmaError::NotTranslated)?;
        let mut gather = IotlbGather::new();
        space.unmap(iova, len, &mut gather).map_err(|error| self.refused(error, iova, len))?;
        self.mapped.fetch_sub(1, Ordering::Relaxed);
        self.settle(space, gather, iova, len)?;
        self.give_back(iova, len);
        Ok(())
    }

    /// Pays what `gather` owes at every instance: all are asked before the first is waited for, also if one fails.
    #[doc(alias = "iommu_iotlb_sync")]
    fn flush(&self, gather: &IotlbGather) -> Result<(), Unconfirmed> {
        if let [(only, tag)] = self.spaces.as_slice() {
            return only.ops.invalidate(*tag, gather).map_err(|error| only.unconfirmed(error));
        }
        let submitted = self.spaces.iter().map(|(instance, tag)| instance.ops.submit(*tag, gather));
        let submitted: SmallVec<[Result<Ticket, OpsError>; 4]> = submitted.collect();
        let mut outcome = Ok(());
        for ((instance, _), ticket) in self.spaces.iter().zip(submitted) {
            if let Err(error) = ticket.and_then(|ticket| instance.ops.wait(ticket)) {
                outcome = Err(Unconfirmed { node: instance.node, error });
            }
        }
        outcome
    }

    /// Removes everything that is mapped but the regions that must stay.
    ///
    /// # Errors
    ///
    /// When an invalidation was not confirmed; the rest has been removed all the same.
    pub(crate) fn clear(&self) -> Result<(), Unconfirmed> {
        let left: Vec<IovaRange> = match &*self.window.lock() {
            Some(window) => window.live().collect(),
            None => return Ok(()),
        };
        let mut confirmed = Ok(());
        for range in left {
            if let Err(DmaError::Quarantined { node, error, .. }) =
                self.unmap(range.start(), range.len())
            {
                confirmed = Err(Unconfirmed { node, error });
            }
        }
        confirmed
    }

    fn give_back(&self, iova: Iova, len: u64) {
        if let Some(window) = &mut *self.window.lock() {
            let freed = IovaRange::new(iova, len).is_ok_and(|range| window.free(range).is_ok());
            debug_assert!(freed, "a live range was not known: {iova} + {len:#x}");
        }
    }

    fn with_window<R>(
        &self,
        space: &Arc<dyn AddressSpace>,
        f: impl FnOnce(&mut IovaAllocator) -> R,
    ) -> Result<R, DmaError> {
        let mut window = self.window.lock();
        if window.is_none() {
            let granule = space.granule();
            let fresh = IovaAllocator::new(granule, space.input_range());
            let mut fresh = fresh.map_err(|_| DmaError::Window(WindowError::NoMemory))?;
            // Address 0 is what a driver that forgot to set its address register emits.
            let zero = IovaRange::new(Iova::new(0), granule.bytes()).ok();
            for range in self.reserved.iter().map(|region| region.range).chain(zero) {
                fresh.reserve(range).map_err(|_| DmaError::Window(WindowError::Reserved))?;
            }
            *window = Some(fresh);
        }
        let window = window.as_mut().expect("made above");
        Ok(f(window))
    }

    /// Maps every region that must be reached at its own address.
    ///
    /// # Errors
    ///
    /// The first region that could not be mapped, or an instance that did not confirm.
    pub(crate) fn map_direct_regions(&self) -> Result<(), SetUpError> {
        let Some(space) = &self.space else { return Ok(()) };
        let mut gather = IotlbGather::new();
        for region in self.reserved.iter().filter(|region| region.kind == ReservedKind::Direct) {
            let start = region.range.start();
            let same = PhysAddr::from_raw(start.raw());
            let prot = Prot::READ | Prot::WRITE;
            space
                .map(start, same, region.range.len(), prot, &mut gather)
                .map_err(|error| SetUpError::Direct(*region, error))?;
        }
        if gather.is_empty() {
            return Ok(());
        }
        self.flush(&gather).map_err(|Unconfirmed { node, error }| SetUpError::Ops(node, error))?;
        space.retire(gather.confirm());
        Ok(())
    }
}

impl<P: Platform> fmt::Debug for Domain<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Domain").field("kind", &self.kind).field("spaces", &self.spaces).finish()
    }
}
