//! The command queue (§2.4, §3.4).
//!
//! A *batch* is some commands and a COMPLETION_WAIT behind them that stores the batch's last position. It is placed as a whole under a short lock, straight into the queue and with one write of the tail; what [`Submitted`] says is where it
//! stands. That the store arrived is the confirmation of everything before it (§2.4.1); the head only says what was fetched, and so how much room there is. A thread waits for its own commands and those before them, never
//! for later ones.
//!
//! Positions are counted in 64 bits and never wrap, and they are stored under the same lock in the same order, so what was stored last tells without doubt how far hardware is. The queue holds one command less than it has entries.
//!
//! When the queue stops on an error, whoever notices first repairs it: the command at the head is overwritten by one without an effect and reported to the one thread that waits for it. Only the event log says which command it
//! was, so that the head may stand behind it is reckoned with: the command before it is reported too, unless it is known to be complete.
//!
//! A wait that reaches its bound leaves the commands in the queue (they are harmless when the unit runs them later) and marks the unit as dead: further calls fail at once, until the head moves.

use crate::command::Command;
use crate::hooks::{Safeguard, omitted};
use crate::unit::Unit;
use core::sync::atomic::Ordering;
use portcullis::OpsError;
use portcullis_driver_parts::{Failures, HardwarePages, Line, Running, Submitted, answer};
use portcullis_platform::{
    AllocError, DmaMemory, IrqLock, LockLabel, Nanos, Platform, RawAtomic, Registers, wait_for,
};
use portcullis_spec::amdvi::{self as spec, cmd_buf_base, cmd_buf_head, command, control, status};

/// Longest wait for a completion, or for room in the queue: 1 s. Nothing here has a device invalidate its own translations, which is what a unit may wait long for.
pub const COMPLETION_BOUND: Nanos = 1_000_000_000;
/// The most commands that are placed at once, the completion included: it bounds how long interrupts are masked.
const LARGEST_BATCH: usize = 128;
/// How often the queue may stop at one place before the unit counts as broken.
const STOP_LIMIT: u8 = 6;
/// How often the status is looked at until a queue that was turned on, and does not run, counts as stopped again.
const STARTING_LOOKS: u32 = 100;
/// What `dead` holds while the unit answers.
const ALIVE: u64 = 0;
/// What `dead` holds when the unit has failed in a way that only a restart can end.
const FAILED: u64 = u64::MAX;

/// What is remembered of a command that was refused: the register does not say why, the event log does.
const REFUSED: u64 = 0;

