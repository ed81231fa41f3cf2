//! The event log (§2.5, §3.4) and what its records mean.

use crate::entry::NO_DOMAIN;
use crate::unit::Unit;
use portcullis::{AccessKind, Fault, FaultReason, OpsError};
use portcullis_addr::{Iova, StreamId};
use portcullis_driver_parts::{HardwarePages, Running};
use portcullis_platform::{AllocError, DmaMemory, IrqLock, LockLabel, Platform, Registers};
use portcullis_spec::amdvi::event::{self as record, code};
use portcullis_spec::amdvi::{self as spec, control, event_log_base, event_log_head, status};

/// How many records are taken under the lock at once: it bounds how long interrupts are masked.
const BATCH: usize = 16;

/// How often the status is looked at until a log that was turned on, and does not run, counts as stopped again.
const STARTING_LOOKS: u32 = 3;

/// A record as hardware wrote it.
pub(crate) type Record = [u64; record::WORDS];

#[derive(Debug)]
pub(crate) struct EventLog<P: Platform> {
    pages: HardwarePages<P::Memory>,
    log2: u8,
    consumer: IrqLock<P, Consumer>,
}

#[derive(Debug, Default)]
struct Consumer {
    /// The index of the next record.
    head: u64,
    /// The record at the head was not there yet when the tail said so.
    awaited: bool,
    /// The log was turned on and not seen to run yet: how many more looks it may take.
    starting: u32,
}

/// Some records taken from the log.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    records: [Record; BATCH],
    count: usize,
    /// The log was full: hardware has recorded nothing since. It does not say how many are lost.
    pub(crate) overflowed: bool,
    /// The log stopped for another reason: a record could not be stored.
    pub(crate) aborted: bool,
    /// Whether there were more records.
    pub(crate) more: bool,
    /// A tail that hardware cannot have, or a record that never came; what was in the log is lost.
    pub(crate) nonsense: Option<u64>,
}

impl Taken {
    pub(crate) fn records(&self) -> &[Record] {
        &self.records[..self.count]
    }
}

impl<P: Platform> EventLog<P> {
    /// An empty log of `2^log2` records.
    pub(crate) fn new(
        platform: &P,
        running: &Running,
        log2: u8,
        address_bits: u8,
        index: u64,
    ) -> Result<Self, AllocError> {
        let log2 = log2.clamp(*spec::QUEUE_LOG2.start(), *spec::QUEUE_LOG2.end());
        let bytes = record::BYTES << log2;
        let consumer = LockLabel::new("amdvi.ev", index);
        Ok(Self {
            pages: HardwarePages::new(platform.memory(), running, bytes, address_bits)?,
            log2,
            consumer: IrqLock::<P, _>::new(consumer, Consumer::default()),
        })
    }

    fn entries(&self) -> u64 {
        1 << self.log2
    }

    /// Tells a unit whose log is off where it is.
    pub(crate) fn install<R: Registers>(&self, unit: &Unit<P, R>) {
        let base = event_log_base::BASE.in_place(self.pages.address().raw())
            | event_log_base::LEN.of(self.log2.into());
        self.consumer.with(|consumer| *consumer = Consumer::default());
        unit.write(spec::EVENT_LOG_BASE, base);
        unit.write(spec::EVENT_LOG_HEAD, 0);
        unit.write(spec::EVENT_LOG_TAIL, 0);
    }

    /// Takes at most `most` of the oldest records, and at most [`BATCH`], gives their room back to hardware, and lets it record again where it had stopped.
    ///
    /// # Errors
    ///
    /// The unit is gone ([`OpsError::Hardware`]).
    pub(crate) fn take<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        most: usize,
    ) -> Result<Taken, OpsError> {
        let mut taken = Taken::default();
        self.consumer.with(|consumer| {
            let tail = event_log_head::PTR.get(unit.read_live(spec::EVENT_LOG_TAIL)?);
            let before = consumer.head;
            if tail >= self.entries() {
                // No tail that hardware can have: start afresh behind it.
                consumer.head = tail & (self.entries() - 1);
                taken.nonsense = Some(tail);
            } else {
                self.take_until(tail, consumer, &mut taken, most);
            }
            if consumer.head != before {
                unit.write(spec::EVENT_LOG_HEAD, consumer.head << 4);
            }
            self.go_on(unit, consumer, &mut taken)?;
            Ok(taken)
        })
    }

    fn take_until(&self, tail: u64, consumer: &mut Consumer, taken: &mut Taken, most: usize) {
        let mask = self.entries() - 1;
        while consumer.head != tail && taken.count < BATCH.min(most) {
            let record = self.load(consumer.head);
            // The tail may be seen before the record is (Linux: `iommu_print_event`): the next look finds it.
            if record::CODE.read(&record) == 0 && !consumer.awaited {
                consumer.awaited = true;
                return;
            }
            if record::CODE.read(&record) == 0 {
                taken.nonsense = Some(consumer.head);
            } else {
                taken.records[taken.count] = record;
                taken.count += 1;
            }
            consumer.awaited = false;
            self.clear(consumer.head);
            consumer.head = (consumer.head + 1) & mask;
        }
        taken.more = consumer.head != tail;
    }

    /// Starts a log anew that stopped, once there is room.
    fn go_on<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        consumer: &mut Consumer,
        taken: &mut Taken,
    ) -> Result<(), OpsError> {
        let found = unit.read_live(spec::STATUS)?;
        let runs = status::EVENT_LOG_RUN.is_set(found);
        let wanted = control::EVENT_LOG_EN.is_set(unit.control());
        if runs || !wanted || consumer.starting > 0 {
            consumer.starting = if runs { 0 } else { consumer.starting.saturating_sub(1) };
            return Ok(());
        }
        consumer.starting = STARTING_LOOKS;
        taken.overflowed = status::EVENT_OVERFLOW.is_set(found);
        taken.aborted = !taken.overflowed;
        unit.change_control(control::EVENT_LOG_EN.mask(), 0);
        unit.write(spec::STATUS, status::EVENT_OVERFLOW.mask());
        unit.change_control(0, control::EVENT_LOG_EN.mask());
        Ok(())
    }

    fn at(&self, index: u64) -> u64 {
        index * record::BYTES as u64
    }

    fn load(&self, index: u64) -> Record {
        let (offset, memory) = (self.at(index), self.pages.memory());
        self.pages.refresh(self.pages.at(offset), record::BYTES);
        core::array::from_fn(|word| memory.load64(self.pages.at(offset + word as u64 * 8)))
    }

    /// So that a record that is not there yet can be told from an old one.
    fn clear(&self, index: u64) {
        let offset = self.at(index);
        (0..record::WORDS as u64)
            .for_each(|word| self.pages.memory().store64(self.pages.at(offset + word * 8), 0));
        self.pages.publish(self.pages.at(offset), record::BYTES);
    }
}

