//! The command queue (§3.1, §5.6 to §5.8, §5.15).
//!
//! A *batch* is some commands and an IOFENCE.C behind them. It is placed as a whole under a short lock, straight into the queue and with one write of `cqt`; what [`Submitted`] says is where it stands. That the head has
//! passed a fence is the confirmation of everything before it (§3.1.2). A thread waits for its own commands and those before them, never for later ones.
//!
//! Positions are counted in 64 bits and never wrap. The queue holds one command less than it has entries, so the head tells without doubt how far hardware is.
//!
//! When the queue stops on an error, whoever notices first repairs it: a command that the unit refuses is overwritten by a fence and reported to the one thread that waits for it; an aborted access is tried again
//! first. Commands before it, back to the last fence that completed, may have been given up (§5.15): they are of the same batch, and so the same thread is told.
//!
//! A wait that reaches its bound leaves the commands in the queue (they are harmless when the unit runs them later) and marks the unit as dead: further calls fail at once, until the head moves.

use crate::command::Command;
use crate::error::BringUpCause;
use crate::hooks::{Safeguard, omitted};
use crate::unit::Unit;
use core::sync::atomic::Ordering;
use portcullis::OpsError;
use portcullis_driver_parts::{Failures, HardwarePages, Line, Running, Submitted, answer};
use portcullis_platform::{
    AllocError, DmaMemory, IrqLock, LockLabel, Nanos, Platform, RawAtomic, Registers, wait_for,
};
use portcullis_spec::riscv::{self as spec, command, cqb, cqcsr};

/// Longest wait for a fence, or for room in the queue: 1 s. Nothing here has a device with ATS answer, which is what a fence may wait long for (§3.1.4).
pub const FENCE_BOUND: Nanos = 1_000_000_000;
/// The fewest entries, as log2: one command and its fence, and the entry that stays empty.
pub(crate) const LEAST_LOG2: u8 = 2;
/// The most commands that are placed at once, the fence included: it bounds how long interrupts are masked.
const LARGEST_BATCH: usize = 128;
/// How often an aborted access is tried again before the command is given up.
const RETRIES: u8 = 3;
/// How often the queue may stop at one place before the unit counts as broken.
const STOP_LIMIT: u8 = 6;
/// What `dead` holds while the unit answers.
const ALIVE: u64 = 0;
/// What `dead` holds when the unit has failed in a way that only a restart can end.
const FAILED: u64 = u64::MAX;

/// Bits of `cqcsr` that stop the queue.
pub(crate) const ERRORS: u32 =
    (cqcsr::CQMF.mask() | cqcsr::CMD_TO.mask() | cqcsr::CMD_ILL.mask()) as u32;
/// The lowest of them: what is left of a code once it is shifted.
const ERRORS_LO: u32 = cqcsr::CQMF.lo();

pub(crate) struct CommandQueue<P: Platform> {
    pages: HardwarePages<P::Memory>,
    log2: u8,
    running: Running,
    inner: IrqLock<P, Inner>,
    failures: Failures<P::Atomic>,
    /// [`ALIVE`], [`FAILED`], or one more than the position at which hardware stood when a wait ended in vain although commands were left.
    dead: P::Atomic,
}

