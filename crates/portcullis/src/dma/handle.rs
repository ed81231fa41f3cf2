//! The handle itself.

use super::direction::prot;
use super::grant::Grant;
use super::{
    Bounce, BufferList, CpuView, DeviceReads, DeviceWrites, DmaBuffer, DmaDirection, DmaMapping,
    Lease, Lendable, Lent, Loan, MapFailure, MemoryKind, NoBounce, Quarantined, Reach,
    UnmapFailure,
};
use crate::error::DmaError;
use crate::segments::SegmentLimits;
use alloc::sync::Arc;
use core::fmt;
use portcullis_addr::{Iova, PhysAddr};
use portcullis_platform::{AllocError, Coherency, DmaMemory, PageLayout, Platform};

/// A driver's way to let its device reach memory. Made by the core only, for a device whose path is final; void after unbind.
///
/// Clones share everything. After a driver's first few mappings, mapping and unmapping up to 2 MiB takes no lock of the core and allocates nothing but tables.
pub struct DmaHandle<P: Platform> {
    lease: Arc<Lease<P>>,
}

impl<P: Platform> DmaHandle<P> {
    pub(crate) fn new(lease: Arc<Lease<P>>) -> Self {
        Self { lease }
    }

    #[inline]
    pub(super) fn lease(&self) -> &Lease<P> {
        &self.lease
    }

    /// How the device reaches memory. Does not change while the driver is bound.
    pub fn reach(&self) -> Reach {
        self.lease.reach()
    }

    /// The platform, for drivers that allocate their own memory.
    #[inline]
    pub fn platform(&self) -> &Arc<P> {
        self.lease.platform()
    }

    /// Whether the device sees what is in the CPU's caches, as its description says. Whoever shares memory with the device by other means than this handle's
    /// must know it: [`DmaMemory::publish`] and [`DmaMemory::refresh`] take it.
    #[doc(alias = "dev_is_dma_coherent")]
    pub fn coherency(&self) -> Coherency {
        if self.lease.coherent() { Coherency::Coherent } else { Coherency::NonCoherent }
    }

    /// The size of the pages that are mapped, in bytes; 1 without translation. Whatever shares such a page with a mapped buffer is reachable too.
    pub fn granule(&self) -> u64 {
        self.lease.granule()
    }

    /// Translated mappings that this driver made and has not given back. 0 after unbind.
    pub fn live_mappings(&self) -> usize {
        self.lease.live()
    }

    /// Narrows (or widens again) the addresses that the device is given to `bits`, for mappings made from now on, and returns the width that now applies: never more than
    /// [`DeviceDescription::address_bits`](crate::DeviceDescription::address_bits), which is what the path to memory can carry.
    ///
    /// # Errors
    ///
    /// [`DmaError::AddressBits`] outside 1..=64.
    #[doc(alias = "dma_set_mask")]
    pub fn set_address_bits(&self, bits: u8) -> Result<u8, DmaError> {
        if !(1..=64).contains(&bits) {
            return Err(DmaError::AddressBits(bits));
        }
        Ok(self.lease.limit_to(bits))
    }

    /// Says what the device can bear in one segment, for mappings made from now on. A list's segments are cut accordingly; a single buffer that does not fit into one segment is refused.
    ///
    /// # Errors
    ///
    /// [`DmaError::SegmentLimits`] for a length of 0 or above 2^48, or a boundary that is no power of two.
    #[doc(alias = "dma_set_max_seg_size")]
    #[doc(alias = "dma_set_seg_boundary")]
    pub fn set_segment_limits(&self, limits: SegmentLimits) -> Result<(), DmaError> {
        self.lease.limit_segments(limits)
    }

