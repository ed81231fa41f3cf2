//! One I/O address space: its table, its addresses, and what is in quarantine.

use crate::description::{DomainType, FwNode, ReservedKind, ReservedRegion};
use crate::error::DmaError;
use crate::instance::IommuDevice;
use crate::ops::{OpsError, SpaceTag};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use portcullis_addr::{Address, Iova, IovaRange, PhysAddr, Prot};
use portcullis_iova::{IovaAllocator, IovaRequest};
use portcullis_pgtable::{IotlbGather, MapError, PageTable};
use portcullis_platform::{Lock, LockLabel, Mutex, Platform};
use smallvec::SmallVec;

/// What each instance in front of a group calls an address space.
pub(crate) type Spaces = SmallVec<[(Arc<IommuDevice>, SpaceTag); 1]>;

/// An I/O address space.
#[doc(alias = "iommu_domain")]
pub(crate) struct Domain<P: Platform> {
    kind: DomainType,
    table: Option<Arc<dyn PageTable>>,
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
    /// One of `kind`, translated by `table` where there is one. Its lock is labelled `label`.
    pub(crate) fn new(
        kind: DomainType,
        table: Option<Arc<dyn PageTable>>,
        spaces: Spaces,
        reserved: Vec<ReservedRegion>,
        label: u64,
    ) -> Self {
        Self {
            kind,
            table,
            spaces,
            reserved,
            window: Mutex::new(LockLabel::new("space", label), None),
            quarantined: AtomicU64::new(0),
            mapped: AtomicUsize::new(0),
        }
    }

    /// The table, where addresses are translated.
    pub(crate) fn table(&self) -> Option<&Arc<dyn PageTable>> {
        self.table.as_ref()
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
        self.table.as_ref().map_or(1, |table| table.config().granule.bytes())
    }

    /// Finds room for `len` bytes at or below `limit` and maps it to `phys`. All are whole pages.
    pub(crate) fn map(
        &self,
        phys: PhysAddr,
        len: u64,
        limit: Iova,
        prot: Prot,
    ) -> Result<Iova, DmaError> {
        let table = self.table.as_ref().ok_or(DmaError::NotTranslated)?;
        let request = IovaRequest::new(len).up_to(limit);
        let range = self.with_window(table, |window| window.allocate(request))?;
        let iova = range.map_err(DmaError::Iova)?.start();
        if let Err(error) = self.make_room(table, iova, len) {
            if !matches!(error, DmaError::Quarantined { .. }) {
                self.give_back(iova, len);
            }
            return Err(error);
        }
        if let Err(error) = table.map(iova, phys, len, prot) {
            self.give_back(iova, len);
            return Err(DmaError::Map(error));
        }
        self.mapped.fetch_add(1, Ordering::Relaxed);
        Ok(iova)
    }

    /// Takes empty tables out of the way of large leaves. Hardware must have forgotten them before the range is mapped (Arm's break-before-make).
    fn make_room(&self, table: &Arc<dyn PageTable>, iova: Iova, len: u64) -> Result<(), DmaError> {
        let granule = table.config().granule;
        if table.page_sizes().best_fit(iova.raw(), len).is_none_or(|size| size <= granule) {
            return Ok(());
        }
        let mut gather = IotlbGather::new();
        let taken = table.reclaim(iova, len, &mut gather).map_err(DmaError::Unmap)?;
        if taken == 0 { Ok(()) } else { self.settle(table, gather, iova, len) }
    }

    /// Pays what `gather` owes and gives its table pages back, or quarantines what `[iova, iova + len)` stands for.
    fn settle(
        &self,
        table: &Arc<dyn PageTable>,
        mut gather: IotlbGather,
        iova: Iova,
        len: u64,
    ) -> Result<(), DmaError> {
        if let Err((node, error)) = self.flush(&gather) {
            table.quarantine(&mut gather);
            self.quarantined.fetch_add(len, Ordering::Relaxed);
            return Err(DmaError::Quarantined { iova, len, node, error });
        }
        table.retire(gather.confirm());
        Ok(())
    }

    /// Removes the mapping of `[iova, iova + len)` and returns once every instance has confirmed that it forgot it.
    pub(crate) fn unmap(&self, iova: Iova, len: u64) -> Result<(), DmaError> {
        let table = self.table.as_ref().ok_or(DmaError::NotTranslated)?;
        let mut gather = IotlbGather::new();
        table.unmap(iova, len, &mut gather).map_err(DmaError::Unmap)?;
        self.mapped.fetch_sub(1, Ordering::Relaxed);
        self.settle(table, gather, iova, len)?;
        self.give_back(iova, len);
        Ok(())
    }

    /// Pays what `gather` owes at every instance; all are asked even if one fails.
    #[doc(alias = "iommu_iotlb_sync")]
    fn flush(&self, gather: &IotlbGather) -> Result<(), (FwNode, OpsError)> {
        let mut outcome = Ok(());
        for (instance, tag) in &self.spaces {
            if let Err(error) = instance.ops.invalidate(*tag, gather) {
                outcome = Err((instance.node, error));
            }
        }
        outcome
    }

    /// Removes everything that is mapped but the regions that must stay; `false` if an invalidation was not confirmed.
    pub(crate) fn clear(&self) -> bool {
        let left: Vec<IovaRange> = match &*self.window.lock() {
            Some(window) => window.live().collect(),
            None => return true,
        };
        let mut confirmed = true;
        for range in left {
            confirmed &= self.unmap(range.start(), range.len()).is_ok();
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
        table: &Arc<dyn PageTable>,
        f: impl FnOnce(&mut IovaAllocator) -> R,
    ) -> Result<R, DmaError> {
        let mut window = self.window.lock();
        if window.is_none() {
            let granule = table.config().granule;
            let fresh = IovaAllocator::new(granule, table.input_range());
            let mut fresh = fresh.map_err(|_| DmaError::Window("no memory for the allocator"))?;
            // Address 0 is what a driver that forgot to set its address register emits.
            let zero = IovaRange::new(Iova::new(0), granule.bytes()).ok();
            for range in self.reserved.iter().map(|region| region.range).chain(zero) {
                fresh
                    .reserve(range)
                    .map_err(|_| DmaError::Window("a reserved range could not be kept"))?;
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
    /// The first region that could not be mapped.
    pub(crate) fn map_direct_regions(&self) -> Result<(), (ReservedRegion, MapError)> {
        let Some(table) = &self.table else { return Ok(()) };
        for region in self.reserved.iter().filter(|region| region.kind == ReservedKind::Direct) {
            let start = region.range.start();
            let same = PhysAddr::from_raw(start.raw());
            let prot = Prot::READ | Prot::WRITE;
            table.map(start, same, region.range.len(), prot).map_err(|error| (*region, error))?;
        }
        Ok(())
    }
}

impl<P: Platform> fmt::Debug for Domain<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Domain").field("kind", &self.kind).field("spaces", &self.spaces).finish()
    }
}
