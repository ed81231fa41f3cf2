//! The queue of events: refused accesses (§5.13.6.9).

use crate::unit::Unit;
use portcullis::{AccessKind, Fault, FaultReason};
use portcullis_addr::{Iova, StreamId};
use portcullis_driver_parts::{HardwarePages, Running};
use portcullis_platform::{AllocError, DmaMemory, IrqLock, LockLabel, Platform, Registers};
use portcullis_spec::virtio::iommu::{EVENT_QUEUE, fault as record};
use portcullis_spec::virtio::queue::{AVAILABLE, DESCRIPTOR, RING_HEADER, USED, WRITE};

/// How many records are taken under the lock at once: it bounds how long interrupts are masked.
const BATCH: usize = 16;
/// Bytes of a buffer: a record, and room for what later versions add.
const BUFFER: u64 = 32;
const WORDS: usize = record::BYTES / 8;

/// A record as the device wrote it.
pub(crate) type Record = [u64; WORDS];

pub(crate) struct EventQueue<P: Platform> {
    pages: HardwarePages<P::Memory>,
    entries: u64,
    state: IrqLock<P, State>,
}

#[derive(Debug, Default)]
struct State {
    /// Buffers given to the device since it was reset.
    given: u64,
    seen: u16,
    doorbell: usize,
}

/// Some records taken from the queue.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    records: [Record; BATCH],
    count: usize,
    /// The device had used every buffer: what it had to say since then is lost. It does not say whether there was anything.
    pub(crate) exhausted: bool,
    /// Whether there were more records.
    pub(crate) more: bool,
    /// An index or buffer that the device cannot have used; what was in the queue is lost.
    pub(crate) nonsense: Option<u64>,
}

impl Taken {
    pub(crate) fn records(&self) -> &[Record] {
        &self.records[..self.count]
    }
}

struct Areas {
    driver: u64,
    device: u64,
    buffers: u64,
    end: u64,
}

impl Areas {
    fn of(entries: u64) -> Self {
        let round = |bytes: u64| bytes.next_multiple_of(64);
        let driver = round(entries * DESCRIPTOR as u64);
        let device = driver + round(RING_HEADER as u64 + entries * AVAILABLE as u64 + 2);
        let buffers = device + round(RING_HEADER as u64 + entries * USED as u64 + 2);
        Self { driver, device, buffers, end: buffers + entries * BUFFER }
    }
}

impl<P: Platform> EventQueue<P> {
    /// A queue of `2^log2` buffers, of a device that takes `most`.
    pub(crate) fn new(
        platform: &P,
        running: &Running,
        log2: u8,
        most: u32,
        index: u64,
    ) -> Result<Self, AllocError> {
        let entries = (1u64 << log2.min(10)).min(u64::from(most.max(1)));
        // At least four, so that the driver area's first word is only its header.
        let entries = 1u64 << entries.ilog2();
        let bytes = Areas::of(entries).end as usize;
        Ok(Self {
            pages: HardwarePages::new(platform.memory(), running, bytes, 64)?,
            entries,
            state: IrqLock::<P, _>::new(LockLabel::new("virtio.events", index), State::default()),
        })
    }

    /// Tells a device that was reset where the queue is.
    pub(crate) fn install<R: Registers>(&self, unit: &Unit<P, R>) {
        let areas = Areas::of(self.entries);
        let memory = self.pages.memory();
        for at in (0..areas.end).step_by(8) {
            memory.store64(self.pages.at(at), 0);
        }
        for buffer in 0..self.entries {
            let at = buffer * DESCRIPTOR as u64;
            let place = self.pages.at(areas.buffers + buffer * BUFFER).raw();
            memory.store64(self.pages.at(at), place);
            let len = BUFFER | u64::from(WRITE) << 32;
            memory.store64(self.pages.at(at + 8), len);
        }
        self.pages.publish(self.pages.at(0), areas.end as usize);
        let places = [0, areas.driver, areas.device].map(|at| self.pages.at(at));
        unit.install(EVENT_QUEUE, self.entries as u16, places);
        let doorbell = unit.doorbell(EVENT_QUEUE);
        self.state.with(|state| *state = State { doorbell, ..State::default() });
    }

