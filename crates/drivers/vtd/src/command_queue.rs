//! The invalidation queue (§6.5.2, §11.4.9).
//!
//! A *batch* is some descriptors and a wait behind them, which keeps what follows waiting and stores in a status word where it stands. It is placed as a whole under a short lock, straight into the queue and with one write of `IQT`. The
//! status word is the confirmation of everything before it; the head is not, because it passes a wait when that is fetched. A thread waits for its own descriptors and those before them, never for later ones.
//!
//! Positions are counted in 64 bits and never wrap. A descriptor's place is used again only after a wait behind it is over, so an error finds every descriptor that it can be about where it was put. The queue holds one descriptor less
//! than it has entries, so the head tells without doubt how far hardware has fetched.
//!
//! When the queue stops on an error, whoever notices first repairs it. A descriptor that the unit refuses (IQE) is overwritten by a wait, and reported to the one thread that waits for it; a failed fetch is tried again first. When a device TLB
//! timed out (ITE), waits that were fetched are lost: everybody who waits is told. A completion that nobody asked for (ICE) costs nothing.
//!
//! A wait that reaches its bound leaves the descriptors in the queue (they are harmless when the unit carries them out later) and marks the unit as dead: further calls fail at once, until the status word moves.

use crate::command::Command;
use crate::error::BringUpCause;
use crate::hooks::{Safeguard, omitted};
use crate::unit::Unit;
use core::sync::atomic::Ordering;
use portcullis::OpsError;
use portcullis_driver_parts::{Failures, HardwarePages, Line, Running, Submitted, answer};
use portcullis_platform::{
    AllocError, Coherency, DmaMemory, IrqLock, LockLabel, Nanos, Platform, RawAtomic, Registers,
    wait_for,
};
use portcullis_spec::vtd::{self as spec, fsts, gcmd, iqa, iqei, iqercd};

/// Longest wait for a wait descriptor, or for room in the queue: 1 s. No device TLB is asked for anything, which is what a wait may take long for.
pub const WAIT_BOUND: Nanos = 1_000_000_000;
/// The most descriptors that are placed at once, the wait included: it bounds how long interrupts are masked.
const LARGEST_BATCH: usize = 64;
/// How often a failed fetch is tried again before the descriptor is given up.
const RETRIES: u8 = 3;
/// How often the queue may stop at one place before the unit counts as broken.
const STOP_LIMIT: u8 = 6;
/// What `dead` holds while the unit answers.
const ALIVE: u64 = 0;
/// What `dead` holds when the unit has failed in a way that only a restart can end.
const FAILED: u64 = u64::MAX;
/// Bytes of the status word, and of what it is given for itself.
const STATUS_BYTES: usize = 64;

/// Bits of `FSTS` that are about the queue.
pub(crate) const ERRORS: u32 = (fsts::IQE.mask() | fsts::ICE.mask() | fsts::ITE.mask()) as u32;

pub(crate) struct CommandQueue<P: Platform> {
    pages: HardwarePages<P::Memory>,
    status: HardwarePages<P::Memory>,
    /// log2 of the entries.
    log2: u8,
    /// log2 of the bytes of an entry: 4 or 5.
    width: u8,
    running: Running,
    inner: IrqLock<P, Inner>,
    failures: Failures<P::Atomic>,
    /// [`ALIVE`], [`FAILED`], or one more than what was confirmed when a wait ended in vain.
    dead: P::Atomic,
}

/// # Invariants
///
/// `consumed <= produced < consumed + entries`, and everything before `consumed` is over.
#[derive(Debug)]
struct Inner {
    produced: u64,
    consumed: u64,
    line: Line,
    /// Where the queue stopped last, and how often in a row.
    stopped: (u64, u8),
    /// How many descriptors were refused, and the count of `failures`.
    refused: u64,
    failed: u64,
}

