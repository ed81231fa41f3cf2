//! The virtio entropy source (Virtual I/O Device 1.2, 5.4): one queue, whose buffers the device fills with random bytes.

use super::{DmaBuffer, VirtioPci};
use crate::error::{Error, ErrorKind};
use crate::ram::Ram;
use portcullis_addr::PhysAddr;
use portcullis_platform::host::HostClock;
use portcullis_platform::{Coherency, DmaMemory, wait_for};
use std::sync::Arc;

const ENTROPY_SOURCE: u16 = 4;
const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
const VERSION_1: u64 = 1 << 32;
/// The device's accesses go through the IOMMU (6: `VIRTIO_F_ACCESS_PLATFORM`).
const ACCESS_PLATFORM: u64 = 1 << 33;
const QUEUE_LEN: u16 = 8;
/// 2.7.5: the buffer is for the device to write.
const DESCRIPTOR_WRITE: u16 = 2;
const FILL_BOUND_NS: u64 = 5_000_000_000;

/// Memory for the queue's three areas and the bytes; a page each is plenty.
#[derive(Clone, Copy, Debug)]
pub struct VirtioRngBuffers {
    /// Descriptor table: 128 bytes on a boundary of 16.
    pub descriptors: DmaBuffer,
    /// Available ring: 22 bytes on a boundary of 2.
    pub available: DmaBuffer,
    /// Used ring: 70 bytes on a boundary of 4.
    pub used: DmaBuffer,
    /// The bytes.
    pub data: DmaBuffer,
}

/// An entropy source with its queue running.
#[derive(Debug)]
pub struct VirtioRng {
    transport: VirtioPci,
    ram: Arc<Ram>,
    buffers: VirtioRngBuffers,
    submitted: u16,
    platform_addresses: bool,
}

impl VirtioRng {
    /// Resets the device and gives it its queue.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Device`] when it is no entropy source or does not accept the features.
    pub fn start(
        transport: VirtioPci,
        ram: &Arc<Ram>,
        buffers: VirtioRngBuffers,
    ) -> Result<Self, Error> {
        let wrong = |what: String| ErrorKind::Device { device: "virtio-rng", what };
        if transport.device_id() != ENTROPY_SOURCE {
            return Err(wrong(format!("virtio device id {}", transport.device_id())).into());
        }
        transport.set_status(0);
        transport.set_status(ACKNOWLEDGE | DRIVER);
        let features = transport.device_features() & (VERSION_1 | ACCESS_PLATFORM);
        transport.set_driver_features(features);
        transport.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        if transport.status() & FEATURES_OK == 0 {
            return Err(wrong(format!("features {features:#x} refused")).into());
        }
        let VirtioRngBuffers { descriptors, available, used, .. } = buffers;
        transport.set_queue(0, QUEUE_LEN, descriptors.iova, available.iova, used.iova);
        transport.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
        let platform_addresses = features & ACCESS_PLATFORM != 0;
        Ok(Self { transport, ram: Arc::clone(ram), buffers, submitted: 0, platform_addresses })
    }

    /// Whether the device says that its accesses go through the IOMMU.
    pub fn uses_platform_addresses(&self) -> bool {
        self.platform_addresses
    }

    /// Asks for random bytes, as many as the data buffer holds; returns those that came.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Device`] when the device does not answer in time: so it is when the IOMMU refuses its accesses.
    pub fn fill(&mut self) -> Result<Vec<u8>, Error> {
        let data = self.buffers.data;
        let slot = usize::from(self.submitted % QUEUE_LEN);
        let descriptor = at(self.buffers.descriptors.phys, 16 * slot);
        self.ram.store64(descriptor, data.iova.raw());
        self.ram.store32(at(descriptor, 8), u32::try_from(data.len).unwrap_or(u32::MAX));
        self.ram.store32(at(descriptor, 12), DESCRIPTOR_WRITE.into());
        let available = self.buffers.available.phys;
        self.ram.store16(at(available, 4 + 2 * slot), slot as u16);
        self.submitted = self.submitted.wrapping_add(1);
        self.ram.publish(available, 4, Coherency::Coherent);
        self.ram.store16(at(available, 2), self.submitted);
        self.transport.notify(0);
        let used = self.buffers.used.phys;
        let answered = wait_for(&HostClock::start(), FILL_BOUND_NS, || {
            // Reading a register lets QEMU's main loop run.
            self.transport.status();
            self.ram.load16(at(used, 2)) == self.submitted
        });
        answered.map_err(|timeout| ErrorKind::Device {
            device: "virtio-rng",
            what: format!("{timeout}; device status {:#x}", self.transport.status()),
        })?;
        let len = self.ram.load32(at(used, 4 + 8 * slot + 4)) as usize;
        Ok(self.ram.read_vec(data.phys, len.min(data.len)))
    }
}

fn at(start: PhysAddr, offset: usize) -> PhysAddr {
    PhysAddr::new(start.raw() + offset as u64)
}
