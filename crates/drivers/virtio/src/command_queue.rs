//! The queue of requests (§2.7, §5.13.2): placed in order, answered in any.
//!
//! Each request has a slot with two descriptors of its own: what the device reads, and the tail that it writes. Requests have positions, counted from 0 on and without end; the slot of a position is free again when that request and
//! all before it were answered. So a position tells by itself whether its request is done, whatever the order of answers.

use crate::command::{Command, WORDS};
use crate::unit::Unit;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use portcullis::{Awaited, Breakage, OpsError};
use portcullis_addr::PhysAddr;
use portcullis_driver_parts::{Failures, HardwarePages, Running, Submitted, answer};
use portcullis_platform::{
    AllocError, DmaMemory, IrqLock, LockLabel, Nanos, Platform, RawAtomic, Registers, wait_for,
};
use portcullis_spec::virtio::iommu::{REQUEST_QUEUE, request, status};
use portcullis_spec::virtio::queue::{AVAILABLE, DESCRIPTOR, NEXT, RING_HEADER, USED, WRITE};

/// Longest wait for the answer to a request: 1 s. A hypervisor answers in microseconds, or not before its own machine goes on.
pub const ANSWER_BOUND: Nanos = 1_000_000_000;

/// Most requests at the same time: their states are bits of a word.
const MOST_SLOTS: u64 = 64;
/// Bytes of a slot: the request from 0 on, the tail at [`TAIL`].
const SLOT: u64 = 128;
const TAIL: u64 = 120;
/// What a tail holds until the device has written it: no status of the document.
pub(crate) const UNANSWERED: u64 = 0xff;

const _: () = assert!(WORDS as u64 * 8 <= TAIL);

/// Memory for the properties of a PROBE.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Properties {
    pub(crate) address: PhysAddr,
    pub(crate) bytes: u32,
}

pub(crate) struct CommandQueue<P: Platform> {
    pages: HardwarePages<P::Memory>,
    slots: u64,
    state: IrqLock<P, State>,
    /// The oldest position that is not answered.
    tail: P::Atomic,
    failures: Failures<P::Atomic>,
    /// UNMAPs that the device refused, and how many of them a reset has made good.
    refused_unmaps: P::Atomic,
    made_good: P::Atomic,
    /// 1 + the tail at which a wait was in vain; 0 for none.
    dead: P::Atomic,
}

#[derive(Debug, Default)]
struct State {
    /// The next position.
    next: u64,
    /// The position up to which the device was told.
    notified: u64,
    /// The position that has index 0 of the rings: the first since the device was reset.
    base: u64,
    /// The index of the device area up to which answers were taken.
    seen: u16,
    /// One bit a slot: answered, though one before it is not.
    answered: u64,
    /// One bit a slot: it holds an UNMAP.
    unmaps: u64,
    /// The words of the driver area, since memory is written by words.
    ring: Vec<u64>,
    /// Where the device is told.
    doorbell: usize,
    /// The device did what no device can; nothing is believed until it was reset.
    broken: Option<OpsError>,
}

impl<P: Platform> CommandQueue<P> {
    /// An empty queue for at most `2^log2` requests at the same time, of a device that takes `most` descriptors; two are a request.
    pub(crate) fn new(
        platform: &P,
        running: &Running,
        log2: u8,
        most: u32,
        index: u64,
    ) -> Result<Self, AllocError> {
        let wanted = 1u64 << log2.min(6);
        let slots = wanted.min(u64::from(most.max(2)) / 2).clamp(1, MOST_SLOTS);
        // A queue has a power of two of entries (§2.7).
        let slots = 1u64 << slots.ilog2();
        let word = |class| P::Atomic::new(LockLabel::new(class, index), 0);
        let ring = alloc::vec![0; Areas::of(slots).ring_words()];
        let state = State { ring, ..State::default() };
        let bytes = Areas::of(slots).end as usize;
        Ok(Self {
            pages: HardwarePages::new(platform.memory(), running, bytes, 64)?,
            slots,
            state: IrqLock::<P, _>::new(LockLabel::new("virtio.requests", index), state),
            tail: word("virtio.tail"),
            failures: Failures::new(index),
            refused_unmaps: word("virtio.refused"),
            made_good: word("virtio.made_good"),
            dead: word("virtio.dead"),
        })
    }

    /// How many requests there can be at the same time.
    pub(crate) fn slots(&self) -> u64 {
        self.slots
    }

