//! One I/O address space: its table, its addresses, and what is in quarantine.

mod cache;
mod lazy;
mod window;

use crate::description::{DomainType, FwNode, ReservedKind, ReservedRegion};
use crate::error::{DmaError, Unconfirmed};
use crate::instance::IommuDevice;
use crate::ops::{AddressSpace, MsiDoorbell, OpsError, SpaceError, SpaceTag, Ticket};
use crate::quarantine::LeftSpace;
use crate::reason::SetUpError;
use crate::regions;
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;
use lazy::{Amount, Outcome, Then};
use once_cell::race::OnceBox;
use portcullis_addr::{Address, Iova, IovaRange, PageSizes, PhysAddr, PhysRange, Prot};
use portcullis_iova::IovaRequest;
use portcullis_pgtable::{IotlbGather, UnmapError};
use portcullis_platform::Platform;
use smallvec::SmallVec;
use window::Window;

pub(crate) use cache::AddressCache;
pub(crate) use window::{Holding, LeaseId, User};

/// How many pieces of a list are given to a table at a time.
const PIECES: usize = 32;

/// How many instances are asked to invalidate before the first of them is waited for.
const AT_ONCE: usize = 8;

/// What each instance in front of a group calls an address space.
pub(crate) type Spaces<P> = SmallVec<[(Arc<IommuDevice<P>>, SpaceTag); 1]>;

/// A mapping that waits for a flush.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parked {
    /// The epoch that must be over.
    pub(crate) epoch: u64,
    /// Whether it is the first for a while, so that a timer must learn of it.
    pub(crate) tell_timer: bool,
}

/// An I/O address space.
// In order of use: whoever takes a lease reads the beginning.
#[doc(alias = "iommu_domain")]
#[repr(C)]
pub(crate) struct Domain<P: Platform> {
    kind: DomainType,
    space: Option<Arc<dyn AddressSpace>>,
    /// The space's smallest page, in bytes; 1 where nothing is translated.
    granule: u64,
    /// The smallest leaf above the smallest page, in bytes; 0 where there is none.
    large_leaf: u64,
    /// What each instance in front of the group calls it.
    spaces: Spaces<P>,
    /// The reserved regions, merged.
    reserved: Vec<ReservedRegion>,
    /// Tells its lock from others in reports.
    label: u64,
    /// Made at the first mapping: most domains of a boot are looked at before they are used. Filled once; no step of the explorer, because whoever loses the race to
    /// fill it takes what the winner made.
    window: OnceBox<Window<P>>,
}

