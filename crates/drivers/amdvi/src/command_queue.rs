//! The command queue (§2.4, §3.4): [`portcullis_driver_parts::CommandQueue`] with a COMPLETION_WAIT behind each batch.
//!
//! It stores the batch's last position. That the store arrived is the confirmation of everything before it (§2.4.1); the head only says what was fetched, and so how much room there is. Positions are stored under the same lock in the
//! same order, so what was stored last tells without doubt how far hardware is.
//!
//! The command at the head of a queue that stopped is overwritten by one without an effect. Only the event log says which command it was, so that the head may stand behind it is reckoned with: the command before it is reported too,
//! unless it is known to be complete.

use crate::command::Command;
use crate::hooks::{Safeguard, omitted};
use crate::unit::Unit;
use portcullis::OpsError;
use portcullis_driver_parts::{
    CommandQueue as Shared, Consumer, HardwarePages, Ring, Running, Standing, Words, answer,
};
use portcullis_platform::{AllocError, DmaMemory, Nanos, Platform, Registers};
use portcullis_spec::amdvi::{self as spec, cmd_buf_base, cmd_buf_head, control, status};

/// Longest wait for a completion, or for room in the queue: 1 s. Nothing here has a device invalidate its own translations, which is what a unit may wait long for.
pub const COMPLETION_BOUND: Nanos = 1_000_000_000;
/// Bytes of a command, as log2.
const WIDTH_LOG2: u8 = 4;
/// How often the status is looked at until a queue that was turned on, and does not run, counts as stopped again.
const STARTING_LOOKS: u32 = 100;
/// What is remembered of a command that was refused: the register does not say why, the event log does.
const REFUSED: u64 = 0;

/// The queue was turned on and not seen to run yet: how many more looks it may take.
type Starting = u32;

pub(crate) struct CommandQueue<P: Platform> {
    shared: Shared<P, Starting>,
    /// Where completions are stored: its first word is the position behind the last batch that is complete.
    completions: HardwarePages<P::Memory>,
}

/// The queue and the unit that empties it.
pub(crate) struct Completions<'a, P: Platform, R> {
    queue: &'a CommandQueue<P>,
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
        let log2 = log2.clamp(*spec::QUEUE_LOG2.start(), *spec::QUEUE_LOG2.end());
        let memory = platform.memory();
        let ring = Ring::new(memory, running, log2, WIDTH_LOG2, address_bits)?;
        let completions = HardwarePages::new(memory, running, 4096, address_bits)?;
        let shared = Shared::new(ring, running.clone(), 0, ("amdvi.cq", "amdvi.dead"), index);
        Ok(Self { shared, completions })
    }

    /// With the unit that empties it.
    pub(crate) fn with<'a, R>(&'a self, unit: &'a Unit<P, R>) -> Completions<'a, P, R> {
        Completions { queue: self, unit }
    }

    /// Tells a unit whose queue is off where it is. Commands that were left are gone, and whoever waits for one is told so.
    pub(crate) fn install<R: Registers>(&self, unit: &Unit<P, R>) {
        let ring = self.shared.ring();
        let base = cmd_buf_base::BASE.in_place(ring.address().raw())
            | cmd_buf_base::LEN.of(ring.entries_log2().into());
        // Both indices begin at 0.
        self.shared.restart(|standing| standing.own = 0);
        unit.write(spec::CMD_BUF_BASE, base);
        unit.write(spec::CMD_BUF_HEAD, 0);
        unit.write(spec::CMD_BUF_TAIL, 0);
        self.shared.revive();
    }

    /// How many commands the unit has refused.
    pub(crate) fn refused(&self) -> u64 {
        self.shared.refused()
    }

    /// The position behind the last batch that is complete.
    fn completed(&self) -> u64 {
        self.completions.refresh(self.completions.address(), 8);
        self.completions.memory().load64(self.completions.address())
    }
}

impl<P: Platform, R: Registers> Consumer for Completions<'_, P, R> {
    type Platform = P;
    type Own = Starting;
    type Found = bool;
    const BOUND: Nanos = COMPLETION_BOUND;
    const LARGEST_BATCH: usize = 128;

    fn queue(&self) -> &Shared<P, Starting> {
        &self.queue.shared
    }

    fn clock(&self) -> &P::Clock {
        self.unit.clock()
    }

    fn confirmation(&self, after: u64) -> Words {
        Command::completion(self.queue.completions.address(), after).0
    }

    fn show_tail(&self, index: u32) {
        self.unit.write(spec::CMD_BUF_TAIL, u64::from(index) << WIDTH_LOG2);
    }

    /// What was fetched. A head behind the last entry is QEMU's way of saying 0.
    fn progress(&self, standing: &Standing<Starting>) -> Result<u64, OpsError> {
        let ring = self.queue().ring();
        let head = cmd_buf_head::PTR.get(self.unit.read_live(spec::CMD_BUF_HEAD)?);
        let known = ring.position(head, standing.consumed, standing.produced);
        known.filter(|_| head <= ring.entries()).ok_or_else(|| answer::bad_index(head as u32))
    }

    fn is_over(&self, after: u64) -> Option<bool> {
        Some(omitted::<P>(Safeguard::WaitForCompletion) || self.queue.completed() >= after)
    }

    /// Nothing to do either while the queue is turned off on purpose.
    fn recover(&self, standing: &mut Standing<Starting>) -> Result<bool, OpsError> {
        let runs = status::CMD_BUF_RUN.is_set(self.unit.read_live(spec::STATUS)?);
        let wanted = control::CMD_BUF_EN.is_set(self.unit.control());
        if runs || !wanted || standing.own > 0 {
            standing.own = if runs { 0 } else { standing.own.saturating_sub(1) };
            return Ok(false);
        }
        let position = self.progress(standing)?;
        standing.consumed = position;
        let queue = self.queue();
        queue.stopped_at(standing, position)?;
        // The head may stand behind the command that was refused.
        let complete = self.queue.completed();
        let before = position.checked_sub(1).filter(|before| *before >= complete);
        queue.refuse(standing, before.into_iter().chain([position]), REFUSED);
        if position < standing.produced {
            queue.replace(position, Command::nothing().0);
        }
        standing.own = STARTING_LOOKS;
        self.unit.cycle_control(control::CMD_BUF_EN.mask());
        Ok(true)
    }
}

impl<P: Platform> core::fmt::Debug for CommandQueue<P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.shared.fmt(f)
    }
}
