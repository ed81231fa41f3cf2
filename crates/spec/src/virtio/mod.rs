//! virtio devices and the virtio-iommu (OASIS Virtual I/O Device 1.3; "§" below is a section of it). All numbers are little endian.

pub mod iommu;

/// Bits of the device status (§2.1).
pub mod status {
    /// The driver has found the device.
    pub const ACKNOWLEDGE: u32 = 1;
    /// The driver knows how to drive it.
    pub const DRIVER: u32 = 2;
    /// The driver is set up.
    pub const DRIVER_OK: u32 = 4;
    /// Features are agreed on.
    pub const FEATURES_OK: u32 = 8;
    /// The device cannot go on without a reset.
    pub const NEEDS_RESET: u32 = 64;
    /// The driver has given the device up.
    pub const FAILED: u32 = 128;
}

/// Feature bits that are not of one kind of device (§6).
pub mod feature {
    /// The device follows this document and not what came before it.
    pub const VERSION_1: u64 = 1 << 32;
    /// The device's own accesses go where the platform leads them.
    pub const ACCESS_PLATFORM: u64 = 1 << 33;
    /// Accesses of device and driver need the platform's barriers.
    pub const ORDER_PLATFORM: u64 = 1 << 36;
}

/// The split virtqueue (§2.7).
pub mod queue {
    /// Bytes of a descriptor: address (64), length (32), flags (16), next (16) (§2.7.5).
    pub const DESCRIPTOR: usize = 16;
    /// Descriptor flag: it goes on at `next`.
    pub const NEXT: u16 = 1;
    /// Descriptor flag: the device writes there.
    pub const WRITE: u16 = 2;
    /// Bytes before the entries of the driver and of the device area: flags and index, 16 bits each (§2.7.6, §2.7.8).
    pub const RING_HEADER: usize = 4;
    /// Bytes of an entry of the driver area: the first descriptor.
    pub const AVAILABLE: usize = 2;
    /// Bytes of an entry of the device area: the first descriptor and the bytes written, 32 bits each.
    pub const USED: usize = 8;
}

/// Registers of a device on the memory bus (§4.2.2), 32 bits each.
pub mod mmio {
    /// `"virt"`.
    pub const MAGIC: usize = 0x000;
    /// What [`MAGIC`] reads as.
    pub const MAGIC_VALUE: u32 = 0x7472_6976;
    /// Version of the layout; 2 is this one.
    pub const VERSION: usize = 0x004;
    /// Kind of device (§5); 0 for none.
    pub const DEVICE_ID: usize = 0x008;
    /// 32 of the features that the device offers.
    pub const DEVICE_FEATURES: usize = 0x010;
    /// Which 32.
    pub const DEVICE_FEATURES_SELECT: usize = 0x014;
    /// 32 of the features that the driver accepts.
    pub const DRIVER_FEATURES: usize = 0x020;
    /// Which 32.
    pub const DRIVER_FEATURES_SELECT: usize = 0x024;
    /// Which queue the registers below are about.
    pub const QUEUE_SELECT: usize = 0x030;
    /// Most entries of the queue; 0 where there is none.
    pub const QUEUE_SIZE_MAX: usize = 0x034;
    /// Entries of the queue.
    pub const QUEUE_SIZE: usize = 0x038;
    /// Whether the queue is in use.
    pub const QUEUE_READY: usize = 0x044;
    /// Tells the device of new buffers; the value is the queue.
    pub const QUEUE_NOTIFY: usize = 0x050;
    /// Pending interrupts: bit 0 a used buffer, bit 1 the configuration.
    pub const INTERRUPT_STATUS: usize = 0x060;
    /// Clears them.
    pub const INTERRUPT_ACK: usize = 0x064;
    /// Device status (§2.1); 0 resets.
    pub const STATUS: usize = 0x070;
    /// Descriptor area, low half; the high half follows.
    pub const QUEUE_DESCRIPTORS: usize = 0x080;
    /// Driver area.
    pub const QUEUE_DRIVER: usize = 0x090;
    /// Device area.
    pub const QUEUE_DEVICE: usize = 0x0a0;
    /// Changes with the configuration.
    pub const CONFIG_GENERATION: usize = 0x0fc;
    /// The device's own configuration.
    pub const CONFIG: usize = 0x100;
}

/// The common configuration of a PCI function (§4.1.4.3).
pub mod pci {
    /// 32 bits.
    pub const DEVICE_FEATURE_SELECT: usize = 0x00;
    /// 32 bits.
    pub const DEVICE_FEATURE: usize = 0x04;
    /// 32 bits.
    pub const DRIVER_FEATURE_SELECT: usize = 0x08;
    /// 32 bits.
    pub const DRIVER_FEATURE: usize = 0x0c;
    /// 8 bits.
    pub const DEVICE_STATUS: usize = 0x14;
    /// 8 bits.
    pub const CONFIG_GENERATION: usize = 0x15;
    /// 16 bits.
    pub const QUEUE_SELECT: usize = 0x16;
    /// 16 bits: the most when read first, then what was chosen.
    pub const QUEUE_SIZE: usize = 0x18;
    /// 16 bits.
    pub const QUEUE_ENABLE: usize = 0x1c;
    /// 16 bits: where the queue is notified, in units of the notify capability's multiplier.
    pub const QUEUE_NOTIFY_OFFSET: usize = 0x1e;
    /// 64 bits in two halves.
    pub const QUEUE_DESCRIPTORS: usize = 0x20;
    /// 64 bits in two halves.
    pub const QUEUE_DRIVER: usize = 0x28;
    /// 64 bits in two halves.
    pub const QUEUE_DEVICE: usize = 0x30;
    /// Bytes of the structure without later additions.
    pub const COMMON_BYTES: usize = 0x38;
}
