//! The `virtio-drivers` crate behind the IOMMU: its `Hal` over the core's [`DmaHandle`], to be copied into a kernel.
//!
//! [`IommuHal`] is the adapter. A kernel writes a [`Kernel`] for it: three functions that it has anyway. [`QemuTransport`] stands for the kernel's way to the device's
//! registers; a kernel on real hardware uses `virtio_drivers::transport::pci::PciTransport` in its place, wrapped so that it accepts
//! `VIRTIO_F_ACCESS_PLATFORM` ([`QemuTransport`] shows how): the crate's drivers do not know that feature, and a device that offers it because it is behind
//! an IOMMU refuses a driver that does not accept it (Virtual I/O Device 1.2, 6.1).
//!
//! How a kernel's driver probe uses it stands in full in `examples/virtio_rng.rs`. The handle belongs to one device: a kernel with several has one
//! [`Kernel`] type per device, or looks the state up by what its CPU is working on.
#![expect(unsafe_code, reason = "`Hal` is an unsafe trait")]

mod transport;

pub use transport::QemuTransport;

use portcullis::{DmaBuffer, DmaHandle};
use portcullis_addr::PhysAddr;
use portcullis_platform::{Coherency, DmaMemory, Platform};
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr as DeviceAddress};

/// What the adapter needs of a kernel. `Hal` has functions without `self`, so the state of a device is found through the type.
pub trait Kernel: 'static {
    /// The kernel's platform.
    type Platform: Platform;

    /// The state of the device that is being driven.
    fn state() -> Arc<HalState<Self::Platform>>;

    /// Where the kernel sees the `len` bytes of RAM at `address`. Stays valid while the memory is allocated.
    #[doc(alias = "phys_to_virt")]
    fn pointer(address: PhysAddr, len: usize) -> NonNull<u8>;

    /// Where the kernel sees `len` bytes of device registers. Only asked for by transports with mapped registers.
    #[doc(alias = "ioremap")]
    fn registers(address: PhysAddr, len: usize) -> NonNull<u8>;
}

/// One device's way to memory, and what is lent to it now.
pub struct HalState<P: Platform> {
    dma: DmaHandle<P>,
    /// By the address that the device uses.
    lent: Mutex<BTreeMap<u64, DmaBuffer<P>>>,
}

impl<P: Platform> HalState<P> {
    /// The state of a device whose driver was given `dma`.
    pub fn new(dma: DmaHandle<P>) -> Self {
        Self { dma, lent: Mutex::new(BTreeMap::new()) }
    }

    /// How many pieces of memory the device can reach now.
    pub fn lent(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, DmaBuffer<P>>> {
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lends `len` bytes. `None` when there is no memory or no address.
    fn lend(&self, len: usize) -> Option<(DeviceAddress, PhysAddr)> {
        let buffer = self.dma.allocate(len).ok()?;
        let (device, cpu) = (buffer.device_address(), buffer.pages().address());
        self.lock().insert(device, buffer);
        Some((device, cpu))
    }
}

impl<P: Platform> fmt::Debug for HalState<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HalState").field("dma", &self.dma).field("lent", &self.lent()).finish()
    }
}

/// The adapter: memory that a virtio driver allocates or shares is reachable for its own device, at an I/O virtual address, for exactly as long as it is lent.
///
/// Buffers are copied through pages of their own. A request's buffer shares its pages with whatever lies beside it, and an IOMMU protects whole pages only.
#[derive(Debug)]
pub struct IommuHal<K>(PhantomData<K>);

// SAFETY: `dma_alloc` gives pointers from `Kernel::pointer` to zeroed pages that only the returned pair names until `dma_dealloc`; `mmio_phys_to_virt`
// passes on the kernel's own mapping.
unsafe impl<K: Kernel> Hal for IommuHal<K> {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (DeviceAddress, NonNull<u8>) {
        match K::state().lend(pages * PAGE_SIZE) {
            Some((device, cpu)) => (device, K::pointer(cpu, pages * PAGE_SIZE)),
            // What the trait wants for "no memory".
            None => (0, NonNull::dangling()),
        }
    }

    unsafe fn dma_dealloc(device: DeviceAddress, _cpu: NonNull<u8>, _pages: usize) -> i32 {
        // The drop unmaps it, waits for hardware's confirmation, and quarantines the page if that does not come.
        if K::state().lock().remove(&device).is_some() { 0 } else { -1 }
    }

    unsafe fn mmio_phys_to_virt(address: DeviceAddress, len: usize) -> NonNull<u8> {
        K::registers(PhysAddr::new(address), len)
    }

    /// # Panics
    ///
    /// When there is no memory: the trait has no way to say so.
    unsafe fn share(buffer: NonNull<[u8]>, direction: BufferDirection) -> DeviceAddress {
        let lent = K::state().lend(buffer.len());
        let (device, cpu) = lent.expect("memory for a virtio buffer: keep a reserve");
        if direction != BufferDirection::DeviceToDriver {
            let bounce = K::pointer(cpu, buffer.len());
            // SAFETY: the caller gives a valid buffer that nobody writes now; the bounce page is ours and at least as long.
            unsafe { bounce.copy_from_nonoverlapping(buffer.cast(), buffer.len()) };
        }
        K::state().dma.platform().memory().publish(cpu, buffer.len(), Coherency::NonCoherent);
        device
    }

    unsafe fn unshare(device: DeviceAddress, buffer: NonNull<[u8]>, direction: BufferDirection) {
        let Some(lent) = K::state().lock().remove(&device) else { return };
        if direction != BufferDirection::DriverToDevice {
            let cpu = lent.pages().address();
            lent.pages().memory().refresh(cpu, buffer.len(), Coherency::NonCoherent);
            let bounce = K::pointer(cpu, buffer.len());
            // SAFETY: the caller gives a valid buffer that nobody else uses now; the device has finished with the bounce page, which is at least as long.
            unsafe { buffer.cast().copy_from_nonoverlapping(bounce, buffer.len()) };
        }
    }
}
