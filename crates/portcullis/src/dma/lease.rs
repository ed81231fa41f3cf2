//! One bind's right to map, shared by all clones of its handle.

mod lazy;

use super::grant::{Grant, Placed};
use super::lend::{Loan, MemoryKind};
use super::list::whole_pages;
use super::pool::PagePool;
use crate::description::{DeviceDescription, DomainType};
use crate::error::{DmaError, Unconfirmed};
use crate::hooks::{Safeguard, omitted};
use crate::member::DeviceId;
use crate::ops::AddressSpace;
use crate::revocable::Revocable;
use crate::segments::SegmentLimits;
use crate::space::{Domain, Holding, LeaseId, User};
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use once_cell::race::OnceBox;
use portcullis_addr::{Iova, IovaRange, PhysAddr, PhysRange, Prot};
use portcullis_iova::{AllocateError, IovaRequest};
use portcullis_pgtable::IotlbGather;
use portcullis_platform::{Lock, LockLabel, Mutex, PageLayout, Platform, RawEvent};

/// How a device's addresses become bus addresses. Final while a driver is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reach {
    /// Through the tables of an IOMMU.
    Translated,
    /// Through an IOMMU that changes nothing, because policy says so.
    Identity,
    /// The description names no IOMMU for the device.
    Direct,
    /// The device reaches nothing.
    Blocked,
    /// Nobody knows: the IOMMU in front of the device does not serve, and is not known to refuse its accesses, or did not confirm that it does. The one sure
    /// remedy is to keep the device from doing DMA, e.g. by clearing its bus mastering. Never the reach of a bound device.
    Unknown,
}

/// Where a device may write interrupts.
struct Doorbell {
    at: PhysAddr,
    /// Where the device must write for that; `None` until somebody asked.
    address: Option<Iova>,
}

/// How a lease ended.
#[derive(Default)]
struct End {
    /// Whether it was confirmed at that moment that nothing of it is reached any more; `None` while it has not ended.
    outcome: Option<Result<(), Unconfirmed>>,
    /// The address space that it used. Where the end was not confirmed, that is kept alive until hardware has confirmed after all, and not longer.
    space: Option<Weak<dyn AddressSpace>>,
}

impl End {
    /// What is known by now; `None` while it has not ended.
    fn so_far(&self) -> Option<Result<(), Unconfirmed>> {
        let freed = self.space.as_ref().is_some_and(|space| space.strong_count() == 0);
        self.outcome.map(|outcome| if freed { Ok(()) } else { outcome })
    }
}

/// The address space as one lease has it.
struct Access<P: Platform> {
    space: Arc<Domain<P>>,
    /// From the first mapping on. Filled once; no step of the explorer, because everybody is given the same.
    holding: OnceBox<Arc<Holding<P>>>,
}

impl<P: Platform> Access<P> {
    #[inline]
    fn holding(&self, lease: LeaseId) -> Result<&Holding<P>, DmaError> {
        match self.holding.get() {
            Some(holding) => Ok(holding),
            None => self.admit(lease),
        }
    }

    #[cold]
    fn admit(&self, lease: LeaseId) -> Result<&Holding<P>, DmaError> {
        let admit = || self.space.admit(lease).map(Box::new);
        self.holding.get_or_try_init(admit).map(|holding| &**holding)
    }
}

/// The doorbells that a device may ask for, with a lock; `None` without any.
type Doorbells<P> = Option<Box<Lock<P, Vec<Doorbell>>>>;

/// A doorbell is a register of 32 bits (Arm IHI 0069, `GITS_TRANSLATER`; Arm BSA, GICv2m `MSI_SETSPI_NS`).
const DOORBELL_BYTES: u64 = 4;

/// What binds a handle to one bind of one driver. A handle that somebody keeps after the unbind keeps this, and nothing of the address space or its IOMMUs.
pub(crate) struct Lease<P: Platform> {
    id: LeaseId,
    platform: Arc<P>,
    reach: Reach,
    granule: u64,
    coherent: bool,
    /// The width of addresses that the way to memory can carry, for ever.
    most_bits: u8,
    /// The width that the driver has asked for.
    bits: AtomicU8,
    /// What it has said of segments; see [`SegmentLimits::pack`].
    limits: AtomicU64,
    /// Whether the device is lent whole pages only.
    untrusted: bool,
    /// What the description names.
    doorbells: Doorbells<P>,
    /// The address space; `None` for a device without an IOMMU.
    space: Revocable<Option<Access<P>>, P>,
    /// Made when the lease is closed.
    end: Lock<P, Option<Box<End>>>,
    ended: P::Event,
    /// Who must learn when there is something to flush.
    timer: Option<Arc<P::Event>>,
    /// Made for the first bytes that are bounced. Filled once; no step of the explorer, because everybody is given the same.
    bounced: OnceBox<Arc<PagePool<P>>>,
}