/// # Invariants
///
/// `consumed <= produced < consumed + entries`, and hardware has consumed at least everything before `consumed`.
#[derive(Debug)]
struct Inner {
    produced: u64,
    consumed: u64,
    line: Line,
    /// Where the queue stopped last, and how often in a row.
    stopped: (u64, u8),
    /// How many commands were refused, and the count of `failures`.
    refused: u64,
    failed: u64,
    /// `cqcsr.cie` and `cqen` as they were last written.
    enables: u32,
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
        // The base is a page number, whatever the size (§5.6).
        let bytes = (command::BYTES << log2).max(4096);
        let inner = Inner {
            produced: 0,
            consumed: 0,
            line: Line::default(),
            stopped: (u64::MAX, 0),
            refused: 0,
            failed: 0,
            enables: 0,
        };
        Ok(Self {
            pages: HardwarePages::new(platform.memory(), running, bytes, address_bits)?,
            log2,
            running: running.clone(),
            inner: IrqLock::<P, _>::new(LockLabel::new("riscv.cq", index), inner),
            failures: Failures::new(index),
            dead: P::Atomic::new(LockLabel::new("riscv.dead", index), ALIVE),
        })
    }

    /// Tells a unit whose queue is off where it is, and turns it on. Commands that were left are gone, and whoever waits for one is told so.
    pub(crate) fn install<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        interrupts: bool,
    ) -> Result<(), BringUpCause> {
        let base = cqb::PPN.of(self.pages.address().raw() >> 12)
            | cqb::LOG2SZ.of(u64::from(self.log2) - 1);
        let enables = (cqcsr::CQEN.mask() | cqcsr::CIE.of(interrupts.into())) as u32;
        self.inner.with(|inner| {
            inner.failed = self.failures.fail_all();
            // The head begins at 0 (§5.15), and so do positions, a whole number of rounds further.
            inner.produced = inner.produced.next_multiple_of(self.entries());
            inner.consumed = inner.produced;
            inner.enables = enables;
        });
        unit.write64(spec::CQB, base);
        unit.write(spec::CQT, 0);
        unit.write(spec::CQCSR, enables);
        let on = (cqcsr::CQON.mask() | cqcsr::BUSY.mask(), cqcsr::CQON.mask() as u32);
        unit.await_value(spec::CQCSR, on.0, on.1)?;
        self.dead.store(ALIVE, Ordering::Release);
        Ok(())
    }

    /// How many commands the unit has refused.
    pub(crate) fn refused(&self) -> u64 {
        self.inner.with(|inner| inner.refused)
    }

    /// Queues `count` commands and a fence, and waits until the unit has carried all of them out.
    ///
    /// # Errors
    ///
    /// Unconfirmed ([`OpsError::is_unconfirmed`]): some may not have been carried out, now or ever.
    pub(crate) fn execute<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        count: usize,
        commands: impl Iterator<Item = Command>,
    ) -> Result<(), OpsError> {
        let submitted = self.submit(unit, count, commands)?;
        self.wait(unit, &submitted)
    }

    /// Queues `count` commands and a fence; in several batches where they are more than fit into one. Waits only for room.
    pub(crate) fn submit<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        count: usize,
        mut commands: impl Iterator<Item = Command>,
    ) -> Result<Submitted, OpsError> {
        if !self.running.is_set() {
            return Err(answer::shut_down());
        }
        self.check_alive(unit)?;
        let most = self.capacity().min(LARGEST_BATCH) - 1;
        let mut placed = count.min(most);
        let mut submitted = self.place(unit, placed, &mut commands)?;
        while placed < count {
            let more = (count - placed).min(most);
            submitted.after = self.place(unit, more, &mut commands)?.after;
            placed += more;
        }
        Ok(submitted)
    }

    /// Fails if an earlier wait was in vain and the head has not moved since.
    fn check_alive<R: Registers>(&self, unit: &Unit<P, R>) -> Result<(), OpsError> {
        let dead = self.dead.load(Ordering::Acquire);
        if dead == ALIVE {
            return Ok(());
        }
        self.inner.with(|inner| {
            self.look(unit, inner)?;
            let has_moved = inner.consumed >= dead || inner.consumed == inner.produced;
            if dead == FAILED || !has_moved {
                return Err(OpsError::Dead);
            }
            self.dead.store(ALIVE, Ordering::Release);
            Ok(())
        })
    }

    /// Places one batch, as soon as it is this caller's turn and there is room.
    fn place<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        count: usize,
        commands: &mut impl Iterator<Item = Command>,
    ) -> Result<Submitted, OpsError> {
        let mut turn = None;
        let placed = wait_until(unit, || {
            self.inner.with(|inner| self.try_place(unit, inner, &mut turn, count, commands))
        });
        let placed = placed.and_then(|placed| placed.ok_or_else(|| answer::no_room(FENCE_BOUND)));
        if let Some(turn) = turn {
            // Not used: it was in vain.
            self.inner.with(|inner| inner.line.leave(turn));
        }
        placed.inspect_err(|_| self.mark_dead(unit))
    }

    fn try_place<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        inner: &mut Inner,
        turn: &mut Option<u64>,
        count: usize,
        commands: &mut impl Iterator<Item = Command>,
    ) -> Result<Option<Submitted>, OpsError> {
        let free = |inner: &Inner| self.capacity() - (inner.produced - inner.consumed) as usize;
        if free(inner) < count + 1 {
            self.look(unit, inner)?;
        }
        if !inner.line.is_turn(*turn) || free(inner) < count + 1 {
            *turn = turn.or_else(|| inner.line.join());
            return Ok(None);
        }
        let first = inner.produced;
        let batch = commands.take(count).chain(core::iter::once(Command::fence()));
        // `for_each`, because a chain of iterators runs faster from inside.
        batch.for_each(|command| {
            self.store(inner.produced, command);
            inner.produced += 1;
        });
        self.publish(first, (inner.produced - first) as usize);
        unit.write(spec::CQT, self.index(inner.produced));
        if let Some(turn) = turn.take() {
            inner.line.leave(turn);
        }
        Ok(Some(Submitted { first, after: inner.produced, failures: inner.failed }))
    }

    /// Waits until the unit has passed the last fence.
    ///
    /// # Errors
    ///
    /// Unconfirmed: the bound passed, the unit refused one of the commands, or it is broken or gone.
    pub(crate) fn wait<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        submitted: &Submitted,
    ) -> Result<(), OpsError> {
        if omitted::<P>(Safeguard::WaitForFence) {
            return Ok(());
        }
        let waited = wait_until(unit, || {
            self.inner.with(|inner| {
                if inner.consumed < submitted.after {
                    self.look(unit, inner)?;
                }
                Ok((inner.consumed >= submitted.after).then_some(()))
            })
        })?;
        if waited.is_none() {
            self.mark_dead(unit);
            return Err(answer::unconfirmed(FENCE_BOUND));
        }
        match self.failures.hit(submitted) {
            None => Ok(()),
            Some(code) => Err(answer::refused(code << ERRORS_LO)),
        }
    }

    /// Takes the unit for dead until its head moves from where it stands now (or where it last was, if it does not say).
    fn mark_dead<R: Registers>(&self, unit: &Unit<P, R>) {
        self.inner.with(|inner| {
            let head = unit.read_live(spec::CQH).and_then(|head| self.position(head, inner));
            inner.consumed = head.unwrap_or(inner.consumed);
            if self.dead.load(Ordering::Acquire) != FAILED {
                self.dead.store(inner.consumed + 1, Ordering::Release);
            }
        });
    }

    /// Learns how far hardware is, and repairs the queue if it stopped short of what was asked of it.
    fn look<R: Registers>(&self, unit: &Unit<P, R>, inner: &mut Inner) -> Result<(), OpsError> {
        let before = inner.consumed;
        inner.consumed = self.position(unit.read_live(spec::CQH)?, inner)?;
        if inner.consumed == before && inner.consumed < inner.produced {
            self.recover(unit, inner)?;
        }
        Ok(())
    }

    /// Repairs a queue that stopped, and clears the note of a fence; returns the errors that it found. Waits for nothing.
    ///
    /// # Errors
    ///
    /// The unit is gone, or its queue cannot be repaired: whoever waits for a command is told the same.
    pub(crate) fn acknowledge<R: Registers>(&self, unit: &Unit<P, R>) -> Result<u32, OpsError> {
        self.inner.with(|inner| self.recover(unit, inner))
    }

    /// Makes a queue that stopped go on; nothing to do if it did not stop, or if another thread was faster.
    fn recover<R: Registers>(&self, unit: &Unit<P, R>, inner: &mut Inner) -> Result<u32, OpsError> {
        let status = unit.read_live(spec::CQCSR)?;
        let errors = status & ERRORS;
        // A write while it is busy is lost or worse (§5.15): the next look does it.
        if errors == 0 || cqcsr::BUSY.is_set(status.into()) {
            return Ok(errors);
        }
        let head = unit.read_live(spec::CQH)?;
        let position = self.position(head, inner)?;
        inner.consumed = position;
        let (at, times) = inner.stopped;
        inner.stopped = (position, if at == position { times.saturating_add(1) } else { 1 });
        if inner.stopped.1 > STOP_LIMIT {
            self.dead.store(FAILED, Ordering::Release);
            return Err(answer::stopped(head));
        }
        let aborted = errors & cqcsr::CQMF.mask() as u32 != 0;
        if position < inner.produced && !(aborted && inner.stopped.1 <= RETRIES) {
            self.store(position, Command::fence());
            self.publish(position, 1);
            inner.refused += 1;
            inner.failed = self.failures.add(position, u64::from(errors) >> ERRORS_LO);
        }
        unit.write(spec::CQCSR, inner.enables | errors);
        Ok(errors)
    }

    /// The position that the head stands for, given that hardware is between `consumed` and `produced`.
    fn position(&self, head: u32, inner: &Inner) -> Result<u64, OpsError> {
        let behind =
            u64::from(self.index(inner.produced)).wrapping_sub(head.into()) & (self.entries() - 1);
        let position = inner.produced.checked_sub(behind);
        let known = position.filter(|position| *position >= inner.consumed);
        known.filter(|_| u64::from(head) < self.entries()).ok_or_else(|| answer::bad_index(head))
    }

    fn entries(&self) -> u64 {
        1 << self.log2
    }

    /// How many commands the queue can hold: one less than it has entries (§3.1).
    fn capacity(&self) -> usize {
        self.entries() as usize - 1
    }

    fn index(&self, position: u64) -> u32 {
        (position & (self.entries() - 1)) as u32
    }

    fn slot(&self, position: u64) -> u64 {
        u64::from(self.index(position)) * command::BYTES as u64
    }

    #[inline]
    fn store(&self, position: u64, command: Command) {
        let slot = self.slot(position);
        let memory = self.pages.memory();
        memory.store64(self.pages.at(slot), command.0[0]);
        memory.store64(self.pages.at(slot + 8), command.0[1]);
    }

    /// Makes `count` commands from `first` on visible to hardware; they may go round the end of the queue.
    fn publish(&self, first: u64, count: usize) {
        let start = self.slot(first);
        let bytes = count * command::BYTES;
        let to_end = (self.entries() as usize * command::BYTES) - start as usize;
        self.pages.publish(self.pages.at(start), bytes.min(to_end));
        if bytes > to_end {
            self.pages.publish(self.pages.at(0), bytes - to_end);
        }
    }
}

/// Asks `attempt` until it gives something; `None` after [`FENCE_BOUND`].
fn wait_until<P: Platform, R: Registers, T>(
    unit: &Unit<P, R>,
    mut attempt: impl FnMut() -> Result<Option<T>, OpsError>,
) -> Result<Option<T>, OpsError> {
    let mut outcome = attempt();
    if !matches!(outcome, Ok(None)) {
        return outcome;
    }
    let settled = wait_for(unit.clock(), FENCE_BOUND, || {
        outcome = attempt();
        !matches!(outcome, Ok(None))
    });
    settled.map_or(Ok(None), |()| outcome)
}

impl<P: Platform> core::fmt::Debug for CommandQueue<P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("CommandQueue")
            .field("entries", &self.entries())
            .field("refused", &self.refused())
            .finish_non_exhaustive()
    }
}