/// What a record of a device's access says; `None` for one of the unit's own.
pub(crate) fn decode(raw: Record) -> Option<Fault> {
    let number = record::CODE.read(&raw);
    let reason = match number {
        code::IO_PAGE_FAULT => page_fault(&raw),
        code::ILLEGAL_DEV_TABLE_ENTRY => FaultReason::BadConfiguration,
        code::DEV_TAB_HARDWARE_ERROR | code::PAGE_TAB_HARDWARE_ERROR => FaultReason::ExternalAbort,
        code::INVALID_DEVICE_REQUEST => FaultReason::Other,
        _ => return None,
    };
    // Of a failed read of a table the address is the table's.
    let addressed = reason != FaultReason::ExternalAbort;
    let write = record::RW.read(&raw) == 1;
    Some(Fault {
        stream: StreamId::new(record::DEVICE.read(&raw) as u32),
        pasid: None,
        reason,
        iova: addressed.then(|| Iova::new(record::ADDRESS.read(&raw))),
        access: Some(if write { AccessKind::Write } else { AccessKind::Read }),
        stage: None,
        raw: [raw[0], raw[1], 0, 0],
    })
}

/// RZ, PR and PE say why (§2.5.3); whoever has the domain of blocked devices is blocked.
fn page_fault(raw: &Record) -> FaultReason {
    let set = |field: portcullis_spec::Field| field.read(raw) == 1;
    if set(record::I) {
        FaultReason::Other
    } else if record::DOMAIN.read(raw) == u64::from(NO_DOMAIN) {
        FaultReason::StreamBlocked
    } else if set(record::RZ) {
        FaultReason::BadConfiguration
    } else if !set(record::PR) {
        FaultReason::Translation
    } else if set(record::PE) {
        FaultReason::Permission
    } else {
        FaultReason::BadConfiguration
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Positions typed from §2.5.3: device `[15:0]`, domain `[47:32]`, PR 52, RW 53, PE 54, RZ 55, code `[63:60]`, address in the second word.
    #[test]
    fn a_page_fault_tells_device_address_direction_and_reason() {
        let fault = |bits: u64| decode([2 << 60 | bits | 0x18, 0x1000]).expect("a device's");
        let unmapped = fault(5 << 32 | 1 << 53);
        assert_eq!(unmapped.stream, StreamId::new(0x18));
        assert_eq!(unmapped.reason, FaultReason::Translation);
        assert_eq!(unmapped.iova, Some(Iova::new(0x1000)));
        assert_eq!(unmapped.access, Some(AccessKind::Write));
        assert_eq!(fault(5 << 32).access, Some(AccessKind::Read));
        assert_eq!(fault(5 << 32 | 1 << 52 | 1 << 54).reason, FaultReason::Permission);
        assert_eq!(fault(5 << 32 | 1 << 52 | 1 << 55).reason, FaultReason::BadConfiguration);
        assert_eq!(fault(5 << 32 | 1 << 52).reason, FaultReason::BadConfiguration);
        assert_eq!(fault(1 << 52 | 1 << 54).reason, FaultReason::StreamBlocked);
    }

    #[test]
    fn every_code_decodes_and_the_units_own_are_no_devices() {
        let of_a_device = [1, 2, 3, 4, 8];
        for number in 0..16 {
            let fault = decode([number << 60, 0x2000]);
            assert_eq!(fault.is_some(), of_a_device.contains(&number), "{number}");
        }
        let table = decode([4 << 60 | 5, 0x2000]).expect("a device's");
        assert_eq!((table.reason, table.iova), (FaultReason::ExternalAbort, None));
    }
}