    /// Tells a device that was reset where the queue is. Requests that were not answered count as failed.
    pub(crate) fn install<R: Registers>(&self, unit: &Unit<P, R>) {
        let areas = Areas::of(self.slots);
        self.failures.fail_all();
        self.state.with(|state| {
            let ring = core::mem::take(&mut state.ring);
            *state = State { next: state.next, base: state.next, ring, ..State::default() };
            state.notified = state.next;
            state.ring.fill(0);
            self.tail.store(state.next, Ordering::Release);
            let memory = self.pages.memory();
            for at in (areas.driver..areas.end).step_by(8) {
                memory.store64(self.pages.at(at), 0);
            }
            for slot in 0..self.slots {
                self.describe(slot, None);
            }
            self.pages.publish(self.pages.at(0), areas.end as usize);
        });
        let places = [0, areas.driver, areas.device].map(|at| self.pages.at(at));
        unit.install(REQUEST_QUEUE, (2 * self.slots) as u16, places);
        let doorbell = unit.doorbell(REQUEST_QUEUE);
        self.state.with(|state| state.doorbell = doorbell);
        self.dead.store(0, Ordering::Release);
    }

    /// Writes a slot's two descriptors: for a PROBE the second one is elsewhere.
    fn describe(&self, slot: u64, command: Option<(&Command, Option<Properties>)>) {
        let areas = Areas::of(self.slots);
        let start = areas.slots + slot * SLOT;
        let memory = self.pages.memory();
        let bytes = command.map_or(0, |(command, _)| command.bytes as u64);
        let tail = (self.pages.at(start + TAIL), request::TAIL_BYTES as u64);
        let properties = command.and_then(|(_, properties)| properties);
        let (written, len) = properties.map_or(tail, |it| (it.address, it.bytes.into()));
        let first = 2 * slot * DESCRIPTOR as u64;
        let next = u64::from(NEXT) << 32 | (2 * slot + 1) << 48;
        let words =
            [self.pages.at(start).raw(), bytes | next, written.raw(), len | u64::from(WRITE) << 32];
        for (word, value) in words.into_iter().enumerate() {
            memory.store64(self.pages.at(first + 8 * word as u64), value);
        }
        self.pages.publish(self.pages.at(first), 2 * DESCRIPTOR);
    }

