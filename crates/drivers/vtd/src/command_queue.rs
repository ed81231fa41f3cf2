//! The invalidation queue (§6.5.2, §11.4.9): [`portcullis_driver_parts::CommandQueue`] with a wait descriptor behind each batch.
//!
//! A wait keeps what follows waiting, and stores in a status word where it stands. The status word is the confirmation of everything before it; the head is not, because it passes a wait when that is fetched. So a descriptor's place is
//! used again only after a wait behind it is over, and an error finds every descriptor that it can be about where it was put.
//!
//! A descriptor that the unit refuses (IQE) is overwritten by a wait; a failed fetch is tried again first. When a device TLB timed out (ITE), waits that were fetched are lost: everybody who waits is told. A completion that nobody asked
//! for (ICE) costs nothing.

use crate::command::Command;
use crate::error::BringUpCause;
use crate::hooks::{Safeguard, omitted};
use crate::unit::Unit;
use portcullis::OpsError;
use portcullis_driver_parts::{
    CommandQueue as Shared, Consumer, HardwarePages, Ring, Running, Standing, Words, answer,
};
use portcullis_platform::{AllocError, Coherency, DmaMemory, Nanos, Platform, Registers};
use portcullis_spec::vtd::{self as spec, fsts, gcmd, iqa, iqei, iqercd};

/// Longest wait for a wait descriptor, or for room in the queue: 1 s. No device TLB is asked for anything, which is what a wait may take long for.
pub const WAIT_BOUND: Nanos = 1_000_000_000;
/// How often a failed fetch is tried again before the descriptor is given up.
const RETRIES: u8 = 3;
/// Bytes of the status word, and of what it is given for itself.
const STATUS_BYTES: usize = 64;

/// Bits of `FSTS` that are about the queue.
pub(crate) const ERRORS: u32 = (fsts::IQE.mask() | fsts::ICE.mask() | fsts::ITE.mask()) as u32;

pub(crate) struct CommandQueue<P: Platform> {
    shared: Shared<P, ()>,
    status: HardwarePages<P::Memory>,
    /// log2 of the bytes of an entry: 4 or 5.
    width: u8,
}

/// The queue and the unit that empties it.
pub(crate) struct Waits<'a, P: Platform, R> {
    queue: &'a CommandQueue<P>,
    unit: &'a Unit<P, R>,
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
        let log2 = (log2 + width).clamp(12, 19) - width;
        // The queue and what waits store are snooped whatever the rest is (§11.4.3, "C").
        let running = running.with(Coherency::Coherent);
        let memory = platform.memory();
        let ring = Ring::new(memory, &running, log2, width, address_bits)?;
        let status = HardwarePages::new(memory, &running, STATUS_BYTES, address_bits)?;
        let shared = Shared::new(ring, running, (), ("vtd.iq", "vtd.dead"), index);
        Ok(Self { shared, status, width })
    }

    /// With the unit that empties it.
    pub(crate) fn with<'a, R>(&'a self, unit: &'a Unit<P, R>) -> Waits<'a, P, R> {
        Waits { queue: self, unit }
    }

    /// Tells a unit whose queue is off where it is, and turns it on. Descriptors that were left are gone, and whoever waits for one is told so.
    pub(crate) fn install<R: Registers>(&self, unit: &Unit<P, R>) -> Result<(), BringUpCause> {
        let status = self.status.address();
        // The head begins at 0 (§6.5.2).
        self.shared.restart(|standing| {
            self.status.memory().store64(status, standing.consumed & 0xffff_ffff);
        });
        self.status.publish(status, STATUS_BYTES);
        let ring = self.shared.ring();
        let pages_log2 = u64::from(ring.entries_log2() + self.width) - 12;
        let base = ring.address().raw() | iqa::QS.of(pages_log2);
        unit.write64(spec::IQT, 0);
        unit.write64(spec::IQA, base | iqa::DW.of(u64::from(self.width) - 4));
        unit.enable(gcmd::QIE, true)?;
        self.shared.revive();
        Ok(())
    }

    /// How many descriptors the unit has refused.
    pub(crate) fn refused(&self) -> u64 {
        self.shared.refused()
    }

    /// What the status word says; a value that no wait under way can store is that of an earlier one.
    fn confirmed(&self, standing: &Standing<()>) -> u64 {
        self.status.refresh(self.status.address(), STATUS_BYTES);
        let status = self.status.memory().load64(self.status.address()) as u32;
        let ahead = u64::from(status.wrapping_sub(standing.consumed as u32));
        let known = ahead <= standing.produced - standing.consumed;
        standing.consumed + if known { ahead } else { 0 }
    }
}