    /// Lends `buffer` to the device until the mapping is unmapped. For a device that does not snoop the CPU's caches, what the CPU wrote is made visible to it first.
    ///
    /// A range of physical addresses is no buffer; see [`RawMemory`](crate::RawMemory) for that:
    ///
    /// ```compile_fail,E0277
    /// # fn f<P: portcullis_platform::Platform>(dma: portcullis::DmaHandle<P>, range: portcullis_addr::PhysRange) {
    /// let mapping = dma.map(range, portcullis::ToDevice);
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`MapFailure::Refused`]: nothing is mapped, and the buffer comes back in it. [`MapFailure::Quarantined`]: the device may reach the buffer, which is locked up in the error for that reason.
    #[doc(alias = "dma_map_single")]
    #[inline(always)]
    pub fn map<B: Lendable, D: DmaDirection>(
        &self,
        buffer: B,
        _direction: D,
    ) -> Result<DmaMapping<B, D>, MapFailure<B>> {
        self.publish(&buffer);
        match self.lease.map(&Loan::of(&buffer), prot::<D>()) {
            Ok(grant) => {
                self.note_lent::<_, D>(&buffer, &grant);
                Ok(DmaMapping::new(buffer, grant))
            }
            Err(error) => Err(self.not_mapped::<_, D>(buffer, error)),
        }
    }

    /// Lends all of `list` to the device, at one run of addresses where it is translated, until the mapping is unmapped; [`segments`](DmaMapping::segments) is what the device is told. The
    /// buffers are of one [`MemoryKind`](crate::MemoryKind). However many there are, unmapping them is one invalidation.
    ///
    /// # Errors
    ///
    /// As [`map`](Self::map); all are mapped or none. [`DmaError::MixedKinds`].
    #[doc(alias = "dma_map_sg")]
    #[doc(alias = "dma_map_sgtable")]
    pub fn map_list<B: Lendable, D: DmaDirection>(
        &self,
        list: BufferList<B>,
        _direction: D,
    ) -> Result<DmaMapping<BufferList<B>, D>, MapFailure<BufferList<B>>> {
        self.publish(&list);
        let limits = self.lease.segment_limits();
        match self.lease.map_list(list.buffers().iter().map(Loan::of), prot::<D>()) {
            Ok(grant) => {
                self.note_lent::<_, D>(&list, &grant);
                Ok(DmaMapping::new(list.mapped_with(limits, self.granule()), grant))
            }
            Err(error) => Err(self.not_mapped::<_, D>(list, error)),
        }
    }

    #[cold]
    fn not_mapped<B: Lent, D: DmaDirection>(&self, buffer: B, error: DmaError) -> MapFailure<B> {
        match error {
            DmaError::Quarantined { iova, len, .. } => {
                let grant = self.lease.in_quarantine(iova, len);
                self.note_lent::<_, D>(&buffer, &grant);
                MapFailure::Quarantined(Quarantined::new(buffer, grant, error))
            }
            _ => MapFailure::Refused { buffer, error },
        }
    }

    /// Takes the memory away from the device and returns it, once hardware confirmed that nothing reaches it any more. For a device that does not snoop the CPU's caches,
    /// what it wrote is made visible to the CPU.
    ///
    /// This works after the driver was unbound, too: the unbind has removed the mapping, and here the buffer comes back. If an unbind is under way, this waits for its end.
    ///
    /// Without translation ([`Reach::Direct`], [`Reach::Identity`]) nothing keeps the device from memory: the buffer comes back on trust in the driver, which must have quiesced the device.
    ///
    /// # Errors
    ///
    /// [`UnmapFailure::Quarantined`]: the device may still reach the buffer, which is locked up in the error for that reason. [`UnmapFailure::Foreign`]: the mapping was made through another driver's handle.
    #[doc(alias = "dma_unmap_single")]
    #[doc(alias = "dma_unmap_sg")]
    #[inline(always)]
    pub fn unmap<B: Lent, D: DmaDirection>(
        &self,
        mapping: DmaMapping<B, D>,
    ) -> Result<B, UnmapFailure<B, D>> {
        match self.lease.unmap(mapping.grant()) {
            Ok(()) => {
                if D::DEVICE_WRITES {
                    self.refresh(mapping.buffer());
                }
                self.note_returned(mapping.buffer());
                Ok(mapping.end())
            }
            Err(DmaError::ForeignMapping) => Err(UnmapFailure::Foreign(mapping)),
            Err(error) => Err(UnmapFailure::Quarantined(mapping.hold(error))),
        }
    }

    /// Asks hardware once more to forget a mapping, and returns the buffer if it confirms now.
    ///
    /// After the driver was unbound nothing is asked here: the buffer comes back if the unbind was confirmed, or has been since, by [`reconfirm`](crate::Subsystem::reconfirm)
    /// or because the IOMMU was stopped or brought up anew.
    ///
    /// # Errors
    ///
    /// The buffer is still in quarantine, with the latest reason.
    pub fn recover<B: Lent>(&self, held: Quarantined<B>) -> Result<B, Quarantined<B>> {
        match self.lease.confirm(held.grant()) {
            Ok(()) => {
                let buffer = held.end();
                self.refresh(&buffer);
                self.note_returned(&buffer);
                Ok(buffer)
            }
            Err(error) => Err(held.because(error)),
        }
    }

    /// Lets the CPU read what the device wrote, while the buffer stays mapped. The device must not write until the view is dropped.
    ///
    /// Only where the device writes at all:
    ///
    /// ```compile_fail,E0277
    /// # use portcullis::*;
    /// # fn f<B: Lendable, P: portcullis_platform::Platform>(dma: DmaHandle<P>, mut mapping: DmaMapping<B, ToDevice>) {
    /// let view = dma.sync_for_cpu(&mut mapping);
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`DmaError::ForeignMapping`].
    #[doc(alias = "dma_sync_single_for_cpu")]
    pub fn sync_for_cpu<'a, B: Lent, D: DeviceWrites>(
        &'a self,
        mapping: &'a mut DmaMapping<B, D>,
    ) -> Result<CpuView<'a, B, P>, DmaError> {
        self.lease.check(mapping.grant())?;
        self.refresh(mapping.buffer());
        Ok(CpuView::new(mapping.buffer(), self))
    }

    /// Lets the CPU write what the device is to read, while the buffer stays mapped; the device sees it when the view is dropped, and must not read before.
    ///
    /// Only where the device reads at all:
    ///
    /// ```compile_fail,E0277
    /// # use portcullis::*;
    /// # fn f<B: Lendable, P: portcullis_platform::Platform>(dma: DmaHandle<P>, mut mapping: DmaMapping<B, FromDevice>) {
    /// let view = dma.update(&mut mapping);
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`DmaError::ForeignMapping`].
    #[doc(alias = "dma_sync_single_for_device")]
    pub fn update<'a, B: Lent, D: DeviceReads>(
        &'a self,
        mapping: &'a mut DmaMapping<B, D>,
    ) -> Result<CpuView<'a, B, P>, DmaError> {
        self.lease.check(mapping.grant())?;
        Ok(CpuView::new(mapping.buffer(), self))
    }

    /// `bytes` in pages of their own, to be lent to the device: for bytes that share their pages with others, and are to be seen alone.
    ///
    /// # Errors
    ///
    /// [`NoBounce`], with the bytes.
    pub fn bounce<T: AsRef<[u8]> + AsMut<[u8]> + 'static>(
        &self,
        bytes: T,
    ) -> Result<Bounce<T, P>, NoBounce<T>> {
        let granule = usize::try_from(self.granule().max(4096)).unwrap_or(usize::MAX);
        let len = bytes.as_ref().len();
        let page = PageLayout::new(granule, granule).expect("a power of two, and not 0");
        let layout = Bounce::<T, P>::layout(len, granule);
        let pages = layout.ok_or(AllocError { layout: page });
        let pool = self.lease.page_pool(page);
        match pages.and_then(|layout| pool.take(self.platform().memory(), layout)) {
            Ok(pages) => Ok(Bounce::new(pages, bytes)),
            Err(error) => Err(NoBounce { bytes, error }),
        }
    }

    /// Where the device must write for the interrupt doorbell at the physical address `doorbell`, which its description names: what the driver of the interrupt controller
    /// puts into the message's address.
    ///
    /// Where the IOMMU translates such writes, the page of the doorbell is mapped for them, writable and not readable, and counts as one of the
    /// [`live_mappings`](Self::live_mappings) until the driver is unbound. Where the IOMMU takes them before it translates, or there is none, the answer is `doorbell` itself. Asking again
    /// gives the same answer.
    ///
    /// # Errors
    ///
    /// [`DmaError::UnknownDoorbell`], or as [`map`](Self::map).
    #[doc(alias = "iommu_dma_prepare_msi")]
    #[doc(alias = "iommu_dma_compose_msi_msg")]
    pub fn doorbell(&self, doorbell: PhysAddr) -> Result<Iova, DmaError> {
        self.lease.doorbell(doorbell)
    }

    /// A zeroed buffer of at least `size` bytes that CPU and device share for as long as it lives.
    ///
    /// # Errors
    ///
    /// [`DmaError::NoMemory`], or as [`map`](Self::map).
    #[doc(alias = "dma_alloc_coherent")]
    pub fn allocate(&self, size: usize) -> Result<DmaBuffer<P>, DmaError> {
        DmaBuffer::new(self, size)
    }

    /// Brings what the CPU wrote to where the device sees it. Also before the device writes: a dirty line that is evicted later would overwrite that.
    #[inline]
    pub(super) fn publish<B: Lent>(&self, buffer: &B) {
        if !self.lease.coherent() {
            let memory = self.platform().memory();
            cached(buffer, |start, len| memory.publish(start, len, Coherency::NonCoherent));
        }
    }

    /// Lets the CPU see what the device wrote.
    #[inline]
    pub(super) fn refresh<B: Lent>(&self, buffer: &B) {
        if !self.lease.coherent() {
            let memory = self.platform().memory();
            cached(buffer, |start, len| memory.refresh(start, len, Coherency::NonCoherent));
        }
    }
}