impl<P: Platform> Domain<P> {
    /// A domain of `kind`, translated by `space` where there is one. Its lock is labelled `label`.
    pub(crate) fn new(
        kind: DomainType,
        space: Option<Arc<dyn AddressSpace>>,
        spaces: Spaces<P>,
        reserved: Vec<ReservedRegion>,
        label: u64,
    ) -> Self {
        let granule = space.as_ref().map_or(1, |space| space.granule().bytes());
        let page_sizes = space.as_ref().map_or(PageSizes::of(&[]), |space| space.page_sizes());
        let above = page_sizes.bitmap() & !(granule | (granule - 1));
        let large_leaf = above & above.wrapping_neg();
        Self { kind, space, granule, large_leaf, spaces, reserved, label, window: OnceBox::new() }
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

    /// What must be kept of it while hardware may still use it.
    pub(crate) fn left(&self) -> Option<LeftSpace> {
        Some(LeftSpace::new(Arc::clone(self.space.as_ref()?), self.quarantined()))
    }

    /// A reference that does not keep the table or channel, which exists for as long as anything may use it, hardware included.
    pub(crate) fn downgrade(&self) -> Option<Weak<dyn AddressSpace>> {
        self.space.as_ref().map(Arc::downgrade)
    }

    pub(crate) fn kind(&self) -> DomainType {
        self.kind
    }

    /// Bytes in quarantine: their frames and addresses are not used again before hardware confirmed that it forgot them. What is parked is among them once a flush was not confirmed.
    pub(crate) fn quarantined(&self) -> u64 {
        let (bytes, parked) = self.window.get().map_or((0, 0), Window::quarantined);
        bytes + parked * self.granule
    }

    /// Mappings that are in force.
    pub(crate) fn mapped(&self) -> usize {
        self.window.get().map_or(0, Window::mapped)
    }

    /// Those of them that the lease of `holding` has made.
    pub(crate) fn live(&self, holding: &Holding<P>) -> usize {
        self.window.get().map_or(0, |window| window.mapped_by(holding))
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

    /// What `lease` needs before it can map.
    #[cold]
    pub(crate) fn admit(&self, lease: LeaseId) -> Result<Arc<Holding<P>>, DmaError> {
        let space = self.space.as_ref().ok_or(DmaError::NotTranslated)?;
        let make = || {
            let (granule, input) = (space.granule(), space.input_range());
            Window::new(granule, input, &self.reserved, self.label).map(Box::new)
        };
        Ok(self.window.get_or_try_init(make)?.admit(lease))
    }

    /// The space and its addresses; a lease that has a holding finds both.
    #[inline]
    fn parts(&self) -> Result<(&dyn AddressSpace, &Window<P>), DmaError> {
        match (&self.space, self.window.get()) {
            (Some(space), Some(window)) => Ok((&**space, window)),
            _ => Err(DmaError::NotTranslated),
        }
    }

    /// Finds room for `request` and maps it to `phys` for `user`. All are whole pages.
    ///
    /// # Errors
    ///
    /// [`DmaError::Quarantined`]: hardware may have the mapping or not. Otherwise nothing is mapped.
    #[inline]
    pub(crate) fn map(
        &self,
        user: &User<'_, P>,
        phys: PhysAddr,
        request: IovaRequest,
        prot: Prot,
    ) -> Result<IovaRange, DmaError> {
        self.place(user, request, |space, range| self.map_at(space, range, phys, prot))
    }

    /// As [`map`](Self::map) with an address of `cache`, which the caller has to itself, if one is kept and the table takes the pages as it is. `None` without an error: nothing has happened.
    #[inline(always)]
    pub(crate) fn map_at_once(
        &self,
        cache: &AddressCache<P>,
        (phys, request): (PhysAddr, IovaRequest),
        prot: Prot,
        error: &mut Option<DmaError>,
    ) -> Option<IovaRange> {
        let space = self.space.as_deref()?;
        let range = cache.take(&request)?;
        if self.needs_room(range, phys) {
            cache.give(range);
            return None;
        }
        let mut gather = IotlbGather::new();
        let mapped = space.map(range.start(), phys, range.len(), prot, &mut gather);
        if mapped.is_ok() && gather.is_empty() {
            return Some(range);
        }
        self.not_at_once(cache, range, mapped.map(|()| gather), error)
    }

    /// What is left to do for a map of `range` that was refused, or has made a debt.
    #[cold]
    fn not_at_once(
        &self,
        cache: &AddressCache<P>,
        range: IovaRange,
        mapped: Result<IotlbGather, SpaceError>,
        error: &mut Option<DmaError>,
    ) -> Option<IovaRange> {
        let (space, window) = self.parts().ok()?;
        let mapped = mapped.map_err(|error| self.refused(error, range));
        match mapped.and_then(|gather| self.confirm_map(space, range, gather)) {
            Ok(()) => return Some(range),
            Err(found) => {
                match found {
                    DmaError::Quarantined { .. } => window.quarantine(range),
                    _ => _ = cache.give(range),
                }
                *error = Some(found);
            }
        }
        None
    }

    /// As [`map`](Self::map) for `pieces` of memory one behind the other, which are as long together as `request` says.
    pub(crate) fn map_list(
        &self,
        user: &User<'_, P>,
        request: IovaRequest,
        pieces: impl Iterator<Item = PhysRange>,
        prot: Prot,
    ) -> Result<IovaRange, DmaError> {
        self.place(user, request, |space, range| {
            if range.len() >= self.large_leaf && self.large_leaf != 0 {
                self.make_room(space, range)?;
            }
            self.lead_list(space, range, pieces, prot)
        })
    }

    /// Finds room for `request` and has `map` map it; addresses that were not used are given back.
    #[inline]
    fn place(
        &self,
        user: &User<'_, P>,
        request: IovaRequest,
        map: impl FnOnce(&dyn AddressSpace, IovaRange) -> Result<(), DmaError>,
    ) -> Result<IovaRange, DmaError> {
        let (space, window) = self.parts()?;
        let range = window.allocate(user, request).map_err(DmaError::Iova)?;
        match map(space, range) {
            Ok(()) => Ok(range),
            Err(error @ (DmaError::Quarantined { .. } | DmaError::Unconfirmed(_))) => {
                window.quarantine(range);
                Err(error)
            }
            Err(error) => {
                window.give_back(user, range);
                Err(error)
            }
        }
    }

    #[inline]
    fn map_at(
        &self,
        space: &dyn AddressSpace,
        range: IovaRange,
        phys: PhysAddr,
        prot: Prot,
    ) -> Result<(), DmaError> {
        if self.needs_room(range, phys) {
            self.make_room(space, range)?;
        }
        self.lead(space, range, phys, prot)
    }

    /// Whether `range`, mapped to `phys`, can have a large leaf, in whose place an empty table may stand.
    #[inline]
    fn needs_room(&self, range: IovaRange, phys: PhysAddr) -> bool {
        // A leaf of that size fits only where both addresses have the same offset in it.
        let large = self.large_leaf;
        let apart = (range.start().raw() ^ phys.raw()) & large.wrapping_sub(1);
        range.len() >= large && large != 0 && apart == 0
    }

    /// Takes empty tables out of the way of large leaves. Hardware must have forgotten them before the range is mapped (Arm's break-before-make).
    #[inline(never)]
    fn make_room(&self, space: &dyn AddressSpace, range: IovaRange) -> Result<(), DmaError> {
        let mut gather = IotlbGather::new();
        let taken = space.reclaim(range.start(), range.len(), &mut gather);
        match taken.map_err(|error| self.refused(error, range))? {
            0 => Ok(()),
            _ => self.settle(space, &mut gather).map_err(DmaError::Unconfirmed),
        }
    }

    /// Makes the mapping itself.
    #[inline]
    fn lead(
        &self,
        space: &dyn AddressSpace,
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
        self.confirm_map(space, range, gather)
    }

    /// Maps the pieces, [`PIECES`] at a time.
    fn lead_list(
        &self,
        space: &dyn AddressSpace,
        range: IovaRange,
        mut pieces: impl Iterator<Item = PhysRange>,
        prot: Prot,
    ) -> Result<(), DmaError> {
        let (mut gather, mut done) = (IotlbGather::new(), 0);
        loop {
            let some: SmallVec<[PhysRange; PIECES]> = pieces.by_ref().take(PIECES).collect();
            if some.is_empty() {
                break;
            }
            let at = Iova::new(range.start().raw() + done);
            if let Err(error) = space.map_segments(at, &some, prot, &mut gather) {
                return Err(self.undo(space, range, done, self.refused(error, range)));
            }
            done += some.iter().map(PhysRange::len).sum::<u64>();
        }
        debug_assert_eq!(done, range.len(), "the pieces are as long as was asked for");
        if gather.is_empty() { Ok(()) } else { self.confirm_map(space, range, gather) }
    }

    /// Takes the first `done` bytes of `range` out again because of `error`; what to say of all.
    #[cold]
    fn undo(
        &self,
        space: &dyn AddressSpace,
        range: IovaRange,
        done: u64,
        error: DmaError,
    ) -> DmaError {
        let Ok(mapped) = IovaRange::new(range.start(), done) else { return error };
        let mut gather = IotlbGather::new();
        let taken = self.take_out(space, mapped, &mut gather);
        match taken.and(self.settle(space, &mut gather)) {
            Ok(()) => error,
            Err(unconfirmed) => unconfirmed.of(range),
        }
    }

    /// Pays what a map owes.
    #[cold]
    fn confirm_map(
        &self,
        space: &dyn AddressSpace,
        range: IovaRange,
        mut gather: IotlbGather,
    ) -> Result<(), DmaError> {
        self.settle(space, &mut gather).map_err(|unconfirmed| {
            let mut gather = IotlbGather::new();
            // It is in quarantine, whatever comes of this.
            let _also_unconfirmed = self.take_out(space, range, &mut gather);
            space.quarantine(&mut gather);
            unconfirmed.of(range)
        })
    }

    /// What a space's refusal means for `range`: where a request may have been carried out, neither addresses nor frames are used again.
    #[cold]
    fn refused(&self, error: SpaceError, range: IovaRange) -> DmaError {
        match error {
            SpaceError::Map(error) => DmaError::Map(error),
            SpaceError::Unmap(error) => DmaError::Unmap(error),
            SpaceError::Protect(error) => DmaError::Protect(error),
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
    #[inline]
    fn settle(
        &self,
        space: &dyn AddressSpace,
        gather: &mut IotlbGather,
    ) -> Result<(), Unconfirmed> {
        let flushed = self.flush(gather);
        match flushed {
            Ok(()) if gather.tables() == 0 => {}
            Ok(()) => space.retire(gather.confirm()),
            Err(_) => space.quarantine(gather),
        }
        flushed
    }

    /// Removes the mapping of `range` and returns once every instance has confirmed that it forgot it.
    ///
    /// # Errors
    ///
    /// [`DmaError::Quarantined`]: hardware may still have it, and the range stays taken. Otherwise it is mapped as before.
    #[inline(always)]
    pub(crate) fn unmap(&self, user: &User<'_, P>, range: IovaRange) -> Result<(), DmaError> {
        let (space, window) = self.parts()?;
        let mut gather = IotlbGather::new();
        let removed = space.unmap(range.start(), range.len(), &mut gather);
        let removed = removed
            .map_err(|error| self.refused(error, range))
            .and_then(|()| self.settle(space, &mut gather).map_err(|error| error.of(range)));
        match removed {
            Ok(()) => window.give_back(user, range),
            Err(DmaError::Quarantined { .. }) => window.quarantine(range),
            Err(_) => {}
        }
        removed
    }

    /// Allows the device what `prot` says in `range`, which is mapped, and returns once every instance has confirmed that it goes by it.
    ///
    /// # Errors
    ///
    /// [`DmaError::NotTurned`]: hardware may go by what was allowed before. Otherwise everything is as before.
    pub(crate) fn protect(&self, range: IovaRange, prot: Prot) -> Result<(), DmaError> {
        let (space, _) = self.parts()?;
        let mut gather = IotlbGather::new();
        let changed = space.protect(range.start(), range.len(), prot, &mut gather);
        changed.map_err(|error| self.refused(error, range))?;
        self.settle(space, &mut gather).map_err(DmaError::NotTurned)
    }

    /// Reserves addresses.
    pub(crate) fn reserve(
        &self,
        user: &User<'_, P>,
        request: IovaRequest,
    ) -> Result<IovaRange, DmaError> {
        let (_, window) = self.parts()?;
        window.allocate(user, request).map_err(DmaError::Iova)
    }

    /// Maps memory at byte `at` of `run`, which is reserved; what that owes is left in `gather`.
    pub(crate) fn link(
        &self,
        run: IovaRange,
        at: u64,
        (phys, len): (PhysAddr, u64),
        prot: Prot,
        gather: &mut IotlbGather,
    ) -> Result<(), DmaError> {
        let (space, _) = self.parts()?;
        let iova = Iova::new(run.start().raw() + at);
        space.map(iova, phys, len, prot, gather).map_err(|error| self.refused(error, run))
    }

    /// Pays what maps owe; where hardware does not confirm, it stays owed.
    pub(crate) fn sync(&self, owed: &mut IotlbGather) -> Result<(), DmaError> {
        self.flush(owed).map_err(DmaError::NotFlushed)?;
        // Maps take no tables out.
        drop(owed.confirm());
        Ok(())
    }

    /// As [`unmap`](Self::unmap), for a range whose end may not be mapped.
    pub(crate) fn unmap_run(&self, user: &User<'_, P>, range: IovaRange) -> Result<(), DmaError> {
        let (space, window) = self.parts()?;
        let mut gather = IotlbGather::new();
        let taken = self.take_out(space, range, &mut gather);
        let taken = taken.and(self.settle(space, &mut gather));
        match taken {
            Ok(()) => window.give_back(user, range),
            Err(_) => window.quarantine(range),
        }
        taken.map_err(|unconfirmed| unconfirmed.of(range))
    }

    /// As [`unmap`](Self::unmap), but where the domain is lazy hardware may hold the mapping until a flush.
    ///
    /// # Errors
    ///
    /// As [`unmap`](Self::unmap).
    pub(crate) fn unmap_later(
        &self,
        user: &User<'_, P>,
        range: IovaRange,
    ) -> Result<Option<Parked>, DmaError> {
        if self.kind != DomainType::DmaLazy {
            return self.unmap(user, range).map(|()| None);
        }
        let (space, window) = self.parts()?;
        // What it owes, the flush pays with everything else; an unmap never takes tables out.
        let mut owed = IotlbGather::new();
        if let Err(error) = space.unmap(range.start(), range.len(), &mut owed) {
            let error = self.refused(error, range);
            if matches!(error, DmaError::Quarantined { .. }) {
                window.quarantine(range);
            }
            return Err(error);
        }
        let parking = user.holding.parking_for(user.platform);
        let Outcome { epoch, then } = parking.park(user.platform, self.amount(range));
        if then == Then::Flush {
            // Who redeems is told again what is not confirmed.
            let _parked_as_before = self.end_epoch(user, epoch);
        }
        Ok(Some(Parked { epoch, tell_timer: then == Then::TellTimer }))
    }

    fn amount(&self, range: IovaRange) -> Amount {
        Amount::one(range.len() / self.granule)
    }

    /// Returns once hardware has forgotten what was parked in `epoch` and before.
    ///
    /// # Errors
    ///
    /// It did not confirm: all of it is parked as before.
    pub(crate) fn await_flush(&self, user: &User<'_, P>, epoch: u64) -> Result<(), Unconfirmed> {
        match user.holding.parking() {
            Some(parking) if !parking.is_over(epoch) => self.end_epoch(user, epoch),
            _ => Ok(()),
        }
    }

    /// Takes back the addresses of what was parked, which hardware has forgotten.
    pub(crate) fn take_back_parked(
        &self,
        user: &User<'_, P>,
        ranges: impl Iterator<Item = IovaRange>,
    ) {
        let (Ok((_, window)), Some(parking)) = (self.parts(), user.holding.parking()) else {
            return;
        };
        let mut gone = Amount::default();
        ranges.for_each(|range| {
            gone.add(self.amount(range));
            window.give_back(user, range);
        });
        parking.take_away(user.platform, gone);
    }

    /// Has hardware forget all that the user's lease has parked since the last flush.
    pub(crate) fn flush_parked(&self, user: &User<'_, P>) -> Result<(), DmaError> {
        match user.holding.parking().filter(|parking| parking.due().is_some()) {
            Some(parking) => self.end_epoch(user, parking.latest()).map_err(DmaError::NotFlushed),
            None => Ok(()),
        }
    }

    /// Has every instance forget the whole space, which ends what the user's lease had parked up to `epoch`.
    fn end_epoch(&self, user: &User<'_, P>, epoch: u64) -> Result<(), Unconfirmed> {
        let (Ok((space, _)), Some(parking)) = (self.parts(), user.holding.parking()) else {
            return Ok(());
        };
        parking.flush(user.platform, epoch, || {
            let mut everything = IotlbGather::new();
            everything.add_everything();
            self.settle(space, &mut everything)
        })
    }

    /// Asks once more for the confirmation that an unmap of `range` did not get.
    ///
    /// # Errors
    ///
    /// [`DmaError::Quarantined`]: it did not come this time either.
    pub(crate) fn confirm(&self, user: &User<'_, P>, range: IovaRange) -> Result<(), DmaError> {
        let (space, window) = self.parts()?;
        let mut gather = IotlbGather::new();
        let taken = self.take_out(space, range, &mut gather);
        gather.add_everything();
        taken.and(self.settle(space, &mut gather)).map_err(|unconfirmed| unconfirmed.of(range))?;
        window.free(user.holding, range);
        Ok(())
    }

    /// Removes what may be mapped at `range`. It may be gone from the table already, but never confirmed.
    fn take_out(
        &self,
        space: &dyn AddressSpace,
        range: IovaRange,
        gather: &mut IotlbGather,
    ) -> Result<(), Unconfirmed> {
        match space.unmap(range.start(), range.len(), gather) {
            Ok(()) => Ok(()),
            Err(SpaceError::Unmap(UnmapError::NotMapped { iova })) if range.contains(iova) => {
                // The beginning is mapped, of a run that was not filled; or nothing is, any more.
                match IovaRange::new(range.start(), iova.raw() - range.start().raw()) {
                    Ok(beginning) => self.take_out(space, beginning, gather),
                    Err(_) => {
                        gather.add_everything();
                        Ok(())
                    }
                }
            }
            Err(SpaceError::Unmap(UnmapError::NotMapped { .. })) => {
                gather.add_everything();
                Ok(())
            }
            Err(SpaceError::Request(error)) => Err(self.unanswered(error)),
            Err(error @ (SpaceError::Unmap(_) | SpaceError::Map(_) | SpaceError::Protect(_))) => {
                debug_assert!(false, "a range that was handed out cannot be unmapped: {error}");
                Err(self.unanswered(OpsError::IncompatibleSpace))
            }
        }
    }

    /// Pays what `gather` owes at every instance.
    #[doc(alias = "iommu_iotlb_sync")]
    #[inline]
    fn flush(&self, gather: &IotlbGather) -> Result<(), Unconfirmed> {
        match self.spaces.as_slice() {
            [(only, tag)] => {
                only.ops.invalidate(*tag, gather).map_err(|error| only.unconfirmed(error))
            }
            all => Self::flush_all(all, gather),
        }
    }

    /// As [`flush`](Self::flush) for several: they are asked before the first is waited for, [`AT_ONCE`] at a time, also if one fails.
    #[inline(never)]
    fn flush_all(
        all: &[(Arc<IommuDevice<P>>, SpaceTag)],
        gather: &IotlbGather,
    ) -> Result<(), Unconfirmed> {
        let mut outcome = Ok(());
        for some in all.chunks(AT_ONCE) {
            let mut tickets: [Option<Result<Ticket, OpsError>>; AT_ONCE] = [None; AT_ONCE];
            for (place, (instance, tag)) in tickets.iter_mut().zip(some) {
                *place = Some(instance.ops.submit(*tag, gather));
            }
            for ((instance, _), ticket) in some.iter().zip(tickets.into_iter().flatten()) {
                if let Err(error) = ticket.and_then(|ticket| instance.ops.wait(ticket)) {
                    outcome = Err(instance.unconfirmed(error));
                }
            }
        }
        outcome
    }

    /// Gives back the addresses that CPU `cpu` keeps for the lease of `holding`. For whoever has that CPU's slot.
    pub(crate) fn give_back_cached(&self, holding: &Holding<P>, cpu: usize) {
        if let Some(window) = self.window.get() {
            window.give_back_cached(holding, cpu);
        }
    }

    /// Removes everything that the lease of `holding` has left mapped, with one invalidation; what it had in quarantine is free again when that is confirmed. Nobody
    /// may map or unmap for the lease any more.
    ///
    /// # Errors
    ///
    /// What was left is in quarantine now.
    pub(crate) fn clear(&self, holding: &Holding<P>) -> Result<(), Unconfirmed> {
        let Ok((space, window)) = self.parts() else { return Ok(()) };
        let left = window.of(holding);
        let cleared = self.take_all_out(space, &left);
        for range in left {
            match cleared {
                Ok(()) => window.free(holding, range),
                Err(_) => window.quarantine(range),
            }
        }
        if let Some(parking) = holding.parking() {
            parking.hand_over();
        }
        if cleared.is_ok() {
            window.dismiss(holding, || free_tables(space));
        }
        cleared
    }

    fn take_all_out(
        &self,
        space: &dyn AddressSpace,
        ranges: &[IovaRange],
    ) -> Result<(), Unconfirmed> {
        if ranges.is_empty() {
            return Ok(());
        }
        let mut gather = IotlbGather::new();
        let mut taken = Ok(());
        for range in ranges {
            // All of them, also after one that was not confirmed.
            taken = taken.and(self.take_out(space, *range, &mut gather));
        }
        self.settle(space, &mut gather).and(taken)
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

/// Frees the tables that large leaves have replaced. Only while no lease can be using the space.
#[expect(unsafe_code, reason = "nobody else can know that no thread walks the table")]
fn free_tables(space: &dyn AddressSpace) {
    // SAFETY: the core maps and unmaps for leases only (and before a domain is shown); the caller excludes all of them, and who ended has left its gate. A driver that was
    // told of the space leaves its contents alone, by the contract of `AddressSpace`.
    unsafe { space.free_retired() };
}

impl<P: Platform> fmt::Debug for Domain<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Domain").field("kind", &self.kind).field("spaces", &self.spaces).finish()
    }
}