impl<P: Platform> Lease<P> {
    /// The only way to a handle: `space` is what the group lock showed attached, or `None` where the description names no IOMMU. `timer` is signalled where unmaps wait for a flush.
    pub(crate) fn new(
        platform: &Arc<P>,
        device: DeviceId,
        description: &DeviceDescription,
        space: Option<Arc<Domain<P>>>,
        timer: Option<Arc<P::Event>>,
    ) -> Arc<Self> {
        let index = device.0;
        let (reach, granule) =
            (reach_of(space.as_deref()), space.as_ref().map_or(1, |space| space.granule()));
        let access = space.map(|space| Access { space, holding: OnceBox::new() });
        Arc::new(Self {
            id: LeaseId::fresh(),
            platform: Arc::clone(platform),
            reach,
            granule,
            coherent: description.coherent,
            most_bits: description.address_bits,
            bits: AtomicU8::new(description.address_bits),
            limits: AtomicU64::new(0),
            untrusted: description.untrusted,
            doorbells: doorbells::<P>(description, index),
            space: Revocable::new(index, access),
            end: Mutex::new(LockLabel::new("lease", index), None),
            ended: P::Event::new(LockLabel::new("lease", index)),
            timer,
            bounced: OnceBox::new(),
        })
    }

    pub(crate) fn reach(&self) -> Reach {
        self.reach
    }

    pub(super) fn platform(&self) -> &Arc<P> {
        &self.platform
    }

    /// Where bounced bytes have their pages from, single ones of layout `page`.
    pub(super) fn page_pool(&self, page: PageLayout) -> &Arc<PagePool<P>> {
        self.bounced.get_or_init(|| Box::new(Arc::new(PagePool::new(page))))
    }

    pub(super) fn granule(&self) -> u64 {
        self.granule
    }

    pub(super) fn coherent(&self) -> bool {
        self.coherent
    }

    /// Limits the addresses given from now on to `bits`, and to what the description allows; returns the width that now applies.
    pub(super) fn limit_to(&self, bits: u8) -> u8 {
        let bits = bits.min(self.most_bits);
        self.bits.store(bits, Ordering::Relaxed);
        bits
    }

    pub(super) fn live(&self) -> usize {
        let inside = self.space.enter(&self.platform);
        let access = inside.as_deref().and_then(Option::as_ref);
        let holding = access.and_then(|access| Some((access, access.holding.get()?)));
        holding.map_or(0, |(access, holding)| access.space.live(holding))
    }

    /// Limits the segments of mappings made from now on.
    pub(super) fn limit_segments(&self, limits: SegmentLimits) -> Result<(), DmaError> {
        let word = limits.pack().ok_or(DmaError::SegmentLimits(limits))?;
        self.limits.store(word, Ordering::Relaxed);
        Ok(())
    }

    /// See [`SegmentLimits::pack`].
    pub(super) fn segment_limits(&self) -> u64 {
        self.limits.load(Ordering::Relaxed)
    }

    /// Maps the memory of `loan` for the device.
    ///
    /// # Errors
    ///
    /// [`DmaError::Quarantined`]: the device may reach it or not. With any other error it does not.
    #[inline]
    pub(super) fn map(&self, loan: &Loan, prot: Prot) -> Result<Grant, DmaError> {
        let prot = self.admit(loan, prot)?;
        self.lead(loan.range, prot)
    }

    /// Maps the memory of all of `loans`, of one kind, at one run of addresses.
    ///
    /// # Errors
    ///
    /// As for [`map`](Self::map).
    pub(super) fn map_list(
        &self,
        loans: impl Iterator<Item = Loan> + Clone,
        prot: Prot,
    ) -> Result<Grant, DmaError> {
        let Some(first) = loans.clone().next() else { return Err(DmaError::MixedKinds) };
        for loan in loans.clone() {
            self.admit(&loan, prot)?;
            if loan.kind != first.kind {
                return Err(DmaError::MixedKinds);
            }
        }
        let prot = self.admit(&first, prot)?;
        self.with_room(|| self.lead_list(first.range.start(), loans.clone(), prot))
    }

