//! A queue of commands that several threads fill and one unit empties.
//!
//! A *batch* is some commands and one behind them that confirms them. It is placed as a whole under a short lock, straight into the queue and with one write of the tail; what [`Submitted`] says is where it stands. A thread waits for its own
//! commands and those before them, never for later ones, and who waits for room gets it in the order of arrival.
//!
//! When the queue stops on an error, whoever notices first has it repaired, and the one thread that waits for the refused command is told. A wait that reaches its bound leaves the commands in the queue (they are harmless when the unit
//! carries them out later) and marks the unit as dead: further calls fail at once, until the unit is seen to have gone on.

use crate::answer;
use crate::failures::{Failures, Submitted};
use crate::line::Line;
use crate::memory::Running;
use crate::ring::{Ring, Words};
use core::fmt;
use core::sync::atomic::Ordering;
use portcullis::OpsError;
use portcullis_platform::{IrqLock, LockLabel, Nanos, Platform, RawAtomic, wait_for};

/// How often the queue may stop at one place before the unit counts as broken.
const STOP_LIMIT: u8 = 6;
/// What `dead` holds while the unit answers.
const ALIVE: u64 = 0;
/// What `dead` holds when the unit has failed in a way that only a restart can end.
const FAILED: u64 = u64::MAX;

/// What a family's driver knows of its queue: the unit's registers, and the form of its commands.
///
/// The functions that are given a [`Standing`] are called under the queue's lock, so they wait for nothing.
pub trait Consumer {
    /// The platform.
    type Platform: Platform;
    /// What the driver keeps under the queue's lock.
    type Own;
    /// What [`recover`](Self::recover) found.
    type Found;
    /// Longest wait for a confirmation, or for room in the queue.
    const BOUND: Nanos;
    /// The most commands that are placed at once, the confirmation included: it bounds how long interrupts are masked.
    const LARGEST_BATCH: usize;

    /// The queue.
    fn queue(&self) -> &CommandQueue<Self::Platform, Self::Own>;

    /// Measures [`BOUND`](Self::BOUND).
    fn clock(&self) -> &<Self::Platform as Platform>::Clock;

    /// The command behind a batch, by which everything before position `after` becomes known as over.
    fn confirmation(&self, after: u64) -> Words;

    /// Tells the unit that commands stand before `index` of the ring.
    fn show_tail(&self, index: u32);

    /// The position before which room is free again.
    ///
    /// # Errors
    ///
    /// The unit is gone, or says what it cannot mean.
    fn progress(&self, standing: &Standing<Self::Own>) -> Result<u64, OpsError>;

    /// Whether everything before `after` is over, for units whose [`progress`](Self::progress) does not say; asked without the lock.
    fn is_over(&self, _after: u64) -> Option<bool> {
        None
    }

    /// What a refusal with this code is called in the core's errors: what the unit's register says.
    fn status_of(&self, code: u64) -> u64 {
        code
    }

    /// Makes a queue that stopped go on; nothing to do if it did not stop, or if another thread was faster.
    ///
    /// # Errors
    ///
    /// The unit is gone, or its queue cannot be repaired.
    fn recover(&self, standing: &mut Standing<Self::Own>) -> Result<Self::Found, OpsError>;

    /// Queues `count` commands and a confirmation, and waits until the unit has carried all of them out.
    ///
    /// # Errors
    ///
    /// Unconfirmed ([`OpsError::is_unconfirmed`]): some may not have been carried out, now or ever.
    fn execute(
        &self,
        count: usize,
        commands: impl Iterator<Item: Into<Words>>,
    ) -> Result<(), OpsError>
    where
        Self: Sized,
    {
        let submitted = self.submit(count, commands)?;
        self.wait(&submitted)
    }

