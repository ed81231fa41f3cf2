//! One unit's registers, its platform, and bounded waits on it.

use crate::error::{self, BringUpCause};
use crate::hooks::{Safeguard, omitted};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use portcullis::OpsError;
use portcullis_platform::{LockLabel, Nanos, Platform, RawAtomic, Registers, Timeout, wait_for};
use portcullis_spec::Register;
use portcullis_spec::smmuv2::{BlockShape, bank, global0, global1};

/// Longest wait for a TLB sync: 1 s, as Linux's driver has it (`TLB_LOOP_TIMEOUT`). The sync also waits for what devices have under way.
pub const SYNC_BOUND: Nanos = 1_000_000_000;

/// What a missing unit reads as.
const GONE: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) struct Unit<P: Platform, R> {
    platform: Arc<P>,
    registers: R,
    shape: BlockShape,
    /// Accesses have 32 bits.
    narrow: bool,
    /// 1 after a wait in vain.
    dead: P::Atomic,
}

impl<P: Platform, R: Registers> Unit<P, R> {
    /// Checks that the block can be an SMMUv2 at all; writes nothing.
    pub(crate) fn new(
        platform: Arc<P>,
        registers: R,
        narrow: bool,
        label: u64,
    ) -> Result<Self, BringUpCause> {
        let len = registers.len();
        if len < global0::IDR1.offset + 4 {
            return Err(BringUpCause::BlockTooSmall { len, needed: global0::IDR1.offset + 4 });
        }
        let idr1 = registers.read32(global0::IDR1.offset);
        if idr1 == GONE {
            return Err(BringUpCause::Gone { register: global0::IDR1.name });
        }
        let shape = BlockShape::of(idr1);
        if len < shape.len() {
            return Err(BringUpCause::BlockTooSmall { len, needed: shape.len() });
        }
        let dead = P::Atomic::new(LockLabel::new("smmu2.dead", label), 0);
        Ok(Self { platform, registers, shape, narrow, dead })
    }

    pub(crate) fn platform(&self) -> &Arc<P> {
        &self.platform
    }

    pub(crate) fn read(&self, register: Register) -> u32 {
        self.registers.read32(register.offset)
    }

    /// Reads a global register of 64 bits in two halves.
    pub(crate) fn read64(&self, register: Register) -> u64 {
        let half = |at| u64::from(self.registers.read32(at));
        half(register.offset) | half(register.offset + 4) << 32
    }

    pub(crate) fn write(&self, register: Register, value: u32) {
        self.registers.write32(register.offset, value);
    }

    pub(crate) fn read_group(&self, register: Register, group: usize) -> u32 {
        self.registers.read32(register.offset + group * global0::GROUP_STRIDE)
    }

    pub(crate) fn write_group(&self, register: Register, group: usize, value: u32) {
        self.registers.write32(register.offset + group * global0::GROUP_STRIDE, value);
    }

    fn attribute(&self, register: Register, bank: usize) -> usize {
        self.shape.global1() + register.offset + bank * global1::BANK_STRIDE
    }

    pub(crate) fn read_attribute(&self, register: Register, bank: usize) -> u32 {
        self.registers.read32(self.attribute(register, bank))
    }

    pub(crate) fn write_attribute(&self, register: Register, bank: usize, value: u32) {
        self.registers.write32(self.attribute(register, bank), value);
    }

    pub(crate) fn read_bank(&self, register: Register, bank: usize) -> u32 {
        self.registers.read32(self.shape.bank(bank) + register.offset)
    }

    pub(crate) fn write_bank(&self, register: Register, bank: usize, value: u32) {
        self.registers.write32(self.shape.bank(bank) + register.offset, value);
    }

    /// A register of 64 bits; on a narrow interconnect the high half first, since the low one sets maintenance off.
    pub(crate) fn write_bank64(&self, register: Register, bank: usize, value: u64) {
        let offset = self.shape.bank(bank) + register.offset;
        if self.narrow {
            self.registers.write32(offset + 4, (value >> 32) as u32);
            self.registers.write32(offset, value as u32);
        } else {
            self.registers.write64(offset, value);
        }
    }

    pub(crate) fn read_bank64(&self, register: Register, bank: usize) -> u64 {
        let offset = self.shape.bank(bank) + register.offset;
        let half = |at| u64::from(self.registers.read32(at));
        half(offset) | half(offset + 4) << 32
    }

    /// Whether the unit may be waited for. One that was waited for in vain is asked once whether it has come to rest since.
    pub(crate) fn alive(&self) -> Result<(), OpsError> {
        if self.dead.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        match self.read(global0::STLBGSTATUS) {
            GONE => Err(error::gone()),
            status if global0::stlbgstatus::GSACTIVE.is_set(status.into()) => Err(OpsError::Dead),
            _ => {
                self.dead.store(0, Ordering::Release);
                Ok(())
            }
        }
    }

    /// Waits for all TLB maintenance before, and for what the unit has under way.
    pub(crate) fn sync(&self) -> Result<(), OpsError> {
        self.alive()?;
        if omitted::<P>(Safeguard::TlbSync) {
            return Ok(());
        }
        self.write(global0::STLBGSYNC, 0);
        let active = global0::stlbgstatus::GSACTIVE;
        self.poll(|unit| unit.read(global0::STLBGSTATUS), |status| active.is_set(status.into()))
    }

    /// Begins to wait for the TLB maintenance of one bank.
    pub(crate) fn begin_bank_sync(&self, bank: usize) {
        if !omitted::<P>(Safeguard::TlbSync) {
            self.write_bank(bank::TLBSYNC, bank, 0);
        }
    }

    /// Waits for what [`begin_bank_sync`](Self::begin_bank_sync) began.
    pub(crate) fn end_bank_sync(&self, bank: usize) -> Result<(), OpsError> {
        let active = bank::tlbstatus::SACTIVE;
        self.poll(
            |unit| unit.read_bank(bank::TLBSTATUS, bank),
            |status| active.is_set(status.into()),
        )
    }

    fn poll(
        &self,
        look: impl Fn(&Self) -> u32,
        active: impl Fn(u32) -> bool,
    ) -> Result<(), OpsError> {
        // Nobody waits for a unit that another thread has waited for in vain: one look must do.
        let bound = if self.dead.load(Ordering::Acquire) == 0 { SYNC_BOUND } else { 0 };
        let mut found = 0;
        let ended = wait_for(self.platform.clock(), bound, || {
            found = look(self);
            found == GONE || !active(found)
        });
        if found == GONE {
            return Err(error::gone());
        }
        ended.map_err(|Timeout { after }| {
            self.dead.store(1, Ordering::Release);
            error::unconfirmed(after)
        })
    }
}
