//! One unit: its register blocks taken together, its platform, and bounded waits on it.

use crate::Options;
use crate::block::Block;
use crate::error::{self, BringUpCause};
use crate::hooks::{Safeguard, omitted};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use portcullis::OpsError;
use portcullis_platform::{LockLabel, Nanos, Platform, RawAtomic, Registers, Timeout, wait_for};
use portcullis_spec::Register;
use portcullis_spec::smmuv2::{BlockShape, bank, global0};

/// Longest wait for a TLB sync: 1 s, as Linux's driver has it (`TLB_LOOP_TIMEOUT`). The sync also waits for what devices have under way.
pub const SYNC_BOUND: Nanos = 1_000_000_000;

/// What a missing unit reads as.
const GONE: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) struct Unit<P: Platform, R> {
    platform: Arc<P>,
    first: Block<R>,
    /// Blocks that are programmed exactly like the first: a client's accesses go now here, now there.
    mirrors: Vec<Block<R>>,
    /// 1 after a wait in vain.
    dead: P::Atomic,
}

impl<P: Platform, R: Registers> Unit<P, R> {
    /// Checks that each block can be an SMMUv2's at all, and that they are alike; writes nothing.
    pub(crate) fn new(
        platform: Arc<P>,
        registers: R,
        mirrors: Vec<R>,
        options: &Options,
    ) -> Result<Self, BringUpCause> {
        let idr1 = shape_word(&registers)?;
        let narrow = options.quirks.narrow_access;
        let block = |registers| Block::new(registers, BlockShape::of(idr1), narrow);
        for mirror in &mirrors {
            let found = shape_word(mirror)?;
            if found != idr1 {
                let register = global0::IDR1.name;
                return Err(BringUpCause::Unlike { register, first: idr1, other: found });
            }
        }
        let dead = P::Atomic::new(LockLabel::new("smmu2.dead", options.index), 0);
        let first = block(registers);
        let mirrors = mirrors.into_iter().map(block).collect();
        Ok(Self { platform, first, mirrors, dead })
    }

    pub(crate) fn platform(&self) -> &Arc<P> {
        &self.platform
    }

    /// Every block, each of which has faults of its own.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = &Block<R>> {
        core::iter::once(&self.first).chain(&self.mirrors)
    }

    /// What the first block reads, or what another reads that does not agree: so a block that has not taken what was written is noticed.
    fn agreed(&self, read: impl Fn(&Block<R>) -> u32) -> u32 {
        let first = read(&self.first);
        self.mirrors.iter().map(read).find(|other| *other != first).unwrap_or(first)
    }

    fn each(&self, write: impl Fn(&Block<R>)) {
        write(&self.first);
        if !omitted::<P>(Safeguard::ProgramMirrors) {
            self.mirrors.iter().for_each(write);
        }
    }

    pub(crate) fn read(&self, register: Register) -> u32 {
        self.agreed(|block| block.read(register))
    }

    pub(crate) fn write(&self, register: Register, value: u32) {
        self.each(|block| block.write(register, value));
    }

    pub(crate) fn read_group(&self, register: Register, group: usize) -> u32 {
        self.agreed(|block| block.read_group(register, group))
    }

    pub(crate) fn write_group(&self, register: Register, group: usize, value: u32) {
        self.each(|block| block.write_group(register, group, value));
    }

    pub(crate) fn read_attribute(&self, register: Register, bank: usize) -> u32 {
        self.agreed(|block| block.read_attribute(register, bank))
    }

    pub(crate) fn write_attribute(&self, register: Register, bank: usize, value: u32) {
        self.each(|block| block.write_attribute(register, bank, value));
    }

    pub(crate) fn read_bank(&self, register: Register, bank: usize) -> u32 {
        self.agreed(|block| block.read_bank(register, bank))
    }

    pub(crate) fn write_bank(&self, register: Register, bank: usize, value: u32) {
        self.each(|block| block.write_bank(register, bank, value));
    }

    pub(crate) fn write_bank64(&self, register: Register, bank: usize, value: u64) {
        self.each(|block| block.write_bank64(register, bank, value));
    }

    /// The first block's.
    pub(crate) fn read_bank64(&self, register: Register, bank: usize) -> u64 {
        self.first.read_bank64(register, bank)
    }

    /// A status register of all blocks together: what one says, the unit says.
    fn status(&self, read: impl Fn(&Block<R>) -> u32) -> u32 {
        let first = read(&self.first);
        if omitted::<P>(Safeguard::WaitForMirrors) {
            return first;
        }
        self.mirrors.iter().map(read).fold(first, core::ops::BitOr::bitor)
    }

    /// Whether the unit may be waited for. One that was waited for in vain is asked once whether it has come to rest since.
    pub(crate) fn alive(&self) -> Result<(), OpsError> {
        if self.dead.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        match self.status(|block| block.read(global0::STLBGSTATUS)) {
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
        self.poll(|block| block.read(global0::STLBGSTATUS), |status| active.is_set(status.into()))
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
            |block| block.read_bank(bank::TLBSTATUS, bank),
            |status| active.is_set(status.into()),
        )
    }

    fn poll(
        &self,
        look: impl Fn(&Block<R>) -> u32,
        active: impl Fn(u32) -> bool,
    ) -> Result<(), OpsError> {
        // Nobody waits for a unit that another thread has waited for in vain: one look must do.
        let bound = if self.dead.load(Ordering::Acquire) == 0 { SYNC_BOUND } else { 0 };
        let mut found = 0;
        let ended = wait_for(self.platform.clock(), bound, || {
            found = self.status(&look);
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

/// `IDR1`, of a block that has one and is as long as that says.
fn shape_word<R: Registers>(registers: &R) -> Result<u32, BringUpCause> {
    let len = registers.len();
    let least = global0::IDR1.offset + 4;
    if len < least {
        return Err(BringUpCause::BlockTooSmall { len, needed: least });
    }
    let idr1 = registers.read32(global0::IDR1.offset);
    if idr1 == GONE {
        return Err(BringUpCause::Gone { register: global0::IDR1.name });
    }
    let needed = BlockShape::of(idr1).len();
    if len < needed { Err(BringUpCause::BlockTooSmall { len, needed }) } else { Ok(idr1) }
}
