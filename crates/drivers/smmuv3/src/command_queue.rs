//! The command queue (§3.5, §4.1, §7.1).
//!
//! Commands are placed under a short lock; a thread waits for its own CMD_SYNC outside, by looking at the read index. Positions are counted in 64 bits
//! and never wrap, so that a thread that slept for long can still tell "my commands were consumed" from "not yet".
//!
//! When the queue stops on an error, whoever notices first repairs it: a command that the unit refuses is overwritten by a CMD_SYNC and reported to the one thread
//! that waits for it; an aborted fetch is tried again first. A wait that reaches its bound leaves the commands in the queue: they are
//! harmless when the unit runs them later, and the next wait is short until one succeeds.

use crate::command::Command;
use crate::memory::{HardwarePages, Running};
use crate::unit::Unit;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use portcullis::{Awaited, Breakage, OpsError, Ticket as Submitted};
use portcullis_platform::{
    AllocError, DmaMemory, Lock, LockLabel, Nanos, Platform, Registers, wait_for,
};
use portcullis_spec::smmuv3::{self as spec, cerror, cmdq_base, cmdq_cons, gerror};

#[cfg(test)]
#[path = "command_queue_tests.rs"]
mod tests;

/// Longest wait for a CMD_SYNC, or for room in the queue: 1 s.
pub const SYNC_BOUND: Nanos = 1_000_000_000;
/// The same after a wait has failed, until one succeeds: 10 ms.
pub const STALLED_SYNC_BOUND: Nanos = 10_000_000;
/// How often an aborted fetch is tried again before the command is given up.
const FETCH_RETRIES: u8 = 3;
/// How often the queue may stop at one place before the unit counts as broken.
const STOP_LIMIT: u8 = 6;
/// How many refused commands are remembered one by one.
const REMEMBERED: usize = 8;

/// Lets a test drop (`None`) or alter a command before it is queued.
#[cfg(feature = "mutants")]
pub type CommandFilter = alloc::sync::Arc<dyn Fn(Command) -> Option<Command> + Send + Sync>;

pub(crate) struct CommandQueue<P: Platform> {
    pages: HardwarePages<P::Memory>,
    log2: u8,
    running: Running,
    producer: Lock<P, Producer>,
    /// `Producer::produced`, readable without the lock.
    produced: AtomicU64,
    /// `Failures::count`, readable without the lock.
    failures: AtomicU64,
    /// The last wait reached its bound.
    stalled: AtomicBool,
    #[cfg(feature = "mutants")]
    filter: Option<CommandFilter>,
}

/// # Invariants
///
/// `consumed <= produced <= consumed + capacity`, and hardware has consumed at least `consumed`.
#[derive(Debug)]
struct Producer {
    produced: u64,
    consumed: u64,
    failures: Failures,
    /// Where the queue stopped last, and how often in a row.
    stopped: (u64, u8),
    /// What GERRORN holds.
    acknowledged: u32,
}

/// Commands that were refused and overwritten.
#[derive(Debug, Default)]
struct Failures {
    count: u64,
    recent: [Failure; REMEMBERED],
}

#[derive(Clone, Copy, Debug, Default)]
struct Failure {
    position: u64,
    code: u64,
}

impl Failures {
    fn add(&mut self, failure: Failure) {
        self.recent[(self.count % REMEMBERED as u64) as usize] = failure;
        self.count += 1;
    }

    /// The first failure in the ticket's range; where too many happened since to tell, the ticket counts as hit.
    fn hit(&self, ticket: &Ticket) -> Option<Failure> {
        let since = self.count - ticket.failures;
        if since > REMEMBERED as u64 {
            return Some(Failure { position: ticket.first, code: cerror::NONE });
        }
        let recent = (ticket.failures..self.count).map(|n| self.recent[n as usize % REMEMBERED]);
        recent.into_iter().find(|failure| (ticket.first..ticket.after).contains(&failure.position))
    }
}

/// The positions of some queued commands, `first..after`.
#[derive(Clone, Copy, Debug)]
struct Ticket {
    first: u64,
    after: u64,
    /// How many failures there were before.
    failures: u64,
}

