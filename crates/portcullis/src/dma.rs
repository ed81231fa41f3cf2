//! The DMA handle: a driver's one way to let its device reach memory.

use crate::description::{DeviceDescription, DomainType};
use crate::error::DmaError;
use crate::space::Domain;
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use portcullis_addr::{Iova, PhysRange, Prot};
use portcullis_iova::AllocateError;
use portcullis_platform::{AllocError, DmaPages, PageLayout, Platform};

/// Who moves the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[doc(alias = "dma_data_direction")]
pub enum DmaDirection {
    /// The device reads.
    #[doc(alias = "DMA_TO_DEVICE")]
    ToDevice,
    /// The device writes.
    #[doc(alias = "DMA_FROM_DEVICE")]
    FromDevice,
    /// Both.
    #[doc(alias = "DMA_BIDIRECTIONAL")]
    Both,
}

impl DmaDirection {
    fn prot(self) -> Prot {
        match self {
            Self::ToDevice => Prot::READ,
            Self::FromDevice => Prot::WRITE,
            Self::Both => Prot::READ | Prot::WRITE,
        }
    }
}

/// How a device's addresses become bus addresses. Final while a driver is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reach {
    /// Through the tables of an IOMMU.
    Translated,
    /// Through an IOMMU that changes nothing, because policy says so.
    Identity,
    /// The description names no IOMMU for the device.
    Direct,
    /// Nothing is reached.
    Blocked,
}

/// How many leases there have been. Their addresses would not do as names: memory is reused.
static LEASES: AtomicU64 = AtomicU64::new(0);

/// What binds a handle to one bind of one driver.
pub(crate) struct Lease<P: Platform> {
    /// Unlike that of any other lease, ever.
    number: u64,
    /// `None` for a device without an IOMMU.
    domain: Option<Arc<Domain<P>>>,
    platform: Arc<P>,
    coherent: bool,
    address_bits: AtomicU8,
    revoked: AtomicBool,
    live: AtomicUsize,
}

impl<P: Platform> Lease<P> {
    /// The only way to a handle: `domain` is the domain that the group lock showed attached, or `None` where the description names no IOMMU.
    pub(crate) fn new(
        platform: &Arc<P>,
        description: &DeviceDescription,
        domain: Option<Arc<Domain<P>>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            number: LEASES.fetch_add(1, Ordering::Relaxed),
            domain,
            platform: Arc::clone(platform),
            coherent: description.coherent,
            address_bits: AtomicU8::new(description.address_bits),
            revoked: AtomicBool::new(false),
            live: AtomicUsize::new(0),
        })
    }

    /// Voids every handle of this bind.
    pub(crate) fn revoke(&self) {
        self.revoked.store(true, Ordering::Release);
    }

    pub(crate) fn reach(&self) -> Reach {
        match self.domain.as_ref().map(|domain| domain.kind()) {
            None => Reach::Direct,
            Some(DomainType::Dma) => Reach::Translated,
            Some(DomainType::Identity) => Reach::Identity,
            Some(DomainType::Blocked) => Reach::Blocked,
        }
    }
}

/// A piece of memory that the device can reach. Give it back with [`DmaHandle::unmap`].
#[must_use = "the device keeps reaching the memory until the mapping is unmapped"]
#[derive(Debug)]
pub struct DmaMapping {
    address: u64,
    phys: PhysRange,
    /// First page and whole pages in bytes; `None` where nothing is translated.
    pages: Option<(Iova, u64)>,
    /// The number of the lease under which it was made.
    lease: u64,
}

impl DmaMapping {
    /// What the driver writes into its device: an [`Iova`] or, without translation, a physical address.
    #[doc(alias = "dma_addr_t")]
    pub fn device_address(&self) -> u64 {
        self.address
    }

    /// The memory behind it.
    pub fn phys(&self) -> PhysRange {
        self.phys
    }
}

/// A driver's way to let its device reach memory. Made by the core only, for a device whose path is final; void after unbind.
///
/// Clones share everything. Mapping and unmapping take no lock but the address space's own.
pub struct DmaHandle<P: Platform> {
    lease: Arc<Lease<P>>,
}

impl<P: Platform> DmaHandle<P> {
    pub(crate) fn new(lease: Arc<Lease<P>>) -> Self {
        Self { lease }
    }

    /// How the device reaches memory. Does not change while the driver is bound.
    pub fn reach(&self) -> Reach {
        self.lease.reach()
    }

    /// The platform, for drivers that allocate their own memory.
    pub fn platform(&self) -> &Arc<P> {
        &self.lease.platform
    }

    /// The smallest piece that can be mapped on its own, in bytes; what shares a page with a mapping is reachable too. 1 without translation.
    pub fn granule(&self) -> u64 {
        self.lease.domain.as_ref().map_or(1, |domain| domain.granule())
    }

    /// Mappings that this driver made and has not given back.
    pub fn live_mappings(&self) -> usize {
        self.lease.live.load(Ordering::Relaxed)
    }

    /// Narrows (or widens) the addresses that the device is given to `bits`, for mappings made from now on.
    ///
    /// # Errors
    ///
    /// [`DmaError::AddressBits`] outside 1..=64.
    #[doc(alias = "dma_set_mask")]
    pub fn set_address_bits(&self, bits: u8) -> Result<(), DmaError> {
        if !(1..=64).contains(&bits) {
            return Err(DmaError::AddressBits(bits));
        }
        self.lease.address_bits.store(bits, Ordering::Relaxed);
        Ok(())
    }