    /// As [`map_list`](Self::map_list), for loans that were admitted, of which the first begins at `start`.
    fn lead_list(
        &self,
        start: PhysAddr,
        mut loans: impl Iterator<Item = Loan> + Clone,
        prot: Prot,
    ) -> Result<Grant, DmaError> {
        let inside = self.space.enter(&self.platform).ok_or(DmaError::Revoked)?;
        match (&*inside, self.reach) {
            (_, Reach::Blocked) => Err(DmaError::Blocked),
            (Some(access), Reach::Translated) => {
                let pages = |loan: Loan| pages_around(loan.range, self.granule);
                let mut pieces = loans.clone().map(pages);
                let sum = pieces.try_fold(0u64, |sum, piece| sum.checked_add(piece?.1));
                let request = self.request(sum.ok_or_else(|| self.no_space(u64::MAX))?);
                let pieces = loans.filter_map(|loan| {
                    let (start, len) = pages_around(loan.range, self.granule)?;
                    PhysRange::new(start, len).ok()
                });
                let user = self.user(access, inside.slot())?;
                let pages = access.space.map_list(&user, request, pieces, prot)?;
                Ok(self.grant(Placed::translated(pages, 0)))
            }
            _ => {
                let all = loans.try_for_each(|loan| {
                    self.reaches(loan.range.start(), loan.range.len()).map(drop)
                });
                all.map(|()| self.grant(Placed::untranslated(start.raw())))
            }
        }
    }

    /// What a device may do with `loan`, for whom `prot` says what the driver wants.
    #[inline]
    fn admit(&self, loan: &Loan, prot: Prot) -> Result<Prot, DmaError> {
        if self.untrusted && self.reach == Reach::Translated && !self.is_whole(loan) {
            return Err(DmaError::PartialPages(loan.range.start(), loan.range.len()));
        }
        match loan.kind {
            MemoryKind::Ram if self.coherent => Ok(prot | Prot::CACHE),
            MemoryKind::Ram => Ok(prot),
            MemoryKind::Registers => Ok(prot | Prot::MMIO),
            MemoryKind::Peer => Err(DmaError::PeerMemory(loan.range.start())),
        }
    }

    /// Whether whole pages belong to the buffer.
    #[cold]
    fn is_whole(&self, loan: &Loan) -> bool {
        pages_around(loan.range, self.granule)
            .and_then(|(start, len)| PhysRange::new(start, len).ok())
            .is_some_and(|pages| loan.around.covers(&pages))
    }

    fn limit(&self) -> Iova {
        let bits = self.bits.load(Ordering::Relaxed);
        Iova::new(u64::MAX >> (64 - u32::from(bits)))
    }

    fn request(&self, len: u64) -> IovaRequest {
        IovaRequest::new(len).up_to(self.limit())
    }

    fn no_space(&self, len: u64) -> DmaError {
        DmaError::Iova(AllocateError::NoSpace { len, limit: self.limit() })
    }

    /// The device address of `phys` without translation.
    fn reaches(&self, start: PhysAddr, len: u64) -> Result<u64, DmaError> {
        let last = start.raw() + (len - 1);
        if last > self.limit().raw() {
            let bits = self.bits.load(Ordering::Relaxed);
            return Err(DmaError::OutOfReach { last: PhysAddr::new(last), bits });
        }
        Ok(start.raw())
    }

    /// Where the device must write for the doorbell at `doorbell`, which it can from now on until the lease ends.
    pub(super) fn doorbell(&self, doorbell: PhysAddr) -> Result<Iova, DmaError> {
        // Held while the page is mapped, so that it is mapped once; only this device's driver waits for it.
        let doorbells = self.doorbells.as_ref().ok_or(DmaError::UnknownDoorbell(doorbell))?;
        let mut doorbells = doorbells.lock();
        let known = doorbells.iter_mut().find(|known| known.at == doorbell);
        let known = known.ok_or(DmaError::UnknownDoorbell(doorbell))?;
        if let Some(address) = known.address {
            // The page is gone with the lease.
            self.space.enter(&self.platform).ok_or(DmaError::Revoked)?;
            return Ok(address);
        }
        let address = match self.space.enter(&self.platform).ok_or(DmaError::Revoked)?.as_ref() {
            Some(access) if access.space.takes_interrupts_at(doorbell) => doorbell.raw(),
            _ => {
                let register = PhysRange::new(doorbell, DOORBELL_BYTES);
                let register = register.map_err(|_| DmaError::UnknownDoorbell(doorbell))?;
                self.lead(register, Prot::WRITE | Prot::MMIO | Prot::NOEXEC)?.address()
            }
        };
        Ok(*known.address.insert(Iova::new(address)))
    }

