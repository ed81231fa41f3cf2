//! The modern virtio transport over PCI (Virtual I/O Device 1.2, 4.1).

use crate::error::{Error, ErrorKind};
use crate::pci::{ConfigSpace, Function, Requests};
use crate::platform::Mmio;
use crate::process::Qemu;
use crate::qtest::Width;
use portcullis_addr::{Iova, PhysAddr};
use std::sync::Arc;

const CAPABILITY_VENDOR: u8 = 0x09;
// 4.1.4: cfg_type.
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const ISR: u8 = 3;
const DEVICE: u8 = 4;
// 4.1.4.3: struct virtio_pci_common_cfg.
const DEVICE_FEATURE_SELECT: usize = 0x00;
const DEVICE_FEATURE: usize = 0x04;
const DRIVER_FEATURE_SELECT: usize = 0x08;
const DRIVER_FEATURE: usize = 0x0c;
const DEVICE_STATUS: usize = 0x14;
const CONFIG_GENERATION: usize = 0x15;
const QUEUE_SELECT: usize = 0x16;
const QUEUE_SIZE: usize = 0x18;
const QUEUE_ENABLE: usize = 0x1c;
const QUEUE_NOTIFY_OFFSET: usize = 0x1e;
const QUEUE_DESCRIPTORS: usize = 0x20;
const QUEUE_DRIVER: usize = 0x28;
const QUEUE_DEVICE: usize = 0x30;

/// The register blocks of a modern virtio device.
#[derive(Debug)]
pub struct VirtioPci {
    device_id: u16,
    common: Mmio,
    notify: Mmio,
    notify_multiplier: usize,
    isr: Mmio,
    device: Option<Mmio>,
}

impl VirtioPci {
    /// Reads where `function` has its blocks.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Pci`] when it is no modern virtio device or a block lies outside its BAR.
    pub fn new<R: Requests>(
        qemu: &Arc<Qemu>,
        config: &ConfigSpace<R>,
        function: &Function,
    ) -> Result<Self, Error> {
        let found = VirtioBlocks::scan(config, function)?;
        let block = |kind: u8, name: &str| found.mmio(qemu, function, kind, name);
        Ok(Self {
            // 4.1.2: modern devices have PCI id 0x1040 plus the virtio id.
            device_id: function.device.wrapping_sub(0x1040),
            common: block(COMMON, "common")?,
            notify: block(NOTIFY, "notify")?,
            notify_multiplier: found.notify_multiplier,
            isr: block(ISR, "ISR")?,
            device: found.places[usize::from(DEVICE)]
                .map(|_| block(DEVICE, "device"))
                .transpose()?,
        })
    }

    /// The virtio device id (section 5): 4 for an entropy source.
    pub fn device_id(&self) -> u16 {
        self.device_id
    }

    /// The 64 feature bits that the device offers.
    pub fn device_features(&self) -> u64 {
        let half = |select: u64| {
            self.common.write(Width::Long, DEVICE_FEATURE_SELECT, select);
            self.common.read(Width::Long, DEVICE_FEATURE) & 0xffff_ffff
        };
        half(0) | half(1) << 32
    }

    /// Accepts feature bits.
    pub fn set_driver_features(&self, features: u64) {
        for select in 0..2 {
            self.common.write(Width::Long, DRIVER_FEATURE_SELECT, select);
            self.common.write(Width::Long, DRIVER_FEATURE, features >> (32 * select));
        }
    }

    /// Device status (2.1).
    pub fn status(&self) -> u8 {
        self.common.read(Width::Byte, DEVICE_STATUS) as u8
    }

    /// Sets the device status; 0 resets the device.
    pub fn set_status(&self, status: u8) {
        self.common.write(Width::Byte, DEVICE_STATUS, status.into());
    }

    /// A number that changes with the device's configuration.
    pub fn config_generation(&self) -> u8 {
        self.common.read(Width::Byte, CONFIG_GENERATION) as u8
    }

    /// Entries that `queue` can have at most; 0 when there is no such queue.
    pub fn max_queue_size(&self, queue: u16) -> u16 {
        self.common.write(Width::Word, QUEUE_SELECT, queue.into());
        self.common.read(Width::Word, QUEUE_SIZE) as u16
    }

    /// Gives `queue` its three areas at bus addresses, and enables it.
    pub fn set_queue(&self, queue: u16, size: u16, descriptors: Iova, driver: Iova, device: Iova) {
        self.common.write(Width::Word, QUEUE_SELECT, queue.into());
        self.common.write(Width::Word, QUEUE_SIZE, size.into());
        let areas =
            [(QUEUE_DESCRIPTORS, descriptors), (QUEUE_DRIVER, driver), (QUEUE_DEVICE, device)];
        for (offset, area) in areas {
            // 4.1.3.1: 64-bit fields are written as two 32-bit halves.
            self.common.write(Width::Long, offset, area.raw());
            self.common.write(Width::Long, offset + 4, area.raw() >> 32);
        }
        self.common.write(Width::Word, QUEUE_ENABLE, 1);
    }

    /// Whether `queue` is enabled.
    pub fn is_queue_enabled(&self, queue: u16) -> bool {
        self.common.write(Width::Word, QUEUE_SELECT, queue.into());
        self.common.read(Width::Word, QUEUE_ENABLE) != 0
    }