pub(crate) struct CommandQueue<P: Platform> {
    pages: HardwarePages<P::Memory>,
    /// Where completions are stored: its first word is the position behind the last batch that is complete.
    completions: HardwarePages<P::Memory>,
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
    /// The queue was turned on and not seen to run yet: how many more looks it may take.
    starting: u32,
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
        let pages = |bytes| HardwarePages::new(platform.memory(), running, bytes, address_bits);
        let inner = Inner {
            produced: 0,
            consumed: 0,
            line: Line::default(),
            stopped: (u64::MAX, 0),
            refused: 0,
            failed: 0,
            starting: 0,
        };
        Ok(Self {
            pages: pages(command::BYTES << log2)?,
            completions: pages(4096)?,
            log2,
            running: running.clone(),
            inner: IrqLock::<P, _>::new(LockLabel::new("amdvi.cq", index), inner),
            failures: Failures::new(index),
            dead: P::Atomic::new(LockLabel::new("amdvi.dead", index), ALIVE),
        })
    }

    /// Tells a unit whose queue is off where it is. Commands that were left are gone, and whoever waits for one is told so.
    pub(crate) fn install<R: Registers>(&self, unit: &Unit<P, R>) {
        let base = cmd_buf_base::BASE.in_place(self.pages.address().raw())
            | cmd_buf_base::LEN.of(self.log2.into());
        self.inner.with(|inner| {
            inner.failed = self.failures.fail_all();
            // Both indices begin at 0, and so do positions, a whole number of rounds further.
            inner.produced = inner.produced.next_multiple_of(self.entries());
            inner.consumed = inner.produced;
            (inner.stopped, inner.starting) = ((u64::MAX, 0), 0);
        });
        unit.write(spec::CMD_BUF_BASE, base);
        unit.write(spec::CMD_BUF_HEAD, 0);
        unit.write(spec::CMD_BUF_TAIL, 0);
        self.dead.store(ALIVE, Ordering::Release);
    }

    /// How many commands the unit has refused.
    pub(crate) fn refused(&self) -> u64 {
        self.inner.with(|inner| inner.refused)
    }

    /// Queues `count` commands and a completion, and waits until the unit has carried all of them out.
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

    /// Queues `count` commands and a completion; in several batches where they are more than fit into one. Waits only for room.
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
        let placed =
            placed.and_then(|placed| placed.ok_or_else(|| answer::no_room(COMPLETION_BOUND)));
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
        let completion = Command::completion(self.completions.address(), first + count as u64 + 1);
        let batch = commands.take(count).chain(core::iter::once(completion));
        // `for_each`, because a chain of iterators runs faster from inside.
        batch.for_each(|command| {
            self.store(inner.produced, command);
            inner.produced += 1;
        });
        self.publish(first, (inner.produced - first) as usize);
        unit.write(spec::CMD_BUF_TAIL, u64::from(self.index(inner.produced)) << 4);
        if let Some(turn) = turn.take() {
            inner.line.leave(turn);
        }
        Ok(Some(Submitted { first, after: inner.produced, failures: inner.failed }))
    }

    /// Waits until the unit has stored the last completion.
    ///
    /// # Errors
    ///
    /// Unconfirmed: the bound passed, the unit refused one of the commands, or it is broken or gone.
    pub(crate) fn wait<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        submitted: &Submitted,
    ) -> Result<(), OpsError> {
        if omitted::<P>(Safeguard::WaitForCompletion) {
            return Ok(());
        }
        let waited = wait_until(unit, || {
            if self.completed() >= submitted.after {
                return Ok(Some(()));
            }
            let fetched = self.inner.with(|inner| {
                self.look(unit, inner)?;
                Ok::<bool, OpsError>(inner.consumed >= submitted.after)
            })?;
            // A completion that was refused is never stored.
            let refused = fetched && self.failures.hit(submitted).is_some();
            Ok((refused || self.completed() >= submitted.after).then_some(()))
        })?;
        if waited.is_none() {
            self.mark_dead(unit);
            return Err(answer::unconfirmed(COMPLETION_BOUND));
        }
        match self.failures.hit(submitted) {
            None => Ok(()),
            Some(_) => Err(answer::refused(REFUSED)),
        }
    }

    /// Takes the unit for dead until its head moves from where it stands now (or where it last was, if it does not say).
    fn mark_dead<R: Registers>(&self, unit: &Unit<P, R>) {
        self.inner.with(|inner| {
            let head =
                unit.read_live(spec::CMD_BUF_HEAD).and_then(|head| self.position(head, inner));
            inner.consumed = head.unwrap_or(inner.consumed);
            if self.dead.load(Ordering::Acquire) != FAILED {
                self.dead.store(inner.consumed + 1, Ordering::Release);
            }
        });
    }

    /// Learns how far hardware has fetched, and repairs the queue if it stopped short of what was asked of it.
    fn look<R: Registers>(&self, unit: &Unit<P, R>, inner: &mut Inner) -> Result<(), OpsError> {
        let before = inner.consumed;
        inner.consumed = self.position(unit.read_live(spec::CMD_BUF_HEAD)?, inner)?;
        if inner.consumed == before && inner.consumed < inner.produced {
            self.recover(unit, inner)?;
        }
        Ok(())
    }

    /// The position behind the last batch that is complete.
    fn completed(&self) -> u64 {
        self.completions.refresh(self.completions.address(), 8);
        self.completions.memory().load64(self.completions.address())
    }

    /// Repairs a queue that stopped; returns whether it had. Waits for nothing.
    ///
    /// # Errors
    ///
    /// The unit is gone, or its queue cannot be repaired: whoever waits for a command is told the same.
    pub(crate) fn acknowledge<R: Registers>(&self, unit: &Unit<P, R>) -> Result<bool, OpsError> {
        self.inner.with(|inner| self.recover(unit, inner))
    }

    /// Makes a queue that stopped go on; nothing to do if it did not stop, if another thread was faster, or while it is turned off on purpose.
    fn recover<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        inner: &mut Inner,
    ) -> Result<bool, OpsError> {
        let runs = status::CMD_BUF_RUN.is_set(unit.read_live(spec::STATUS)?);
        let wanted = control::CMD_BUF_EN.is_set(unit.control());
        if runs || !wanted || inner.starting > 0 {
            inner.starting = if runs { 0 } else { inner.starting.saturating_sub(1) };
            return Ok(false);
        }
        let head = unit.read_live(spec::CMD_BUF_HEAD)?;
        let position = self.position(head, inner)?;
        inner.consumed = position;
        let (at, times) = inner.stopped;
        inner.stopped = (position, if at == position { times.saturating_add(1) } else { 1 });
        if inner.stopped.1 > STOP_LIMIT {
            self.dead.store(FAILED, Ordering::Release);
            return Err(answer::stopped(self.index(position)));
        }
        // The head may stand behind the command that was refused.
        let before = position.checked_sub(1).filter(|before| *before >= self.completed());
        for refused in before.into_iter().chain([position]) {
            inner.failed = self.failures.add(refused, REFUSED);
        }
        if position < inner.produced {
            self.store(position, Command::nothing());
            self.publish(position, 1);
        }
        inner.refused += 1;
        inner.starting = STARTING_LOOKS;
        unit.cycle_control(control::CMD_BUF_EN.mask());
        Ok(true)
    }

    /// The position that the head stands for, given that hardware is between `consumed` and `produced`. A head behind the last entry is QEMU's way of saying 0.
    fn position(&self, head: u64, inner: &Inner) -> Result<u64, OpsError> {
        let head = cmd_buf_head::PTR.get(head);
        let behind =
            u64::from(self.index(inner.produced)).wrapping_sub(head) & (self.entries() - 1);
        let position = inner.produced.checked_sub(behind);
        let known = position.filter(|position| *position >= inner.consumed);
        known.filter(|_| head <= self.entries()).ok_or_else(|| answer::bad_index(head as u32))
    }

    fn entries(&self) -> u64 {
        1 << self.log2
    }

    /// How many commands the queue can hold: one less than it has entries.
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

/// Asks `attempt` until it gives something; `None` after [`COMPLETION_BOUND`].
fn wait_until<P: Platform, R: Registers, T>(
    unit: &Unit<P, R>,
    mut attempt: impl FnMut() -> Result<Option<T>, OpsError>,
) -> Result<Option<T>, OpsError> {
    let mut outcome = attempt();
    if !matches!(outcome, Ok(None)) {
        return outcome;
    }
    let settled = wait_for(unit.clock(), COMPLETION_BOUND, || {
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