    #[inline]
    fn lead(&self, phys: PhysRange, prot: Prot) -> Result<Grant, DmaError> {
        let mut error = None;
        match self.place(phys.start(), phys.len(), prot, &mut error) {
            Some(placed) => Ok(self.grant(placed)),
            None => Err(error.unwrap_or(DmaError::Revoked)),
        }
    }

    /// As [`lead`](Self::lead), out of the caller's way: what comes and goes fits registers. `None`: it failed, with `error`.
    #[inline(never)]
    fn place(
        &self,
        start: PhysAddr,
        len: u64,
        prot: Prot,
        error: &mut Option<DmaError>,
    ) -> Option<Placed> {
        match self.place_at_once(start, len, prot, error) {
            None if error.is_none() => self.place_somehow(start, len, prot, error),
            placed => placed,
        }
    }

    /// What most maps of a busy lease are: an address that this CPU keeps, and a table that takes the pages. `None` without an error: nothing has happened, and nobody knows yet whether
    /// anything is wrong.
    #[inline(always)]
    fn place_at_once(
        &self,
        start: PhysAddr,
        len: u64,
        prot: Prot,
        error: &mut Option<DmaError>,
    ) -> Option<Placed> {
        let inside = self.space.enter(&self.platform)?;
        let access = inside.as_ref()?;
        if self.reach != Reach::Translated || self.limits.load(Ordering::Relaxed) != 0 {
            return None;
        }
        let offset = start.offset_in(self.granule);
        let request = self.request(whole_pages(offset, len, self.granule)?);
        let kept = access.holding.get()?.cache(inside.slot()?)?;
        let start = start.align_down(self.granule);
        let pages = access.space.map_at_once(kept, (start, request), prot, error)?;
        Some(Placed::translated(pages, offset))
    }

    #[inline(never)]
    fn place_somehow(
        &self,
        start: PhysAddr,
        len: u64,
        prot: Prot,
        error: &mut Option<DmaError>,
    ) -> Option<Placed> {
        let placed = self.with_room(|| self.try_place(start, len, prot));
        placed.map_err(|found| *error = Some(found)).ok()
    }

    /// What `attempt` gives. Where it finds no free addresses it is tried once more, after those that CPUs keep for the lease were given back.
    #[inline]
    fn with_room<R>(
        &self,
        mut attempt: impl FnMut() -> Result<R, DmaError>,
    ) -> Result<R, DmaError> {
        let mut collected = false;
        loop {
            match attempt() {
                Err(DmaError::Iova(AllocateError::NoSpace { .. })) if !collected => {
                    self.collect();
                    collected = true;
                }
                outcome => return outcome,
            }
        }
    }

    /// Gives back the addresses that CPUs keep, but for those whose slot somebody has.
    #[cold]
    fn collect(&self) {
        self.space.each_free_slot(|access, cpu| {
            if let Some(access) = access
                && let Some(holding) = access.holding.get()
            {
                access.space.give_back_cached(holding, cpu);
            }
        });
    }

    #[inline]
    fn try_place(&self, start: PhysAddr, len: u64, prot: Prot) -> Result<Placed, DmaError> {
        let access = self.space.enter(&self.platform).ok_or(DmaError::Revoked)?;
        let limits = self.limits.load(Ordering::Relaxed);
        if limits != 0 {
            self.fits_segment(start, len, SegmentLimits::unpack(limits))?;
        }
        match (&*access, self.reach) {
            (_, Reach::Blocked) => Err(DmaError::Blocked),
            (Some(translated), Reach::Translated) => {
                let offset = start.offset_in(self.granule);
                let len = whole_pages(offset, len, self.granule);
                let len = len.ok_or_else(|| self.no_space(u64::MAX))?;
                let mut request = self.request(len);
                if limits != 0 {
                    // Aligned to its size, it crosses no boundary that is as long as it is.
                    request = request.aligned_to(len.next_power_of_two());
                }
                let user = self.user(translated, access.slot())?;
                let start = start.align_down(self.granule);
                let pages = translated.space.map(&user, start, request, prot)?;
                Ok(Placed::translated(pages, offset))
            }
            _ => Ok(Placed::untranslated(self.reaches(start, len)?)),
        }
    }

