//! An NVMe controller as far as its Identify data: two queues in memory, one command, a page that the controller writes.
//!
//! Registers and commands: NVM Express Base Specification 2.0, 3.1.3 (controller properties), 5.17 (Identify).

use super::failed;
use crate::console::check;
use crate::cpu;
use crate::seams::Image;
use crate::time;
use alloc::boxed::Box;
use portcullis_iommu::bare::{BarePlatform, Mmio};
use portcullis_iommu::platform::Registers;
use portcullis_iommu::{BoundDriver, DmaBuffer, DmaHandle, Driver, ProbeContext, ProbeError};

type Platforms = BarePlatform<Image>;

const CC: usize = 0x14;
const CSTS: usize = 0x1c;
const AQA: usize = 0x24;
const ASQ: usize = 0x28;
const ACQ: usize = 0x30;
const DOORBELLS: usize = 0x1000;
const READY: u32 = 1;
/// Enabled; submission entries of 64 bytes, completion entries of 16.
const ENABLE: u32 = 1 | 6 << 16 | 4 << 20;
const IDENTIFY: u64 = 0x06;
const CONTROLLER: u64 = 1;
/// Two entries each, the least there can be.
const QUEUE_ENTRIES: u32 = 2;
/// "Identify" data: the model number, 40 characters from byte 24 on.
const MODEL: usize = 24;

pub struct NvmeDriver(pub Mmio);

/// What the controller reaches until it is unbound.
struct Bound {
    registers: Mmio,
    _queues: [DmaBuffer<Platforms>; 2],
}

impl BoundDriver for Bound {
    fn remove(&mut self) {
        // Quiesced before its memory goes.
        self.registers.write32(CC, 0);
        let _stopped = time::wait_until(|| self.registers.read32(CSTS) & READY == 0);
    }
}

impl Driver<Platforms> for NvmeDriver {
    fn name(&self) -> &str {
        "nvme"
    }

    fn probe(
        &self,
        device: &ProbeContext<'_>,
        dma: DmaHandle<Platforms>,
    ) -> Result<Box<dyn BoundDriver>, ProbeError> {
        crate::say!("cpu{}: {} by nvme, {:?}", cpu::number(), device.path(), dma.reach());
        let [submission, completion, data] = [(); 3].map(|()| dma.allocate(4096));
        let (submission, completion) = (submission.map_err(failed)?, completion.map_err(failed)?);
        let data = data.map_err(failed)?;
        let registers = self.0;
        registers.write32(CC, 0);
        registers.write32(AQA, (QUEUE_ENTRIES - 1) << 16 | (QUEUE_ENTRIES - 1));
        registers.write64(ASQ, submission.device_address());
        registers.write64(ACQ, completion.device_address());
        registers.write32(CC, ENABLE);
        if !time::wait_until(|| registers.read32(CSTS) & READY != 0) {
            return Err(failed("the controller does not become ready"));
        }
        submission.pages().store64(0, IDENTIFY);
        submission.pages().store64(24, data.device_address());
        submission.pages().store64(40, CONTROLLER);
        registers.write32(DOORBELLS, 1);
        // The phase bit of the first completion, with status 0 above it.
        let done = time::wait_until(|| completion.pages().load64(8) >> 48 == 1);
        let model: [u8; 16] = core::array::from_fn(|at| {
            data.pages().load64((MODEL + at) & !7).to_le_bytes()[(MODEL + at) % 8]
        });
        check("nvme: identified through the IOMMU", done && model.starts_with(b"QEMU NVMe Ctrl"));
        Ok(Box::new(Bound { registers, _queues: [submission, completion] }))
    }
}
