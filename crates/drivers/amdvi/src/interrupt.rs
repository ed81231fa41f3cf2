//! What an interrupt of a unit must do: the event log and a command queue that stopped (§2.5, §3.4).
//!
//! It may run at any time, also in the middle of any other call on the same CPU. It takes short locks, one after the other, for a few loads and stores each; it allocates nothing and waits for nothing.

use crate::Iommu;
use crate::event_queue::decode;
use portcullis::{Breakage, Fault, GlobalErrors, OpsError, Serviced};
use portcullis_driver_parts::Consumer as _;
use portcullis_platform::{Platform, Registers};
use portcullis_spec::amdvi::event::{self as record, code};
use portcullis_spec::amdvi::{self as spec, status};

impl<P: Platform, R: Registers> Iommu<P, R> {
    /// Repairs a command queue that stopped, acknowledges the interrupt and overflows, and gives at most `budget` recorded faults to `sink`, without a lock while that runs.
    pub(crate) fn serve_interrupt(&self, budget: usize, sink: &mut dyn FnMut(Fault)) -> Serviced {
        let mut serviced = Serviced::default();
        if !self.running.is_set() {
            return serviced;
        }
        // Before the log is looked at: whatever is recorded after this raises a new interrupt.
        let pending = status::EVENT_LOG_INT.mask() | status::COM_WAIT_INT.mask();
        self.unit.write(spec::STATUS, pending);
        match self.commands.with(&self.unit).acknowledge() {
            Ok(stopped) if !stopped => {}
            Ok(_) => tell(&mut serviced, GlobalErrors::COMMAND, 0),
            Err(error) => {
                let (what, status) = broken(&error);
                tell(&mut serviced, what, status);
            }
        }
        if serviced.errors.contains(GlobalErrors::GONE) {
            return serviced;
        }
        self.take_faults(budget, sink, &mut serviced);
        serviced
    }

    fn take_faults(&self, budget: usize, sink: &mut dyn FnMut(Fault), serviced: &mut Serviced) {
        let mut left = budget;
        loop {
            let taken = match self.events.take(&self.unit, left) {
                Ok(taken) => taken,
                Err(error) => {
                    let (what, status) = broken(&error);
                    return tell(serviced, what, status);
                }
            };
            serviced.overflows += u32::from(taken.overflowed);
            serviced.more = taken.more;
            if taken.aborted {
                tell(serviced, GlobalErrors::FAULT_RECORD, 0);
            }
            if let Some(tail) = taken.nonsense {
                tell(serviced, GlobalErrors::OTHER, tail);
            }
            for raw in taken.records() {
                left -= 1;
                match decode(*raw) {
                    Some(fault) => {
                        serviced.faults += 1;
                        sink(fault);
                    }
                    None => {
                        let number = record::CODE.read(raw);
                        let command = matches!(
                            number,
                            code::ILLEGAL_COMMAND_ERROR
                                | code::COMMAND_HARDWARE_ERROR
                                | code::IOTLB_INV_TIMEOUT
                        );
                        let what =
                            if command { GlobalErrors::COMMAND } else { GlobalErrors::OTHER };
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

/// Adds what is wrong; the first status that is not 0 stays, since the errors come in the order of their weight.
fn tell(serviced: &mut Serviced, errors: GlobalErrors, status: u64) {
    serviced.errors |= errors;
    if serviced.status == 0 {
        serviced.status = status;
    }
}

/// What an error of a queue means for the unit as a whole.
fn broken(error: &OpsError) -> (GlobalErrors, u64) {
    match *error {
        OpsError::Hardware { breakage: Breakage::Gone, status } => (GlobalErrors::GONE, status),
        OpsError::Hardware { status, .. } => (GlobalErrors::COMMAND, status),
        _ => (GlobalErrors::COMMAND, 0),
    }
}
