//! One I/O address space: its table, its addresses, and what is in quarantine.

mod window;

use crate::description::{DomainType, FwNode, ReservedKind, ReservedRegion};
use crate::error::{DmaError, Unconfirmed};
use crate::instance::IommuDevice;
use crate::ops::{AddressSpace, MsiDoorbell, OpsError, SpaceError, SpaceTag, Ticket};
use crate::quarantine::LeftSpace;
use crate::reason::SetUpError;
use crate::regions;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;
use portcullis_addr::{Address, Iova, IovaRange, PageSizes, PhysAddr, Prot};
use portcullis_iova::IovaRequest;
use portcullis_pgtable::{IotlbGather, UnmapError};
use portcullis_platform::{Lock, LockLabel, Mutex, Platform};
use smallvec::SmallVec;
use window::Window;

pub(crate) use window::LeaseId;

/// What each instance in front of a group calls an address space.
pub(crate) type Spaces<P> = SmallVec<[(Arc<IommuDevice<P>>, SpaceTag); 1]>;

/// An I/O address space.
#[doc(alias = "iommu_domain")]
pub(crate) struct Domain<P: Platform> {
    kind: DomainType,
    space: Option<Arc<dyn AddressSpace>>,
    /// The space's smallest page, in bytes; 1 where nothing is translated.
    granule: u64,
    /// The space's leaf sizes.
    page_sizes: PageSizes,
    /// What each instance in front of the group calls it.
    spaces: Spaces<P>,
    /// What is spoken for, merged.
    reserved: Vec<ReservedRegion>,
    /// Made at the first mapping: most domains of a boot are looked at before they are used.
    window: Lock<P, Option<Window>>,
}

impl<P: Platform> Domain<P> {
    /// One of `kind`, translated by `space` where there is one. Its lock is labelled `label`.
    pub(crate) fn new(
        kind: DomainType,
        space: Option<Arc<dyn AddressSpace>>,
        spaces: Spaces<P>,
        reserved: Vec<ReservedRegion>,
        label: u64,
    ) -> Self {
        let granule = space.as_ref().map_or(1, |space| space.granule().bytes());
        let page_sizes = space.as_ref().map_or(PageSizes::of(&[]), |space| space.page_sizes());
        Self {
            kind,
            space,
            granule,
            page_sizes,
            spaces,
            reserved,
            window: Mutex::new(LockLabel::new("space", label), None),
        }
    }

    /// The instances that translate it, with the name that each has for it.
    pub(crate) fn spaces(&self) -> &Spaces<P> {
        &self.spaces
    }

    /// Whether `region` was kept out of the addresses when the domain was made.
    pub(crate) fn keeps(&self, region: &ReservedRegion) -> bool {
        let keeps =
            |kept: &ReservedRegion| kept.kind == region.kind && kept.range.covers(&region.range);
        self.reserved.iter().any(keeps)
    }

    /// What is left of it when hardware may still use it.
    pub(crate) fn left(&self) -> Option<LeftSpace> {
        Some(LeftSpace::new(Arc::clone(self.space.as_ref()?), self.quarantined()))
    }

    /// Says, without keeping it, whether the table or channel is still there: it is as long as anything may use it, hardware included.
    pub(crate) fn downgrade(&self) -> Option<Weak<dyn AddressSpace>> {
        self.space.as_ref().map(Arc::downgrade)
    }

    pub(crate) fn kind(&self) -> DomainType {
        self.kind
    }

    /// Bytes in quarantine: their frames and addresses are not used again before hardware confirmed that it forgot them.
    pub(crate) fn quarantined(&self) -> u64 {
        self.window.lock().as_ref().map_or(0, Window::quarantined)
    }

    /// Mappings that are in force.
    pub(crate) fn mapped(&self) -> usize {
        self.window.lock().as_ref().map_or(0, Window::mapped)
    }

    /// Those of them that `lease` has made.
    pub(crate) fn live(&self, lease: LeaseId) -> usize {
        self.window.lock().as_ref().map_or(0, |window| window.mapped_by(lease))
    }

    /// The smallest page, in bytes; 1 where nothing is translated.
    pub(crate) fn granule(&self) -> u64 {
        self.granule
    }

    /// Whether writes to `doorbell` are interrupts that hardware takes before it translates.
    pub(crate) fn takes_interrupts_at(&self, doorbell: PhysAddr) -> bool {
        self.spaces.iter().any(|(instance, _)| match instance.ops.capabilities().msi {
            MsiDoorbell::Window(window) => window.contains(Iova::new(doorbell.raw())),
            MsiDoorbell::Translated => false,
        })
    }

