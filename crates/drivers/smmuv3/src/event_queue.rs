//! The event queue (§7.2) and what its records mean (§7.3).

use crate::unit::Unit;
use portcullis::{AccessKind, Fault, FaultReason, OpsError, Stage};
use portcullis_addr::{Iova, StreamId};
use portcullis_driver_parts::{HardwarePages, Running};
use portcullis_platform::{AllocError, DmaMemory, IrqLock, LockLabel, Platform, Registers};
use portcullis_spec::smmuv3::event::{self as record, number};
use portcullis_spec::smmuv3::{self as spec, eventq_base, eventq_cons, eventq_prod};

/// How many records are taken under the lock at once: it bounds how long interrupts are masked.
const BATCH: usize = 16;

/// A record as hardware wrote it.
pub(crate) type Record = [u64; record::WORDS];

#[derive(Debug)]
pub(crate) struct EventQueue<P: Platform> {
    pages: HardwarePages<P::Memory>,
    log2: u8,
    consumer: IrqLock<P, Consumer>,
}

#[derive(Debug, Default)]
struct Consumer {
    /// Slot, and the parity of the round above it.
    read: u32,
    /// The last OVFLG that was acknowledged.
    overflow: u64,
}

/// Some records taken from the queue.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    records: [Record; BATCH],
    count: usize,
    /// Whether hardware said that it lost records since the last look. It does not say how many.
    pub(crate) overflowed: bool,
    /// Whether there were more records.
    pub(crate) more: bool,
    /// A write index that hardware cannot have; what was in the queue is lost.
    pub(crate) nonsense: Option<u32>,
}

impl Taken {
    pub(crate) fn records(&self) -> &[Record] {
        &self.records[..self.count]
    }
}

impl<P: Platform> EventQueue<P> {
    /// An empty queue of `2^log2` records.
    pub(crate) fn new(
        platform: &P,
        running: &Running,
        log2: u8,
        address_bits: u8,
        index: u64,
    ) -> Result<Self, AllocError> {
        let bytes = record::BYTES << log2;
        Ok(Self {
            pages: HardwarePages::new(platform.memory(), running, bytes, address_bits)?,
            log2,
            consumer: IrqLock::<P, _>::new(
                LockLabel::new("smmu.eventq", index),
                Consumer::default(),
            ),
        })
    }

    pub(crate) fn capacity(&self) -> usize {
        1 << self.log2
    }

    /// Tells a disabled unit where the queue is.
    pub(crate) fn install<R: Registers>(&self, unit: &Unit<P, R>) {
        self.consumer.with(|consumer| *consumer = Consumer::default());
        let base = eventq_base::WA.of(1)
            | eventq_base::ADDR.in_place(self.pages.address().raw())
            | eventq_base::LOG2SIZE.of(u64::from(self.log2));
        unit.write64(spec::EVENTQ_BASE, base);
        unit.write(spec::EVENTQ_PROD, 0);
        unit.write(spec::EVENTQ_CONS, 0);
    }

    /// Takes at most `most` of the oldest records, and at most [`BATCH`], and gives their room back to hardware.
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
            let prod = unit.read_live(spec::EVENTQ_PROD)?;
            let overflow = eventq_prod::OVFLG.get(u64::from(prod));
            taken.overflowed = overflow != consumer.overflow;
            let rounds = 2 * self.capacity() as u32 - 1;
            let waiting = (prod.wrapping_sub(consumer.read) & rounds) as usize;
            if waiting > self.capacity() {
                // No write index that hardware can have: start afresh behind it.
                consumer.read = prod & rounds;
                taken.nonsense = Some(prod);
            } else {
                for _ in 0..waiting.min(BATCH).min(most) {
                    taken.records[taken.count] = self.load(consumer.read);
                    taken.count += 1;
                    consumer.read = consumer.read.wrapping_add(1) & rounds;
                }
                taken.more = waiting > taken.count;
            }
            if taken.count > 0 || taken.overflowed || taken.nonsense.is_some() {
                consumer.overflow = overflow;
                let cons = u64::from(consumer.read) | eventq_cons::OVACKFLG.of(overflow);
                unit.write(spec::EVENTQ_CONS, cons as u32);
            }
            Ok(taken)
        })
    }

    fn load(&self, index: u32) -> Record {
        let offset = (index as usize & (self.capacity() - 1)) * record::BYTES;
        let memory = self.pages.memory();
        self.pages.refresh(self.pages.at(offset as u64), record::BYTES);
        core::array::from_fn(|word| memory.load64(self.pages.at((offset + word * 8) as u64)))
    }
}

