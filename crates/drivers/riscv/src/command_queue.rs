//! The command queue (§3.1, §5.6 to §5.8, §5.15): [`portcullis_driver_parts::CommandQueue`] with an IOFENCE.C behind each batch.
//!
//! That the head has passed a fence is the confirmation of everything before it (§3.1.2).
//!
//! A command that the unit refuses is overwritten by a fence; an aborted access is tried again first. Commands before it, back to the last fence that completed, may have been given up (§5.15): they are of the same batch, and so the
//! same thread is told.

use crate::command::Command;
use crate::error::BringUpCause;
use crate::hooks::{Safeguard, omitted};
use crate::unit::Unit;
use portcullis::OpsError;
use portcullis_driver_parts::{
    CommandQueue as Shared, Consumer, Ring, Running, Standing, Words, answer,
};
use portcullis_platform::{AllocError, Nanos, Platform, Registers};
use portcullis_spec::riscv::{self as spec, cqb, cqcsr};

/// Longest wait for a fence, or for room in the queue: 1 s. Nothing here has a device with ATS answer, which is what a fence may wait long for (§3.1.4).
pub const FENCE_BOUND: Nanos = 1_000_000_000;
/// The fewest entries, as log2: one command and its fence, and the entry that stays empty.
pub(crate) const LEAST_LOG2: u8 = 2;
/// Bytes of a command, as log2.
const WIDTH_LOG2: u8 = 4;
/// How often an aborted access is tried again before the command is given up.
const RETRIES: u8 = 3;

/// Bits of `cqcsr` that stop the queue.
pub(crate) const ERRORS: u32 =
    (cqcsr::CQMF.mask() | cqcsr::CMD_TO.mask() | cqcsr::CMD_ILL.mask()) as u32;
/// The lowest of them: what is left of a code once it is shifted.
const ERRORS_LO: u32 = cqcsr::CQMF.lo();

/// `cqcsr.cie` and `cqen` as they were last written.
type Enables = u32;

#[derive(Debug)]
pub(crate) struct CommandQueue<P: Platform>(Shared<P, Enables>);

/// The queue and the unit that empties it.
pub(crate) struct Fences<'a, P: Platform, R> {
    queue: &'a Shared<P, Enables>,
    unit: &'a Unit<P, R>,
}

impl<P: Platform> CommandQueue<P> {
    /// An empty queue of `2^log2` entries.
    pub(crate) fn new(
        platform: &P,
        running: &Running,
        log2: u8,
        address_bits: u8,
        index: u64,
    ) -> Result<Self, AllocError> {
        let log2 = log2.max(LEAST_LOG2);
        let ring = Ring::new(platform.memory(), running, log2, WIDTH_LOG2, address_bits)?;
        Ok(Self(Shared::new(ring, running.clone(), 0, ("riscv.cq", "riscv.dead"), index)))
    }

    /// With the unit that empties it.
    pub(crate) fn with<'a, R>(&'a self, unit: &'a Unit<P, R>) -> Fences<'a, P, R> {
        Fences { queue: &self.0, unit }
    }

    /// Tells a unit whose queue is off where it is, and turns it on. Commands that were left are gone, and whoever waits for one is told so.
    pub(crate) fn install<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        interrupts: bool,
    ) -> Result<(), BringUpCause> {
        let ring = self.0.ring();
        // The base is a page number, whatever the size (§5.6).
        let base = cqb::PPN.of(ring.address().raw() >> 12)
            | cqb::LOG2SZ.of(u64::from(ring.entries_log2()) - 1);
        let enables = (cqcsr::CQEN.mask() | cqcsr::CIE.of(interrupts.into())) as u32;
        // The head begins at 0 (§5.15).
        self.0.restart(|standing| standing.own = enables);
        unit.write64(spec::CQB, base);
        unit.write(spec::CQT, 0);
        unit.write(spec::CQCSR, enables);
        let on = (cqcsr::CQON.mask() | cqcsr::BUSY.mask(), cqcsr::CQON.mask() as u32);
        unit.await_value(spec::CQCSR, on.0, on.1)?;
        self.0.revive();
        Ok(())
    }

    /// How many commands the unit has refused.
    pub(crate) fn refused(&self) -> u64 {
        self.0.refused()
    }
}

impl<P: Platform, R: Registers> Fences<'_, P, R> {
    /// The position that the head stands for, given that hardware is between `consumed` and `produced`.
    fn position(&self, head: u32, standing: &Standing<Enables>) -> Result<u64, OpsError> {
        let ring = self.queue().ring();
        let known = ring.position(head.into(), standing.consumed, standing.produced);
        known.filter(|_| u64::from(head) < ring.entries()).ok_or_else(|| answer::bad_index(head))
    }
}

impl<P: Platform, R: Registers> Consumer for Fences<'_, P, R> {
    type Platform = P;
    type Own = Enables;
    type Found = u32;
    const BOUND: Nanos = FENCE_BOUND;
    const LARGEST_BATCH: usize = 128;

    fn queue(&self) -> &Shared<P, Enables> {
        self.queue
    }

    fn clock(&self) -> &P::Clock {
        self.unit.clock()
    }

    fn confirmation(&self, _after: u64) -> Words {
        Command::fence().0
    }

    fn show_tail(&self, index: u32) {
        self.unit.write(spec::CQT, index);
    }

    fn progress(&self, standing: &Standing<Enables>) -> Result<u64, OpsError> {
        self.position(self.unit.read_live(spec::CQH)?, standing)
    }

    fn is_over(&self, _after: u64) -> Option<bool> {
        omitted::<P>(Safeguard::WaitForFence).then_some(true)
    }

    fn status_of(&self, code: u64) -> u64 {
        code << ERRORS_LO
    }

    fn recover(&self, standing: &mut Standing<Enables>) -> Result<u32, OpsError> {
        let status = self.unit.read_live(spec::CQCSR)?;
        let errors = status & ERRORS;
        // A write while it is busy is lost or worse (§5.15): the next look does it.
        if errors == 0 || cqcsr::BUSY.is_set(status.into()) {
            return Ok(errors);
        }
        let position = self.progress(standing)?;
        standing.consumed = position;
        let times = self.queue().stopped_at(standing, position)?;
        let aborted = errors & cqcsr::CQMF.mask() as u32 != 0;
        if position < standing.produced && !(aborted && times <= RETRIES) {
            self.queue().replace(position, Command::fence().0);
            self.queue().refuse(standing, [position], u64::from(errors) >> ERRORS_LO);
        }
        self.unit.write(spec::CQCSR, standing.own | errors);
        Ok(errors)
    }
}
