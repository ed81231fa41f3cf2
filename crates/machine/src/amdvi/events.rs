//! Records of the event log (2.5) and interrupts.

use super::{AmdVi, State};
use crate::access::{AccessKind, Agent};
use portcullis_spec::amdvi::event::{self, code};
use portcullis_spec::amdvi::status;

/// A record, before it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event([u64; event::WORDS]);

/// Why a transaction was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The device's entry is none that may be; whether a reserved bit is set.
    BadEntry(bool),
    /// Nothing is mapped there, or in an encoding that is none.
    Absent,
    /// An entry of a page table is malformed; whether a reserved bit is set.
    Malformed(bool),
    /// It may not be accessed that way.
    Denied,
    /// An entry of the device table cannot be read: where it is.
    EntryAbort(u64),
    /// An entry of a page table cannot be read: where it is.
    TableAbort(u64),
    /// No event is due.
    Silent,
}

/// What the record says of the transaction itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject {
    pub(super) device: u32,
    pub(super) address: u64,
    pub(super) kind: AccessKind,
}

impl Event {
    /// Of a command.
    pub(super) fn of_the_unit(code: u64, address: u64) -> Self {
        let mut record = [0; event::WORDS];
        event::CODE.write(&mut record, code);
        event::ADDRESS.write(&mut record, address);
        Self(record)
    }

    /// Of a transaction that was refused; `None` where it leaves no trace.
    pub(super) fn of(subject: &Subject, domain: u16, refusal: Refusal) -> Option<Self> {
        let mut record = [0; event::WORDS];
        let (number, address) = match refusal {
            Refusal::BadEntry(_) => (code::ILLEGAL_DEV_TABLE_ENTRY, subject.address),
            Refusal::Absent | Refusal::Malformed(_) | Refusal::Denied => {
                (code::IO_PAGE_FAULT, subject.address)
            }
            Refusal::EntryAbort(at) => (code::DEV_TAB_HARDWARE_ERROR, at),
            Refusal::TableAbort(at) => (code::PAGE_TAB_HARDWARE_ERROR, at),
            Refusal::Silent => return None,
        };
        event::CODE.write(&mut record, number);
        event::ADDRESS.write(&mut record, address);
        event::DEVICE.write(&mut record, subject.device.into());
        event::RW.write(&mut record, (subject.kind == AccessKind::Write).into());
        if matches!(refusal, Refusal::BadEntry(true) | Refusal::Malformed(true)) {
            event::RZ.write(&mut record, 1);
        }
        if !matches!(refusal, Refusal::BadEntry(_) | Refusal::EntryAbort(_)) {
            event::DOMAIN.write(&mut record, domain.into());
        }
        if matches!(refusal, Refusal::Malformed(_) | Refusal::Denied) {
            event::PR.write(&mut record, 1);
        }
        if refusal == Refusal::Denied {
            event::PE.write(&mut record, 1);
        }
        Some(Self(record))
    }
}

impl AmdVi {
    /// Writes a record, or loses it as the document says: a log that is full stops until software starts it anew.
    pub(super) fn log(&self, state: &mut State, record: Event) {
        let queue = state.registers.events;
        if !queue.runs {
            state.counters.events_lost += 1;
            return;
        }
        if queue.is_full() {
            state.counters.events_lost += 1;
            state.registers.events.halt();
            return state.note(status::EVENT_OVERFLOW.mask());
        }
        let (address, by) = (queue.entry(queue.tail), Agent::Iommu(self.index, "event"));
        let view = self.own_view();
        let aborted = state.faults.event_write_aborts
            || (0..).zip(record.0).any(|(word, value)| {
                self.memory.hardware_store(address + 8 * word, value, view, by).is_err()
            });
        if aborted {
            state.counters.events_lost += 1;
            return state.registers.events.halt();
        }
        state.counters.events += 1;
        state.registers.events.tail = queue.next(queue.tail);
        state.note(status::EVENT_LOG_INT.mask());
    }

    /// Sends the interrupts that became due while the lock was held.
    pub(super) fn deliver(&self, due: u64) {
        for _ in 0..due {
            let sink = self.sink.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
            if let Some(sink) = sink {
                sink();
            }
        }
    }
}

impl State {
    /// Notes something in the status register; its interrupt goes out once the lock is free.
    pub(super) fn note(&mut self, bits: u64) {
        if self.registers.note(bits) {
            self.counters.interrupts += 1;
            self.due += u64::from(!self.faults.no_interrupts);
        }
    }
}
