//! QEMU's edu device (QEMU's `docs/specs/edu.rst`): copies between memory and 4 KiB of its own, by registers.

use super::failed;
use crate::console::check;
use crate::cpu;
use crate::seams::Image;
use crate::time;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};
use portcullis_iommu::bare::{BarePlatform, Mmio};
use portcullis_iommu::platform::{Mutex, Registers};
use portcullis_iommu::{BoundDriver, DmaHandle, Driver, Fault, ProbeContext, ProbeError};

type Handle = DmaHandle<BarePlatform<Image>>;
type Kept = Mutex<Option<Handle>, portcullis_iommu::bare::SpinLock<Image>>;

const BUFFER: u64 = 0x4_0000;
/// Raises interrupts: a write here sets bits of the status.
const RAISE: usize = 0x60;
const ACKNOWLEDGE: usize = 0x64;
const SOURCE: usize = 0x80;
const DESTINATION: usize = 0x88;
const COUNT: usize = 0x90;
const COMMAND: usize = 0x98;
const START: u64 = 1;
const TO_MEMORY: u64 = 2;

/// The registers.
#[derive(Clone, Copy)]
pub struct Edu(pub Mmio);

impl Edu {
    fn copy(&self, source: u64, destination: u64, len: u64, command: u64) -> bool {
        self.0.write64(SOURCE, source);
        self.0.write64(DESTINATION, destination);
        self.0.write64(COUNT, len);
        self.0.write64(COMMAND, START | command);
        time::wait_until(|| self.0.read64(COMMAND) & START == 0)
    }

    /// The device reads `len` bytes at `address`.
    pub fn read(&self, address: u64, len: u64) -> bool {
        self.copy(address, BUFFER, len, 0)
    }

    /// The device writes the first `len` bytes of its buffer to `address`.
    pub fn write(&self, address: u64, len: u64) -> bool {
        self.copy(BUFFER, address, len, TO_MEMORY)
    }

    /// The device signals, by a message where that is enabled.
    pub fn raise(&self) {
        self.0.write32(RAISE, 1);
        self.0.write32(ACKNOWLEDGE, 1);
    }
}

/// Moves data out and back in its probe, and keeps its handle for the checks.
pub struct EduDriver {
    pub edu: Edu,
    pub told: AtomicU64,
    pub handle: Kept,
}

impl EduDriver {
    pub fn new(edu: Edu) -> Arc<Self> {
        let lock = portcullis_iommu::bare::SpinLock::unlabelled();
        Arc::new(Self { edu, told: AtomicU64::new(0), handle: Mutex::from_raw(lock, None) })
    }
}

struct Bound(Arc<EduDriver>);

impl BoundDriver for Bound {
    fn on_fault(&mut self, _: &Fault) {
        self.0.told.fetch_add(1, Ordering::Relaxed);
    }
}

/// A driver is shared, and its bound half wants to count into it.
pub struct Shared(pub Arc<EduDriver>);

impl Driver<BarePlatform<Image>> for Shared {
    fn name(&self) -> &str {
        "edu"
    }

    fn probe(
        &self,
        device: &ProbeContext<'_>,
        dma: Handle,
    ) -> Result<Box<dyn BoundDriver>, ProbeError> {
        dma.set_address_bits(28).map_err(failed)?;
        let buffer = dma.allocate(4096).map_err(failed)?;
        let pages = buffer.pages();
        for word in 0..256 {
            pages.store64(word * 8, 0x0123_4567_89ab_cdef ^ word as u64);
        }
        let half = buffer.device_address() + 2048;
        let moved = self.0.edu.read(buffer.device_address(), 2048) && self.0.edu.write(half, 2048);
        let same = (0..256).all(|word| pages.load64(word * 8) == pages.load64(2048 + word * 8));
        let at = buffer.device_address();
        crate::say!(
            "cpu{}: {} by edu, {:?}, iova {at:#x} is frame {}",
            cpu::number(),
            device.path(),
            dma.reach(),
            pages.address()
        );
        check(
            "edu: 2048 bytes out and back through the IOMMU",
            moved && same && pages.load64(0) != 0,
        );
        *self.0.handle.lock() = Some(dma.clone());
        Ok(Box::new(Bound(Arc::clone(&self.0))))
    }
}

/// Allocates and frees in its probe and touches no device: for cycles.
pub struct Quick;

struct QuickBound;

impl BoundDriver for QuickBound {}

impl Driver<BarePlatform<Image>> for Quick {
    fn name(&self) -> &str {
        "quick"
    }

    fn probe(&self, _: &ProbeContext<'_>, dma: Handle) -> Result<Box<dyn BoundDriver>, ProbeError> {
        drop(dma.allocate(0x1_0000).map_err(failed)?);
        Ok(Box::new(QuickBound))
    }
}
