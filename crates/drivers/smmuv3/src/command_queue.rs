//! The command queue (§3.5, §4.1, §7.1).
//!
//! A *batch* is some commands of one kind and a CMD_SYNC behind them. It is placed as a whole under a short lock, straight into the queue and with one write of CMDQ_PROD; its
//! [`Submitted`] says where it stands. Whoever waits for a ticket looks at the read index without any lock. A thread waits for its own commands and those
//! before them, never for later ones. The read index is not read to place a batch, unless the queue seems full.
//!
//! Positions are counted in 64 bits and never wrap, so that a thread that slept for long can still tell "my commands were consumed" from "not yet".
//!
//! When the queue stops on an error, whoever notices first repairs it: a command that the unit refuses is overwritten by a CMD_SYNC and reported to the one thread
//! that waits for it; an aborted fetch is tried again first.
//!
//! A wait that reaches its bound leaves the commands in the queue (they are harmless when the unit runs them later) and marks the unit as dead: further calls fail
//! at once, until the read index moves.

use crate::command::Command;
use crate::unit::{Deadline, Unit};
use alloc::boxed::Box;
use core::sync::atomic::Ordering;
use portcullis::OpsError;
use portcullis_addr::PhysAddr;
use portcullis_driver_parts::{Failures, HardwarePages, Line, Running, Submitted, answer};
use portcullis_platform::{
    AllocError, DmaMemory, IrqLock, LockLabel, Nanos, Platform, RawAtomic, Registers, wait_for,
};
use portcullis_spec::smmuv3::{self as spec, cerror, cmdq_base, cmdq_cons, gerror};

#[cfg(test)]
#[path = "command_queue_tests.rs"]
mod tests;

/// Longest wait for a CMD_SYNC, or for room in the queue: 1 s. Linux gives up after the same time (`ARM_SMMU_POLL_TIMEOUT_US`).
pub const SYNC_BOUND: Nanos = 1_000_000_000;
/// The fewest entries, as log2: one command and its CMD_SYNC.
pub(crate) const LEAST_LOG2: u8 = 1;
/// The most commands that are placed at once, CMD_SYNC included: it bounds how long interrupts are masked. An invalidation never has so many.
const LARGEST_BATCH: usize = 128;
/// How often an aborted fetch is tried again before the command is given up.
const FETCH_RETRIES: u8 = 3;
/// How often the queue may stop at one place before the unit counts as broken.
const STOP_LIMIT: u8 = 6;
/// What `dead` holds while the unit answers.
const ALIVE: u64 = 0;
/// What `dead` holds when the unit has failed in a way that only a restart can end.
const FAILED: u64 = u64::MAX;

pub(crate) struct CommandQueue<P: Platform> {
    pages: HardwarePages<P::Memory>,
    /// Entries, a power of two.
    capacity: u64,
    running: Running,
    shared: Shared<P>,
    failures: Failures<P::Atomic>,
    /// [`ALIVE`], [`FAILED`], or one more than the position at which hardware stood when a wait ended in vain although commands were left.
    dead: P::Atomic,
}

/// What producers write, on one cache line, so that a producer on another CPU waits for one only.
#[repr(align(64))]
struct Shared<P: Platform> {
    inner: IrqLock<P, Inner>,
    /// `Inner::produced`, readable without the lock; perhaps a moment behind.
    produced: P::Atomic,
}

/// # Invariants
///
/// `consumed <= produced <= consumed + capacity`, and hardware has consumed at least everything before `consumed`.
#[derive(Debug)]
struct Inner {
    produced: u64,
    consumed: u64,
    /// The count of `failures`.
    failed: u64,
    /// Apart, so that the rest fits one cache line.
    seldom: Box<Seldom>,
}

/// What is written only where the queue was full or has stopped, so that producers on all CPUs keep a copy of it.
#[derive(Debug)]
struct Seldom {
    line: Line,
    /// Where the queue stopped last, and how often in a row.
    stopped: (u64, u8),
    /// What GERRORN holds.
    acknowledged: u32,
    /// How many commands were refused.
    refused: u64,
}

