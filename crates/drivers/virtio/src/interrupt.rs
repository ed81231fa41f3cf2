//! What an interrupt of a device must do: take its events and see whether it can go on (§2.1.2, §5.13.6.9).
//!
//! It may run at any time, also in the middle of any other call on the same CPU. It takes one short lock for a few loads and stores; it allocates nothing and waits for nothing.

use crate::Iommu;
use crate::event_queue::decode;
use portcullis::{Fault, GlobalErrors, Serviced};
use portcullis_platform::{Platform, Registers};
use portcullis_spec::virtio::status;

impl<P: Platform, R: Registers> Iommu<P, R> {
    /// Gives at most `budget` recorded faults to `sink`, without a lock while that runs, and tells what is wrong with the device.
    pub(crate) fn serve_interrupt(&self, budget: usize, sink: &mut dyn FnMut(Fault)) -> Serviced {
        let mut serviced = Serviced::default();
        let unit = &self.device.unit;
        if !self.device.running.is_set() {
            return serviced;
        }
        let found = unit.status();
        if unit.is_gone() {
            serviced.errors = GlobalErrors::GONE;
            serviced.status = found.into();
            return serviced;
        }
        if found & status::NEEDS_RESET != 0 {
            serviced.errors = GlobalErrors::SERVICE_FAILURE;
            serviced.status = found.into();
        }
        unit.take_interrupts();
        while serviced.faults < budget {
            let taken = self.events.take(unit, budget - serviced.faults);
            serviced.more = taken.more;
            serviced.overflows += u32::from(taken.exhausted);
            if let Some(nonsense) = taken.nonsense {
                serviced.errors |= GlobalErrors::OTHER;
                serviced.status = nonsense;
            }
            for raw in taken.records() {
                serviced.faults += 1;
                sink(decode(*raw));
            }
            if !taken.more || taken.records().is_empty() {
                break;
            }
        }
        serviced
    }
}