    /// The lease as the user of its space, from within its gate.
    #[inline]
    fn user<'a>(
        &'a self,
        access: &'a Access<P>,
        slot: Option<usize>,
    ) -> Result<User<'a, P>, DmaError> {
        Ok(User { platform: &self.platform, holding: access.holding(self.id)?, slot })
    }

    #[inline]
    fn grant(&self, placed: Placed) -> Grant {
        Grant::new(placed, self.id)
    }

    /// Whether a mapping of `phys` as a whole can keep to `limits`.
    #[cold]
    fn fits_segment(
        &self,
        start: PhysAddr,
        len: u64,
        limits: SegmentLimits,
    ) -> Result<(), DmaError> {
        // What is below a page is the same on both sides.
        let fits = if self.reach == Reach::Translated && limits.boundary > self.granule {
            whole_pages(start.offset_in(self.granule), len, self.granule)
                .and_then(u64::checked_next_power_of_two)
                .is_some_and(|len| len <= limits.boundary)
        } else {
            (start.raw() ^ (start.raw() + (len - 1))) < limits.boundary
        };
        if fits && len <= limits.most_bytes {
            return Ok(());
        }
        Err(DmaError::SegmentTooLong { len, limits })
    }

    /// Unmaps what was lent, and returns once that is confirmed. After the lease has ended that is done already, or in quarantine; while it is ending, this waits for the outcome.
    #[inline]
    pub(super) fn unmap(&self, grant: &Grant) -> Result<(), DmaError> {
        let mut error = DmaError::Revoked;
        if self.take_back(grant, &mut error) { Ok(()) } else { Err(error) }
    }

    /// As [`unmap`](Self::unmap), out of the caller's way. `false`: it failed, with `error`.
    #[inline(never)]
    fn take_back(&self, grant: &Grant, error: &mut DmaError) -> bool {
        self.finish(grant, Domain::unmap).map_err(|found| *error = found).is_ok()
    }

    /// Asks again for the confirmation that [`unmap`](Self::unmap) did not get.
    pub(super) fn confirm(&self, grant: &Grant) -> Result<(), DmaError> {
        self.finish(grant, Domain::confirm)
    }

    /// Allows the device what `prot` says of what it was lent, which is `loan` or begins with it.
    pub(super) fn protect(&self, grant: &Grant, loan: &Loan, prot: Prot) -> Result<(), DmaError> {
        let prot = self.admit(loan, prot)?;
        self.finish(grant, |space, _, pages| space.protect(pages, prot))
    }

    /// What the device may reach after a map that ended in quarantine.
    pub(super) fn in_quarantine(&self, iova: Iova, len: u64) -> Grant {
        match IovaRange::new(iova, len) {
            Ok(pages) => self.grant(Placed::translated(pages, 0)),
            Err(_) => self.grant(Placed::untranslated(iova.raw())),
        }
    }

    /// Reserves addresses for `len` bytes.
    pub(super) fn reserve(&self, len: u64) -> Result<Grant, DmaError> {
        self.with_room(|| self.try_reserve(len))
    }

    fn try_reserve(&self, len: u64) -> Result<Grant, DmaError> {
        let inside = self.space.enter(&self.platform).ok_or(DmaError::Revoked)?;
        let (Some(access), Reach::Translated) = (&*inside, self.reach) else {
            return Err(DmaError::NotTranslated);
        };
        let len = whole_pages(0, len, self.granule).ok_or_else(|| self.no_space(len))?;
        let user = self.user(access, inside.slot())?;
        let pages = access.space.reserve(&user, self.request(len))?;
        Ok(self.grant(Placed::translated(pages, 0)))
    }

    /// Maps `loan` behind the first `linked` bytes of `run`: its address, and how many bytes are linked then.
    pub(super) fn link(
        &self,
        run: &Grant,
        linked: u64,
        loan: &Loan,
        prot: Prot,
        gather: &mut IotlbGather,
    ) -> Result<(u64, u64), DmaError> {
        let prot = self.admit(loan, prot)?;
        let access = self.space.enter(&self.platform).ok_or(DmaError::Revoked)?;
        let (Some(access), Some(run)) = (&*access, run.pages(self.granule)) else {
            return Err(DmaError::NotTranslated);
        };
        let left = run.len() - linked;
        let fits = |(_, len): &(PhysAddr, u64)| *len <= left;
        let pages = pages_around(loan.range, self.granule).filter(fits);
        let (phys, len) = pages.ok_or(DmaError::RunIsFull { left })?;
        access.space.link(run, linked, (phys, len), prot, gather)?;
        let offset = loan.range.start().offset_in(self.granule);
        Ok((run.start().raw() + linked + offset, linked + len))
    }

    /// Pays what linking owes.
    pub(super) fn sync(&self, owed: &mut IotlbGather) -> Result<(), DmaError> {
        let access = self.space.enter(&self.platform).ok_or(DmaError::Revoked)?;
        access.as_ref().map_or(Ok(()), |access| access.space.sync(owed))
    }

    /// As [`unmap`](Self::unmap), for a run that may not be filled.
    pub(super) fn unmap_run(&self, run: &Grant) -> Result<(), DmaError> {
        self.finish(run, Domain::unmap_run)
    }

    /// Whether `grant` was given under this lease.
    pub(super) fn check(&self, grant: &Grant) -> Result<(), DmaError> {
        if grant.lease == self.id { Ok(()) } else { Err(DmaError::ForeignMapping) }
    }

    #[inline]
    fn finish(
        &self,
        grant: &Grant,
        act: impl FnOnce(&Domain<P>, &User<'_, P>, IovaRange) -> Result<(), DmaError>,
    ) -> Result<(), DmaError> {
        self.check(grant)?;
        let Some(pages) = grant.pages(self.granule) else { return Ok(()) };
        match self.space.enter(&self.platform) {
            Some(inside) => inside.as_ref().map_or(Ok(()), |access| {
                act(&access.space, &self.user(access, inside.slot())?, pages)
            }),
            None => self.wait_for_end().map_err(|unconfirmed| unconfirmed.of(pages)),
        }
    }

    #[cold]
    fn wait_for_end(&self) -> Result<(), Unconfirmed> {
        loop {
            let seen = self.ended.generation();
            if let Some(known) = self.end.lock().as_deref().and_then(End::so_far) {
                return known;
            }
            self.ended.wait(seen);
        }
    }

    /// Voids every handle of this bind: waits until nobody is inside an operation, then removes what is left mapped. What is not confirmed is in quarantine.
    ///
    /// Whoever unmaps from now on waits until [`end`](Self::end) says how it ended.
    pub(crate) fn close(&self) -> Result<(), Unconfirmed> {
        let clear = |access: &Option<Access<P>>| {
            // A lease that never mapped has nothing.
            let Some(access) = access else { return Ok(()) };
            self.end.lock().get_or_insert_default().space = access.space.downgrade();
            access.holding.get().map_or(Ok(()), |holding| access.space.clear(holding))
        };
        if omitted::<P>(Safeguard::DrainHandles) {
            let cleared = self.space.enter(&self.platform).map_or(Ok(()), |space| clear(&space));
            drop(self.space.revoke(&self.platform));
            return cleared;
        }
        self.space.revoke(&self.platform).map_or(Ok(()), |space| clear(&space))
    }

    /// Says that the lease has ended, and whether it is confirmed that nothing of it is reached any more.
    pub(crate) fn end(&self, end: Result<(), Unconfirmed>) {
        if let Some(pool) = self.bounced.get() {
            pool.close();
        }
        self.end.lock().get_or_insert_default().outcome = Some(end);
        self.ended.notify_all();
    }
}

/// The first byte and the bytes of the pages of `granule` bytes that `range` touches.
#[inline]
fn pages_around(range: PhysRange, granule: u64) -> Option<(PhysAddr, u64)> {
    let offset = range.start().offset_in(granule);
    Some((range.start().align_down(granule), whole_pages(offset, range.len(), granule)?))
}

fn doorbells<P: Platform>(description: &DeviceDescription, index: u64) -> Doorbells<P> {
    let named = description.doorbells.iter().map(|&at| Doorbell { at, address: None });
    let lock = |named| Box::new(Mutex::new(LockLabel::new("doorbells", index), named));
    (!description.doorbells.is_empty()).then(|| lock(named.collect()))
}

fn reach_of<P: Platform>(space: Option<&Domain<P>>) -> Reach {
    match space.map(Domain::kind) {
        None => Reach::Direct,
        Some(DomainType::Dma | DomainType::DmaLazy) => Reach::Translated,
        Some(DomainType::Identity) => Reach::Identity,
        Some(DomainType::Blocked) => Reach::Blocked,
    }
}
