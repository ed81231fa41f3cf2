//! The fault recording registers (§7.3, §11.4.14) and what their records mean.

use crate::unit::Unit;
use portcullis::{AccessKind, Fault, FaultReason, OpsError, Stage};
use portcullis_addr::{Iova, StreamId};
use portcullis_platform::{IrqLock, LockLabel, Platform, Registers};
use portcullis_spec::vtd::fault::{self as record, reason};
use portcullis_spec::vtd::{self as spec, fsts};

/// How many records are taken under the lock at once: it bounds how long interrupts are masked.
const BATCH: usize = 16;

/// A record as hardware shows it.
pub(crate) type Record = [u64; record::WORDS];

#[derive(Debug)]
pub(crate) struct FaultRegisters<P: Platform> {
    offset: usize,
    count: usize,
    /// The register in which the next fault is expected.
    next: IrqLock<P, usize>,
}

/// Some records taken from the registers.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    records: [Record; BATCH],
    count: usize,
    /// A fault found no free register. Hardware does not say how many are lost.
    pub(crate) overflowed: bool,
    /// Whether there were more records.
    pub(crate) more: bool,
}

impl Taken {
    pub(crate) fn records(&self) -> &[Record] {
        &self.records[..self.count]
    }
}

impl<P: Platform> FaultRegisters<P> {
    /// The registers at `offset`.
    pub(crate) fn new((offset, count): (usize, usize), index: u64) -> Self {
        Self { offset, count, next: IrqLock::<P, _>::new(LockLabel::new("vtd.faults", index), 0) }
    }

    /// Takes at most `most` of the oldest records, and at most [`BATCH`], frees their registers, and lets hardware record again where it had stopped.
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
        self.next.with(|next| {
            let status = u64::from(unit.read_live(spec::FSTS)?);
            if fsts::PPF.is_set(status) {
                *next = self.first(unit, *next, fsts::FRI.get(status) as usize);
            }
            while fsts::PPF.is_set(status) && self.has_fault(unit, *next) {
                taken.more = taken.count == most.min(BATCH);
                if taken.more {
                    break;
                }
                taken.records[taken.count] = self.load(unit, *next);
                taken.count += 1;
                // Written 1 to free the register; the rest of it is read-only.
                unit.write_at(self.at(*next, 12), (record::F.mask() >> 32) as u32);
                *next = (*next + 1) % self.count;
            }
            taken.overflowed = fsts::PFO.is_set(status);
            if taken.overflowed {
                unit.write(spec::FSTS, fsts::PFO.mask() as u32);
            }
            Ok(taken)
        })
    }

    /// Where the oldest record is: where it is expected, where hardware says, or, if it is in neither place, wherever there is one.
    fn first<R: Registers>(&self, unit: &Unit<P, R>, expected: usize, said: usize) -> usize {
        let all = 0..self.count;
        let mut places = [expected, said].into_iter().filter(|it| *it < self.count).chain(all);
        places.find(|place| self.has_fault(unit, *place)).unwrap_or(expected)
    }

    fn at(&self, index: usize, byte: usize) -> usize {
        self.offset + index * record::BYTES + byte
    }

    fn has_fault<R: Registers>(&self, unit: &Unit<P, R>, index: usize) -> bool {
        let top = unit.read_at(self.at(index, 12));
        record::F.is_set(u64::from(top) << 32)
    }

    fn load<R: Registers>(&self, unit: &Unit<P, R>, index: usize) -> Record {
        let half = |byte| u64::from(unit.read_at(self.at(index, byte)));
        [half(0) | half(4) << 32, half(8) | half(12) << 32]
    }
}

/// What a record of a device's access says; `None` for one of interrupt remapping.
pub(crate) fn decode(raw: Record) -> Option<Fault> {
    let number = record::FR.read(&raw);
    if (0x20..0x30).contains(&number) {
        return None;
    }
    let read = record::T1.read(&raw) == 1;
    Some(Fault {
        stream: StreamId::new(record::SID.read(&raw) as u32),
        pasid: None,
        reason: reason(number),
        iova: Some(Iova::new(record::FI.read(&raw) << 12)),
        access: Some(if read { AccessKind::Read } else { AccessKind::Write }),
        stage: stage(number),
        raw: [raw[0], raw[1], 0, 0],
    })
}

