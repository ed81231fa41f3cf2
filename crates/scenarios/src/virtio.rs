//! A virtio transport over qtest, for the drivers of `virtio-drivers`.

use portcullis_addr::Iova;
use portcullis_qemu::Width;
use portcullis_qemu::endpoint::VirtioPci;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{Error, PhysAddr as DeviceAddress};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The registers of a modern virtio device on a QEMU machine. A device behind an IOMMU needs [`AccessPlatform`](portcullis_virtio::AccessPlatform) around it.
#[derive(Debug)]
pub struct QemuTransport(VirtioPci);

impl QemuTransport {
    /// The transport of that device.
    pub fn new(device: VirtioPci) -> Self {
        Self(device)
    }
}

impl Transport for QemuTransport {
    fn device_type(&self) -> DeviceType {
        // A type that the crate does not know drives nothing.
        DeviceType::try_from(u32::from(self.0.device_id())).unwrap_or(DeviceType::IOMMU)
    }

    fn read_device_features(&mut self) -> u64 {
        self.0.device_features()
    }

    fn write_driver_features(&mut self, driver_features: u64) {
        self.0.set_driver_features(driver_features);
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.0.max_queue_size(queue).into()
    }

    fn notify(&mut self, queue: u16) {
        self.0.notify(queue);
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_truncate(self.0.status().into())
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.0.set_status(status.bits() as u8);
    }

    // Legacy only.
    fn set_guest_page_size(&mut self, _guest_page_size: u32) {}

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: DeviceAddress,
        driver_area: DeviceAddress,
        device_area: DeviceAddress,
    ) {
        let [descriptors, driver, device] = [descriptors, driver_area, device_area].map(Iova::new);
        self.0.set_queue(queue, size as u16, descriptors, driver, device);
    }

    // 4.1.4.3.2: a modern queue is disabled by a reset of the device only.
    fn queue_unset(&mut self, _queue: u16) {
        self.0.set_status(0);
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.0.is_queue_enabled(queue)
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::from_bits_truncate(self.0.take_interrupt_status().into())
    }

    fn read_config_generation(&self) -> u32 {
        self.0.config_generation().into()
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T, Error> {
        let config = self.0.device_config().ok_or(Error::ConfigSpaceMissing)?;
        let mut value = T::new_zeroed();
        fits(config, offset, size_of::<T>())?;
        for (index, byte) in value.as_mut_bytes().iter_mut().enumerate() {
            *byte = config.read(Width::Byte, offset + index) as u8;
        }
        Ok(value)
    }

    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: T,
    ) -> Result<(), Error> {
        let config = self.0.device_config().ok_or(Error::ConfigSpaceMissing)?;
        fits(config, offset, size_of::<T>())?;
        for (index, byte) in value.as_bytes().iter().enumerate() {
            config.write(Width::Byte, offset + index, (*byte).into());
        }
        Ok(())
    }
}

fn fits(config: &portcullis_qemu::Mmio, offset: usize, len: usize) -> Result<(), Error> {
    use portcullis_platform::Registers;
    let inside = offset.checked_add(len).is_some_and(|end| end <= config.len());
    if inside { Ok(()) } else { Err(Error::ConfigSpaceTooSmall) }
}
