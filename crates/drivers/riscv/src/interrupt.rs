//! What an interrupt of a unit must do: the fault queue and the errors of both queues (§5.15, §5.16, §5.18, §6.5).
//!
//! It may run at any time, also in the middle of any other call on the same CPU. It takes two short locks, one after the other, for a few loads and stores each; it allocates nothing and waits for nothing.

use crate::Iommu;
use crate::event_queue::decode;
use portcullis::{Fault, GlobalErrors, Serviced};
use portcullis_driver_parts::Consumer as _;
use portcullis_driver_parts::answer::{tell, tell_broken};
use portcullis_platform::{Platform, Registers};
use portcullis_spec::riscv::fault::{self as record, cause};
use portcullis_spec::riscv::{self as spec, ipsr};

impl<P: Platform, R: Registers> Iommu<P, R> {
    /// Repairs a command queue that stopped, acknowledges errors and overflows, and gives at most `budget` recorded faults to `sink`, without a lock while that runs.
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
        if serviced.errors.contains(GlobalErrors::GONE) {
            return serviced;
        }
        self.take_faults(budget, sink, &mut serviced);
        // Only now: while an error stands, its pending bit comes back at once. Whatever is recorded after this raises a new interrupt; what came just before it is looked for once more.
        self.unit.write(spec::IPSR, (ipsr::CIP.mask() | ipsr::FIP.mask()) as u32);
        if !serviced.more && !serviced.errors.contains(GlobalErrors::GONE) {
            self.take_faults(budget - serviced.faults, sink, &mut serviced);
        }
        serviced
    }

    fn take_faults(&self, budget: usize, sink: &mut dyn FnMut(Fault), serviced: &mut Serviced) {
        let mut left = budget;
        loop {
            let taken = match self.events.take(&self.unit, left) {
                Ok(taken) => taken,
                Err(error) => return tell_broken(serviced, &error),
            };
            serviced.overflows += u32::from(taken.overflowed);
            serviced.more = taken.more;
            if taken.aborted {
                tell(serviced, GlobalErrors::FAULT_RECORD, 0);
            }
            if let Some(tail) = taken.nonsense {
                tell(serviced, GlobalErrors::OTHER, tail.into());
            }
            for raw in taken.records() {
                left -= 1;
                match decode(*raw) {
                    Some(fault) => {
                        serviced.faults += 1;
                        sink(fault);
                    }
                    None => {
                        let number = record::CAUSE.read(raw);
                        let message = number == cause::MSI_WRITE_ACCESS;
                        let what =
                            if message { GlobalErrors::INTERRUPT } else { GlobalErrors::OTHER };
                        tell(serviced, what, number);
                    }
                }
            }
            // Also where more came meanwhile: a device that faults without end cannot hold the caller.
            if !taken.more || left == 0 {
                return;
            }
        }
    }
}
