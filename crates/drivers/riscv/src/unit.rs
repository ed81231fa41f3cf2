//! One unit's registers, its platform, and bounded waits on it.

use crate::error::BringUpCause;
use alloc::sync::Arc;
use portcullis::OpsError;
use portcullis_driver_parts::answer;
use portcullis_platform::{Nanos, Platform, Registers, wait_for};
use portcullis_spec::Register;
use portcullis_spec::riscv as spec;

/// Longest wait for a control register to take effect (`busy` of `ddtp`, `cqcsr`, `fqcsr`): 100 ms.
pub const REGISTER_BOUND: Nanos = 100_000_000;

/// What a missing unit reads as.
pub(crate) const GONE: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) struct Unit<P: Platform, R> {
    platform: Arc<P>,
    registers: R,
}

impl<P: Platform, R: Registers> Unit<P, R> {
    /// Checks that the block can be a RISC-V IOMMU at all; writes nothing.
    pub(crate) fn new(platform: Arc<P>, registers: R) -> Result<Self, BringUpCause> {
        if registers.len() < spec::BLOCK_SIZE {
            return Err(BringUpCause::BlockTooSmall { len: registers.len() });
        }
        let unit = Self { platform, registers };
        if unit.read(spec::CAPABILITIES) == GONE {
            return Err(BringUpCause::Gone { register: spec::CAPABILITIES.name });
        }
        Ok(unit)
    }

    pub(crate) fn platform(&self) -> &Arc<P> {
        &self.platform
    }

    pub(crate) fn clock(&self) -> &P::Clock {
        self.platform.clock()
    }

    /// A register of 32 bits, or the low half of one of 64.
    pub(crate) fn read(&self, register: Register) -> u32 {
        self.registers.read32(register.offset)
    }

    pub(crate) fn write(&self, register: Register, value: u32) {
        self.registers.write32(register.offset, value);
    }

    pub(crate) fn read64(&self, register: Register) -> u64 {
        let high = u64::from(self.registers.read32(register.offset + 4));
        high << 32 | u64::from(self.registers.read32(register.offset))
    }

    /// A register of 64 bits in two halves, the high one first: what an access of eight bytes may be taken apart into, and the order in which `ddtp` is safe (chapter 5).
    pub(crate) fn write64(&self, register: Register, value: u64) {
        self.registers.write32(register.offset + 4, (value >> 32) as u32);
        self.registers.write32(register.offset, value as u32);
    }

    /// Reads a register that never legally reads as all ones while the unit serves.
    pub(crate) fn read_live(&self, register: Register) -> Result<u32, OpsError> {
        match self.read(register) {
            GONE => Err(answer::gone()),
            value => Ok(value),
        }
    }

    /// Waits until `register`, under `mask`, reads `wanted`; gives what it read last.
    pub(crate) fn await_value(
        &self,
        register: Register,
        mask: u64,
        wanted: u32,
    ) -> Result<u32, BringUpCause> {
        let mut found = 0;
        let waited = wait_for(self.clock(), REGISTER_BOUND, || {
            found = self.read(register);
            found == GONE || found & mask as u32 == wanted
        });
        if found == GONE {
            return Err(BringUpCause::Gone { register: register.name });
        }
        let stuck =
            |timeout| BringUpCause::Stuck { register: register.name, wanted, found, timeout };
        waited.map(|()| found).map_err(stuck)
    }
}