impl<P: Platform, R: Registers> Waits<'_, P, R> {
    /// The position that the head stands for: how far hardware has fetched.
    fn fetched(&self, standing: &Standing<()>) -> Result<u64, OpsError> {
        let (ring, width) = (self.queue().ring(), self.queue.width);
        let head = self.unit.read_live(spec::IQH)?;
        let index = head >> width;
        let known = ring.position(index.into(), standing.consumed, standing.produced);
        let whole = index << width == head && u64::from(index) < ring.entries();
        known.filter(|_| whole).ok_or_else(|| answer::bad_index(head))
    }

    /// Puts a wait in the place of the descriptor at which the queue stopped, unless another try may help.
    fn pass_over(&self, standing: &mut Standing<()>, position: u64) -> Result<(), OpsError> {
        let times = self.queue().stopped_at(standing, position)?;
        let info = iqercd::IQEI.get(self.unit.read(spec::IQERCD).into());
        let retry = matches!(info, iqei::UNKNOWN | iqei::TAIL | iqei::FETCH);
        if position < standing.produced && !(retry && times <= RETRIES) {
            // It may have been the wait of a batch, so it says what that would have said.
            self.queue().replace(position, self.confirmation(position + 1));
            self.queue().refuse(standing, [position], info);
        }
        Ok(())
    }
}

impl<P: Platform, R: Registers> Consumer for Waits<'_, P, R> {
    type Platform = P;
    type Own = ();
    type Found = u32;
    const BOUND: Nanos = WAIT_BOUND;
    const LARGEST_BATCH: usize = 64;

    fn queue(&self) -> &Shared<P, ()> {
        &self.queue.shared
    }

    fn clock(&self) -> &P::Clock {
        self.unit.clock()
    }

    fn confirmation(&self, after: u64) -> Words {
        Command::wait(self.queue.status.address(), after as u32).0
    }

    fn show_tail(&self, index: u32) {
        self.unit.write(spec::IQT, index << self.queue.width);
    }

    fn progress(&self, standing: &Standing<()>) -> Result<u64, OpsError> {
        match omitted::<P>(Safeguard::WaitForStatus) {
            true => self.fetched(standing),
            false => Ok(self.queue.confirmed(standing)),
        }
    }

    fn recover(&self, standing: &mut Standing<()>) -> Result<u32, OpsError> {
        let errors = self.unit.read_live(spec::FSTS)? & ERRORS;
        if errors == 0 {
            return Ok(0);
        }
        let position = self.fetched(standing)?;
        if fsts::IQE.is_set(errors.into()) {
            self.pass_over(standing, position)?;
        }
        if fsts::ITE.is_set(errors.into()) {
            // Waits before the head are lost, and what they would have confirmed is not known.
            self.queue().refuse_all(standing);
            standing.consumed = position;
        }
        self.unit.write(spec::FSTS, errors);
        // QEMU goes on only when the tail is written; to other units that says nothing new.
        self.show_tail(self.queue().ring().index(standing.produced));
        Ok(errors)
    }
}

impl<P: Platform> core::fmt::Debug for CommandQueue<P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.shared.fmt(f)
    }
}
