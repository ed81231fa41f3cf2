//! One unit's registers, its platform, and bounded waits on it.

use crate::command_queue::SYNC_BOUND;
use crate::error::BringUpCause;
use alloc::sync::Arc;
use portcullis::OpsError;
use portcullis_driver_parts::answer;
use portcullis_platform::{Clock, Nanos, Platform, Registers, wait_for};
use portcullis_spec::Register;
use portcullis_spec::smmuv3 as spec;

/// Longest wait for a control register to take effect (CR0ACK, IRQ_CTRLACK, GBPA.Update): 100 ms.
pub const REGISTER_BOUND: Nanos = 100_000_000;

/// Until when a call may wait for hardware.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Option<Nanos>);

impl Deadline {
    /// [`SYNC_BOUND`] from the first look that was in vain. For calls with one wait: they need not ask for the time unless they have to wait.
    pub(crate) const ONE_WAIT: Self = Self(None);

    /// [`SYNC_BOUND`] from now, for all waits of a call together.
    pub(crate) fn for_call<C: Clock>(clock: &C) -> Self {
        Self(Some(clock.now().saturating_add(SYNC_BOUND)))
    }

    /// How long to wait at most.
    pub(crate) fn left<C: Clock>(self, clock: &C) -> Nanos {
        self.0.map_or(SYNC_BOUND, |end| end.saturating_sub(clock.now()))
    }
}

/// What a missing unit reads as.
const GONE: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) struct Unit<P: Platform, R> {
    platform: Arc<P>,
    registers: R,
}

impl<P: Platform, R: Registers> Unit<P, R> {
    /// Checks that the block can be an SMMUv3 at all; writes nothing.
    pub(crate) fn new(platform: Arc<P>, registers: R) -> Result<Self, BringUpCause> {
        if registers.len() < spec::BLOCK_SIZE {
            return Err(BringUpCause::BlockTooSmall { len: registers.len() });
        }
        let unit = Self { platform, registers };
        if unit.read(spec::IDR0) == GONE {
            return Err(BringUpCause::Gone { register: spec::IDR0.name });
        }
        Ok(unit)
    }

    pub(crate) fn platform(&self) -> &Arc<P> {
        &self.platform
    }

    #[inline]
    pub(crate) fn clock(&self) -> &P::Clock {
        self.platform.clock()
    }

    #[inline]
    pub(crate) fn read(&self, register: Register) -> u32 {
        self.registers.read32(register.offset)
    }

    #[inline]
    pub(crate) fn write(&self, register: Register, value: u32) {
        self.registers.write32(register.offset, value);
    }

    pub(crate) fn write64(&self, register: Register, value: u64) {
        self.registers.write64(register.offset, value);
    }

    /// The deadline of a call that begins now.
    pub(crate) fn deadline(&self) -> Deadline {
        Deadline::for_call(self.clock())
    }

    /// Reads a register that never legally reads as all ones while the unit serves.
    pub(crate) fn read_live(&self, register: Register) -> Result<u32, OpsError> {
        match self.read(register) {
            GONE => Err(answer::gone()),
            value => Ok(value),
        }
    }

    /// Waits until `register`, under `mask`, reads `wanted`.
    pub(crate) fn await_value(
        &self,
        register: Register,
        mask: u32,
        wanted: u32,
    ) -> Result<(), BringUpCause> {
        let mut found = 0;
        let waited = wait_for(self.clock(), REGISTER_BOUND, || {
            found = self.read(register);
            found == GONE || found & mask == wanted
        });
        if found == GONE {
            return Err(BringUpCause::Gone { register: register.name });
        }
        waited.map_err(|timeout| BringUpCause::Stuck {
            register: register.name,
            wanted,
            found,
            timeout,
        })
    }
}
