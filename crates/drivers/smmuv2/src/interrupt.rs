//! What an interrupt of a unit must do: the global fault registers and those of each bank.
//!
//! It may run at any time, also in the middle of any other call: it takes no lock, allocates nothing and waits for nothing. Hardware keeps one fault a bank and one for the unit; where
//! there were more it says so, without how many.

use crate::Smmu;
use crate::block::Block;
use portcullis::{AccessKind, Fault, FaultReason, GlobalErrors, Serviced, Stage};
use portcullis_addr::{Iova, StreamId};
use portcullis_platform::{Platform, Registers};
use portcullis_spec::Field;
use portcullis_spec::smmuv2::bank::{self, fsr, fsynr0};
use portcullis_spec::smmuv2::cbar_type;
use portcullis_spec::smmuv2::global0::{self, sgfsr, sgfsynr0, sgfsynr1};
use portcullis_spec::smmuv2::global1::{self, cbar, cbfrsynra};

/// Bits of `FSR` that tell of a fault, the heaviest first.
const REASONS: [(Field, FaultReason); 8] = [
    (fsr::TLBMCF, FaultReason::BadConfiguration),
    (fsr::EF, FaultReason::ExternalAbort),
    (fsr::PF, FaultReason::Permission),
    (fsr::AFF, FaultReason::AccessFlag),
    (fsr::ASF, FaultReason::AddressSize),
    (fsr::TF, FaultReason::Translation),
    (fsr::UUT, FaultReason::Other),
    (fsr::TLBLKF, FaultReason::Other),
];

impl<P: Platform, R: Registers> Smmu<P, R> {
    pub(crate) fn serve_interrupt(&self, budget: usize, sink: &mut dyn FnMut(Fault)) -> Serviced {
        let mut serviced = Serviced::default();
        for block in self.unit.blocks() {
            if !self.serve_block(block, budget, &mut serviced, sink) {
                break;
            }
        }
        serviced
    }

    /// Serves what one register block has recorded; `false` where nothing more is to be looked at.
    fn serve_block(
        &self,
        block: &Block<R>,
        budget: usize,
        serviced: &mut Serviced,
        sink: &mut dyn FnMut(Fault),
    ) -> bool {
        let status = block.read(global0::SGFSR);
        if status == u32::MAX {
            serviced.errors = GlobalErrors::GONE;
            serviced.status = status.into();
            return false;
        }
        if status != 0 && !take(budget, serviced, sink, || global_fault(block, status)) {
            return false;
        }
        tell_errors(status, serviced);
        for index in
            (0..usize::from(self.features.banks)).filter(|index| self.banks.is_used(*index))
        {
            let status = block.read_bank(bank::FSR, index);
            if u64::from(status) & outstanding() == 0 || status == u32::MAX {
                continue;
            }
            if !take(budget, serviced, sink, || context_fault(block, index, status)) {
                return false;
            }
        }
        true
    }
}

/// Gives one fault to the sink, if the budget has room for it.
fn take(
    budget: usize,
    serviced: &mut Serviced,
    sink: &mut dyn FnMut(Fault),
    read: impl FnOnce() -> (Fault, bool),
) -> bool {
    if serviced.faults >= budget {
        serviced.more = true;
        return false;
    }
    let (fault, others) = read();
    serviced.faults += 1;
    serviced.overflows += u32::from(others);
    sink(fault);
    true
}

/// Errors of the unit itself among the global faults.
fn tell_errors(status: u32, serviced: &mut Serviced) {
    let status = u64::from(status);
    if [sgfsr::EF, sgfsr::UCBF, sgfsr::UCIF, sgfsr::SMCF].iter().any(|bit| bit.is_set(status)) {
        serviced.errors |= GlobalErrors::OTHER;
        serviced.status = status;
    }
}

/// Reads and clears the global fault; says whether there were others.
fn global_fault<R: Registers>(block: &Block<R>, status: u32) -> (Fault, bool) {
    let read = |register| u64::from(block.read(register));
    let address = block.read64(global0::SGFAR);
    let (syndrome, whose) = (read(global0::SGFSYNR0), read(global0::SGFSYNR1));
    block.write(global0::SGFSR, status);
    let word = u64::from(status);
    let bad = [sgfsr::SMCF, sgfsr::UCBF, sgfsr::UCIF, sgfsr::CAF];
    let reason = if sgfsr::ICF.is_set(word) || sgfsr::USF.is_set(word) {
        FaultReason::StreamBlocked
    } else if bad.iter().any(|bit| bit.is_set(word)) {
        FaultReason::BadConfiguration
    } else if sgfsr::EF.is_set(word) {
        FaultReason::ExternalAbort
    } else {
        FaultReason::Other
    };
    let fault = Fault {
        stream: StreamId::new(sgfsynr1::STREAM_ID.get(whose) as u32),
        pasid: None,
        reason,
        iova: Some(Iova::new(address)),
        access: Some(direction(sgfsynr0::WNR.is_set(syndrome))),
        stage: None,
        raw: [word, address, syndrome, whose],
    };
    (fault, sgfsr::MULTI.is_set(word))
}

/// Reads and clears the fault of a bank; says whether there were others.
fn context_fault<R: Registers>(block: &Block<R>, index: usize, status: u32) -> (Fault, bool) {
    let address = block.read_bank64(bank::FAR, index);
    let syndrome = u64::from(block.read_bank(bank::FSYNR0, index));
    let whose = u64::from(block.read_attribute(global1::CBFRSYNRA, index));
    let kind = cbar::TYPE.get(block.read_attribute(global1::CBAR, index).into());
    block.write_bank(bank::FSR, index, status);
    let word = u64::from(status);
    let reason = REASONS.iter().find(|(bit, _)| bit.is_set(word));
    let fault = Fault {
        stream: StreamId::new(cbfrsynra::STREAM_ID.get(whose) as u32),
        pasid: None,
        reason: reason.map_or(FaultReason::Other, |(_, reason)| *reason),
        iova: Some(Iova::new(address)),
        access: Some(direction(fsynr0::WNR.is_set(syndrome))),
        stage: Some(if kind == cbar_type::STAGE2 { Stage::Two } else { Stage::One }),
        raw: [word, address, syndrome, whose],
    };
    (fault, fsr::MULTI.is_set(word))
}

fn direction(write: bool) -> AccessKind {
    if write { AccessKind::Write } else { AccessKind::Read }
}

/// Every bit of `FSR` that tells of a fault.
fn outstanding() -> u64 {
    REASONS.iter().fold(fsr::MULTI.mask() | fsr::SS.mask(), |bits, (bit, _)| bits | bit.mask())
}