impl<P: Platform> CommandQueue<P> {
    /// An empty queue of about `2^log2` entries: whole pages, at most 128 of them. `wide` for entries of 32 bytes.
    pub(crate) fn new(
        platform: &P,
        running: &Running,
        log2: u8,
        wide: bool,
        address_bits: u8,
        index: u64,
    ) -> Result<Self, AllocError> {
        let width = if wide { 5 } else { 4 };
        let pages_log2 = (log2 + width).clamp(12, 19) - 12;
        let (log2, bytes) = (pages_log2 + 12 - width, 4096 << pages_log2);
        // The queue and what waits store are snooped whatever the rest is (§11.4.3, "C").
        let running = running.with(Coherency::Coherent);
        let memory = platform.memory();
        let inner = Inner {
            produced: 0,
            consumed: 0,
            line: Line::default(),
            stopped: (u64::MAX, 0),
            refused: 0,
            failed: 0,
        };
        Ok(Self {
            pages: HardwarePages::new(memory, &running, bytes, address_bits)?,
            status: HardwarePages::new(memory, &running, STATUS_BYTES, address_bits)?,
            log2,
            width,
            running,
            inner: IrqLock::<P, _>::new(LockLabel::new("vtd.iq", index), inner),
            failures: Failures::new(index),
            dead: P::Atomic::new(LockLabel::new("vtd.dead", index), ALIVE),
        })
    }

    /// Tells a unit whose queue is off where it is, and turns it on. Descriptors that were left are gone, and whoever waits for one is told so.
    pub(crate) fn install<R: Registers>(&self, unit: &Unit<P, R>) -> Result<(), BringUpCause> {
        self.inner.with(|inner| {
            inner.failed = self.failures.fail_all();
            // The head begins at 0 (§6.5.2), and so do positions, a whole number of rounds further.
            inner.produced = inner.produced.next_multiple_of(self.entries());
            inner.consumed = inner.produced;
            self.status.memory().store64(self.status.address(), inner.consumed & 0xffff_ffff);
        });
        self.status.publish(self.status.address(), STATUS_BYTES);
        let pages_log2 = u64::from(self.log2 + self.width) - 12;
        let base = self.pages.address().raw() | iqa::QS.of(pages_log2);
        unit.write64(spec::IQT, 0);
        unit.write64(spec::IQA, base | iqa::DW.of(u64::from(self.width) - 4));
        unit.enable(gcmd::QIE, true)?;
        self.dead.store(ALIVE, Ordering::Release);
        Ok(())
    }

    /// How many descriptors the unit has refused.
    pub(crate) fn refused(&self) -> u64 {
        self.inner.with(|inner| inner.refused)
    }

    /// Queues `count` descriptors and a wait, and waits until the unit has carried all of them out.
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

