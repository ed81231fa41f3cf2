//! The fault queue (§3.2, §5.9 to §5.11, §5.16) and what its records mean.

use crate::error::BringUpCause;
use crate::unit::Unit;
use portcullis::{AccessKind, Fault, FaultReason, OpsError, Stage};
use portcullis_addr::{Iova, StreamId};
use portcullis_driver_parts::{HardwarePages, Running};
use portcullis_platform::{AllocError, DmaMemory, IrqLock, LockLabel, Platform, Registers};
use portcullis_spec::riscv::fault::{self as record, cause, ttyp};
use portcullis_spec::riscv::{self as spec, fqb, fqcsr};

/// How many records are taken under the lock at once: it bounds how long interrupts are masked.
const BATCH: usize = 16;
/// The fewest entries, as log2: one record, and the entry that stays empty.
const LEAST_LOG2: u8 = 1;
/// Bits of `fqcsr` that stop recording.
const ERRORS: u32 = (fqcsr::FQMF.mask() | fqcsr::FQOF.mask()) as u32;

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
    /// The index of the next record.
    head: u32,
    /// `fqcsr.fie` and `fqen` as they were last written.
    enables: u32,
}

/// Some records taken from the queue.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    records: [Record; BATCH],
    count: usize,
    /// The queue was full: hardware has recorded nothing since. It does not say how many are lost.
    pub(crate) overflowed: bool,
    /// A record could not be stored.
    pub(crate) aborted: bool,
    /// Whether there were more records.
    pub(crate) more: bool,
    /// A tail that hardware cannot have; what was in the queue is lost.
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
        let log2 = log2.max(LEAST_LOG2);
        let bytes = (record::BYTES << log2).max(4096);
        let consumer = LockLabel::new("riscv.fq", index);
        Ok(Self {
            pages: HardwarePages::new(platform.memory(), running, bytes, address_bits)?,
            log2,
            consumer: IrqLock::<P, _>::new(consumer, Consumer::default()),
        })
    }

    fn entries(&self) -> u32 {
        1 << self.log2
    }

    /// Tells a unit whose queue is off where it is, and turns it on.
    pub(crate) fn install<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        interrupts: bool,
    ) -> Result<(), BringUpCause> {
        let base = fqb::PPN.of(self.pages.address().raw() >> 12)
            | fqb::LOG2SZ.of(u64::from(self.log2) - 1);
        let enables = (fqcsr::FQEN.mask() | fqcsr::FIE.of(interrupts.into())) as u32;
        self.consumer.with(|consumer| *consumer = Consumer { head: 0, enables });
        unit.write64(spec::FQB, base);
        unit.write(spec::FQH, 0);
        unit.write(spec::FQCSR, enables);
        let on = (fqcsr::FQON.mask() | fqcsr::BUSY.mask(), fqcsr::FQON.mask() as u32);
        unit.await_value(spec::FQCSR, on.0, on.1).map(drop)
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
            let tail = unit.read_live(spec::FQT)?;
            let mask = self.entries() - 1;
            let waiting = (tail.wrapping_sub(consumer.head) & mask) as usize;
            if tail > mask {
                // No tail that hardware can have: start afresh behind it.
                consumer.head = tail & mask;
                taken.nonsense = Some(tail);
            } else {
                for _ in 0..waiting.min(BATCH).min(most) {
                    taken.records[taken.count] = self.load(consumer.head);
                    taken.count += 1;
                    consumer.head = consumer.head.wrapping_add(1) & mask;
                }
                taken.more = waiting > taken.count;
            }
            if taken.count > 0 || taken.nonsense.is_some() {
                unit.write(spec::FQH, consumer.head);
            }
            self.go_on(unit, consumer, &mut taken)?;
            Ok(taken)
        })
    }

    /// Clears what stopped recording (§5.16), once there is room.
    fn go_on<R: Registers>(
        &self,
        unit: &Unit<P, R>,
        consumer: &Consumer,
        taken: &mut Taken,
    ) -> Result<(), OpsError> {
        let status = unit.read_live(spec::FQCSR)?;
        let errors = status & ERRORS;
        if errors == 0 || fqcsr::BUSY.is_set(status.into()) {
            return Ok(());
        }
        taken.overflowed = fqcsr::FQOF.is_set(status.into());
        taken.aborted = fqcsr::FQMF.is_set(status.into());
        unit.write(spec::FQCSR, consumer.enables | errors);
        Ok(())
    }

    fn load(&self, index: u32) -> Record {
        let offset = u64::from(index) * record::BYTES as u64;
        let memory = self.pages.memory();
        self.pages.refresh(self.pages.at(offset), record::BYTES);
        core::array::from_fn(|word| memory.load64(self.pages.at(offset + word as u64 * 8)))
    }
}

