//! Drivers of the [`dma-api`](dma_api) crate (0.10) behind an IOMMU: its [`DmaOp`] over the core's [`DmaHandle`].
//!
//! Scope: [`IommuDma`], one for each device. A driver's probe makes it from the handle that it was given, and passes on what [`IommuDma::device`] returns:
//!
//! ```
//! use core::ptr::NonNull;
//! use dma_api::{DeviceDma, DmaCoherency, DmaConstraints};
//! use portcullis::DmaHandle;
//! use portcullis_addr::PhysAddr;
//! use portcullis_dma_api::IommuDma;
//! use portcullis_platform::Platform;
//!
//! /// In a kernel that has its RAM mapped 1:1.
//! fn linear(address: PhysAddr, _len: usize) -> NonNull<u8> {
//!     let pointer = core::ptr::with_exposed_provenance_mut(address.raw() as usize);
//!     NonNull::new(pointer).expect("no RAM that is given out is at 0")
//! }
//!
//! fn begin<P: Platform>(dma: DmaHandle<P>) -> Result<DeviceDma, portcullis::DmaError> {
//!     // Sound, since the linear map has all memory that the kernel's allocator gives, for ever.
//!     let op: &'static _ = Box::leak(Box::new(unsafe { IommuDma::new(dma, linear) }));
//!     op.device(DmaCoherency::Coherent, DmaConstraints::new(u32::MAX.into()))
//! }
//! ```
//!
//! `dma-api` requires a back end that lives for ever (`&'static dyn DmaOp`), so each probe leaks one. Its handle is voided when the driver is unbound, as every copy of a handle is: from then on an allocation
//! is refused, and memory that is released was already out of the device's reach.
//!
//! Not supported: streaming maps without a copy (a buffer shares its pages with whatever lies beside it, and an IOMMU protects whole pages, so each buffer is copied through pages of its own); coherent memory
//! for devices that do not snoop the CPU's caches (that takes an uncached alias, which the platform seam does not have): [`alloc_coherent`](DmaOp::alloc_coherent) says that there is no memory.
//!
//! Dependency rule: uses `addr`, `platform` and the core. `no_std` + `alloc`. `unsafe` because the functions of `DmaOp` are.
#![no_std]
#![expect(unsafe_code, reason = "the functions of `DmaOp` are unsafe")]

extern crate alloc;

use alloc::collections::BTreeMap;
use core::alloc::Layout;
use core::fmt;
use core::num::{NonZeroU64, NonZeroUsize};
use core::ptr::NonNull;
use dma_api::{
    DeviceDma, DmaAllocHandle, DmaCoherency, DmaConstraints, DmaDeviceInfo, DmaDirection,
    DmaDomainId, DmaError, DmaMapHandle, DmaOp,
};
use portcullis::{DmaBuffer, DmaHandle, Reach, SegmentLimits};
use portcullis_addr::PhysAddr;
use portcullis_platform::{Lock, LockLabel, Mutex, Platform};

/// Where a kernel sees so many bytes of RAM at an address.
#[doc(alias = "phys_to_virt")]
pub type LinearMap = fn(PhysAddr, usize) -> NonNull<u8>;

/// One device's way to memory as a back end of `dma-api`.
pub struct IommuDma<P: Platform> {
    dma: DmaHandle<P>,
    linear: LinearMap,
    /// What the device can reach, by the address that it uses.
    lent: Lock<P, BTreeMap<u64, DmaBuffer<P>>>,
}

impl<P: Platform> IommuDma<P> {
    /// The back end for the device whose driver was given `dma`.
    ///
    /// # Safety
    ///
    /// `linear` gives a pointer to that very memory, good for reads and writes of the whole length while the memory is allocated, for every address that the platform's [`DmaMemory`] gives.
    ///
    /// [`DmaMemory`]: portcullis_platform::DmaMemory
    pub unsafe fn new(dma: DmaHandle<P>, linear: LinearMap) -> Self {
        Self { dma, linear, lent: Mutex::new(LockLabel::new("lent", 0), BTreeMap::new()) }
    }

    /// What the device's driver is given. `constraints` are the device's own: addresses are chosen so that they meet the mask, segments and boundary. A translated device has a domain of its own,
    /// named by the address of this back end.
    ///
    /// # Errors
    ///
    /// A mask of 0, or a boundary that is no power of two.
    pub fn device(
        &'static self,
        coherency: DmaCoherency,
        constraints: DmaConstraints,
    ) -> Result<DeviceDma, portcullis::DmaError> {
        // The widest run of low bits in the mask: every address below is in it.
        self.dma.set_address_bits(constraints.addr_mask.trailing_ones() as u8)?;
        let none = SegmentLimits::NONE;
        self.dma.set_segment_limits(SegmentLimits {
            most_bytes: constraints.max_segment_size.map_or(none.most_bytes, |most| most as u64),
            boundary: constraints.boundary.map_or(none.boundary, |boundary| boundary as u64),
        })?;
        let own = NonZeroU64::new(core::ptr::from_ref(self).addr() as u64);
        let domain = match (self.dma.reach(), own) {
            (Reach::Translated, Some(own)) => DmaDomainId::Translated(own),
            _ => DmaDomainId::Direct,
        };
        Ok(DeviceDma::new(DmaDeviceInfo::new(domain, coherency, constraints), self))
    }

