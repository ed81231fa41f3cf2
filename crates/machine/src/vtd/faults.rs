//! Fault recording (7.3, 11.4.14) and the unit's own events (7.4).

use super::registers::Event;
use super::{State, VtdIommu};
use crate::access::AccessKind;
use portcullis_spec::vtd::fault;

/// Why a transaction was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: u64,
    /// It is not recorded.
    pub(super) quiet: bool,
}

impl Refusal {
    /// One without a record.
    pub(super) const QUIET: Self = Self { reason: 0, quiet: true };

    pub(super) fn new(reason: u64) -> Self {
        Self { reason, quiet: false }
    }
}

/// What the record says of the transaction itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject {
    pub(super) source: u32,
    pub(super) pasid: Option<u32>,
    pub(super) address: u64,
    pub(super) kind: AccessKind,
    pub(super) privileged: bool,
}

impl Subject {
    fn record(&self, reason: u64) -> [u64; fault::WORDS] {
        let mut record = [0; fault::WORDS];
        fault::FI.write(&mut record, self.address >> 12);
        fault::SID.write(&mut record, self.source.into());
        fault::FR.write(&mut record, reason);
        fault::T1.write(&mut record, (self.kind == AccessKind::Read).into());
        if let Some(pasid) = self.pasid {
            fault::PP.write(&mut record, 1);
            fault::PV.write(&mut record, pasid.into());
            fault::PRIV.write(&mut record, self.privileged.into());
        }
        fault::F.write(&mut record, 1);
        record
    }
}

impl State {
    /// Records a refusal, or loses it as the document says.
    pub(super) fn record(&mut self, subject: &Subject, refusal: Refusal) {
        if refusal.quiet {
            return;
        }
        let (recorded, event) = self.registers.record(subject.record(refusal.reason));
        match recorded {
            true => self.counters.faults += 1,
            false => self.counters.faults_lost += 1,
        }
        self.owe(event);
    }

    /// Events that are due go out once the lock is free.
    pub(super) fn owe(&mut self, event: Option<Event>) {
        self.counters.interrupts += u64::from(event.is_some());
        if !self.faults.no_interrupts {
            self.due.extend(event);
        }
    }
}

impl VtdIommu {
    /// Sends the events that became due while the lock was held.
    pub(super) fn deliver(&self, due: Vec<Event>) {
        for Event { address, data } in due {
            let sink = self.sink.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
            if let Some(sink) = sink {
                sink(address, data);
            }
        }
    }
}