/// What a record of a device's access says; `None` for one of the unit's own (`TTYP` 0).
pub(crate) fn decode(raw: Record) -> Option<Fault> {
    let kind = record::TTYP.read(&raw);
    if kind == ttyp::NONE {
        return None;
    }
    let number = record::CAUSE.read(&raw);
    let write = matches!(kind, ttyp::UNTRANSLATED_WRITE | ttyp::TRANSLATED_WRITE);
    // Of a refusal by the configuration not every unit tells the address (QEMU's does not).
    let addressed = number < cause::ALL_DISALLOWED;
    Some(Fault {
        stream: StreamId::new(record::DID.read(&raw) as u32),
        pasid: None,
        reason: reason(number, record::PV.read(&raw) == 1),
        iova: addressed.then(|| Iova::new(record::IOTVAL.read(&raw))),
        access: Some(if write { AccessKind::Write } else { AccessKind::Read }),
        stage: stage(number),
        raw,
    })
}

/// A page fault does not tell what is not mapped from what is not permitted: both are [`FaultReason::Translation`].
fn reason(number: u64, process: bool) -> FaultReason {
    match number {
        cause::ALL_DISALLOWED | cause::DDT_INVALID => FaultReason::StreamBlocked,
        // An id beyond the directory is blocked; a process id is what the context does not allow for.
        cause::TYPE_DISALLOWED if !process => FaultReason::StreamBlocked,
        cause::TYPE_DISALLOWED
        | cause::DDT_MISCONFIGURED
        | cause::PDT_INVALID
        | cause::PDT_MISCONFIGURED
        | cause::MSI_PTE_INVALID
        | cause::MSI_PTE_MISCONFIGURED => FaultReason::BadConfiguration,
        cause::INSTRUCTION_PAGE
        | cause::READ_PAGE
        | cause::WRITE_PAGE
        | cause::INSTRUCTION_GUEST_PAGE
        | cause::READ_GUEST_PAGE
        | cause::WRITE_GUEST_PAGE => FaultReason::Translation,
        cause::INSTRUCTION_ACCESS
        | cause::READ_ACCESS
        | cause::WRITE_ACCESS
        | cause::DDT_ACCESS
        | cause::PDT_ACCESS
        | cause::MSI_PTE_ACCESS
        | cause::MRIF_ACCESS => FaultReason::ExternalAbort,
        _ => FaultReason::Other,
    }
}

fn stage(number: u64) -> Option<Stage> {
    match number {
        cause::INSTRUCTION_PAGE | cause::READ_PAGE | cause::WRITE_PAGE => Some(Stage::One),
        cause::INSTRUCTION_GUEST_PAGE | cause::READ_GUEST_PAGE | cause::WRITE_GUEST_PAGE => {
            Some(Stage::Two)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(number: u64, kind: u64) -> Record {
        let mut raw = [0; record::WORDS];
        record::CAUSE.write(&mut raw, number);
        record::TTYP.write(&mut raw, kind);
        record::DID.write(&mut raw, 0x1234);
        record::IOTVAL.write(&mut raw, 0xdead_b000);
        raw
    }

    /// Positions typed from §3.2: cause `[11:0]`, type `[39:34]`, device `[63:40]`, address in the third word.
    #[test]
    fn a_page_fault_tells_device_address_direction_and_stage() {
        let fault = decode([15 | 3 << 34 | 0x18 << 40, 0, 0x1000, 0]).expect("a device's");
        assert_eq!(fault.stream, StreamId::new(0x18));
        assert_eq!(fault.reason, FaultReason::Translation);
        assert_eq!((fault.iova, fault.access), (Some(Iova::new(0x1000)), Some(AccessKind::Write)));
        assert_eq!(fault.stage, Some(Stage::One));
        let fault = decode([21 | 2 << 34, 0, 0x1000, 0x8000]).expect("a device's");
        assert_eq!((fault.access, fault.stage), (Some(AccessKind::Read), Some(Stage::Two)));
    }

    #[test]
    fn who_is_blocked_is_told_from_who_is_badly_configured() {
        let reason =
            |number| decode(raw(number, ttyp::UNTRANSLATED_READ)).expect("a device's").reason;
        assert_eq!(reason(cause::DDT_INVALID), FaultReason::StreamBlocked);
        assert_eq!(reason(cause::DDT_MISCONFIGURED), FaultReason::BadConfiguration);
        assert_eq!(reason(cause::TYPE_DISALLOWED), FaultReason::StreamBlocked);
        let mut with_process = raw(cause::TYPE_DISALLOWED, ttyp::UNTRANSLATED_READ);
        record::PV.write(&mut with_process, 1);
        let fault = decode(with_process).expect("a device's");
        assert_eq!((fault.reason, fault.iova), (FaultReason::BadConfiguration, None));
    }

    #[test]
    fn every_cause_decodes_and_the_units_own_are_no_devices() {
        for number in 0..4096 {
            let known = cause::CODES.iter().any(|code| code.value == number);
            let fault = decode(raw(number, ttyp::UNTRANSLATED_WRITE)).expect("a device's");
            assert!(known || fault.reason == FaultReason::Other, "{number}");
            assert_eq!(decode(raw(number, ttyp::NONE)), None);
        }
    }
}
