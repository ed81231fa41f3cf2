//! One device's registers, on the memory bus or as a PCI function, its platform, and bounded waits on it.

use crate::error::BringUpCause;
use alloc::sync::Arc;
use portcullis_addr::PhysAddr;
use portcullis_platform::{Nanos, Platform, Registers, wait_for};
use portcullis_spec::virtio::{self as spec, mmio, pci, status};

/// Longest wait for a reset to take effect: 1 s. The document gives no bound; a hypervisor answers at once.
pub const RESET_BOUND: Nanos = 1_000_000_000;

/// Where a PCI function has its registers, as offsets in the block that the driver is given (§4.1.4): the capabilities of virtio must lie in one BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciLayout {
    /// The common configuration.
    pub common: usize,
    /// The notification area.
    pub notify: usize,
    /// `notify_off_multiplier`.
    pub notify_multiplier: usize,
    /// The interrupt status, one byte, which reading clears.
    pub interrupt: usize,
    /// The device's own configuration.
    pub config: usize,
}

/// Which transport the registers are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// virtio-mmio (§4.2), version 2.
    Mmio,
    /// virtio-pci (§4.1), not the legacy interface.
    Pci(PciLayout),
}

/// What a device that is not there reads as.
const GONE_STATUS: u32 = 0xff;

#[derive(Debug)]
pub(crate) struct Unit<P: Platform, R> {
    platform: Arc<P>,
    registers: R,
    transport: Transport,
}

impl<P: Platform, R: Registers> Unit<P, R> {
    /// Checks that the block can be such a device at all; writes nothing.
    pub(crate) fn new(
        platform: Arc<P>,
        registers: R,
        transport: Transport,
    ) -> Result<Self, BringUpCause> {
        let unit = Self { platform, registers, transport };
        let needed = match transport {
            Transport::Mmio => mmio::CONFIG + spec::iommu::config::BYTES,
            Transport::Pci(at) => {
                let ends = [at.common + pci::COMMON_BYTES, at.notify + 4, at.interrupt + 1];
                let ends = ends.into_iter().chain([at.config + spec::iommu::config::BYTES]);
                ends.max().unwrap_or(usize::MAX)
            }
        };
        let len = unit.registers.len();
        if len < needed {
            return Err(BringUpCause::BlockTooSmall { len, needed });
        }
        unit.check_identity()?;
        if unit.status() == GONE_STATUS {
            return Err(BringUpCause::Gone);
        }
        Ok(unit)
    }

    /// §4.2.2: magic, version, kind. A PCI function's kind is its device id, by which it was found.
    fn check_identity(&self) -> Result<(), BringUpCause> {
        if self.transport != Transport::Mmio {
            return Ok(());
        }
        let wanted = [
            ("MagicValue", mmio::MAGIC, mmio::MAGIC_VALUE),
            ("Version", mmio::VERSION, 2),
            ("DeviceID", mmio::DEVICE_ID, spec::iommu::DEVICE_ID),
        ];
        for (register, offset, wanted) in wanted {
            let found = self.registers.read32(offset);
            if found == u32::MAX {
                return Err(BringUpCause::Gone);
            }
            if found != wanted {
                return Err(BringUpCause::NotOurs { register, found, wanted });
            }
        }
        Ok(())
    }

    pub(crate) fn platform(&self) -> &Arc<P> {
        &self.platform
    }

    pub(crate) fn clock(&self) -> &P::Clock {
        self.platform.clock()
    }

    pub(crate) fn status(&self) -> u32 {
        match self.transport {
            Transport::Mmio => self.registers.read32(mmio::STATUS) & 0xff,
            Transport::Pci(at) => self.registers.read8(at.common + pci::DEVICE_STATUS).into(),
        }
    }

    pub(crate) fn set_status(&self, value: u32) {
        match self.transport {
            Transport::Mmio => self.registers.write32(mmio::STATUS, value),
            Transport::Pci(at) => {
                self.registers.write8(at.common + pci::DEVICE_STATUS, value as u8);
            }
        }
    }

    /// Whether the device is not there any more: no legal status has all bits set.
    pub(crate) fn is_gone(&self) -> bool {
        self.status() == GONE_STATUS
    }

    /// Whether the device has said that it cannot go on (§2.1.2).
    pub(crate) fn needs_reset(&self) -> bool {
        self.status() & status::NEEDS_RESET != 0
    }

    /// Resets the device and waits until it says that it is (§2.4): it reads and writes no queue any more.
    pub(crate) fn reset(&self) -> Result<(), BringUpCause> {
        self.set_status(0);
        let mut found = 0;
        let waited = wait_for(self.clock(), RESET_BOUND, || {
            found = self.status();
            found == 0 || found == GONE_STATUS
        });
        match (found, waited) {
            (GONE_STATUS, _) => Err(BringUpCause::Gone),
            (_, Ok(())) => Ok(()),
            (found, Err(timeout)) => Err(BringUpCause::NoReset { found, timeout }),
        }
    }

    /// The features that the device offers.
    pub(crate) fn offered(&self) -> u64 {
        let (select, read) = match self.transport {
            Transport::Mmio => (mmio::DEVICE_FEATURES_SELECT, mmio::DEVICE_FEATURES),
            Transport::Pci(at) => {
                (at.common + pci::DEVICE_FEATURE_SELECT, at.common + pci::DEVICE_FEATURE)
            }
        };
        let half = |which: u32| {
            self.registers.write32(select, which);
            u64::from(self.registers.read32(read))
        };
        half(0) | half(1) << 32
    }

