//! virtio-rng, by the `virtio-drivers` crate behind the IOMMU.

use super::failed;
use crate::console::check;
use crate::cpu;
use crate::seams::Image;
use crate::state;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ptr::NonNull;
use portcullis_iommu::addr::PhysAddr;
use portcullis_iommu::bare::{BarePlatform, SpinLock};
use portcullis_iommu::platform::{Mutex, Platform};
use portcullis_iommu::virtio::{AccessPlatform, HalState, IommuHal, Kernel};
use portcullis_iommu::{BoundDriver, DmaHandle, Driver, ProbeContext, ProbeError};
use virtio_drivers::device::rng::VirtIORng;
use virtio_drivers::transport::pci::PciTransport;

type Platforms = BarePlatform<Image>;

/// `Hal` has functions without `self`: the state of the one device is found through a static.
static STATE: Mutex<Option<Arc<HalState<Platforms>>>, SpinLock<Image>> =
    Mutex::from_raw(SpinLock::unlabelled(), None);

pub struct Hal;

impl Kernel for Hal {
    type Platform = Platforms;

    fn state() -> Arc<HalState<Platforms>> {
        STATE.lock().clone().expect("the probe installs it before it uses the device")
    }

    fn pointer(address: PhysAddr, len: usize) -> NonNull<u8> {
        let memory = state().subsystem.platform().memory();
        memory.pointer(address, len).expect("memory of a buffer")
    }

    // The window of PCIe is mapped 1:1.
    fn registers(address: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(address.raw() as *mut u8).expect("not at 0")
    }
}

/// How many pieces the device can reach.
pub fn lent() -> usize {
    STATE.lock().as_ref().map_or(0, |state| state.lent())
}

/// Forgets the device's state, and with it a handle that was revoked.
pub fn forget() {
    *STATE.lock() = None;
}

/// Its transport is taken by the first probe.
pub struct RngDriver(pub Mutex<Option<PciTransport>, SpinLock<Image>>);

struct Bound {
    /// Gives the queue's memory back when it is dropped.
    _rng: VirtIORng<IommuHal<Hal>, AccessPlatform<PciTransport>>,
}

impl BoundDriver for Bound {}

impl Driver<Platforms> for RngDriver {
    fn name(&self) -> &str {
        "virtio-rng"
    }

    fn probe(
        &self,
        device: &ProbeContext<'_>,
        dma: DmaHandle<Platforms>,
    ) -> Result<Box<dyn BoundDriver>, ProbeError> {
        crate::say!("cpu{}: {} by virtio-rng, {:?}", cpu::number(), device.path(), dma.reach());
        *STATE.lock() = Some(Arc::new(HalState::new(dma)));
        let transport =
            self.0.lock().take().ok_or_else(|| failed("its transport was used before"))?;
        let mut rng =
            VirtIORng::<IommuHal<Hal>, _>::new(AccessPlatform::new(transport)).map_err(failed)?;
        let mut bytes = [0; 16];
        let count = rng.request_entropy(&mut bytes).map_err(failed)?;
        check("virtio-rng: 16 bytes by DMA through the IOMMU", count == 16 && bytes != [0; 16]);
        Ok(Box::new(Bound { _rng: rng }))
    }
}