    /// Finds room for `len` bytes at or below `limit` and maps it to `phys` for `lease`. All are whole pages.
    ///
    /// # Errors
    ///
    /// [`DmaError::Quarantined`]: hardware may have the mapping or not. Otherwise nothing is mapped.
    pub(crate) fn map(
        &self,
        lease: LeaseId,
        (phys, len): (PhysAddr, u64),
        limit: Iova,
        prot: Prot,
    ) -> Result<IovaRange, DmaError> {
        let space = self.space.as_ref().ok_or(DmaError::NotTranslated)?;
        let range = self.allocate(space, lease, IovaRequest::new(len).up_to(limit))?;
        let mapped =
            self.make_room(space, range).and_then(|()| self.lead(space, range, phys, prot));
        match mapped {
            Ok(()) => return Ok(range),
            Err(DmaError::Quarantined { .. } | DmaError::Unconfirmed(_)) => self.quarantine(range),
            Err(_) => self.give_back(range),
        }
        mapped.map(|()| range)
    }

    fn allocate(
        &self,
        space: &Arc<dyn AddressSpace>,
        lease: LeaseId,
        request: IovaRequest,
    ) -> Result<IovaRange, DmaError> {
        let mut window = self.window.lock();
        if window.is_none() {
            *window = Some(Window::new(space.granule(), space.input_range(), &self.reserved)?);
        }
        let window = window.as_mut().expect("made above");
        window.allocate(lease, request).map_err(DmaError::Iova)
    }

    /// Takes empty tables out of the way of large leaves. Hardware must have forgotten them before the range is mapped (Arm's break-before-make).
    fn make_room(&self, space: &Arc<dyn AddressSpace>, range: IovaRange) -> Result<(), DmaError> {
        let best = || self.page_sizes.best_fit(range.start().raw(), range.len());
        if range.len() == self.granule || best().is_none_or(|size| size.bytes() <= self.granule) {
            return Ok(());
        }
        let mut gather = IotlbGather::new();
        let taken = space.reclaim(range.start(), range.len(), &mut gather);
        match taken.map_err(|error| self.refused(error, range))? {
            0 => Ok(()),
            _ => self.settle(space, gather).map_err(DmaError::Unconfirmed),
        }
    }

    /// Makes the mapping itself.
    fn lead(
        &self,
        space: &Arc<dyn AddressSpace>,
        range: IovaRange,
        phys: PhysAddr,
        prot: Prot,
    ) -> Result<(), DmaError> {
        let mut gather = IotlbGather::new();
        let mapped = space.map(range.start(), phys, range.len(), prot, &mut gather);
        mapped.map_err(|error| self.refused(error, range))?;
        // Nothing is owed unless hardware may hold "not present" or an older root.
        if gather.is_empty() {
            return Ok(());
        }
        self.settle(space, gather).map_err(|unconfirmed| {
            let mut gather = IotlbGather::new();
            // It is in quarantine, whatever comes of this.
            let _also_unconfirmed = self.take_out(space, range, &mut gather);
            space.quarantine(&mut gather);
            unconfirmed.of(range)
        })
    }

    /// What a space's refusal means for `range`: where a request may have been carried out, neither addresses nor frames are used again.
    fn refused(&self, error: SpaceError, range: IovaRange) -> DmaError {
        match error {
            SpaceError::Map(error) => DmaError::Map(error),
            SpaceError::Unmap(error) => DmaError::Unmap(error),
            SpaceError::Request(error) => {
                let unconfirmed = self.unanswered(error);
                if error.is_unconfirmed() {
                    return unconfirmed.of(range);
                }
                DmaError::Refused(unconfirmed.node, error)
            }
        }
    }

    /// A space that is a channel is bound at the one instance that made it.
    fn unanswered(&self, error: OpsError) -> Unconfirmed {
        let node = self.spaces.first().map_or(FwNode(u32::MAX), |(first, _)| first.node);
        Unconfirmed { node, error }
    }

    /// Pays what `gather` owes and gives its table pages back; where hardware does not confirm, they stay with the space.
    fn settle(
        &self,
        space: &Arc<dyn AddressSpace>,
        mut gather: IotlbGather,
    ) -> Result<(), Unconfirmed> {
        let flushed = self.flush(&gather);
        match flushed {
            Ok(()) => space.retire(gather.confirm()),
            Err(_) => space.quarantine(&mut gather),
        }
        flushed
    }