    /// Queues `count` descriptors and a wait; in several batches where they are more than fit into one. Waits only for room.
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
        let most = LARGEST_BATCH - 1;
        let mut placed = count.min(most);
        let mut submitted = self.place(unit, placed, &mut commands)?;
        while placed < count {
            let more = (count - placed).min(most);
            submitted.after = self.place(unit, more, &mut commands)?.after;
            placed += more;
        }
        Ok(submitted)
    }

    /// Fails if an earlier wait was in vain and nothing was confirmed since.
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
        let placed = placed.and_then(|placed| placed.ok_or_else(|| answer::no_room(WAIT_BOUND)));
        if let Some(turn) = turn {
            // Not used: it was in vain.
            self.inner.with(|inner| inner.line.leave(turn));
        }
        placed.inspect_err(|_| self.mark_dead())
    }

    fn try_place<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        inner: &mut Inner,
        turn: &mut Option<u64>,
        count: usize,
        commands: &mut impl Iterator<Item = Command>,
    ) -> Result<Option<Submitted>, OpsError> {
        let capacity = self.entries() as usize - 1;
        let free = |inner: &Inner| capacity - (inner.produced - inner.consumed) as usize;
        if free(inner) < count + 1 {
            self.look(unit, inner)?;
        }
        if !inner.line.is_turn(*turn) || free(inner) < count + 1 {
            *turn = turn.or_else(|| inner.line.join());
            return Ok(None);
        }
        let first = inner.produced;
        commands.take(count).for_each(|command| {
            self.store(inner.produced, command);
            inner.produced += 1;
        });
        inner.produced += 1;
        self.store(inner.produced - 1, self.confirm_up_to(inner.produced));
        self.publish(first, (inner.produced - first) as usize);
        self.show_tail(unit, inner);
        if let Some(turn) = turn.take() {
            inner.line.leave(turn);
        }
        Ok(Some(Submitted { first, after: inner.produced, failures: inner.failed }))
    }

    /// A wait that says that everything before `position` is over.
    fn confirm_up_to(&self, position: u64) -> Command {
        Command::wait(self.status.address(), position as u32)
    }

    fn show_tail<R: Registers>(&self, unit: &Unit<P, R>, inner: &Inner) {
        unit.write(spec::IQT, self.index(inner.produced) << self.width);
    }

    /// Waits until the status word says that the last wait is over.
    ///
    /// # Errors
    ///
    /// Unconfirmed: the bound passed, the unit refused one of the descriptors, or it is broken or gone.
    pub(crate) fn wait<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        submitted: &Submitted,
    ) -> Result<(), OpsError> {
        let waited = wait_until(unit, || {
            self.inner.with(|inner| {
                if inner.consumed < submitted.after {
                    self.look(unit, inner)?;
                }
                Ok((inner.consumed >= submitted.after).then_some(()))
            })
        })?;
        if waited.is_none() {
            self.mark_dead();
            return Err(answer::unconfirmed(WAIT_BOUND));
        }
        match self.failures.hit(submitted) {
            None => Ok(()),
            Some(code) => Err(answer::refused(code)),
        }
    }

    /// Takes the unit for dead until it confirms more than it has.
    fn mark_dead(&self) {
        self.inner.with(|inner| {
            inner.consumed = self.confirmed(inner);
            if self.dead.load(Ordering::Acquire) != FAILED {
                self.dead.store(inner.consumed + 1, Ordering::Release);
            }
        });
    }

    /// Learns how far hardware is, and repairs the queue if it stopped short of what was asked of it.
    fn look<R: Registers>(&self, unit: &Unit<P, R>, inner: &mut Inner) -> Result<(), OpsError> {
        let before = inner.consumed;
        inner.consumed = match omitted::<P>(Safeguard::WaitForStatus) {
            true => self.fetched(unit, inner)?,
            false => self.confirmed(inner),
        };
        if inner.consumed == before && inner.consumed < inner.produced {
            self.recover(unit, inner)?;
        }
        Ok(())
    }

    /// What the status word says; a value that no wait under way can store is that of an earlier one.
    fn confirmed(&self, inner: &Inner) -> u64 {
        self.status.refresh(self.status.address(), STATUS_BYTES);
        let status = self.status.memory().load64(self.status.address()) as u32;
        let ahead = u64::from(status.wrapping_sub(inner.consumed as u32));
        let known = ahead <= inner.produced - inner.consumed;
        inner.consumed + if known { ahead } else { 0 }
    }

    /// The position that the head stands for: how far hardware has fetched.
    fn fetched<R: Registers>(&self, unit: &Unit<P, R>, inner: &Inner) -> Result<u64, OpsError> {
        let head = unit.read_live(spec::IQH)?;
        let index = head >> self.width;
        let behind =
            u64::from(self.index(inner.produced)).wrapping_sub(index.into()) & (self.entries() - 1);
        let position = inner.produced.checked_sub(behind);
        let known = position.filter(|position| *position >= inner.consumed);
        let whole = index << self.width == head && u64::from(index) < self.entries();
        known.filter(|_| whole).ok_or_else(|| answer::bad_index(head))
    }

    /// Repairs a queue that stopped; returns the errors that it found. Waits for nothing.
    ///
    /// # Errors
    ///
    /// The unit is gone, or its queue cannot be repaired: whoever waits for a descriptor is told the same.
    pub(crate) fn acknowledge<R: Registers>(&self, unit: &Unit<P, R>) -> Result<u32, OpsError> {
        self.inner.with(|inner| self.recover(unit, inner))
    }

    /// Makes a queue that stopped go on; nothing to do if it did not stop, or if another thread was faster.
    fn recover<R: Registers>(&self, unit: &Unit<P, R>, inner: &mut Inner) -> Result<u32, OpsError> {
        let errors = unit.read_live(spec::FSTS)? & ERRORS;
        if errors == 0 {
            return Ok(0);
        }
        let position = self.fetched(unit, inner)?;
        if fsts::IQE.is_set(errors.into()) {
            self.pass_over(unit, inner, position)?;
        }
        if fsts::ITE.is_set(errors.into()) {
            // Waits before the head are lost, and what they would have confirmed is not known.
            inner.refused += 1;
            inner.failed = self.failures.fail_all();
            inner.consumed = position;
        }
        unit.write(spec::FSTS, errors);
        // QEMU goes on only when the tail is written; to other units that says nothing new.
        self.show_tail(unit, inner);
        Ok(errors)
    }

    /// Puts a wait in the place of the descriptor at which the queue stopped, unless another try may help.
    fn pass_over<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        inner: &mut Inner,
        position: u64,
    ) -> Result<(), OpsError> {
        let (at, times) = inner.stopped;
        inner.stopped = (position, if at == position { times.saturating_add(1) } else { 1 });
        if inner.stopped.1 > STOP_LIMIT {
            self.dead.store(FAILED, Ordering::Release);
            return Err(answer::stopped(self.index(position)));
        }
        let info = iqercd::IQEI.get(unit.read(spec::IQERCD).into());
        let retry = matches!(info, iqei::UNKNOWN | iqei::TAIL | iqei::FETCH);
        if position < inner.produced && !(retry && inner.stopped.1 <= RETRIES) {
            // It may have been the wait of a batch, so it says what that would have said.
            self.store(position, self.confirm_up_to(position + 1));
            self.publish(position, 1);
            inner.refused += 1;
            inner.failed = self.failures.add(position, info);
        }
        Ok(())
    }

    fn entries(&self) -> u64 {
        1 << self.log2
    }

    fn index(&self, position: u64) -> u32 {
        (position & (self.entries() - 1)) as u32
    }

    fn slot(&self, position: u64) -> u64 {
        u64::from(self.index(position)) << self.width
    }

    /// The second half of a wide descriptor has been 0 since the queue was made.
    #[inline]
    fn store(&self, position: u64, command: Command) {
        let slot = self.slot(position);
        let memory = self.pages.memory();
        memory.store64(self.pages.at(slot), command.0[0]);
        memory.store64(self.pages.at(slot + 8), command.0[1]);
    }

    /// Makes `count` descriptors from `first` on visible to hardware; they may go round the end of the queue.
    fn publish(&self, first: u64, count: usize) {
        let start = self.slot(first);
        let bytes = count << self.width;
        let to_end = ((self.entries() << self.width) - start) as usize;
        self.pages.publish(self.pages.at(start), bytes.min(to_end));
        if bytes > to_end {
            self.pages.publish(self.pages.at(0), bytes - to_end);
        }
    }
}

/// Asks `attempt` until it gives something; `None` after [`WAIT_BOUND`].
fn wait_until<P: Platform, R: Registers, T>(
    unit: &Unit<P, R>,
    mut attempt: impl FnMut() -> Result<Option<T>, OpsError>,
) -> Result<Option<T>, OpsError> {
    let mut outcome = attempt();
    if !matches!(outcome, Ok(None)) {
        return outcome;
    }
    let settled = wait_for(unit.clock(), WAIT_BOUND, || {
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
