//! What an interrupt of a unit must do: the fault recording registers and the errors of the queue (§7.4, §6.5.2.11).
//!
//! It may run at any time, also in the middle of any other call on the same CPU. It takes two short locks, one after the other, for a few loads and stores each; it allocates nothing and waits for nothing.

use crate::Iommu;
use crate::event_queue::decode;
use portcullis::{Fault, GlobalErrors, Serviced};
use portcullis_driver_parts::Consumer as _;
use portcullis_driver_parts::answer::{tell, tell_broken};
use portcullis_platform::{Platform, Registers};
use portcullis_spec::vtd::fault::{self as record};
use portcullis_spec::vtd::{self as spec, fectl};

/// How a unit's own interrupts come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupts {
    /// As the message that the kernel chose.
    Message,
    /// Not at all: somebody must look.
    Polled,
}

impl<P: Platform, R: Registers> Iommu<P, R> {
    /// How its own interrupts come.
    pub fn interrupts(&self) -> Interrupts {
        if self.message.is_some() { Interrupts::Message } else { Interrupts::Polled }
    }

    /// Masks both events (§11.4.7.2, §11.4.9.5).
    pub(crate) fn mask_interrupts(&self) {
        self.unit.write(spec::FECTL, fectl::IM.mask() as u32);
        self.unit.write(spec::IECTL, fectl::IM.mask() as u32);
    }

    /// Sends fault events to where the kernel said. Events of the queue are not used.
    pub(crate) fn route_interrupts(&self) {
        if let Some(message) = self.message {
            self.unit.write(spec::FEDATA, message.data);
            self.unit.write(spec::FEADDR, message.address as u32);
            self.unit.write(spec::FEUADDR, (message.address >> 32) as u32);
            self.unit.write(spec::FECTL, 0);
        }
    }

    /// Repairs a queue that stopped, acknowledges errors and overflows, and gives at most `budget` recorded faults to `sink`, without a lock while that runs.
    pub(crate) fn serve_interrupt(&self, budget: usize, sink: &mut dyn FnMut(Fault)) -> Serviced {
        let mut serviced = Serviced::default();
        if !self.running.is_set() {
            return serviced;
        }
        match self.commands.with(&self.unit).acknowledge() {
            Ok(0) => {}
            Ok(errors) => tell(&mut serviced, GlobalErrors::COMMAND, errors.into()),
            Err(error) => tell_broken(&mut serviced, &error),
        }
        if !serviced.errors.contains(GlobalErrors::GONE) {
            self.take_faults(budget, sink, &mut serviced);
        }
        serviced
    }

    fn take_faults(&self, budget: usize, sink: &mut dyn FnMut(Fault), serviced: &mut Serviced) {
        let mut left = budget;
        loop {
            let taken = match self.faults.take(&self.unit, left) {
                Ok(taken) => taken,
                Err(error) => return tell_broken(serviced, &error),
            };
            serviced.overflows += u32::from(taken.overflowed);
            serviced.more = taken.more;
            for raw in taken.records() {
                left -= 1;
                match decode(*raw) {
                    Some(fault) => {
                        serviced.faults += 1;
                        sink(fault);
                    }
                    None => tell(serviced, GlobalErrors::INTERRUPT, record::FR.read(raw)),
                }
            }
            // Also where more came meanwhile: a device that faults without end cannot hold the caller.
            if !taken.more || left == 0 {
                return;
            }
        }
    }
}
