//! Records of the fault queue (3.2) and interrupts (5.18).

use super::registers::Due;
use super::{RiscvIommu, State};
use crate::access::{AccessKind, Agent};
use crate::memory::View;
use portcullis_spec::riscv::fault::{self, cause, ttyp};
use portcullis_spec::riscv::fqcsr;

/// A record as it lies in memory.
type Record = [u64; fault::WORDS];

/// Why a transaction was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) cause: u64,
    /// The guest physical address of a guest-page fault, bit 0 for an access on the way to it.
    pub(super) guest: u64,
    /// `DTF` keeps it quiet.
    pub(super) quiet: bool,
}

impl Refusal {
    pub(super) fn new(cause: u64) -> Self {
        Self { cause, guest: 0, quiet: false }
    }
}

/// What the record says of the transaction itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject {
    pub(super) device: u32,
    pub(super) process: Option<u32>,
    pub(super) address: u64,
    pub(super) kind: AccessKind,
    pub(super) privileged: bool,
}

impl Subject {
    /// The page fault of this kind of access, of the first or the second stage.
    pub(super) fn page_fault(&self, second: bool) -> u64 {
        match (self.kind, second) {
            (AccessKind::Read, false) => cause::READ_PAGE,
            (AccessKind::Write, false) => cause::WRITE_PAGE,
            (AccessKind::Read, true) => cause::READ_GUEST_PAGE,
            (AccessKind::Write, true) => cause::WRITE_GUEST_PAGE,
        }
    }

    /// The access fault of this kind of access.
    pub(super) fn access_fault(&self) -> u64 {
        match self.kind {
            AccessKind::Read => cause::READ_ACCESS,
            AccessKind::Write => cause::WRITE_ACCESS,
        }
    }

    fn record(&self, refusal: Refusal) -> Record {
        let mut record = [0; fault::WORDS];
        fault::CAUSE.write(&mut record, refusal.cause);
        if let Some(process) = self.process {
            fault::PV.write(&mut record, 1);
            fault::PID.write(&mut record, process.into());
            fault::PRIV.write(&mut record, self.privileged.into());
        }
        fault::TTYP.write(
            &mut record,
            match self.kind {
                AccessKind::Read => ttyp::UNTRANSLATED_READ,
                AccessKind::Write => ttyp::UNTRANSLATED_WRITE,
            },
        );
        fault::DID.write(&mut record, self.device.into());
        fault::IOTVAL.write(&mut record, self.address);
        fault::IOTVAL2.write(&mut record, refusal.guest);
        record
    }
}

impl RiscvIommu {
    /// Records a refusal, or loses it as the document says.
    pub(super) fn record(&self, state: &mut State, subject: &Subject, refusal: Refusal) {
        if !refusal.quiet {
            self.put_record(state, subject.record(refusal));
        }
    }

    pub(super) fn put_record(&self, state: &mut State, record: Record) {
        let errors = fqcsr::FQMF.mask() | fqcsr::FQOF.mask();
        let queue = state.registers.faults;
        if !queue.is_on() || u64::from(queue.csr) & errors != 0 {
            state.counters.faults_lost += 1;
            return;
        }
        if queue.is_full() {
            state.counters.faults_lost += 1;
            let due = state.registers.fault_status(fqcsr::FQOF.mask());
            return state.owe(due);
        }
        let address = queue.entry(queue.tail, fault::BYTES as u64);
        // Records of a unit that does not snoop stay out of the CPUs' caches.
        let view = if self.profile.coherent { View::Cpu } else { View::Published };
        let by = Agent::Iommu(self.index, "fault record");
        let aborted = state.faults.event_write_aborts
            || (0..).zip(record).any(|(word, value)| {
                self.memory.hardware_store(address + 8 * word, value, view, by).is_err()
            });
        let due = if aborted {
            state.counters.faults_lost += 1;
            state.registers.fault_status(fqcsr::FQMF.mask())
        } else {
            state.counters.faults += 1;
            state.registers.recorded()
        };
        state.owe(due);
    }

    /// Sends the interrupts that became due while the lock was held. A message that is aborted is recorded (5.28).
    pub(super) fn deliver(&self, due: Vec<Due>) {
        for due in due {
            match due {
                Due::Wire(vector) => {
                    let sink = self.sink.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    let sink = sink.clone();
                    if let Some(sink) = sink {
                        sink(vector);
                    }
                }
                Due::Message { address, data } => {
                    let by = Agent::Iommu(self.index, "message");
                    if self.memory.dma_write(address, &data.to_le_bytes(), by).is_err() {
                        let mut record = [0; fault::WORDS];
                        fault::CAUSE.write(&mut record, cause::MSI_WRITE_ACCESS);
                        fault::IOTVAL.write(&mut record, address);
                        let mut state = self.lock();
                        self.put_record(&mut state, record);
                        let more = std::mem::take(&mut state.due);
                        drop(state);
                        self.deliver(more);
                    }
                }
            }
        }
    }
}

impl State {
    /// Interrupts that are due go out once the lock is free.
    pub(super) fn owe(&mut self, due: Vec<Due>) {
        self.counters.interrupts += due.len() as u64;
        if !self.faults.no_interrupts {
            self.due.extend(due);
        }
    }
}