impl<P: Platform> DmaHandle<P> {
    /// Tells whoever debugs that the device has `buffer`.
    #[inline]
    pub(super) fn note_lent<B: Lent, D: DmaDirection>(&self, buffer: &B, grant: &Grant) {
        if let Some(watch) = self.platform().lending() {
            cached(buffer, |start, len| {
                watch.lends(start, len as u64, grant.address(), D::DEVICE_WRITES);
            });
        }
    }

    /// Tells whoever debugs that the device does not have it any more.
    #[inline]
    pub(super) fn note_returned<B: Lent>(&self, buffer: &B) {
        if let Some(watch) = self.platform().lending() {
            cached(buffer, |start, len| watch.returns(start, len as u64));
        }
    }
}

/// Calls `act` with what caches may hold of `buffer`.
fn cached<B: Lent>(buffer: &B, act: impl Fn(PhysAddr, usize)) {
    buffer.each(|loan| {
        if loan.kind == MemoryKind::Ram {
            let len = usize::try_from(loan.range.len()).unwrap_or(usize::MAX);
            act(loan.range.start(), len);
        }
    });
}

impl<P: Platform> Clone for DmaHandle<P> {
    fn clone(&self) -> Self {
        Self { lease: Arc::clone(&self.lease) }
    }
}

impl<P: Platform> fmt::Debug for DmaHandle<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaHandle").field("reach", &self.reach()).finish_non_exhaustive()
    }
}