/// What a record says. `sound` tells whether a stream's entry is one that this driver writes, so that "bad" means "blocked on purpose".
pub(crate) fn decode(raw: Record, sound: impl FnOnce(StreamId) -> bool) -> Fault {
    let stream = StreamId::new(record::STREAM_ID.read(&raw) as u32);
    let number = record::TYPE.read(&raw);
    let reason = reason(number, || sound(stream));
    let addressed = has_address(number);
    let access = if record::RNW.read(&raw) != 0 { AccessKind::Read } else { AccessKind::Write };
    let stage = if record::S2.read(&raw) != 0 { Stage::Two } else { Stage::One };
    Fault {
        stream,
        pasid: None,
        reason,
        iova: addressed.then(|| Iova::new(record::INPUT_ADDR.read(&raw))),
        access: addressed.then_some(access),
        stage: translates(number).then_some(stage),
        raw,
    }
}

fn reason(number: u64, sound: impl FnOnce() -> bool) -> FaultReason {
    match number {
        number::F_STREAM_DISABLED | number::C_BAD_STREAMID => FaultReason::StreamBlocked,
        number::C_BAD_STE if sound() => FaultReason::StreamBlocked,
        number::C_BAD_STE
        | number::C_BAD_SUBSTREAMID
        | number::C_BAD_CD
        | number::F_CFG_CONFLICT
        | number::F_TLB_CONFLICT => FaultReason::BadConfiguration,
        number::F_TRANSLATION => FaultReason::Translation,
        number::F_ADDR_SIZE => FaultReason::AddressSize,
        number::F_ACCESS => FaultReason::AccessFlag,
        number::F_PERMISSION | number::F_TRANSL_FORBIDDEN | number::F_BAD_ATS_TREQ => {
            FaultReason::Permission
        }
        number::F_STE_FETCH | number::F_CD_FETCH | number::F_WALK_EABT | number::F_VMS_FETCH => {
            FaultReason::ExternalAbort
        }
        _ => FaultReason::Other,
    }
}

/// Whether the record carries the device's address and direction (§7.3).
fn has_address(number: u64) -> bool {
    translates(number)
        || matches!(
            number,
            number::F_UUT
                | number::F_BAD_ATS_TREQ
                | number::F_TRANSL_FORBIDDEN
                | number::F_TLB_CONFLICT
        )
}

/// Whether the record comes from a walk, so that it knows the stage (§7.3).
fn translates(number: u64) -> bool {
    matches!(
        number,
        number::F_WALK_EABT
            | number::F_TRANSLATION
            | number::F_ADDR_SIZE
            | number::F_ACCESS
            | number::F_PERMISSION
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_translation_fault_tells_stream_address_direction_and_stage() {
        let mut raw = [0; 4];
        record::TYPE.write(&mut raw, number::F_TRANSLATION);
        record::STREAM_ID.write(&mut raw, 0x1234);
        record::RNW.write(&mut raw, 1);
        record::INPUT_ADDR.write(&mut raw, 0xdead_b000);
        let fault = decode(raw, |_| unreachable!("only C_BAD_STE looks at the entry"));
        assert_eq!(fault.stream, StreamId::new(0x1234));
        assert_eq!(fault.reason, FaultReason::Translation);
        assert_eq!(fault.iova, Some(Iova::new(0xdead_b000)));
        assert_eq!((fault.access, fault.stage), (Some(AccessKind::Read), Some(Stage::One)));
        record::RNW.write(&mut raw, 0);
        record::S2.write(&mut raw, 1);
        let fault = decode(raw, |_| false);
        assert_eq!((fault.access, fault.stage), (Some(AccessKind::Write), Some(Stage::Two)));
    }

    #[test]
    fn a_bad_entry_is_told_from_one_that_blocks() {
        let mut raw = [0; 4];
        record::TYPE.write(&mut raw, number::C_BAD_STE);
        assert_eq!(decode(raw, |_| true).reason, FaultReason::StreamBlocked);
        assert_eq!(decode(raw, |_| false).reason, FaultReason::BadConfiguration);
        assert_eq!(decode(raw, |_| false).iova, None, "the record has no address");
    }

    #[test]
    fn every_number_decodes() {
        for number in 0..=255 {
            let mut raw = [u64::MAX; 4];
            record::TYPE.write(&mut raw, number);
            let known = number::CODES.iter().any(|code| code.value == number);
            let other = [number::F_UUT, number::E_PAGE_REQUEST].contains(&number);
            let reason = decode(raw, |_| false).reason;
            assert_eq!(reason == FaultReason::Other, !known || other, "{number:#x}");
        }
    }
}
