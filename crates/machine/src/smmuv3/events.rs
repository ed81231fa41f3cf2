//! Event records (§7.2 to §7.4), global errors (§7.5) and interrupts (§3.18).

use super::{InterruptLine, State};
use crate::access::{AccessKind, Agent};
use crate::memory::{PhysicalMemory, View};
use portcullis_spec::Field;
use portcullis_spec::smmuv3::event::{self, number};
use portcullis_spec::smmuv3::{eventq_prod, gerror, irq_ctrl};

/// An event record as it lies in memory.
pub(super) type Record = [u64; 4];

/// `FetchAddr`, bits 247:195 of F_STE_FETCH, F_CD_FETCH and F_WALK_EABT (§7.3.4).
const FETCH_ADDRESS: Field = Field::new("FetchAddr", 247, 195);

/// An interrupt on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// By wire.
    Line(InterruptLine),
    /// By a write of 32 bits; the global error if that is aborted.
    Message { address: u64, data: u32, error: u64 },
}

/// Why a transaction was refused, in the document's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Refused without a record: the configuration says abort, or that faults are not recorded.
    Silent,
    /// A configuration error or another event that carries no address.
    Configuration(u64),
    /// An external abort on a configuration entry: which event, and where.
    Fetch { number: u64, address: u64 },
    /// A fault of a translation.
    Translation(Fault),
}

/// A fault of one stage of translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) number: u64,
    pub(super) stage2: bool,
    /// What was being accessed: [`event::class`].
    pub(super) class: u64,
    /// Stage 2: the intermediate address; F_WALK_EABT: the address fetched.
    pub(super) other: u64,
}

/// What the record says of the transaction itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject {
    pub(super) stream: u32,
    pub(super) substream: Option<u32>,
    pub(super) address: u64,
    pub(super) kind: AccessKind,
    pub(super) privileged: bool,
}

impl Refusal {
    /// The record, or `None` for a silent refusal.
    pub(super) fn record(self, subject: Subject) -> Option<Record> {
        let mut record = [0; 4];
        event::STREAM_ID.write(&mut record, subject.stream.into());
        if let Some(substream) = subject.substream {
            event::SSV.write(&mut record, 1);
            event::SUBSTREAM_ID.write(&mut record, substream.into());
        }
        match self {
            Self::Silent => return None,
            Self::Configuration(number) => {
                event::TYPE.write(&mut record, number);
                if number == number::C_BAD_SUBSTREAMID {
                    event::SSV.write(&mut record, 0);
                }
            }
            Self::Fetch { number, address } => {
                event::TYPE.write(&mut record, number);
                record[3] |= FETCH_ADDRESS.in_place(address);
            }
            Self::Translation(fault) => {
                event::TYPE.write(&mut record, fault.number);
                event::PNU.write(&mut record, subject.privileged.into());
                event::RNW.write(&mut record, u64::from(subject.kind == AccessKind::Read));
                event::S2.write(&mut record, fault.stage2.into());
                event::CLASS.write(&mut record, fault.class);
                event::INPUT_ADDR.write(&mut record, subject.address);
                if fault.number == number::F_WALK_EABT {
                    record[3] |= FETCH_ADDRESS.in_place(fault.other);
                } else if fault.stage2 {
                    record[3] |= event::IPA.in_place(fault.other);
                }
            }
        }
        Some(record)
    }
}

impl State {
    /// Writes a record, or loses it as the document says.
    pub(super) fn record(
        &mut self,
        record: Record,
        memory: &PhysicalMemory,
        view: View,
        index: u32,
    ) {
        let registers = &mut self.registers;
        let error = gerror::EVENTQ_ABT_ERR.mask();
        if !registers.writes_events() || registers.is_active(error) {
            self.counters.events_lost += 1;
            return;
        }
        let queue = registers.events();
        let (producer, consumer) = registers.event_indices();
        if queue.is_full(producer, consumer) {
            self.counters.events_lost += 1;
            if !registers.overflow_pending() {
                registers.eventq_prod ^= eventq_prod::OVFLG.mask() as u32;
            }
            return;
        }
        let address = queue.entry(producer, 32);
        let by = Agent::Iommu(index, "event");
        let aborted = self.faults.event_write_aborts
            || (0..4u64).zip(record).any(|(word, value)| {
                memory.hardware_store(address + 8 * word, value, view, by).is_err()
            });
        if aborted {
            self.counters.events_lost += 1;
            self.raise(error);
            return;
        }
        let was_empty = (producer ^ consumer) & queue.mask() == 0;
        let flag = registers.eventq_prod & eventq_prod::OVFLG.mask() as u32;
        registers.eventq_prod = flag | queue.next(producer);
        self.counters.events += 1;
        if was_empty && self.registers.interrupts_enabled(irq_ctrl::EVENTQ_IRQEN.mask()) {
            let message = self.registers.eventq_message;
            self.interrupt(InterruptLine::EventQueue, message.address, message.data);
        }
    }

    /// Makes a global error active and raises its interrupt.
    pub(super) fn raise(&mut self, error: u64) {
        if self.registers.raise(error) {
            self.announce_error();
        }
    }

    /// The interrupt of a global error that just became active.
    pub(super) fn announce_error(&mut self) {
        if self.registers.interrupts_enabled(irq_ctrl::GERROR_IRQEN.mask()) {
            let message = self.registers.gerror_message;
            self.interrupt(InterruptLine::GlobalError, message.address, message.data);
        }
    }

    /// An interrupt, as a message where one is configured.
    pub(super) fn interrupt(&mut self, line: InterruptLine, address: u64, data: u32) {
        self.counters.interrupts += 1;
        if self.faults.no_interrupts {
            return;
        }
        self.deliveries.push(if address == 0 {
            Delivery::Line(line)
        } else {
            let error = match line {
                InterruptLine::EventQueue => gerror::MSI_EVENTQ_ABT_ERR,
                InterruptLine::PriQueue => gerror::MSI_PRIQ_ABT_ERR,
                InterruptLine::CommandSync => gerror::MSI_CMDQ_ABT_ERR,
                InterruptLine::GlobalError => gerror::MSI_GERROR_ABT_ERR,
            };
            Delivery::Message { address, data, error: error.mask() }
        });
    }
}