    /// Queues `count` commands and a confirmation; in several batches where they are more than fit into one. Waits only for room.
    ///
    /// # Errors
    ///
    /// The unit was stopped, is dead, or made no room in time.
    fn submit(
        &self,
        count: usize,
        commands: impl Iterator<Item: Into<Words>>,
    ) -> Result<Submitted, OpsError>
    where
        Self: Sized,
    {
        self.queue().submit(self, count, commands.map(Into::into))
    }

    /// Waits until the unit has confirmed the last batch.
    ///
    /// # Errors
    ///
    /// Unconfirmed: the bound passed, the unit refused one of the commands, or it is broken or gone.
    fn wait(&self, submitted: &Submitted) -> Result<(), OpsError>
    where
        Self: Sized,
    {
        self.queue().wait(self, submitted)
    }

    /// Has a queue that stopped repaired. Waits for nothing.
    ///
    /// # Errors
    ///
    /// What [`recover`](Self::recover) says; whoever waits for a command is told the same.
    fn acknowledge(&self) -> Result<Self::Found, OpsError> {
        self.queue().standing.with(|standing| self.recover(standing))
    }
}

/// Where a queue stands, under its lock.
///
/// # Invariants
///
/// `consumed <= produced < consumed + entries`, and hardware has consumed at least everything before `consumed`.
#[derive(Debug)]
pub struct Standing<S> {
    /// Behind the last command.
    pub produced: u64,
    /// Before it, room is free.
    pub consumed: u64,
    /// What the driver keeps here.
    pub own: S,
    line: Line,
    /// Where the queue stopped last, and how often in a row.
    stopped: (u64, u8),
    /// How many commands were refused, and the count of `failures`.
    refused: u64,
    failed: u64,
}

/// The queue. `S` is what its driver keeps under the lock.
pub struct CommandQueue<P: Platform, S> {
    ring: Ring<P::Memory>,
    running: Running,
    standing: IrqLock<P, Standing<S>>,
    failures: Failures<P::Atomic>,
    /// [`ALIVE`], [`FAILED`], or one more than where hardware stood when a wait ended in vain.
    dead: P::Atomic,
}

impl<P: Platform, S> CommandQueue<P, S> {
    /// An empty queue in `ring`. `lock` and `dead` name its lock and its mark in pictures, `index` tells two units apart.
    pub fn new(
        ring: Ring<P::Memory>,
        running: Running,
        own: S,
        (lock, dead): (&'static str, &'static str),
        index: u64,
    ) -> Self {
        let standing = Standing {
            produced: 0,
            consumed: 0,
            own,
            line: Line::default(),
            stopped: (u64::MAX, 0),
            refused: 0,
            failed: 0,
        };
        Self {
            ring,
            running,
            standing: IrqLock::<P, _>::new(LockLabel::new(lock, index), standing),
            failures: Failures::new(index),
            dead: P::Atomic::new(LockLabel::new(dead, index), ALIVE),
        }
    }

    /// Its memory.
    pub fn ring(&self) -> &Ring<P::Memory> {
        &self.ring
    }

    /// How many commands the unit has refused.
    pub fn refused(&self) -> u64 {
        self.standing.with(|standing| standing.refused)
    }

    /// Begins anew with a unit whose queue is off and whose indices will be 0. Commands that were left are gone, and whoever waits for one is told so. `set_up` is called under the lock.
    pub fn restart(&self, set_up: impl FnOnce(&mut Standing<S>)) {
        self.standing.with(|standing| {
            standing.failed = self.failures.fail_all();
            // Positions go on a whole number of rounds further.
            standing.produced = standing.produced.next_multiple_of(self.ring.entries());
            standing.consumed = standing.produced;
            standing.stopped = (u64::MAX, 0);
            set_up(standing);
        });
    }

    /// The queue is on (again).
    pub fn revive(&self) {
        self.dead.store(ALIVE, Ordering::Release);
    }