impl<P: Platform> CommandQueue<P> {
    /// An empty queue of `2^log2` commands.
    pub(crate) fn new(
        platform: &P,
        running: &Running,
        log2: u8,
        address_bits: u8,
        label: u64,
    ) -> Result<Self, AllocError> {
        let bytes = spec::command::BYTES << log2;
        let producer = Producer {
            produced: 0,
            consumed: 0,
            failures: Failures::default(),
            stopped: (u64::MAX, 0),
            acknowledged: 0,
        };
        Ok(Self {
            pages: HardwarePages::new(platform.memory(), running, bytes, address_bits)?,
            log2,
            running: running.clone(),
            producer: Lock::<P, _>::new(LockLabel::new("smmu.cmdq", label), producer),
            produced: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            stalled: AtomicBool::new(false),
            #[cfg(feature = "mutants")]
            filter: None,
        })
    }

    /// Sends every command through `filter` from now on.
    #[cfg(feature = "mutants")]
    pub(crate) fn set_filter(&mut self, filter: Option<CommandFilter>) {
        self.filter = filter;
    }

    /// Tells a disabled unit where the queue is. Errors of an earlier owner are acknowledged.
    pub(crate) fn install<R: Registers>(&self, unit: &Unit<P, R>) {
        let mut producer = self.producer.lock();
        let base = cmdq_base::RA.of(1)
            | cmdq_base::ADDR.in_place(self.pages.address().raw())
            | cmdq_base::LOG2SIZE.of(u64::from(self.log2));
        unit.write64(spec::CMDQ_BASE, base);
        unit.write(spec::CMDQ_PROD, self.index(producer.produced));
        unit.write(spec::CMDQ_CONS, self.index(producer.produced));
        producer.consumed = producer.produced;
        producer.acknowledged = unit.read(spec::GERROR);
        unit.write(spec::GERRORN, producer.acknowledged);
    }

    /// How many commands the unit has refused.
    pub(crate) fn refused(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Queues `count` commands and one CMD_SYNC, and waits until the unit has carried all of them out.
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
        self.wait_for(unit, self.submit_synced(unit, count, commands)?)
    }

    /// What was submitted where nothing is owed.
    pub(crate) const NOTHING: Submitted = Submitted([0; 3]);