    /// Gives the device all buffers, once it may look at its queues.
    pub(crate) fn fill<R: Registers>(&self, unit: &Unit<P, R>) {
        let doorbell = self.state.with(|state| {
            (0..self.entries).for_each(|buffer| self.give(state, buffer));
            state.doorbell
        });
        unit.notify(doorbell, EVENT_QUEUE);
    }

    /// Gives one buffer: the entry first, then the index.
    fn give(&self, state: &mut State, buffer: u64) {
        let areas = Areas::of(self.entries);
        let at = RING_HEADER as u64 + state.given % self.entries * AVAILABLE as u64;
        state.given += 1;
        for (at, value) in [(at, buffer), (2, state.given)] {
            let place = self.pages.at(areas.driver + at / 8 * 8);
            let shift = at % 8 * 8;
            let old = self.pages.memory().load64(place);
            let new = old & !(0xffff << shift) | (value & 0xffff) << shift;
            self.pages.memory().store64(place, new);
            self.pages.publish(place, 8);
        }
    }

    /// Takes at most `most` of the oldest records, and at most [`BATCH`], and gives their buffers back to the device.
    pub(crate) fn take<R: Registers>(&self, unit: &Unit<P, R>, most: usize) -> Taken {
        let mut taken = Taken::default();
        let doorbell = self.state.with(|state| {
            let areas = Areas::of(self.entries);
            let used = (areas.buffers - areas.device) as usize;
            self.pages.refresh(self.pages.at(areas.device), used);
            let memory = self.pages.memory();
            let index = (memory.load64(self.pages.at(areas.device)) >> 16) as u16;
            let waiting = u64::from(index.wrapping_sub(state.seen));
            taken.exhausted = waiting == self.entries;
            if waiting > self.entries {
                taken.nonsense = Some(index.into());
                state.seen = index;
            }
            while state.seen != index && taken.count < most.min(BATCH) {
                let entry = u64::from(state.seen) % self.entries;
                let word = areas.device + entry * USED as u64;
                let buffer = memory.load64(self.pages.at(word)) >> 32;
                state.seen = state.seen.wrapping_add(1);
                if buffer >= self.entries {
                    taken.nonsense = Some(buffer);
                    continue;
                }
                taken.records[taken.count] = self.load(areas.buffers + buffer * BUFFER);
                taken.count += 1;
                self.give(state, buffer);
            }
            taken.more = state.seen != index;
            state.doorbell
        });
        if taken.count > 0 {
            unit.notify(doorbell, EVENT_QUEUE);
        }
        taken
    }

    fn load(&self, at: u64) -> Record {
        self.pages.refresh(self.pages.at(at), record::BYTES);
        core::array::from_fn(|word| self.pages.memory().load64(self.pages.at(at + 8 * word as u64)))
    }
}

/// What a record says.
pub(crate) fn decode(raw: Record) -> Fault {
    let flags = (raw[0] >> 32) as u32;
    let reason = match raw[0] as u8 {
        record::DOMAIN => FaultReason::StreamBlocked,
        record::MAPPING => FaultReason::Translation,
        _ => FaultReason::Other,
    };
    let access = match flags & (record::READ | record::WRITE) {
        record::READ => Some(AccessKind::Read),
        record::WRITE => Some(AccessKind::Write),
        _ => None,
    };
    Fault {
        stream: StreamId::new(raw[1] as u32),
        pasid: None,
        reason,
        iova: (flags & record::ADDRESS != 0).then(|| Iova::new(raw[2])),
        access,
        stage: None,
        raw: [raw[0], raw[1], raw[2], 0],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Typed from `struct virtio_iommu_fault` of §5.13.6.9.
    #[test]
    fn a_record_says_who_where_and_why() {
        let fault = decode([2 | 0x102 << 32, 0x10, 0x12_3456_7000]);
        assert_eq!((fault.stream.raw(), fault.reason), (0x10, FaultReason::Translation));
        assert_eq!(fault.iova, Some(Iova::new(0x12_3456_7000)));
        assert_eq!(fault.access, Some(AccessKind::Write));
        let fault = decode([1 | 1 << 32, 0x20, 0x1000]);
        assert_eq!((fault.reason, fault.iova), (FaultReason::StreamBlocked, None), "no address");
        assert_eq!(decode([0, 1, 2]).reason, FaultReason::Other);
        assert_eq!(decode([9 | 3 << 32, 1, 2]).access, None);
    }
}