    fn submit<C: Consumer<Platform = P, Own = S>>(
        &self,
        unit: &C,
        count: usize,
        mut commands: impl Iterator<Item = Words>,
    ) -> Result<Submitted, OpsError> {
        if !self.running.is_set() {
            return Err(answer::shut_down());
        }
        self.check_alive(unit)?;
        let most = self.ring.capacity().min(C::LARGEST_BATCH) - 1;
        let mut placed = count.min(most);
        let mut submitted = self.place(unit, placed, &mut commands)?;
        while placed < count {
            let more = (count - placed).min(most);
            submitted.after = self.place(unit, more, &mut commands)?.after;
            placed += more;
        }
        Ok(submitted)
    }

    /// Fails if an earlier wait was in vain and the unit has not gone on since.
    fn check_alive<C: Consumer<Platform = P, Own = S>>(&self, unit: &C) -> Result<(), OpsError> {
        let dead = self.dead.load(Ordering::Acquire);
        if dead == ALIVE {
            return Ok(());
        }
        self.standing.with(|standing| {
            look(unit, standing)?;
            let has_moved = standing.consumed >= dead || standing.consumed == standing.produced;
            if dead == FAILED || !has_moved {
                return Err(OpsError::Dead);
            }
            self.dead.store(ALIVE, Ordering::Release);
            Ok(())
        })
    }

    /// Places one batch, as soon as it is this caller's turn and there is room.
    fn place<C: Consumer<Platform = P, Own = S>>(
        &self,
        unit: &C,
        count: usize,
        commands: &mut impl Iterator<Item = Words>,
    ) -> Result<Submitted, OpsError> {
        let mut turn = None;
        let placed = wait_until(unit, || {
            self.standing
                .with(|standing| self.try_place(unit, standing, &mut turn, count, commands))
        });
        let placed = placed.and_then(|placed| placed.ok_or_else(|| answer::no_room(C::BOUND)));
        if let Some(turn) = turn {
            // Not used: it was in vain.
            self.standing.with(|standing| standing.line.leave(turn));
        }
        placed.inspect_err(|_| self.mark_dead(unit))
    }

    fn try_place<C: Consumer<Platform = P, Own = S>>(
        &self,
        unit: &C,
        standing: &mut Standing<S>,
        turn: &mut Option<u64>,
        count: usize,
        commands: &mut impl Iterator<Item = Words>,
    ) -> Result<Option<Submitted>, OpsError> {
        let free = |standing: &Standing<S>| {
            self.ring.capacity() - (standing.produced - standing.consumed) as usize
        };
        if free(standing) < count + 1 {
            look(unit, standing)?;
        }
        if !standing.line.is_turn(*turn) || free(standing) < count + 1 {
            *turn = turn.or_else(|| standing.line.join());
            return Ok(None);
        }
        let first = standing.produced;
        let confirmation = unit.confirmation(first + count as u64 + 1);
        // `for_each`, because a chain of iterators runs faster from inside.
        commands.take(count).chain(core::iter::once(confirmation)).for_each(|command| {
            self.ring.store(standing.produced, command);
            standing.produced += 1;
        });
        self.ring.publish(first, (standing.produced - first) as usize);
        unit.show_tail(self.ring.index(standing.produced));
        if let Some(turn) = turn.take() {
            standing.line.leave(turn);
        }
        Ok(Some(Submitted { first, after: standing.produced, failures: standing.failed }))
    }

    fn wait<C: Consumer<Platform = P, Own = S>>(
        &self,
        unit: &C,
        submitted: &Submitted,
    ) -> Result<(), OpsError> {
        let waited = wait_until(unit, || Ok(self.is_over(unit, submitted)?.then_some(())))?;
        if waited.is_none() {
            self.mark_dead(unit);
            return Err(answer::unconfirmed(C::BOUND));
        }
        let refused = |code| Err(answer::refused(unit.status_of(code)));
        self.failures.hit(submitted).map_or(Ok(()), refused)
    }