    /// Queues `count` commands and one CMD_SYNC.
    ///
    /// # Errors
    ///
    /// As for [`execute`](Self::execute).
    pub(crate) fn submit_synced<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        count: usize,
        commands: impl Iterator<Item = Command>,
    ) -> Result<Submitted, OpsError> {
        if !self.running.is_set() {
            return Err(OpsError::Hardware { breakage: Breakage::ShutDown, status: 0 });
        }
        let mut commands = commands.take(count).chain(core::iter::once(Command::sync()));
        let ticket = self.submit(unit, count + 1, &mut commands)?;
        Ok(ticket.map_or(Self::NOTHING, |ticket| {
            Submitted([ticket.first, ticket.after, ticket.failures])
        }))
    }

    /// Waits until the unit has carried out what [`submit_synced`](Self::submit_synced) queued.
    ///
    /// # Errors
    ///
    /// As for [`execute`](Self::execute).
    pub(crate) fn wait_for<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        submitted: Submitted,
    ) -> Result<(), OpsError> {
        let Submitted([first, after, failures]) = submitted;
        if first == after { Ok(()) } else { self.wait(unit, &Ticket { first, after, failures }) }
    }

    #[cfg(not(feature = "mutants"))]
    fn submit<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        count: usize,
        commands: &mut impl Iterator<Item = Command>,
    ) -> Result<Option<Ticket>, OpsError> {
        self.submit_all(unit, count, commands)
    }

    #[cfg(feature = "mutants")]
    fn submit<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        count: usize,
        commands: &mut impl Iterator<Item = Command>,
    ) -> Result<Option<Ticket>, OpsError> {
        let Some(filter) = &self.filter else {
            return self.submit_all(unit, count, commands);
        };
        let left: alloc::vec::Vec<Command> =
            commands.filter_map(|command| filter(command)).collect();
        self.submit_all(unit, left.len(), &mut left.into_iter())
    }

    /// Queues `count` commands, in pieces where the queue is smaller than that. `None` for no command.
    fn submit_all<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        count: usize,
        commands: &mut impl Iterator<Item = Command>,
    ) -> Result<Option<Ticket>, OpsError> {
        let mut ticket: Option<Ticket> = None;
        let mut left = count;
        while left > 0 {
            let piece = left.min(self.capacity());
            let placed = self.place_when_room(unit, piece, commands)?;
            ticket = Some(match ticket {
                None => placed,
                Some(earlier) => Ticket { after: placed.after, ..earlier },
            });
            left -= piece;
        }
        Ok(ticket)
    }

    fn place_when_room<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        count: usize,
        commands: &mut impl Iterator<Item = Command>,
    ) -> Result<Ticket, OpsError> {
        self.wait_until(unit, Awaited::Room, || self.try_place(unit, count, commands))
    }

    /// Waits until `attempt` gives something.
    fn wait_until<R: Registers, T>(
        &self,
        unit: &Unit<P, R>,
        awaited: Awaited,
        mut attempt: impl FnMut() -> Result<Option<T>, OpsError>,
    ) -> Result<T, OpsError> {
        let stalled = self.stalled.load(Ordering::Relaxed);
        let bound = if stalled { STALLED_SYNC_BOUND } else { SYNC_BOUND };
        let mut outcome = Ok(None);
        let waited = wait_for(unit.clock(), bound, || {
            outcome = attempt();
            !matches!(outcome, Ok(None))
        });
        match (outcome, waited) {
            (Ok(Some(value)), _) => Ok(value),
            (Err(error), _) => Err(error),
            (Ok(None), Err(timeout)) => {
                self.stalled.store(true, Ordering::Relaxed);
                Err(OpsError::Timeout { awaited, timeout })
            }
            (Ok(None), Ok(())) => unreachable!("the wait ends on an outcome or on its bound"),
        }
    }

    /// Queues `count` commands, at most the capacity, if there is room.
    fn try_place<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        count: usize,
        commands: &mut impl Iterator<Item = Command>,
    ) -> Result<Option<Ticket>, OpsError> {
        let mut producer = self.producer.lock();
        if self.room(&producer) < count {
            let cons = unit.read_live(spec::CMDQ_CONS)?;
            producer.consumed = self.position(cons, producer.produced)?;
            if self.room(&producer) < count {
                if cmdq_cons::ERR.is_set(u64::from(cons)) {
                    self.recover(unit, &mut producer)?;
                }
                return Ok(None);
            }
        }
        let first = producer.produced;
        // `for_each`, because a chain of iterators runs faster from inside.
        let mut position = first;
        commands.take(count).for_each(|command| {
            self.store(position, command);
            position += 1;
        });
        self.publish(first, count);
        producer.produced += count as u64;
        self.produced.store(producer.produced, Ordering::Release);
        unit.write(spec::CMDQ_PROD, self.index(producer.produced));
        Ok(Some(Ticket { first, after: producer.produced, failures: producer.failures.count }))
    }

    fn wait<R: Registers>(&self, unit: &Unit<P, R>, ticket: &Ticket) -> Result<(), OpsError> {
        self.wait_until(unit, Awaited::Confirmation, || {
            let cons = unit.read_live(spec::CMDQ_CONS)?;
            if cmdq_cons::ERR.is_set(u64::from(cons)) && self.has_stopped(unit)? {
                self.recover(unit, &mut self.producer.lock())?;
            }
            Ok(self.passed(cons, ticket.after).then_some(()))
        })?;
        if self.stalled.load(Ordering::Relaxed) {
            self.stalled.store(false, Ordering::Relaxed);
        }
        if self.failures.load(Ordering::Acquire) == ticket.failures {
            return Ok(());
        }
        match self.producer.lock().failures.hit(ticket) {
            None => Ok(()),
            Some(failure) => {
                Err(OpsError::Hardware { breakage: Breakage::CommandRefused, status: failure.code })
            }
        }
    }

    /// Whether hardware has consumed everything before position `after`, given a fresh read of CMDQ_CONS.
    ///
    /// A position that was not passed is at most one capacity ahead of the read index, so a distance below the capacity in the other direction proves
    /// that it was. A thread that looks again only after a whole round sees it by the write position: what was written a capacity later needed the room.
    fn passed(&self, cons: u32, after: u64) -> bool {
        let capacity = self.capacity() as u64;
        let ahead = u64::from(cons).wrapping_sub(after) & (2 * capacity - 1);
        ahead < capacity || self.produced.load(Ordering::Acquire) >= after + capacity
    }

    /// Whether CMDQ_ERR is active; `CMDQ_CONS.ERR` alone may be left over from an error that was dealt with.
    fn has_stopped<R: Registers>(&self, unit: &Unit<P, R>) -> Result<bool, OpsError> {
        let raised = unit.read_live(spec::GERROR)? ^ unit.read(spec::GERRORN);
        Ok(gerror::CMDQ_ERR.is_set(u64::from(raised)))
    }

    /// Acknowledges all global errors, repairing the queue if it stopped; returns those that were active.
    pub(crate) fn acknowledge<R: Registers>(&self, unit: &Unit<P, R>) -> Result<u32, OpsError> {
        let active = unit.read_live(spec::GERROR)? ^ unit.read(spec::GERRORN);
        if active == 0 {
            return Ok(0);
        }
        let mut producer = self.producer.lock();
        let active = unit.read_live(spec::GERROR)? ^ producer.acknowledged;
        let others = active & !(gerror::CMDQ_ERR.mask() as u32);
        producer.acknowledged ^= others;
        unit.write(spec::GERRORN, producer.acknowledged);
        self.recover(unit, &mut producer)?;
        Ok(active)
    }

    /// Makes a queue that stopped go on; nothing to do if it did not stop, or if another thread was faster.
    fn recover<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        producer: &mut Producer,
    ) -> Result<(), OpsError> {
        let error = gerror::CMDQ_ERR.mask() as u32;
        if (unit.read_live(spec::GERROR)? ^ producer.acknowledged) & error == 0 {
            return Ok(());
        }
        let cons = unit.read_live(spec::CMDQ_CONS)?;
        let position = self.position(cons, producer.produced)?;
        let code = cmdq_cons::ERR.get(u64::from(cons));
        let again = producer.stopped.0 == position;
        let stops = if again { producer.stopped.1.saturating_add(1) } else { 1 };
        producer.stopped = (position, stops);
        if stops > STOP_LIMIT {
            let breakage = Breakage::QueueStopped;
            return Err(OpsError::Hardware { breakage, status: u64::from(cons) });
        }
        if code != cerror::ABT || stops > FETCH_RETRIES {
            self.store(position, Command::sync());
            self.publish(position, 1);
            producer.failures.add(Failure { position, code });
            self.failures.store(producer.failures.count, Ordering::Release);
        }
        producer.acknowledged ^= error;
        unit.write(spec::GERRORN, producer.acknowledged);
        Ok(())
    }

    fn capacity(&self) -> usize {
        1 << self.log2
    }

    fn room(&self, producer: &Producer) -> usize {
        self.capacity() - (producer.produced - producer.consumed) as usize
    }

    /// What the index registers hold for a position: the slot, and the parity of the round above it.
    fn index(&self, position: u64) -> u32 {
        (position & (2 * self.capacity() as u64 - 1)) as u32
    }

    /// The position behind a read index, given the write position at the time of the read.
    fn position(&self, cons: u32, produced: u64) -> Result<u64, OpsError> {
        let waiting = produced.wrapping_sub(u64::from(cons)) & (2 * self.capacity() as u64 - 1);
        if waiting > self.capacity() as u64 || waiting > produced {
            let breakage = Breakage::BadIndex;
            return Err(OpsError::Hardware { breakage, status: u64::from(cons) });
        }
        Ok(produced - waiting)
    }

    fn slot(&self, position: u64) -> u64 {
        (position & (self.capacity() as u64 - 1)) * spec::command::BYTES as u64
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
            .field("produced", &self.produced)
            .field("refused", &self.failures)
            .finish_non_exhaustive()
    }
}