    /// Accepts these.
    pub(crate) fn accept(&self, features: u64) {
        let (select, write) = match self.transport {
            Transport::Mmio => (mmio::DRIVER_FEATURES_SELECT, mmio::DRIVER_FEATURES),
            Transport::Pci(at) => {
                (at.common + pci::DRIVER_FEATURE_SELECT, at.common + pci::DRIVER_FEATURE)
            }
        };
        for which in 0..2 {
            self.registers.write32(select, which);
            self.registers.write32(write, (features >> (32 * which)) as u32);
        }
    }

    /// The most entries of a queue; 0 where there is none.
    pub(crate) fn most_entries(&self, queue: u16) -> u32 {
        match self.transport {
            Transport::Mmio => {
                self.registers.write32(mmio::QUEUE_SELECT, queue.into());
                self.registers.read32(mmio::QUEUE_SIZE_MAX)
            }
            Transport::Pci(at) => {
                self.registers.write16(at.common + pci::QUEUE_SELECT, queue);
                self.registers.read16(at.common + pci::QUEUE_SIZE).into()
            }
        }
    }

    /// Tells a device that was reset where a queue's three areas are, and turns it on.
    pub(crate) fn install(&self, queue: u16, entries: u16, areas: [PhysAddr; 3]) {
        let (registers, fields) = (&self.registers, self.area_registers());
        match self.transport {
            Transport::Mmio => {
                registers.write32(mmio::QUEUE_SELECT, queue.into());
                registers.write32(mmio::QUEUE_SIZE, entries.into());
            }
            Transport::Pci(at) => {
                registers.write16(at.common + pci::QUEUE_SELECT, queue);
                registers.write16(at.common + pci::QUEUE_SIZE, entries);
            }
        }
        for (field, area) in fields.into_iter().zip(areas) {
            registers.write32(field, area.raw() as u32);
            registers.write32(field + 4, (area.raw() >> 32) as u32);
        }
        match self.transport {
            Transport::Mmio => registers.write32(mmio::QUEUE_READY, 1),
            Transport::Pci(at) => registers.write16(at.common + pci::QUEUE_ENABLE, 1),
        }
    }

    fn area_registers(&self) -> [usize; 3] {
        match self.transport {
            Transport::Mmio => [mmio::QUEUE_DESCRIPTORS, mmio::QUEUE_DRIVER, mmio::QUEUE_DEVICE],
            Transport::Pci(at) => [pci::QUEUE_DESCRIPTORS, pci::QUEUE_DRIVER, pci::QUEUE_DEVICE]
                .map(|offset| at.common + offset),
        }
    }

    /// Where a queue is notified; looked up once, after [`install`](Self::install).
    pub(crate) fn doorbell(&self, queue: u16) -> usize {
        match self.transport {
            Transport::Mmio => mmio::QUEUE_NOTIFY,
            Transport::Pci(at) => {
                self.registers.write16(at.common + pci::QUEUE_SELECT, queue);
                let place = self.registers.read16(at.common + pci::QUEUE_NOTIFY_OFFSET);
                at.notify + usize::from(place) * at.notify_multiplier
            }
        }
    }

    /// Tells the device that `queue` has new buffers.
    pub(crate) fn notify(&self, doorbell: usize, queue: u16) {
        match self.transport {
            Transport::Mmio => self.registers.write32(doorbell, queue.into()),
            // A place outside of the block is a device's nonsense; it then hears nothing, and waits end.
            Transport::Pci(_) if doorbell + 2 <= self.registers.len() => {
                self.registers.write16(doorbell, queue);
            }
            Transport::Pci(_) => {}
        }
    }

    /// Takes the pending interrupts: bit 0 a used buffer, bit 1 a change of the configuration or of the status.
    pub(crate) fn take_interrupts(&self) -> u32 {
        match self.transport {
            Transport::Mmio => {
                let pending = self.registers.read32(mmio::INTERRUPT_STATUS);
                if pending != 0 && pending != u32::MAX {
                    self.registers.write32(mmio::INTERRUPT_ACK, pending);
                }
                pending
            }
            Transport::Pci(at) => self.registers.read8(at.interrupt).into(),
        }
    }

    fn config(&self) -> usize {
        match self.transport {
            Transport::Mmio => mmio::CONFIG,
            Transport::Pci(at) => at.config,
        }
    }

    fn generation(&self) -> u32 {
        match self.transport {
            Transport::Mmio => self.registers.read32(mmio::CONFIG_GENERATION),
            Transport::Pci(at) => self.registers.read8(at.common + pci::CONFIG_GENERATION).into(),
        }
    }

    /// A consistent look at the configuration: `read` is repeated while it changes (§2.5.1), a few times.
    pub(crate) fn consistent<T>(&self, read: impl Fn() -> T) -> Result<T, BringUpCause> {
        for _ in 0..CONFIG_TRIES {
            let before = self.generation();
            let value = read();
            if self.generation() == before {
                return Ok(value);
            }
        }
        Err(BringUpCause::Restless)
    }

    pub(crate) fn config32(&self, offset: usize) -> u32 {
        self.registers.read32(self.config() + offset)
    }

    pub(crate) fn config64(&self, offset: usize) -> u64 {
        u64::from(self.config32(offset)) | u64::from(self.config32(offset + 4)) << 32
    }

    pub(crate) fn config8(&self, offset: usize) -> u8 {
        self.registers.read8(self.config() + offset)
    }

    pub(crate) fn set_config8(&self, offset: usize, value: u8) {
        self.registers.write8(self.config() + offset, value);
    }
}

/// More changes of the configuration than this while it is read are a device that is broken.
const CONFIG_TRIES: usize = 16;
