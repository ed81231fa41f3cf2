//! One unit's registers, its platform, global commands, and bounded waits.

use crate::error::BringUpCause;
use alloc::sync::Arc;
use portcullis::OpsError;
use portcullis_driver_parts::answer;
use portcullis_platform::{Lock, LockLabel, Nanos, Platform, Registers, wait_for};
use portcullis_spec::vtd::{self as spec, GCMD_KEPT, gcmd, gsts};
use portcullis_spec::{Field, Register};

/// Longest wait for a global command to take effect: 100 ms.
pub const REGISTER_BOUND: Nanos = 100_000_000;

/// What a missing unit reads as.
pub(crate) const GONE: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) struct Unit<P: Platform, R> {
    platform: Arc<P>,
    registers: R,
    /// Held while a global command takes effect: there may be one at a time (§11.4.4.1).
    commanding: Lock<P, ()>,
}

impl<P: Platform, R: Registers> Unit<P, R> {
    /// Checks that the block can be a VT-d unit at all; writes nothing.
    pub(crate) fn new(platform: Arc<P>, registers: R, index: u64) -> Result<Self, BringUpCause> {
        let (len, needed) = (registers.len(), spec::IQERCD.offset + 8);
        if len < needed {
            return Err(BringUpCause::BlockTooSmall { len, needed });
        }
        let commanding = Lock::<P, _>::new(LockLabel::new("vtd.gcmd", index), ());
        let unit = Self { platform, registers, commanding };
        if unit.read(spec::VER) == GONE {
            return Err(BringUpCause::Gone { register: spec::VER.name });
        }
        Ok(unit)
    }

    pub(crate) fn platform(&self) -> &Arc<P> {
        &self.platform
    }

    pub(crate) fn clock(&self) -> &P::Clock {
        self.platform.clock()
    }

    pub(crate) fn len(&self) -> usize {
        self.registers.len()
    }

    /// A register of 32 bits, or the low half of one of 64.
    pub(crate) fn read(&self, register: Register) -> u32 {
        self.read_at(register.offset)
    }

    pub(crate) fn read_at(&self, offset: usize) -> u32 {
        self.registers.read32(offset)
    }

    pub(crate) fn write(&self, register: Register, value: u32) {
        self.write_at(register.offset, value);
    }

    pub(crate) fn write_at(&self, offset: usize, value: u32) {
        self.registers.write32(offset, value);
    }

    /// A register of 64 bits in two halves: neither its value nor what it does depends on their being read together.
    pub(crate) fn read64(&self, register: Register) -> u64 {
        let high = u64::from(self.registers.read32(register.offset + 4));
        high << 32 | u64::from(self.registers.read32(register.offset))
    }

    /// A register of 64 bits in two halves, the high one first.
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

    /// `GSTS`, of a unit that is there.
    pub(crate) fn status(&self) -> Result<u32, BringUpCause> {
        match self.read(spec::GSTS) {
            GONE => Err(BringUpCause::Gone { register: spec::GSTS.name }),
            status => Ok(status),
        }
    }

    /// Turns something on or off for good, and waits until that is in effect. Nothing to do where it is so already.
    pub(crate) fn enable(&self, field: Field, on: bool) -> Result<(), BringUpCause> {
        let _alone = self.commanding.lock();
        let status = self.status()?;
        if field.is_set(status.into()) == on {
            return Ok(());
        }
        let bits = field.with((status & GCMD_KEPT).into(), on.into()) as u32;
        self.write(spec::GCMD, bits);
        self.await_status(field, on)
    }

    /// Has the unit take the root table and the mode in `RTADDR` (§6.6).
    pub(crate) fn set_root(&self, rtaddr: u64) -> Result<(), BringUpCause> {
        let _alone = self.commanding.lock();
        self.write64(spec::RTADDR, rtaddr);
        self.command_once(gcmd::SRTP)?;
        self.await_status(gsts::RTPS, true)
    }

    /// Makes what was stored visible to a unit with write buffers (§6.8).
    pub(crate) fn flush_write_buffer(&self) -> Result<(), BringUpCause> {
        let _alone = self.commanding.lock();
        self.command_once(gcmd::WBF)?;
        self.await_status(gsts::WBFS, false)
    }

    fn command_once(&self, field: Field) -> Result<(), BringUpCause> {
        let status = self.status()?;
        self.write(spec::GCMD, status & GCMD_KEPT | field.mask() as u32);
        Ok(())
    }

    fn await_status(&self, field: Field, on: bool) -> Result<(), BringUpCause> {
        let wanted = field.of(on.into()) as u32;
        self.await_value(spec::GSTS, field.mask(), wanted).map(drop)
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

// What is turned on in one register is in effect in the same bit of the other.
const _: () = assert!(gcmd::TE.mask() == gsts::TES.mask() && gcmd::QIE.mask() == gsts::QIES.mask());