    /// Removes the mapping of `range` and returns once every instance has confirmed that it forgot it.
    ///
    /// # Errors
    ///
    /// [`DmaError::Quarantined`]: hardware may still have it, and the range stays taken. Otherwise it is mapped as before.
    pub(crate) fn unmap(&self, range: IovaRange) -> Result<(), DmaError> {
        let space = self.space.as_ref().ok_or(DmaError::NotTranslated)?;
        let mut gather = IotlbGather::new();
        let removed = space.unmap(range.start(), range.len(), &mut gather);
        let removed = removed.map_err(|error| self.refused(error, range));
        match removed.and_then(|()| self.settle(space, gather).map_err(|error| error.of(range))) {
            Ok(()) => {
                self.give_back(range);
                Ok(())
            }
            Err(error) => {
                if matches!(error, DmaError::Quarantined { .. }) {
                    self.quarantine(range);
                }
                Err(error)
            }
        }
    }

    /// Asks once more for the confirmation that an unmap of `range` did not get.
    ///
    /// # Errors
    ///
    /// [`DmaError::Quarantined`]: it did not come this time either.
    pub(crate) fn confirm(&self, range: IovaRange) -> Result<(), DmaError> {
        let space = self.space.as_ref().ok_or(DmaError::NotTranslated)?;
        let mut gather = IotlbGather::new();
        let taken = self.take_out(space, range, &mut gather);
        gather.add_everything();
        taken.and(self.settle(space, gather)).map_err(|unconfirmed| unconfirmed.of(range))?;
        if let Some(window) = &mut *self.window.lock() {
            window.free(range);
        }
        Ok(())
    }

    /// Takes out what may be mapped at `range`, or gone from the table already and never confirmed.
    fn take_out(
        &self,
        space: &Arc<dyn AddressSpace>,
        range: IovaRange,
        gather: &mut IotlbGather,
    ) -> Result<(), Unconfirmed> {
        match space.unmap(range.start(), range.len(), gather) {
            Ok(()) => Ok(()),
            Err(SpaceError::Unmap(UnmapError::NotMapped { .. })) => {
                gather.add_everything();
                Ok(())
            }
            Err(SpaceError::Request(error)) => Err(self.unanswered(error)),
            Err(error @ (SpaceError::Unmap(_) | SpaceError::Map(_))) => {
                debug_assert!(false, "a range that was handed out cannot be unmapped: {error}");
                Err(self.unanswered(OpsError::IncompatibleSpace))
            }
        }
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

    /// Removes everything that `lease` has left mapped, with one invalidation; what it had in quarantine is free again when that is confirmed. Nobody
    /// may map or unmap for the lease any more.
    ///
    /// # Errors
    ///
    /// What was left is in quarantine now.
    pub(crate) fn clear(&self, lease: LeaseId) -> Result<(), Unconfirmed> {
        let Some(space) = &self.space else { return Ok(()) };
        let left = self.window.lock().as_ref().map_or_else(Vec::new, |window| window.of(lease));
        if left.is_empty() {
            return Ok(());
        }
        let mut gather = IotlbGather::new();
        let mut taken = Ok(());
        for range in &left {
            // All of them, also after one that was not confirmed.
            taken = taken.and(self.take_out(space, *range, &mut gather));
        }
        let cleared = self.settle(space, gather).and(taken);
        if let Some(window) = &mut *self.window.lock() {
            left.into_iter().for_each(|range| match cleared {
                Ok(()) => window.free(range),
                Err(_) => window.quarantine(range),
            });
        }
        cleared
    }

    fn give_back(&self, range: IovaRange) {
        if let Some(window) = &mut *self.window.lock() {
            window.free(range);
        }
    }

    fn quarantine(&self, range: IovaRange) {
        if let Some(window) = &mut *self.window.lock() {
            window.quarantine(range);
        }
    }

    /// Maps every region that must be reached at its own address, in whole pages; `coherent` says whether all devices behind it snoop.
    ///
    /// # Errors
    ///
    /// The first region that could not be mapped, or an instance that did not confirm.
    pub(crate) fn map_direct_regions(&self, coherent: bool) -> Result<(), SetUpError> {
        let Some(space) = &self.space else { return Ok(()) };
        let mut gather = IotlbGather::new();
        let mut prot = Prot::READ | Prot::WRITE;
        prot.set(Prot::CACHE, coherent);
        for range in regions::direct(&self.reserved, space.granule().bytes()) {
            let same = PhysAddr::from_raw(range.start().raw());
            let mapped = space.map(range.start(), same, range.len(), prot, &mut gather);
            let region = ReservedRegion { range, kind: ReservedKind::Direct };
            mapped.map_err(|error| SetUpError::Direct(region, error))?;
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
