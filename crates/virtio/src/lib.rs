//! The drivers of the [`virtio-drivers`](virtio_drivers) crate (0.13) behind an IOMMU: its [`Hal`] over the core's [`DmaHandle`].
//!
//! Scope: [`IommuHal`] is the adapter. A kernel implements [`Kernel`] for it, three functions whose substance it already has. [`AccessPlatform`] wraps the transport, so that a device that insists
//! on its IOMMU accepts the driver. The repository runs the same thing as a program (`crates/scenarios/examples/virtio_rng.rs`, on a host, with QEMU as the machine) and in a kernel that boots
//! (`images`).
//!
//! ```
//! use core::ptr::NonNull;
//! use portcullis::{BoundDriver, DmaHandle, Driver, ProbeContext, ProbeError};
//! use portcullis_addr::PhysAddr;
//! use portcullis_bare::{BarePlatform, SpinLock};
//! use portcullis_platform::Mutex;
//! use portcullis_virtio::{AccessPlatform, HalState, IommuHal, Kernel};
//! use std::sync::Arc; // `alloc::sync::Arc` in a kernel
//! use virtio_drivers::device::rng::VirtIORng;
//! use virtio_drivers::transport::pci::PciTransport;
//! # struct MyKernel;
//! # impl portcullis_bare::Kernel for MyKernel {
//! #     type Frames = std::alloc::System;
//! #     fn cpus() -> usize { 1 }
//! #     fn cpu() -> usize { 0 }
//! #     fn thread() -> usize { 1 }
//! #     fn counter_frequency() -> u64 { 1 }
//! # }
//! type MyPlatform = BarePlatform<MyKernel>;
//!
//! /// The way to memory of the machine's one virtio-rng.
//! static STATE: Mutex<Option<Arc<HalState<MyPlatform>>>, SpinLock<MyKernel>> =
//!     Mutex::from_raw(SpinLock::unlabelled(), None);
//!
//! struct TheRng;
//!
//! impl Kernel for TheRng {
//!     type Platform = MyPlatform;
//!
//!     fn state() -> Arc<HalState<MyPlatform>> {
//!         STATE.lock().clone().expect("the probe stores it before it uses the device")
//!     }
//!
//!     // In a kernel that has RAM and device registers mapped 1:1.
//!     fn pointer(address: PhysAddr, _len: usize) -> NonNull<u8> {
//!         let pointer = core::ptr::with_exposed_provenance_mut(address.raw() as usize);
//!         NonNull::new(pointer).expect("nothing that is given out is at 0")
//!     }
//!     fn registers(address: PhysAddr, len: usize) -> NonNull<u8> {
//!         Self::pointer(address, len)
//!     }
//! }
//!
//! /// The first probe takes the transport.
//! struct RngDriver(Mutex<Option<PciTransport>, SpinLock<MyKernel>>);
//!
//! struct Bound {
//!     rng: VirtIORng<IommuHal<TheRng>, AccessPlatform<PciTransport>>,
//! }
//!
//! impl BoundDriver for Bound {}
//!
//! impl Driver<MyPlatform> for RngDriver {
//!     fn name(&self) -> &str {
//!         "virtio-rng"
//!     }
//!
//!     fn probe(
//!         &self,
//!         _: &ProbeContext<'_>,
//!         dma: DmaHandle<MyPlatform>,
//!     ) -> Result<Box<dyn BoundDriver>, ProbeError> {
//!         *STATE.lock() = Some(Arc::new(HalState::new(dma)));
//!         let failed = |error| ProbeError::Failed(format!("virtio-rng: {error}"));
//!         let Some(transport) = self.0.lock().take() else {
//!             return Err(ProbeError::Failed("its transport was taken before".into()));
//!         };
//!         let mut rng = VirtIORng::new(AccessPlatform::new(transport)).map_err(failed)?;
//!         rng.request_entropy(&mut [0; 16]).map_err(failed)?;
//!         Ok(Box::new(Bound { rng }))
//!     }
//! }
//! ```
//!
//! A handle belongs to one device, and the functions of [`Hal`] have no `self`. A kernel with several devices has one [`Kernel`] type for each, or finds the state by the device that the CPU is working on.
//!
//! Not supported: zero-copy requests. Each buffer is copied through pages of its own, because it shares its pages with whatever lies beside it, and an IOMMU protects
//! whole pages only. Running out of memory in [`Hal::share`] panics: the trait has no way to say so.
//!
//! Dependency rule: uses `addr`, `platform` and the core. `no_std` + `alloc`. `unsafe` because `Hal` is an unsafe trait.
#![no_std]
#![expect(unsafe_code, reason = "`Hal` is an unsafe trait")]

extern crate alloc;

mod access_platform;

pub use access_platform::AccessPlatform;

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;
use portcullis::{DmaBuffer, DmaHandle};
use portcullis_addr::PhysAddr;
use portcullis_platform::{DmaMemory, Lock, LockLabel, Mutex, Platform};
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
    lent: Lock<P, BTreeMap<u64, DmaBuffer<P>>>,
}

impl<P: Platform> HalState<P> {
    /// The state of a device whose driver was given `dma`.
    pub fn new(dma: DmaHandle<P>) -> Self {
        Self { dma, lent: Mutex::new(LockLabel::new("lent", 0), BTreeMap::new()) }
    }

    /// How many pieces of memory the device can reach now.
    pub fn lent(&self) -> usize {
        self.lent.lock().len()
    }

    /// Lends `len` bytes. `None` when there is no memory or no address.
    fn lend(&self, len: usize) -> Option<(DeviceAddress, PhysAddr)> {
        let buffer = self.dma.allocate(len).ok()?;
        let (device, cpu) = (buffer.device_address(), buffer.pages().address());
        self.lent.lock().insert(device, buffer);
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
        let lent = K::state().lent.lock().remove(&device);
        if lent.is_some() { 0 } else { -1 }
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
        let dma = &K::state().dma;
        dma.platform().memory().publish(cpu, buffer.len(), dma.coherency());
        device
    }

    unsafe fn unshare(device: DeviceAddress, buffer: NonNull<[u8]>, direction: BufferDirection) {
        let Some(lent) = K::state().lent.lock().remove(&device) else { return };
        if direction != BufferDirection::DriverToDevice {
            let cpu = lent.pages().address();
            lent.pages().memory().refresh(cpu, buffer.len(), K::state().dma.coherency());
            let bounce = K::pointer(cpu, buffer.len());
            // SAFETY: the caller gives a valid buffer that nobody else uses now; the device has finished with the bounce page, which is at least as long.
            unsafe { buffer.cast().copy_from_nonoverlapping(bounce, buffer.len()) };
        }
    }
}
