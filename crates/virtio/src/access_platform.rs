//! Accepting `VIRTIO_F_ACCESS_PLATFORM` on behalf of drivers that do not know it.

use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{Error, PhysAddr as DeviceAddress};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// `VIRTIO_F_ACCESS_PLATFORM` (Virtual I/O Device 1.2, section 6): the device's accesses go through the platform's IOMMU.
const ACCESS_PLATFORM: u64 = 1 << 33;

/// A transport whose driver accepts `VIRTIO_F_ACCESS_PLATFORM` where the device offers it; everything else is the inner transport's.
///
/// The drivers of `virtio-drivers` do not know the feature, and a device that offers it because it is behind an IOMMU may refuse a driver that does not accept it (6.1). Accepting it
/// is right with [`IommuHal`](crate::IommuHal), which is what fulfils it.
#[derive(Debug)]
pub struct AccessPlatform<T>(T);

impl<T: Transport> AccessPlatform<T> {
    /// `transport`, for a device behind an IOMMU.
    pub fn new(transport: T) -> Self {
        Self(transport)
    }
}

impl<T: Transport> Transport for AccessPlatform<T> {
    fn device_type(&self) -> DeviceType {
        self.0.device_type()
    }

    fn read_device_features(&mut self) -> u64 {
        self.0.read_device_features()
    }

    fn write_driver_features(&mut self, driver_features: u64) {
        let offered = self.0.read_device_features() & ACCESS_PLATFORM;
        self.0.write_driver_features(driver_features | offered);
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.0.max_queue_size(queue)
    }

    fn notify(&mut self, queue: u16) {
        self.0.notify(queue);
    }

    fn get_status(&self) -> DeviceStatus {
        self.0.get_status()
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.0.set_status(status);
    }

    fn set_guest_page_size(&mut self, guest_page_size: u32) {
        self.0.set_guest_page_size(guest_page_size);
    }

    fn requires_legacy_layout(&self) -> bool {
        self.0.requires_legacy_layout()
    }

    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: DeviceAddress,
        driver_area: DeviceAddress,
        device_area: DeviceAddress,
    ) {
        self.0.queue_set(queue, size, descriptors, driver_area, device_area);
    }

    fn queue_unset(&mut self, queue: u16) {
        self.0.queue_unset(queue);
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.0.queue_used(queue)
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        self.0.ack_interrupt()
    }

    fn read_config_generation(&self) -> u32 {
        self.0.read_config_generation()
    }

    fn read_config_space<V: FromBytes + IntoBytes>(&self, offset: usize) -> Result<V, Error> {
        self.0.read_config_space(offset)
    }

    fn write_config_space<V: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: V,
    ) -> Result<(), Error> {
        self.0.write_config_space(offset, value)
    }
}
