//! One unit's registers, its platform, and bounded waits on it.

use crate::error::BringUpCause;
use alloc::sync::Arc;
use portcullis::OpsError;
use portcullis_driver_parts::answer;
use portcullis_platform::{IrqLock, LockLabel, Nanos, Platform, Registers, wait_for};
use portcullis_spec::Register;
use portcullis_spec::amdvi as spec;

/// Longest wait for a queue to be on or off: 100 ms.
pub const REGISTER_BOUND: Nanos = 100_000_000;

/// What a missing unit reads as.
pub(crate) const GONE: u64 = u64::MAX;

#[derive(Debug)]
pub(crate) struct Unit<P: Platform, R> {
    platform: Arc<P>,
    registers: R,
    /// The control register as it was written last: both queues change bits of it.
    control: IrqLock<P, u64>,
}

impl<P: Platform, R: Registers> Unit<P, R> {
    /// Checks that the block can be an AMD IOMMU at all; writes nothing.
    pub(crate) fn new(platform: Arc<P>, registers: R, index: u64) -> Result<Self, BringUpCause> {
        if registers.len() < spec::BLOCK_SIZE {
            return Err(BringUpCause::BlockTooSmall { len: registers.len() });
        }
        let found = registers.read64(spec::CONTROL.offset);
        if found == GONE {
            return Err(BringUpCause::Gone { register: spec::CONTROL.name });
        }
        let control = IrqLock::<P, _>::new(LockLabel::new("amdvi.control", index), found);
        Ok(Self { platform, registers, control })
    }

    pub(crate) fn platform(&self) -> &Arc<P> {
        &self.platform
    }

    pub(crate) fn clock(&self) -> &P::Clock {
        self.platform.clock()
    }

    pub(crate) fn read(&self, register: Register) -> u64 {
        self.registers.read64(register.offset)
    }

    pub(crate) fn write(&self, register: Register, value: u64) {
        self.registers.write64(register.offset, value);
    }

    /// Segment number `index` of the device table; 0 is the first.
    pub(crate) fn write_segment(&self, index: usize, value: u64) {
        let register = match index.checked_sub(1) {
            None => spec::DEV_TAB_BASE,
            Some(more) => Register {
                offset: spec::DEV_TAB_SEGMENT_1.offset + more * spec::SEGMENT_STRIDE,
                ..spec::DEV_TAB_SEGMENT_1
            },
        };
        self.write(register, value);
    }

    /// Clears and sets bits of the control register, and returns what it is now.
    pub(crate) fn change_control(&self, clear: u64, set: u64) -> u64 {
        self.control.with(|control| {
            *control = *control & !clear | set;
            self.write(spec::CONTROL, *control);
            *control
        })
    }

    /// The control register as it was found or written last.
    pub(crate) fn control(&self) -> u64 {
        self.control.with(|control| *control)
    }

    /// Clears bits and sets them again: how a queue that stopped on an error goes on.
    pub(crate) fn cycle_control(&self, bits: u64) {
        self.change_control(bits, 0);
        self.change_control(0, bits);
    }

    /// Reads a register that never legally reads as all ones while the unit serves.
    pub(crate) fn read_live(&self, register: Register) -> Result<u64, OpsError> {
        match self.read(register) {
            GONE => Err(answer::gone()),
            value => Ok(value),
        }
    }

    /// Waits until the status register, under `mask`, reads `wanted`.
    pub(crate) fn await_status(&self, mask: u64, wanted: u64) -> Result<(), BringUpCause> {
        let register = spec::STATUS;
        let mut found = 0;
        let waited = wait_for(self.clock(), REGISTER_BOUND, || {
            found = self.read(register);
            found == GONE || found & mask == wanted
        });
        if found == GONE {
            return Err(BringUpCause::Gone { register: register.name });
        }
        let stuck =
            |timeout| BringUpCause::Stuck { register: register.name, wanted, found, timeout };
        waited.map_err(stuck)
    }
}
