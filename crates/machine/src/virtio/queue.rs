//! The device's side of its queues (2.7): chains taken, answers given back, events.

use super::registers::Queue;
use super::{State, VirtioIommu};
use crate::access::{AccessKind, Agent};
use crate::faults::{CommandError, Consumption};
use crate::memory::BusAbort;
use portcullis_spec::virtio::iommu::{fault, request, status as answer};
use portcullis_spec::virtio::queue::{AVAILABLE, DESCRIPTOR, NEXT, RING_HEADER, USED, WRITE};
use portcullis_spec::virtio::status;

/// The longest chain that is followed.
const MOST_DESCRIPTORS: usize = 8;
/// More bytes than this are not read of a chain.
const MOST_BYTES: u64 = 1 << 17;

/// A request that was taken.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    head: u16,
    /// What the device reads.
    bytes: Vec<u8>,
    /// Where it writes.
    written: Vec<(u64, u64)>,
    /// It was carried out and its tail is written: only its place in the device area is missing.
    answered: Option<u32>,
}

impl VirtioIommu {
    fn load<const N: usize>(&self, address: u64, what: &'static str) -> Result<u64, BusAbort> {
        let mut bytes = [0; 8];
        self.memory.dma_read(address, &mut bytes[..N], Agent::Iommu(self.index, what))?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn store(&self, address: u64, bytes: &[u8], what: &'static str) -> Result<(), BusAbort> {
        self.memory.dma_write(address, bytes, Agent::Iommu(self.index, what))
    }

    /// The first descriptor of the next chain that the driver has made available.
    fn next_head(&self, queue: &Queue) -> Result<Option<u16>, BusAbort> {
        if !queue.ready || queue.entries == 0 {
            return Ok(None);
        }
        let index = self.load::<2>(queue.driver + 2, "available ring")? as u16;
        if index == queue.taken {
            return Ok(None);
        }
        let place = u64::from(queue.taken % queue.entries) * AVAILABLE as u64;
        Ok(
            Some(
                self.load::<2>(queue.driver + RING_HEADER as u64 + place, "available ring")? as u16
            ),
        )
    }

    /// What a chain has the device read, and where it lets it write.
    fn chain(&self, queue: &Queue, head: u16) -> Result<Taken, BusAbort> {
        let (mut bytes, mut written, mut next) = (Vec::new(), Vec::new(), head);
        for _ in 0..MOST_DESCRIPTORS {
            let at = queue.descriptors + u64::from(next % queue.entries) * DESCRIPTOR as u64;
            let address = self.load::<8>(at, "descriptor")?;
            let len = self.load::<4>(at + 8, "descriptor")?.min(MOST_BYTES);
            let flags = self.load::<2>(at + 12, "descriptor")? as u16;
            if flags & WRITE != 0 {
                written.push((address, len));
            } else {
                let start = bytes.len();
                bytes.resize(start + len as usize, 0);
                let by = Agent::Iommu(self.index, "request");
                self.memory.dma_read(address, &mut bytes[start..], by)?;
            }
            if flags & NEXT == 0 {
                break;
            }
            next = self.load::<2>(at + 14, "descriptor")? as u16;
        }
        Ok(Taken { head, bytes, written, answered: None })
    }

    /// Takes all requests that are there. A queue that cannot be read breaks the device.
    pub(super) fn take_requests(&self, state: &mut State) {
        while state.registers.is_running() && !state.hung {
            let queue = state.registers.queues[0];
            let taken = self
                .next_head(&queue)
                .and_then(|head| head.map(|head| self.chain(&queue, head)).transpose());
            match taken {
                Ok(None) => return,
                Ok(Some(taken)) => {
                    state.registers.queues[0].taken = queue.taken.wrapping_add(1);
                    state.pending.push(taken);
                }
                Err(BusAbort) => state.registers.status |= status::NEEDS_RESET,
            }
        }
    }

    /// Answers requests: all of them in order, or some in any.
    pub(super) fn answer_some(&self, state: &mut State) {
        let most = match self.policy.consumption {
            Consumption::Eager => usize::MAX,
            Consumption::Late { most } => 1 + state.random.below(u64::from(most.max(1))) as usize,
        };
        for _ in 0..most {
            if state.pending.is_empty() || state.hung || !state.registers.is_running() {
                return;
            }
            let count = state.pending.len() as u64;
            let late = self.policy.consumption != Consumption::Eager;
            let which = if late { state.random.below(count) as usize } else { 0 };
            self.answer(state, which, late);
        }
    }

    /// Carries one request out and gives it back; where it is late, these are two moments.
    fn answer(&self, state: &mut State, which: usize, late: bool) {
        if state.pending[which].answered.is_none() {
            state.requests_since += 1;
            let number = state.requests_since;
            let frozen = state.faults.frozen_after.is_some_and(|most| number > most);
            if frozen || state.faults.hang_sync.is_some_and(|nth| number >= nth) {
                state.hung = true;
                return;
            }
            let written = self.execute(state, which, number);
            state.pending[which].answered = Some(written);
            if late {
                return;
            }
        }
        let taken = state.pending.remove(which);
        state.counters.requests += 1;
        self.give_back(state, 0, taken.head, taken.answered.unwrap_or(0));
    }

    /// Carries a request out and writes its tail; how many bytes were written.
    fn execute(&self, state: &mut State, which: usize, number: u64) -> u32 {
        let Taken { bytes, written, .. } = state.pending[which].clone();
        let failing = state.faults.failing_commands.iter().find(|(nth, _)| *nth == number);
        let (code, properties) = match failing {
            Some((_, CommandError::Illegal)) => (answer::UNSUPP, None),
            Some((_, CommandError::FetchAbort)) => (answer::FAULT, None),
            Some((_, CommandError::AtcInvalidation)) => (answer::DEVERR, None),
            None => {
                let accepted = state.registers.accepted;
                state.domains.execute(&self.profile, accepted, &bytes)
            }
        };
        let is_probe = bytes.first() == Some(&request::PROBE);
        let room: u64 = written.iter().map(|(_, len)| len).sum();
        let mut out = match is_probe {
            true => properties.unwrap_or_else(|| vec![0; self.profile.probe_bytes as usize]),
            false => Vec::new(),
        };
        out.extend([code, 0, 0, 0]);
        let mut left = out.as_slice();
        for (address, len) in written {
            let (part, rest) = left.split_at(left.len().min(len as usize));
            if self.store(address, part, "tail").is_err() {
                state.registers.status |= status::NEEDS_RESET;
            }
            left = rest;
        }
        (out.len() as u64).min(room) as u32
    }

    /// Puts a chain into the device area: the entry first, then the index.
    fn give_back(&self, state: &mut State, number: usize, head: u16, written: u32) {
        let queue = state.registers.queues[number];
        let place = u64::from(queue.used % queue.entries.max(1)) * USED as u64;
        let mut entry = u32::from(head).to_le_bytes().to_vec();
        entry.extend(written.to_le_bytes());
        let used = queue.used.wrapping_add(1);
        let at = queue.device + RING_HEADER as u64 + place;
        let put = self.store(at, &entry, "used ring");
        let put = put.and_then(|()| self.store(queue.device + 2, &used.to_le_bytes(), "used ring"));
        match put {
            Ok(()) => state.registers.queues[number].used = used,
            Err(BusAbort) => state.registers.status |= status::NEEDS_RESET,
        }
        state.registers.interrupts |= 1;
    }

    /// Records a refused access in a buffer of the driver's, or loses it.
    pub(super) fn record(
        &self,
        state: &mut State,
        endpoint: u32,
        address: u64,
        kind: AccessKind,
        reason: u8,
    ) {
        let direction = if kind == AccessKind::Read { fault::READ } else { fault::WRITE };
        let mut record = vec![reason, 0, 0, 0];
        record.extend((direction | fault::ADDRESS).to_le_bytes());
        record.extend(endpoint.to_le_bytes());
        record.extend([0; 4]);
        record.extend(address.to_le_bytes());
        let queue = state.registers.queues[1];
        let running = state.registers.is_running() && !state.faults.event_write_aborts;
        let head = if running { self.next_head(&queue) } else { Ok(None) };
        let taken = head.and_then(|head| head.map(|head| self.chain(&queue, head)).transpose());
        let Ok(Some(taken)) = taken else {
            state.counters.faults_lost += 1;
            return;
        };
        state.registers.queues[1].taken = queue.taken.wrapping_add(1);
        let room = taken.written.first().filter(|(_, len)| *len >= record.len() as u64);
        let stored = room.map(|(at, _)| self.store(*at, &record, "event"));
        if stored == Some(Ok(())) {
            state.counters.faults += 1;
        } else {
            state.counters.faults_lost += 1;
        }
        self.give_back(state, 1, taken.head, record.len() as u32);
    }
}