    fn is_over<C: Consumer<Platform = P, Own = S>>(
        &self,
        unit: &C,
        submitted: &Submitted,
    ) -> Result<bool, OpsError> {
        let over = unit.is_over(submitted.after);
        if over == Some(true) {
            return Ok(true);
        }
        let passed = self.standing.with(|standing| {
            if over.is_some() || standing.consumed < submitted.after {
                look(unit, standing)?;
            }
            Ok::<bool, OpsError>(standing.consumed >= submitted.after)
        })?;
        Ok(match over {
            None => passed,
            // A confirmation that was refused never comes.
            Some(_) => {
                passed && self.failures.hit(submitted).is_some()
                    || unit.is_over(submitted.after) == Some(true)
            }
        })
    }

    /// Takes the unit for dead until it goes on from where it stands now (or where it last was, if it does not say).
    fn mark_dead<C: Consumer<Platform = P, Own = S>>(&self, unit: &C) {
        self.standing.with(|standing| {
            standing.consumed = unit.progress(standing).unwrap_or(standing.consumed);
            if self.dead.load(Ordering::Acquire) != FAILED {
                self.dead.store(standing.consumed + 1, Ordering::Release);
            }
        });
    }

    /// For [`Consumer::recover`]: notes that the queue stopped at `position`, and says how often in a row it did.
    ///
    /// # Errors
    ///
    /// Too often: the unit has failed for good.
    pub fn stopped_at(&self, standing: &mut Standing<S>, position: u64) -> Result<u8, OpsError> {
        let (at, times) = standing.stopped;
        let times = if at == position { times.saturating_add(1) } else { 1 };
        standing.stopped = (position, times);
        if times > STOP_LIMIT {
            self.dead.store(FAILED, Ordering::Release);
            return Err(answer::stopped(self.ring.index(position)));
        }
        Ok(times)
    }

    /// For [`Consumer::recover`]: puts `command` in the place of one at which the queue stopped.
    pub fn replace(&self, position: u64, command: Words) {
        self.ring.store(position, command);
        self.ring.publish(position, 1);
    }

    /// For [`Consumer::recover`]: counts the commands at `positions` as one refusal, with the unit's own code of at most eight bits, and tells whoever waits for one of them.
    pub fn refuse(
        &self,
        standing: &mut Standing<S>,
        positions: impl IntoIterator<Item = u64>,
        code: u64,
    ) {
        standing.refused += 1;
        for position in positions {
            standing.failed = self.failures.add(position, code);
        }
    }

    /// For [`Consumer::recover`]: tells everybody who waits that their commands may not have been carried out.
    pub fn refuse_all(&self, standing: &mut Standing<S>) {
        standing.refused += 1;
        standing.failed = self.failures.fail_all();
    }
}

/// Learns how far hardware is, and has the queue repaired if it stopped short of what was asked of it.
fn look<C: Consumer>(unit: &C, standing: &mut Standing<C::Own>) -> Result<(), OpsError> {
    let before = standing.consumed;
    standing.consumed = unit.progress(standing)?;
    if standing.consumed == before && standing.consumed < standing.produced {
        unit.recover(standing)?;
    }
    Ok(())
}

/// Asks `attempt` until it gives something; `None` after the bound.
fn wait_until<C: Consumer, T>(
    unit: &C,
    mut attempt: impl FnMut() -> Result<Option<T>, OpsError>,
) -> Result<Option<T>, OpsError> {
    let mut outcome = attempt();
    if !matches!(outcome, Ok(None)) {
        return outcome;
    }
    let settled = wait_for(unit.clock(), C::BOUND, || {
        outcome = attempt();
        !matches!(outcome, Ok(None))
    });
    settled.map_or(Ok(None), |()| outcome)
}

impl<P: Platform, S> fmt::Debug for CommandQueue<P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandQueue")
            .field("ring", &self.ring)
            .field("refused", &self.refused())
            .finish_non_exhaustive()
    }
}