    /// Lets the device reach `phys` until the mapping is given back.
    ///
    /// # Errors
    ///
    /// [`DmaError`]; nothing is mapped then.
    #[doc(alias = "dma_map_single")]
    pub fn map(&self, phys: PhysRange, direction: DmaDirection) -> Result<DmaMapping, DmaError> {
        let lease = &*self.lease;
        if lease.revoked.load(Ordering::Acquire) {
            return Err(DmaError::Revoked);
        }
        let bits = lease.address_bits.load(Ordering::Relaxed);
        let limit = if bits >= 64 { u64::MAX } else { (1 << bits) - 1 };
        let (address, pages) = match (&lease.domain, lease.reach()) {
            (_, Reach::Blocked) => return Err(DmaError::Blocked),
            (Some(domain), Reach::Translated) => {
                let granule = domain.granule();
                let start = phys.start().align_down(granule);
                let offset = phys.start().offset_in(granule);
                let len = offset.checked_add(phys.len());
                let len = len.and_then(|len| len.checked_next_multiple_of(granule));
                let limit = Iova::new(limit);
                let no_space = AllocateError::NoSpace { len: phys.len(), limit };
                let len = len.ok_or(DmaError::Iova(no_space))?;
                let mut prot = direction.prot() | Prot::NOEXEC;
                prot.set(Prot::CACHE, lease.coherent);
                let iova = domain.map(start, len, limit, prot)?;
                (iova.raw() + offset, Some((iova, len)))
            }
            _ if phys.last().raw() > limit => {
                return Err(DmaError::OutOfReach { last: phys.last(), bits });
            }
            _ => (phys.start().raw(), None),
        };
        // A mapping that an unbind in the meantime did not see must not outlive it.
        if lease.revoked.load(Ordering::Acquire) {
            if let (Some(domain), Some((iova, len))) = (&lease.domain, pages) {
                domain.unmap(iova, len)?;
            }
            return Err(DmaError::Revoked);
        }
        lease.live.fetch_add(1, Ordering::Relaxed);
        Ok(DmaMapping { address, phys, pages, lease: lease.number })
    }

    /// Takes the memory away from the device and returns it, once hardware confirmed that nothing reaches it any more.
    ///
    /// # Errors
    ///
    /// [`DmaError::Quarantined`]: the memory must not be reused. [`DmaError::ForeignMapping`]: the mapping is of another handle (and is lost to its own).
    #[doc(alias = "dma_unmap_single")]
    pub fn unmap(&self, mapping: DmaMapping) -> Result<PhysRange, DmaError> {
        let lease = &*self.lease;
        if mapping.lease != lease.number {
            return Err(DmaError::ForeignMapping);
        }
        if lease.revoked.load(Ordering::Acquire) {
            return Err(DmaError::Revoked);
        }
        if let (Some(domain), Some((iova, len))) = (&lease.domain, mapping.pages) {
            domain.unmap(iova, len)?;
        }
        lease.live.fetch_sub(1, Ordering::Relaxed);
        Ok(mapping.phys)
    }

    /// A zeroed buffer of at least `size` bytes that CPU and device share for as long as it lives.
    ///
    /// # Errors
    ///
    /// [`DmaError::NoMemory`], or as [`map`](Self::map).
    #[doc(alias = "dma_alloc_coherent")]
    pub fn allocate(&self, size: usize) -> Result<DmaBuffer<P>, DmaError> {
        let granule = usize::try_from(self.granule().max(4096)).unwrap_or(usize::MAX);
        let layout = |size| PageLayout::new(size, granule).expect("a power of two, and not 0");
        let whole = size.max(1).checked_next_multiple_of(granule);
        let too_much = DmaError::NoMemory(AllocError { layout: layout(size.max(1)) });
        let whole = whole.ok_or(too_much)?;
        let pages = DmaPages::new(self.lease.platform.memory(), layout(whole))
            .map_err(DmaError::NoMemory)?;
        let range = PhysRange::new(pages.address(), whole as u64).expect("memory does not wrap");
        let mapping = self.map(range, DmaDirection::Both)?;
        Ok(DmaBuffer { handle: self.clone(), pages: Some(pages), mapping: Some(mapping) })
    }
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

/// Memory that CPU and device share. Unmapped and freed on drop; leaked, for good, where hardware did not confirm the
/// unmap or the buffer outlived its driver.
#[derive(Debug)]
pub struct DmaBuffer<P: Platform> {
    handle: DmaHandle<P>,
    pages: Option<DmaPages<P::Memory>>,
    mapping: Option<DmaMapping>,
}

impl<P: Platform> DmaBuffer<P> {
    /// What the driver writes into its device.
    pub fn device_address(&self) -> u64 {
        self.mapping.as_ref().map_or(0, DmaMapping::device_address)
    }

    /// The memory itself.
    pub fn pages(&self) -> &DmaPages<P::Memory> {
        self.pages.as_ref().expect("present until drop")
    }
}

impl<P: Platform> Drop for DmaBuffer<P> {
    fn drop(&mut self) {
        let unmapped = self.mapping.take().map(|mapping| self.handle.unmap(mapping));
        // Not confirmed, or the handle is void because the buffer outlived its driver: the device may still reach the frame.
        if matches!(unmapped, Some(Err(_))) {
            core::mem::forget(self.pages.take());
        }
    }
}