impl<P: Platform> CommandQueue<P> {
    /// An empty queue of `2^log2` commands.
    pub(crate) fn new(
        platform: &P,
        running: &Running,
        log2: u8,
        address_bits: u8,
        index: u64,
    ) -> Result<Self, AllocError> {
        let log2 = log2.max(LEAST_LOG2);
        let bytes = spec::command::BYTES << log2;
        let inner = Inner {
            produced: 0,
            consumed: 0,
            failed: 0,
            seldom: Box::new(Seldom {
                line: Line::default(),
                stopped: (u64::MAX, 0),
                acknowledged: 0,
                refused: 0,
            }),
        };
        let word = |class| P::Atomic::new(LockLabel::new(class, index), 0);
        Ok(Self {
            pages: HardwarePages::new(platform.memory(), running, bytes, address_bits)?,
            capacity: 1 << log2,
            running: running.clone(),
            shared: Shared {
                inner: IrqLock::<P, _>::new(LockLabel::new("smmu.cmdq", index), inner),
                produced: word("smmu.produced"),
            },
            failures: Failures::new(index),
            dead: word("smmu.dead"),
        })
    }

    /// Tells a disabled unit where the queue is. Errors of an earlier owner are acknowledged. Commands that were left are gone, and whoever waits for one is told so.
    pub(crate) fn install<R: Registers>(&self, unit: &Unit<P, R>) {
        self.shared.inner.with(|inner| {
            // Before the read index can be taken for that of commands which were carried out.
            inner.failed = self.failures.fail_all();
            inner.consumed = inner.produced;
            let base = cmdq_base::RA.of(1)
                | cmdq_base::ADDR.in_place(self.pages.address().raw())
                | cmdq_base::LOG2SIZE.of(self.capacity.trailing_zeros().into());
            unit.write64(spec::CMDQ_BASE, base);
            unit.write(spec::CMDQ_PROD, self.index(inner.produced));
            unit.write(spec::CMDQ_CONS, self.index(inner.produced));
            inner.seldom.acknowledged = unit.read(spec::GERROR);
            unit.write(spec::GERRORN, inner.seldom.acknowledged);
        });
        self.dead.store(ALIVE, Ordering::Release);
    }

    /// How many commands the unit has refused.
    pub(crate) fn refused(&self) -> u64 {
        self.shared.inner.with(|inner| inner.seldom.refused)
    }

