//! The registers of a device on the memory bus (4.2.2).

use super::profile::VirtioProfile;
use portcullis_spec::virtio::iommu::{DEVICE_ID, config};
use portcullis_spec::virtio::{feature, mmio, status};

/// Features of every modern device.
const COMMON: u64 = feature::VERSION_1 | feature::ACCESS_PLATFORM;

/// A queue as the driver set it up.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Queue {
    pub(super) entries: u16,
    pub(super) ready: bool,
    pub(super) descriptors: u64,
    pub(super) driver: u64,
    pub(super) device: u64,
    /// Chains that the device has taken.
    pub(super) taken: u16,
    /// Chains that it has given back.
    pub(super) used: u16,
}

#[derive(Clone, Debug, Default)]
pub(super) struct RegisterFile {
    device_half: u32,
    driver_half: u32,
    pub(super) accepted: u64,
    pub(super) status: u32,
    selected: u32,
    pub(super) queues: [Queue; 2],
    pub(super) interrupts: u32,
    /// Accesses left until a reset has taken effect.
    resetting: u32,
}

/// What a write sets in motion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    /// The device is reset, from now on.
    Reset,
    /// A queue was notified.
    Notified(usize),
    /// A register that counts was written when it must not be.
    Guarded,
}

impl RegisterFile {
    /// Whether the driver may have the device look at its queues.
    pub(super) fn is_running(&self) -> bool {
        self.status & status::DRIVER_OK != 0 && self.status & status::NEEDS_RESET == 0
    }

    /// Whether features are agreed on.
    pub(super) fn has_agreed(&self) -> bool {
        self.status & status::FEATURES_OK != 0
    }

    /// One access less until a reset is over.
    pub(super) fn time_passes(&mut self) {
        self.resetting = self.resetting.saturating_sub(1);
    }

    fn queue(&mut self) -> Option<&mut Queue> {
        self.queues.get_mut(self.selected as usize)
    }

    /// Reads the 32-bit register at `offset`, below the configuration.
    pub(super) fn read(&mut self, profile: &VirtioProfile, offset: usize) -> u32 {
        let offered = profile.features | COMMON;
        match offset {
            mmio::MAGIC => mmio::MAGIC_VALUE,
            mmio::VERSION => 2,
            mmio::DEVICE_ID => DEVICE_ID,
            mmio::DEVICE_FEATURES => offered.checked_shr(32 * self.device_half).unwrap_or(0) as u32,
            mmio::QUEUE_SIZE_MAX => self.queue().map_or(0, |_| profile.queue_entries.into()),
            mmio::QUEUE_READY => self.queue().map_or(0, |queue| queue.ready.into()),
            mmio::INTERRUPT_STATUS => self.interrupts,
            // While a reset is under way the old status may still be read.
            mmio::STATUS if self.resetting > 0 => status::ACKNOWLEDGE | status::DRIVER,
            mmio::STATUS => self.status,
            _ => 0,
        }
    }

    /// Writes the 32-bit register at `offset`, below the configuration.
    pub(super) fn write(
        &mut self,
        profile: &VirtioProfile,
        offset: usize,
        value: u32,
        delay: u32,
    ) -> Effect {
        match offset {
            mmio::STATUS if value == 0 => {
                *self = Self { resetting: delay, ..Self::default() };
                return Effect::Reset;
            }
            mmio::STATUS => self.set_status(profile, value),
            mmio::DEVICE_FEATURES_SELECT => self.device_half = value,
            mmio::DRIVER_FEATURES_SELECT => self.driver_half = value,
            mmio::DRIVER_FEATURES if self.has_agreed() => return Effect::Guarded,
            mmio::DRIVER_FEATURES if self.driver_half < 2 => {
                let shift = 32 * self.driver_half;
                let kept = self.accepted & !(0xffff_ffff << shift);
                self.accepted = kept | u64::from(value) << shift;
            }
            mmio::QUEUE_SELECT => self.selected = value,
            mmio::QUEUE_NOTIFY => return Effect::Notified(value as usize),
            mmio::INTERRUPT_ACK => self.interrupts &= !value,
            _ => return self.write_queue(offset, value),
        }
        Effect::None
    }

    /// 3.1.1: what the driver accepts must have been offered, and is looked at when it says that this was all.
    fn set_status(&mut self, profile: &VirtioProfile, value: u32) {
        let offered = profile.features | COMMON;
        let refused = self.accepted & !offered != 0 || self.accepted & feature::VERSION_1 == 0;
        let asked = value & status::FEATURES_OK != 0 && !self.has_agreed();
        let value = if asked && refused { value & !status::FEATURES_OK } else { value };
        self.status = value | self.status & status::NEEDS_RESET;
    }

    fn write_queue(&mut self, offset: usize, value: u32) -> Effect {
        let running = self.is_running();
        let Some(queue) = self.queue() else { return Effect::Guarded };
        if offset == mmio::QUEUE_READY {
            queue.ready = value == 1;
            return if running { Effect::Guarded } else { Effect::None };
        }
        // 4.2.3.2: a queue that is in use must not be moved.
        if queue.ready {
            return Effect::Guarded;
        }
        let half = |old: u64, high: bool| match high {
            true => old & 0xffff_ffff | u64::from(value) << 32,
            false => old & !0xffff_ffff | u64::from(value),
        };
        match offset {
            mmio::QUEUE_SIZE => queue.entries = value as u16,
            at if at & !4 == mmio::QUEUE_DESCRIPTORS => {
                queue.descriptors = half(queue.descriptors, at & 4 != 0);
            }
            at if at & !4 == mmio::QUEUE_DRIVER => queue.driver = half(queue.driver, at & 4 != 0),
            at if at & !4 == mmio::QUEUE_DEVICE => queue.device = half(queue.device, at & 4 != 0),
            _ => {}
        }
        Effect::None
    }
}

/// The configuration as bytes (5.13.4).
pub(super) fn configuration(profile: &VirtioProfile, bypass: u8) -> [u8; config::BYTES] {
    let mut bytes = [0; config::BYTES];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(config::PAGE_SIZE_MASK, &profile.page_sizes.to_le_bytes());
    put(config::INPUT_START, &profile.input.0.to_le_bytes());
    put(config::INPUT_END, &profile.input.1.to_le_bytes());
    put(config::DOMAIN_START, &profile.domains.0.to_le_bytes());
    put(config::DOMAIN_END, &profile.domains.1.to_le_bytes());
    put(config::PROBE_SIZE, &profile.probe_bytes.to_le_bytes());
    put(config::BYPASS, &[bypass]);
    bytes
}

/// The name of the register at `offset`, for the explorer.
pub(super) fn name(offset: usize) -> &'static str {
    match offset & !3 {
        mmio::STATUS => "Status",
        mmio::QUEUE_NOTIFY => "QueueNotify",
        mmio::INTERRUPT_STATUS => "InterruptStatus",
        mmio::INTERRUPT_ACK => "InterruptACK",
        at if at >= mmio::CONFIG => "configuration",
        at if at >= mmio::QUEUE_SELECT => "queue",
        _ => "features",
    }
}