    /// Places requests, one behind the other, without telling the device. Waits for room where there is none, after telling it of those before.
    ///
    /// # Errors
    ///
    /// Nothing was placed, or some were and there was no room for the others in time: then all that were placed are waited for by nobody, and the device counts as dead.
    pub(crate) fn place<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        commands: impl Iterator<Item = Command>,
    ) -> Result<Submitted, OpsError> {
        let failures = self.failures.count();
        let (mut first, mut after) = (None, self.tail.load(Ordering::Acquire));
        for command in commands {
            let position = self.place_one(unit, &command, None)?;
            first.get_or_insert(position);
            after = position + 1;
        }
        Ok(Submitted { first: first.unwrap_or(after), after, failures })
    }

    /// As [`place`](Self::place) for a PROBE, whose answer goes to `properties`.
    pub(crate) fn place_probe<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        command: &Command,
        properties: Properties,
    ) -> Result<Submitted, OpsError> {
        let failures = self.failures.count();
        let position = self.place_one(unit, command, Some(properties))?;
        Ok(Submitted { first: position, after: position + 1, failures })
    }

    fn place_one<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        command: &Command,
        properties: Option<Properties>,
    ) -> Result<u64, OpsError> {
        // Not behind a request that was waited for in vain: answers come in any order, and an UNMAP must not overtake its MAP.
        if self.is_dead() {
            self.take_answers();
            if self.is_dead() {
                return Err(OpsError::Dead);
            }
        }
        if let Some(position) = self.try_place(command, properties)? {
            return Ok(position);
        }
        self.notify(unit);
        let mut placed = Ok(None);
        let waited = wait_for(unit.clock(), ANSWER_BOUND, || {
            self.take_answers();
            placed = self.try_place(command, properties);
            !matches!(placed, Ok(None))
        });
        match (placed?, waited) {
            (Some(position), _) => Ok(position),
            (None, waited) => {
                self.note_dead();
                let after = waited.err().map_or(0, |timeout| timeout.after);
                Err(answer::no_room(after))
            }
        }
    }

    /// `None` where there is no room.
    fn try_place(
        &self,
        command: &Command,
        properties: Option<Properties>,
    ) -> Result<Option<u64>, OpsError> {
        self.state.with(|state| {
            if let Some(broken) = state.broken {
                return Err(broken);
            }
            let position = state.next;
            if position - self.tail.load(Ordering::Acquire) >= self.slots {
                return Ok(None);
            }
            let (slot, areas) = (position % self.slots, Areas::of(self.slots));
            let start = areas.slots + slot * SLOT;
            let memory = self.pages.memory();
            for (word, value) in command.words.into_iter().enumerate() {
                memory.store64(self.pages.at(start + 8 * word as u64), value);
            }
            // The tail of a PROBE is behind its properties: its asker looks there.
            let tail = if properties.is_some() { status::OK.into() } else { UNANSWERED };
            memory.store64(self.pages.at(start + TAIL), tail);
            self.pages.publish(self.pages.at(start), SLOT as usize);
            self.describe(slot, Some((command, properties)));
            let bit = 1 << slot;
            state.unmaps = state.unmaps & !bit | if command.is_unmap() { bit } else { 0 };
            self.publish(state, position, 2 * slot as u16);
            state.next += 1;
            Ok(Some(position))
        })
    }

    /// Shows the device the chain that begins at `descriptor`: the entry first, then the index (§2.7.13.3).
    fn publish(&self, state: &mut State, position: u64, descriptor: u16) {
        let areas = Areas::of(self.slots);
        let entries = 2 * self.slots;
        let index = position - state.base;
        let at = RING_HEADER as u64 + (index % entries) * AVAILABLE as u64;
        self.ring_half(state, at, descriptor);
        self.pages.publish(self.pages.at(areas.driver + at / 8 * 8), 8);
        self.ring_half(state, 2, (index + 1) as u16);
        self.pages.publish(self.pages.at(areas.driver), 8);
    }

    /// Writes 16 bits of the driver area.
    fn ring_half(&self, state: &mut State, at: u64, value: u16) {
        let (word, shift) = ((at / 8) as usize, at % 8 * 8);
        state.ring[word] = state.ring[word] & !(0xffff << shift) | u64::from(value) << shift;
        let place = self.pages.at(Areas::of(self.slots).driver + at / 8 * 8);
        self.pages.memory().store64(place, state.ring[word]);
    }

    /// Tells the device of all that was placed, unless it was told.
    pub(crate) fn notify<R: Registers>(&self, unit: &Unit<P, R>) {
        let doorbell = self.state.with(|state| {
            let news = state.notified < state.next;
            state.notified = state.next;
            news.then_some(state.doorbell)
        });
        if let Some(doorbell) = doorbell {
            unit.notify(doorbell, REQUEST_QUEUE);
        }
    }

    /// The position behind all that was placed so far, as a ticket for all of it.
    pub(crate) fn everything(&self) -> Submitted {
        let after = self.state.with(|state| state.next);
        Submitted { first: after, after, failures: self.failures.count() }
    }

    /// Waits until all positions below the ticket's end are answered.
    ///
    /// # Errors
    ///
    /// Unconfirmed; or [`Breakage::RequestFailed`] with the status that the device gave to the first of the ticket's own requests that it refused.
    pub(crate) fn wait<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        ticket: &Submitted,
    ) -> Result<(), OpsError> {
        self.take_answers();
        let is_done = || self.tail.load(Ordering::Acquire) >= ticket.after;
        if !is_done() {
            if self.is_dead() {
                return Err(OpsError::Dead);
            }
            let waited = wait_for(unit.clock(), ANSWER_BOUND, || {
                self.take_answers();
                is_done() || self.broken().is_some()
            });
            if let Some(broken) = self.broken() {
                return Err(broken);
            }
            if let Err(timeout) = waited {
                self.note_dead();
                return Err(match unit.is_gone() {
                    true => answer::gone(),
                    false => OpsError::Timeout { awaited: Awaited::Answer, timeout },
                });
            }
        }
        match self.failures.hit(ticket) {
            None => Ok(()),
            Some(0) => Err(answer::refused(0)),
            Some(status) => Err(failed(status)),
        }
    }

    /// Places requests, tells the device, and waits for their answers: one notification for all of them.
    ///
    /// # Errors
    ///
    /// As [`place`](Self::place) and [`wait`](Self::wait).
    pub(crate) fn execute<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        commands: impl Iterator<Item = Command>,
    ) -> Result<(), OpsError> {
        let placed = self.place(unit, commands);
        self.notify(unit);
        self.wait(unit, &placed?)
    }

    /// Takes what the device has answered since the last look.
    pub(crate) fn take_answers(&self) {
        self.state.with(|state| {
            if state.broken.is_some() {
                return;
            }
            let areas = Areas::of(self.slots);
            self.pages.refresh(self.pages.at(areas.device), areas.device_bytes());
            let memory = self.pages.memory();
            let index = (memory.load64(self.pages.at(areas.device)) >> 16) as u16;
            while state.seen != index {
                let entry = u64::from(state.seen) % (2 * self.slots);
                // The id is the upper half of the word at the ring's header plus the entry, because the header has 4 bytes.
                let word = areas.device + entry * USED as u64;
                let id = memory.load64(self.pages.at(word)) >> 32;
                if !self.take_answer(state, id) {
                    state.broken = Some(answer::bad_index(id as u32));
                    return;
                }
                state.seen = state.seen.wrapping_add(1);
            }
            self.advance(state);
        });
    }

    /// One answer; whether it is one that the device can have given.
    fn take_answer(&self, state: &mut State, id: u64) -> bool {
        let slot = id / 2;
        if !id.is_multiple_of(2) || slot >= self.slots || state.answered >> slot & 1 != 0 {
            return false;
        }
        let tail = self.tail.load(Ordering::Acquire);
        let position = tail + (slot + self.slots - tail % self.slots) % self.slots;
        if position >= state.next {
            return false;
        }
        state.answered |= 1 << slot;
        let start = Areas::of(self.slots).slots + slot * SLOT;
        self.pages.refresh(self.pages.at(start + TAIL), 8);
        let code = self.pages.memory().load64(self.pages.at(start + TAIL)) & 0xff;
        if code != u64::from(status::OK) {
            self.failures.add(position, code);
            if state.unmaps >> slot & 1 == 1 {
                self.refused_unmaps.fetch_add(1, Ordering::AcqRel);
            }
        }
        true
    }

    /// Moves the tail over all that is answered.
    fn advance(&self, state: &mut State) {
        let mut tail = self.tail.load(Ordering::Acquire);
        while tail < state.next && state.answered >> (tail % self.slots) & 1 == 1 {
            state.answered &= !(1 << (tail % self.slots));
            tail += 1;
        }
        self.tail.store(tail, Ordering::Release);
    }

    fn broken(&self) -> Option<OpsError> {
        self.state.with(|state| state.broken)
    }

    /// From now on nobody waits, until the oldest request is answered.
    fn note_dead(&self) {
        self.dead.store(self.tail.load(Ordering::Acquire) + 1, Ordering::Release);
    }

    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire) == self.tail.load(Ordering::Acquire) + 1
    }

    /// Whether the device refused an UNMAP since it was reset last: nothing that was unmapped counts as forgotten then.
    pub(crate) fn has_refused_unmap(&self) -> bool {
        self.refused_unmaps.load(Ordering::Acquire) != self.made_good.load(Ordering::Acquire)
    }

    /// The device was reset for good: nothing is placed any more.
    pub(crate) fn close(&self) {
        self.state.with(|state| state.broken = Some(answer::shut_down()));
    }

    /// How many requests the device has refused.
    pub(crate) fn refused(&self) -> u64 {
        self.failures.count()
    }

    /// The device was reset: it holds no mapping.
    pub(crate) fn note_reset(&self) {
        self.made_good.store(self.refused_unmaps.load(Ordering::Acquire), Ordering::Release);
    }
}

fn failed(status: u64) -> OpsError {
    OpsError::Hardware { breakage: Breakage::RequestFailed, status }
}

/// Where the parts of the queue's memory begin: descriptors at 0, then the driver area, the device area, the slots.
#[derive(Clone, Copy, Debug)]
struct Areas {
    driver: u64,
    device: u64,
    slots: u64,
    end: u64,
}

impl Areas {
    fn of(slots: u64) -> Self {
        let entries = 2 * slots;
        let round = |bytes: u64| bytes.next_multiple_of(64);
        let driver = round(entries * DESCRIPTOR as u64);
        // Two bytes more for an event index, which is not used (§2.7.6).
        let device = driver + round(RING_HEADER as u64 + entries * AVAILABLE as u64 + 2);
        let slots_at = device + round(RING_HEADER as u64 + entries * USED as u64 + 2);
        Self { driver, device, slots: slots_at, end: slots_at + slots * SLOT }
    }

    fn ring_words(&self) -> usize {
        ((self.device - self.driver) / 8) as usize
    }

    fn device_bytes(&self) -> usize {
        (self.slots - self.device) as usize
    }
}