    /// Queues `count` commands of one kind and a CMD_SYNC, and waits until the unit has carried all of them out, at most until `deadline`.
    ///
    /// # Errors
    ///
    /// Unconfirmed ([`OpsError::is_unconfirmed`]): some may not have been carried out, now or ever.
    pub(crate) fn execute<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        deadline: Deadline,
        count: usize,
        commands: impl Iterator<Item = Command>,
    ) -> Result<(), OpsError> {
        let ticket = self.submit(unit, deadline, count, commands)?;
        self.wait(unit, deadline, &ticket)
    }

    /// As [`execute`](Self::execute) for one command.
    // Left to the compiler it is a call in one build and none in the next, which is worth 22 of 190 instructions of an invalidation.
    #[inline(always)]
    pub(crate) fn execute_one<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        deadline: Deadline,
        command: Command,
    ) -> Result<(), OpsError> {
        match self.place_at_once(unit, command) {
            Some(ticket) if self.is_done(unit, &ticket) => Ok(()),
            Some(ticket) => self.wait_long(unit, deadline, &ticket),
            None => self.execute(unit, deadline, 1, core::iter::once(command)),
        }
    }

    /// As [`submit`](Self::submit) for one command.
    #[inline]
    pub(crate) fn submit_one<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        deadline: Deadline,
        command: Command,
    ) -> Result<Submitted, OpsError> {
        match self.place_at_once(unit, command) {
            Some(ticket) => Ok(ticket),
            None => self.submit(unit, deadline, 1, core::iter::once(command)),
        }
    }

    /// Whether one look is enough to see that the unit has carried the ticket's commands out and nothing is wrong.
    #[inline(always)]
    fn is_done<R: Registers>(&self, unit: &Unit<P, R>, ticket: &Submitted) -> bool {
        let cons = unit.read(spec::CMDQ_CONS);
        // A unit that is gone reads as all ones, and so as an error.
        !cmdq_cons::ERR.is_set(u64::from(cons))
            && self.passed(cons, ticket.after)
            && self.failures.count() == ticket.failures
    }

    /// Queues one command and a CMD_SYNC, where nothing stands in the way: the unit answers, nobody waits in line, and there seems to be room.
    #[inline(always)]
    fn place_at_once<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        command: Command,
    ) -> Option<Submitted> {
        if !self.running.is_set() || self.dead.load(Ordering::Acquire) != ALIVE {
            return None;
        }
        self.shared.inner.with(|inner| {
            let first = inner.produced;
            let free = self.capacity() - (first - inner.consumed) as usize;
            if free < 2 || !inner.seldom.line.is_turn(None) {
                return None;
            }
            self.store_two(first, command, Command::sync());
            Some(self.show(unit, inner, first, first + 2))
        })
    }

    /// Shows hardware the batch that was stored from position `first` on.
    #[inline]
    fn show<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        inner: &mut Inner,
        first: u64,
        after: u64,
    ) -> Submitted {
        self.publish(first, (after - first) as usize);
        inner.produced = after;
        self.shared.produced.store(after, Ordering::Release);
        unit.write(spec::CMDQ_PROD, self.index(after));
        Submitted { first, after, failures: inner.failed }
    }

    /// Queues `count` commands of one kind and a CMD_SYNC; in several batches where they are more than fit into one. Waits only for room.
    pub(crate) fn submit<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        deadline: Deadline,
        count: usize,
        mut commands: impl Iterator<Item = Command>,
    ) -> Result<Submitted, OpsError> {
        if !self.running.is_set() {
            return Err(answer::shut_down());
        }
        self.check_alive(unit)?;
        let most = self.capacity().min(LARGEST_BATCH) - 1;
        let mut left = count.min(most);
        let mut ticket = self.place(unit, deadline, left, &mut commands)?;
        let mut placed = left;
        while placed < count {
            left = (count - placed).min(most);
            ticket.after = self.place(unit, deadline, left, &mut commands)?.after;
            placed += left;
        }
        Ok(ticket)
    }

    /// Fails if an earlier wait was in vain and the read index has not moved since.
    fn check_alive<R: Registers>(&self, unit: &Unit<P, R>) -> Result<(), OpsError> {
        let dead = self.dead.load(Ordering::Acquire);
        if dead == ALIVE {
            return Ok(());
        }
        self.shared.inner.with(|inner| {
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
        deadline: Deadline,
        count: usize,
        commands: &mut impl Iterator<Item = Command>,
    ) -> Result<Submitted, OpsError> {
        let mut turn = None;
        let placed = self.wait_until(unit, deadline, || {
            self.shared.inner.with(|inner| self.try_place(unit, inner, &mut turn, count, commands))
        });
        let placed = placed.and_then(|ticket| ticket.ok_or_else(|| answer::no_room(SYNC_BOUND)));
        if let Some(turn) = turn {
            // Not used: it was in vain.
            self.shared.inner.with(|inner| inner.seldom.line.leave(turn));
        }
        placed.inspect_err(|_| self.shared.inner.with(|inner| self.mark_dead(unit, inner)))
    }

    fn try_place<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        inner: &mut Inner,
        turn: &mut Option<u64>,
        count: usize,
        commands: &mut impl Iterator<Item = Command>,
    ) -> Result<Option<Submitted>, OpsError> {
        if !inner.seldom.line.is_turn(*turn) || !self.has_room(unit, inner, count + 1)? {
            *turn = turn.or_else(|| inner.seldom.line.join());
            return Ok(None);
        }
        let first = inner.produced;
        let after = self.store_batch(first, count, commands);
        let ticket = self.show(unit, inner, first, after);
        if let Some(turn) = turn.take() {
            inner.seldom.line.leave(turn);
        }
        Ok(Some(ticket))
    }

    /// Whether `count` entries are free; asks hardware only if they do not seem to be.
    fn has_room<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        inner: &mut Inner,
        count: usize,
    ) -> Result<bool, OpsError> {
        let free = |inner: &Inner| self.capacity() - (inner.produced - inner.consumed) as usize;
        if free(inner) < count {
            self.look(unit, inner)?;
        }
        Ok(free(inner) >= count)
    }

    /// Stores the commands and the CMD_SYNC from position `first` on; returns the position behind them.
    fn store_batch(
        &self,
        first: u64,
        count: usize,
        commands: &mut impl Iterator<Item = Command>,
    ) -> u64 {
        let mut position = first;
        let batch = commands.take(count).chain(core::iter::once(Command::sync()));
        // `for_each`, because a chain of iterators runs faster from inside.
        batch.for_each(|command| {
            self.store(position, command);
            position += 1;
        });
        position
    }

    /// Waits until the unit has consumed the ticket's commands.
    ///
    /// # Errors
    ///
    /// Unconfirmed: the bound passed, the unit refused one of them, or it is broken or gone.
    #[inline]
    pub(crate) fn wait<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        deadline: Deadline,
        ticket: &Submitted,
    ) -> Result<(), OpsError> {
        if self.is_done(unit, ticket) { Ok(()) } else { self.wait_long(unit, deadline, ticket) }
    }

    #[inline(never)]
    fn wait_long<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        deadline: Deadline,
        ticket: &Submitted,
    ) -> Result<(), OpsError> {
        let waited = self.wait_until(unit, deadline, || {
            let cons = unit.read_live(spec::CMDQ_CONS)?;
            if cmdq_cons::ERR.is_set(u64::from(cons)) && self.has_stopped(unit)? {
                self.shared.inner.with(|inner| self.recover(unit, inner))?;
            }
            Ok(self.passed(cons, ticket.after).then_some(()))
        })?;
        if waited.is_none() {
            self.shared.inner.with(|inner| self.mark_dead(unit, inner));
            return Err(answer::unconfirmed(SYNC_BOUND));
        }
        match self.failures.hit(ticket) {
            None => Ok(()),
            Some(code) => Err(answer::refused(code)),
        }
    }

    /// Asks `attempt` until it gives something; `None` when the deadline passed.
    fn wait_until<R: Registers, T>(
        &self,
        unit: &Unit<P, R>,
        deadline: Deadline,
        mut attempt: impl FnMut() -> Result<Option<T>, OpsError>,
    ) -> Result<Option<T>, OpsError> {
        let mut outcome = attempt();
        if !matches!(outcome, Ok(None)) {
            return outcome;
        }
        let settled = wait_for(unit.clock(), deadline.left(unit.clock()), || {
            outcome = attempt();
            !matches!(outcome, Ok(None))
        });
        settled.map_or(Ok(None), |()| outcome)
    }

    /// Whether hardware has consumed everything before position `after`, given a fresh read of CMDQ_CONS.
    ///
    /// As long as hardware has not passed a position, that position is at most one capacity ahead of the read index. So a distance below the capacity in the other direction
    /// proves that it was passed. A thread that looks again only after a whole round sees it by the write position: what was written a capacity later needed the room.
    #[inline]
    fn passed(&self, cons: u32, after: u64) -> bool {
        let capacity = self.capacity;
        let ahead = u64::from(cons).wrapping_sub(after) & (2 * capacity - 1);
        ahead < capacity || self.shared.produced.load(Ordering::Acquire) >= after + capacity
    }

    /// Takes the unit for dead until its read index moves from where it stands now (or where it last was, if it does not say).
    fn mark_dead<R: Registers>(&self, unit: &Unit<P, R>, inner: &mut Inner) {
        let position = unit.read_live(spec::CMDQ_CONS).and_then(|cons| self.position(cons, inner));
        inner.consumed = position.unwrap_or(inner.consumed);
        if self.dead.load(Ordering::Acquire) != FAILED {
            self.dead.store(inner.consumed + 1, Ordering::Release);
        }
    }

    /// Learns how far hardware is, and repairs the queue if it stopped.
    fn look<R: Registers>(&self, unit: &Unit<P, R>, inner: &mut Inner) -> Result<(), OpsError> {
        let cons = unit.read_live(spec::CMDQ_CONS)?;
        inner.consumed = self.position(cons, inner)?;
        if cmdq_cons::ERR.is_set(u64::from(cons)) {
            self.recover(unit, inner)?;
        }
        Ok(())
    }

    /// Whether CMDQ_ERR is active; `CMDQ_CONS.ERR` alone may be left over from an error that was dealt with.
    fn has_stopped<R: Registers>(&self, unit: &Unit<P, R>) -> Result<bool, OpsError> {
        let raised = unit.read_live(spec::GERROR)? ^ unit.read(spec::GERRORN);
        Ok(gerror::CMDQ_ERR.is_set(u64::from(raised)))
    }

    /// Acknowledges all global errors, repairing the queue if it stopped; returns those that were active. Waits for nothing.
    ///
    /// # Errors
    ///
    /// The unit is gone, or its queue cannot be repaired: whoever waits for a command is told the same.
    pub(crate) fn acknowledge<R: Registers>(&self, unit: &Unit<P, R>) -> Result<u32, OpsError> {
        self.shared.inner.with(|inner| {
            let active = unit.read_live(spec::GERROR)? ^ inner.seldom.acknowledged;
            if active != 0 {
                inner.seldom.acknowledged ^= active & !(gerror::CMDQ_ERR.mask() as u32);
                unit.write(spec::GERRORN, inner.seldom.acknowledged);
                self.recover(unit, inner)?;
            }
            if gerror::SFM_ERR.is_set(u64::from(active)) {
                self.dead.store(FAILED, Ordering::Release);
            }
            Ok(active)
        })
    }

    /// Makes a queue that stopped go on; nothing to do if it did not stop, or if another thread was faster.
    fn recover<R: Registers>(&self, unit: &Unit<P, R>, inner: &mut Inner) -> Result<(), OpsError> {
        let error = gerror::CMDQ_ERR.mask() as u32;
        if (unit.read_live(spec::GERROR)? ^ inner.seldom.acknowledged) & error == 0 {
            return Ok(());
        }
        let cons = unit.read_live(spec::CMDQ_CONS)?;
        let position = self.position(cons, inner)?;
        let code = cmdq_cons::ERR.get(u64::from(cons));
        let again = inner.seldom.stopped.0 == position;
        let stops = if again { inner.seldom.stopped.1.saturating_add(1) } else { 1 };
        inner.seldom.stopped = (position, stops);
        if stops > STOP_LIMIT {
            return Err(answer::stopped(cons));
        }
        if code != cerror::ABT || stops > FETCH_RETRIES {
            self.store(position, Command::sync());
            self.publish(position, 1);
            inner.failed = self.failures.add(position, code);
            inner.seldom.refused += 1;
        }
        inner.seldom.acknowledged ^= error;
        unit.write(spec::GERRORN, inner.seldom.acknowledged);
        Ok(())
    }

    /// The position behind a read index. Under the lock nothing is produced, so that the index stands for one position.
    fn position(&self, cons: u32, inner: &Inner) -> Result<u64, OpsError> {
        let rounds = 2 * self.capacity;
        let waiting = inner.produced.wrapping_sub(u64::from(cons)) & (rounds - 1);
        if waiting > inner.produced - inner.consumed {
            return Err(answer::bad_index(cons));
        }
        Ok(inner.produced - waiting)
    }

    #[inline]
    fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// What the index registers hold for a position: the slot, and the parity of the round above it.
    #[inline]
    fn index(&self, position: u64) -> u32 {
        (position & (2 * self.capacity - 1)) as u32
    }

    #[inline]
    fn slot(&self, position: u64) -> u64 {
        (position & (self.capacity - 1)) * spec::command::BYTES as u64
    }

    #[inline]
    fn store(&self, position: u64, command: Command) {
        let (memory, at) = (self.pages.memory(), self.pages.at(self.slot(position)));
        memory.store64(at, command.0[0]);
        memory.store64(PhysAddr::new(at.raw() + 8), command.0[1]);
    }

    /// Stores two commands one behind the other. Where they stand is worked out before the first store: behind one the compiler takes nothing for known.
    #[inline(always)]
    fn store_two(&self, position: u64, first: Command, second: Command) {
        let (slot, next) = (self.slot(position), self.slot(position + 1));
        let (memory, base) = (self.pages.memory(), self.pages.at(0).raw());
        for (slot, command) in [(slot, first), (next, second)] {
            memory.store64(PhysAddr::new(base + slot), command.0[0]);
            memory.store64(PhysAddr::new(base + slot + 8), command.0[1]);
        }
    }

    /// Makes `count` commands from `first` on visible to hardware; they may go round the end of the queue.
    #[inline]
    fn publish(&self, first: u64, count: usize) {
        let start = self.slot(first);
        let bytes = count * spec::command::BYTES;
        let to_end = (self.capacity() * spec::command::BYTES) - start as usize;
        self.pages.publish(self.pages.at(start), bytes.min(to_end));
        if bytes > to_end {
            self.pages.publish(self.pages.at(0), bytes - to_end);
        }
    }
}

impl<P: Platform> core::fmt::Debug for CommandQueue<P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("CommandQueue")
            .field("entries", &self.capacity())
            .field("produced", &self.shared.produced.load(Ordering::Relaxed))
            .field("refused", &self.refused())
            .finish_non_exhaustive()
    }
}