    /// How many pieces of memory the device can reach now.
    pub fn lent(&self) -> usize {
        self.lent.lock().len()
    }

    /// Lends `size` bytes that meet `constraints`; `None` where there is no memory, no address, or none that meets them.
    fn lend(&self, constraints: DmaConstraints, size: usize) -> Option<(u64, NonNull<u8>)> {
        let buffer = self.dma.allocate(size).ok()?;
        let address = buffer.device_address();
        if !meets(constraints, address, size) {
            return None;
        }
        let pointer = (self.linear)(buffer.pages().address(), size);
        self.lent.lock().insert(address, buffer);
        Some((address, pointer))
    }

    /// Takes memory back. The drop unmaps it, waits for hardware's confirmation, and quarantines the pages if that does not come.
    fn take_back(&self, address: u64) {
        let lent = self.lent.lock().remove(&address);
        drop(lent);
    }
}

/// Whether the range lies below the mask, is aligned and crosses no boundary. A segment limit is no matter: what is lent is one segment, and the caller checks its size.
fn meets(constraints: DmaConstraints, address: u64, size: usize) -> bool {
    let last = address.checked_add(size.max(1) as u64 - 1);
    let Some(last) = last else { return false };
    let crosses = |boundary: usize| address / boundary as u64 != last / boundary as u64;
    last <= constraints.addr_mask
        && address.is_multiple_of(constraints.align.max(1) as u64)
        && !constraints.boundary.is_some_and(|boundary| boundary != 0 && crosses(boundary))
}

impl<P: Platform> DmaOp for IommuDma<P> {
    fn page_size(&self) -> usize {
        usize::try_from(self.dma.granule()).unwrap_or(usize::MAX)
    }

    unsafe fn alloc_contiguous(
        &self,
        constraints: DmaConstraints,
        layout: Layout,
    ) -> Option<DmaAllocHandle> {
        let (address, pointer) = self.lend(constraints, layout.size())?;
        // SAFETY: the pages are in `lent` until they are given back; the pointer is the only mapping that is handed out, and the device sees them at `address`.
        Some(unsafe { DmaAllocHandle::new(pointer, pointer, address.into(), layout) })
    }

    unsafe fn dealloc_contiguous(&self, handle: DmaAllocHandle) {
        self.take_back(handle.dma_addr().as_u64());
    }

    unsafe fn alloc_coherent(&self, _: DmaConstraints, _: Layout) -> Option<DmaAllocHandle> {
        // Asked for devices that do not snoop only.
        None
    }

    unsafe fn dealloc_coherent(&self, _: DmaAllocHandle) -> Result<(), DmaError> {
        Err(DmaError::CoherentReleaseFailed)
    }

    unsafe fn map_streaming(
        &self,
        constraints: DmaConstraints,
        addr: NonNull<u8>,
        size: NonZeroUsize,
        _: DmaDirection,
    ) -> Result<DmaMapHandle, DmaError> {
        let layout = Layout::from_size_align(size.get(), constraints.align.max(1))?;
        let (address, pointer) = self.lend(constraints, size.get()).ok_or(DmaError::NoMemory)?;
        // SAFETY: `addr` is the caller's buffer; the bounce pages are in `lent` until they are given back, and at least as long.
        Ok(unsafe { DmaMapHandle::new(addr, address.into(), layout, Some(pointer)) })
    }

    unsafe fn unmap_streaming(&self, handle: DmaMapHandle) {
        self.take_back(handle.dma_addr().as_u64());
    }
}

impl<P: Platform> fmt::Debug for IommuDma<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IommuDma")
            .field("dma", &self.dma)
            .field("lent", &self.lent())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{DmaConstraints, meets};

    #[test]
    fn constraints_are_met_to_the_byte() {
        let mask = DmaConstraints::new(0xffff_ffff);
        assert!(meets(mask, 0xffff_f000, 0x1000) && !meets(mask, 0xffff_f000, 0x1001));
        assert!(!meets(mask, u64::MAX, 2));
        let aligned = mask.with_align(0x2000);
        assert!(meets(aligned, 0x4000, 1) && !meets(aligned, 0x5000, 1));
        let bounded = mask.with_boundary(0x1_0000);
        assert!(meets(bounded, 0xf000, 0x1000) && !meets(bounded, 0xf000, 0x1001));
    }
}
