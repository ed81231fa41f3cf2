//! What an interrupt of a unit must do: event queue and global errors (§3.18, §6.3.19, §7.2).
//!
//! It may run at any time, also in the middle of any other call on the same CPU. It takes two short locks, one after the other, for a few loads and stores each;
//! it allocates nothing and waits for nothing.

use crate::Smmu;
use crate::event_queue::decode;
use portcullis::{Fault, GlobalErrors, Serviced};
use portcullis_driver_parts::answer::{tell, tell_broken};
use portcullis_platform::{Platform, Registers};
use portcullis_spec::Field;
use portcullis_spec::smmuv3::gerror;

impl<P: Platform, R: Registers> Smmu<P, R> {
    /// Repairs a command queue that stopped, acknowledges global errors and overflows, and gives at most `budget` recorded faults to `sink`, without a lock while
    /// that runs.
    pub(crate) fn serve_interrupt(&self, budget: usize, sink: &mut dyn FnMut(Fault)) -> Serviced {
        let mut serviced = Serviced::default();
        if !self.running.is_set() {
            return serviced;
        }
        match self.commands.acknowledge(&self.unit) {
            Ok(active) => tell(&mut serviced, global_errors(active), active.into()),
            Err(error) => tell_broken(&mut serviced, &error),
        }
        if !serviced.errors.contains(GlobalErrors::GONE) {
            self.take_faults(budget, sink, &mut serviced);
        }
        serviced
    }

    fn take_faults(&self, budget: usize, sink: &mut dyn FnMut(Fault), serviced: &mut Serviced) {
        loop {
            let taken = match self.events.take(&self.unit, budget - serviced.faults) {
                Ok(taken) => taken,
                Err(error) => return tell_broken(serviced, &error),
            };
            serviced.overflows += u32::from(taken.overflowed);
            serviced.more = taken.more;
            if let Some(prod) = taken.nonsense {
                tell(serviced, GlobalErrors::OTHER, prod.into());
            }
            for record in taken.records() {
                sink(decode(*record, |stream| self.streams.is_sound(stream)));
                serviced.faults += 1;
            }
            // Also where more came meanwhile: a device that faults without end cannot hold the caller.
            if !taken.more || serviced.faults >= budget {
                return;
            }
        }
    }
}

/// Every error that the document has (§6.3.19), in the core's words.
const ERRORS: [(Field, GlobalErrors); 8] = [
    (gerror::CMDQ_ERR, GlobalErrors::COMMAND),
    (gerror::EVENTQ_ABT_ERR, GlobalErrors::FAULT_RECORD),
    (gerror::PRIQ_ABT_ERR, GlobalErrors::PAGE_REQUEST),
    (gerror::MSI_CMDQ_ABT_ERR, GlobalErrors::INTERRUPT),
    (gerror::MSI_EVENTQ_ABT_ERR, GlobalErrors::INTERRUPT),
    (gerror::MSI_PRIQ_ABT_ERR, GlobalErrors::INTERRUPT),
    (gerror::MSI_GERROR_ABT_ERR, GlobalErrors::INTERRUPT),
    (gerror::SFM_ERR, GlobalErrors::SERVICE_FAILURE),
];

/// The active bits of `SMMU_GERROR` in the core's words; a bit that the document does not have is an error too.
fn global_errors(active: u32) -> GlobalErrors {
    let mut left = u64::from(active);
    let mut errors = GlobalErrors::empty();
    for (field, error) in ERRORS {
        if field.is_set(left) {
            errors |= error;
            left &= !field.mask();
        }
    }
    if left == 0 { errors } else { errors | GlobalErrors::OTHER }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bits are typed from §6.3.19, not taken from the layout.
    #[test]
    fn no_error_bit_is_dropped() {
        assert_eq!(global_errors(0), GlobalErrors::empty());
        let alone = [
            (1 << 0, GlobalErrors::COMMAND),
            (1 << 2, GlobalErrors::FAULT_RECORD),
            (1 << 3, GlobalErrors::PAGE_REQUEST),
            (1 << 4, GlobalErrors::INTERRUPT),
            (1 << 7, GlobalErrors::INTERRUPT),
            (1 << 8, GlobalErrors::SERVICE_FAILURE),
        ];
        for (bit, error) in alone {
            assert_eq!(global_errors(bit), error, "{bit:#x}");
        }
        for bit in 0..32 {
            assert!(!global_errors(1 << bit).is_empty(), "bit {bit}");
        }
        assert_eq!(global_errors(1 << 31 | 1), GlobalErrors::OTHER | GlobalErrors::COMMAND);
    }
}