/// A second stage does not tell what is not mapped from what is not permitted: both are [`FaultReason::Translation`].
fn reason(number: u64) -> FaultReason {
    match number {
        reason::ROOT_NOT_PRESENT
        | reason::CONTEXT_NOT_PRESENT
        | reason::SM_ROOT_NOT_PRESENT
        | reason::SM_CONTEXT_NOT_PRESENT
        | reason::DIRECTORY_NOT_PRESENT
        | reason::PASID_NOT_PRESENT => FaultReason::StreamBlocked,
        reason::NO_WRITE
        | reason::NO_READ
        | reason::SECOND_PERMISSION
        | reason::FIRST_NOT_PRESENT => FaultReason::Translation,
        reason::USER | reason::NO_EXECUTE | reason::SM_NO_WRITE | reason::SM_NO_READ => {
            FaultReason::Permission
        }
        reason::BEYOND_WIDTH | reason::SM_BEYOND_WIDTH | reason::NOT_CANONICAL => {
            FaultReason::AddressSize
        }
        reason::TABLE_ACCESS
        | reason::ROOT_ACCESS
        | reason::CONTEXT_ACCESS
        | reason::SM_ROOT_ACCESS
        | reason::SM_CONTEXT_ACCESS
        | reason::DIRECTORY_ACCESS
        | reason::PASID_ACCESS
        | reason::FIRST_ACCESS
        | reason::FIRST_ROOT_ACCESS
        | reason::SECOND_ACCESS => FaultReason::ExternalAbort,
        known if reason::CODES.iter().any(|code| code.value == known) => {
            FaultReason::BadConfiguration
        }
        _ => FaultReason::Other,
    }
}

fn stage(number: u64) -> Option<Stage> {
    match number {
        reason::NO_WRITE
        | reason::NO_READ
        | reason::TABLE_ACCESS
        | reason::TABLE_RESERVED
        | reason::SECOND_ACCESS
        | reason::SECOND_PERMISSION
        | reason::SECOND_RESERVED
        | reason::SECOND_ROOT_INVALID => Some(Stage::Two),
        reason::FIRST_ACCESS..=reason::FIRST_ROOT_ACCESS
        | reason::NOT_CANONICAL..=reason::NO_EXECUTE
        | reason::SM_NO_WRITE
        | reason::SM_NO_READ => Some(Stage::One),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Positions typed from OpenBSD's `dmarreg.h`: reason from bit 96, source from bit 64, type in bit 126.
    #[test]
    fn a_record_tells_device_page_direction_and_stage() {
        let fault = decode([0x1234_5000, 0x18 | 5 << 32 | 1 << 63]).expect("a device's");
        assert_eq!((fault.stream, fault.iova), (StreamId::new(0x18), Some(Iova::new(0x1234_5000))));
        assert_eq!((fault.access, fault.stage), (Some(AccessKind::Write), Some(Stage::Two)));
        assert_eq!(fault.reason, FaultReason::Translation);
        let fault = decode([0, 0x18 | 0x71 << 32 | 3 << 62]).expect("a device's");
        assert_eq!((fault.access, fault.stage), (Some(AccessKind::Read), Some(Stage::One)));
    }

    #[test]
    fn who_is_blocked_is_told_from_who_is_badly_configured() {
        for (number, expected) in [
            (0x1, FaultReason::StreamBlocked),
            (0x2, FaultReason::StreamBlocked),
            (0x59, FaultReason::StreamBlocked),
            (0x3, FaultReason::BadConfiguration),
            (0xd, FaultReason::BadConfiguration),
            (0x5b, FaultReason::BadConfiguration),
            (0x4, FaultReason::AddressSize),
            (0x85, FaultReason::Permission),
            (0x9, FaultReason::ExternalAbort),
            (0xff, FaultReason::Other),
        ] {
            assert_eq!(
                decode([0, number << 32]).map(|it| it.reason),
                Some(expected),
                "{number:#x}"
            );
        }
        assert_eq!(decode([0, 0x22 << 32]), None, "an interrupt's");
    }
}