    /// Tells the device that `queue` has new buffers.
    pub fn notify(&self, queue: u16) {
        self.common.write(Width::Word, QUEUE_SELECT, queue.into());
        let offset = self.common.read(Width::Word, QUEUE_NOTIFY_OFFSET) as usize;
        self.notify.write(Width::Word, offset * self.notify_multiplier, queue.into());
    }

    /// Reads and so clears the interrupt status.
    pub fn take_interrupt_status(&self) -> u8 {
        self.isr.read(Width::Byte, 0) as u8
    }

    /// The device's own configuration, where it has one.
    pub fn device_config(&self) -> Option<&Mmio> {
        self.device.as_ref()
    }
}

/// Where a block is: BAR, offset, length.
type Place = (u8, u32, u32);

/// Where a modern virtio function has its register blocks, all of them in one BAR (4.1.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtioBlocks {
    bar: u8,
    /// Offset of the common configuration in the BAR.
    pub common: usize,
    /// Offset of the notification area.
    pub notify: usize,
    /// Bytes between two queues' places there.
    pub notify_multiplier: usize,
    /// Offset of the interrupt status.
    pub isr: usize,
    /// Offset of the device's own configuration.
    pub device: usize,
}

/// The blocks of a function, by type.
struct Found {
    places: [Option<Place>; 5],
    notify_multiplier: usize,
}

impl VirtioBlocks {
    /// Reads where `function` has its blocks.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Pci`] when it is no modern virtio device, has no configuration of its own, or its blocks are in several BARs.
    pub fn find<R: Requests>(config: &ConfigSpace<R>, function: &Function) -> Result<Self, Error> {
        let found = Self::scan(config, function)?;
        let place = |kind: u8, name: &str| {
            found.places[usize::from(kind)].ok_or_else(|| missing(function, name))
        };
        let (bar, common, _) = place(COMMON, "common")?;
        let in_bar = |kind: u8, name: &str| match place(kind, name)? {
            (other, offset, _) if other == bar => Ok(offset as usize),
            _ => Err(missing(function, &format!("{name} (BAR {bar})"))),
        };
        Ok(Self {
            bar,
            common: common as usize,
            notify: in_bar(NOTIFY, "notify")?,
            notify_multiplier: found.notify_multiplier,
            isr: in_bar(ISR, "ISR")?,
            device: in_bar(DEVICE, "device")?,
        })
    }

    /// The BAR that they are in.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Pci`] when it was not placed.
    pub fn bar(&self, qemu: &Arc<Qemu>, function: &Function) -> Result<Mmio, Error> {
        let placed = function.bars.get(usize::from(self.bar)).copied().flatten();
        let placed = placed.ok_or_else(|| missing(function, "BAR behind its"))?;
        Ok(Mmio::new(qemu, placed.address, usize::try_from(placed.size).unwrap_or(usize::MAX)))
    }

    fn scan<R: Requests>(config: &ConfigSpace<R>, function: &Function) -> Result<Found, Error> {
        let mut found = Found { places: [None; 5], notify_multiplier: 0 };
        for (at, id) in config.capabilities(function.address)? {
            if id != CAPABILITY_VENDOR {
                continue;
            }
            let kind = (config.read(function.address, at)? >> 24) as u8;
            let place = usize::from(kind);
            if !(COMMON..=DEVICE).contains(&kind) || found.places[place].is_some() {
                continue;
            }
            if kind == NOTIFY {
                found.notify_multiplier = config.read(function.address, at + 16)? as usize;
            }
            let bar = config.read(function.address, at + 4)? as u8;
            let offset = config.read(function.address, at + 8)?;
            found.places[place] = Some((bar, offset, config.read(function.address, at + 12)?));
        }
        Ok(found)
    }
}

fn missing(function: &Function, name: &str) -> ErrorKind {
    let what = format!("no virtio {name} block: not a modern virtio device");
    ErrorKind::Pci { address: function.address, what }
}

impl Found {
    /// One block as registers.
    fn mmio(
        &self,
        qemu: &Arc<Qemu>,
        function: &Function,
        kind: u8,
        name: &str,
    ) -> Result<Mmio, ErrorKind> {
        let place = self.places[usize::from(kind)].ok_or_else(|| missing(function, name))?;
        let (bar, offset, len) = place;
        block(qemu, function, bar, offset, len)
    }
}

fn block(
    qemu: &Arc<Qemu>,
    function: &Function,
    bar: u8,
    offset: u32,
    len: u32,
) -> Result<Mmio, ErrorKind> {
    let placed = function.bars.get(usize::from(bar)).copied().flatten();
    let end = u64::from(offset) + u64::from(len);
    match placed.filter(|placed| end <= placed.size) {
        Some(placed) => {
            let base = PhysAddr::new(placed.address.raw() + u64::from(offset));
            Ok(Mmio::new(qemu, base, len as usize))
        }
        None => Err(ErrorKind::Pci {
            address: function.address,
            what: format!("a virtio block at {offset:#x} + {len:#x} lies outside BAR {bar}"),
        }),
    }
}
