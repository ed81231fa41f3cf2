//! A boot during which one allocation of DMA memory fails, and what a second try makes of it.

use super::{Boot, BootOptions, Picture, Verdict, picture_of};
use portcullis::{DeviceStage, DmaPath, NodeState};
use portcullis_firmware::MachineDescription;
use portcullis_testbed::{SoftwareMachine, Testbed};

/// How it went.
#[derive(Clone, Debug)]
pub struct Failing {
    /// Whether the boot got as far as that allocation.
    pub failed: bool,
    /// Devices behind an IOMMU that were not bound after the failure.
    pub shut_out: usize,
    /// What the second try ended with.
    pub picture: Picture,
    /// How the promises fared.
    pub promises: Vec<Verdict>,
}

/// Boots a software machine in the listed order on one thread; allocation number `nth` (from 1) fails. Then what failed is tried again: IOMMUs that could not come up, devices that are not bound.
pub fn boot_failing(description: &MachineDescription, nth: u64) -> Failing {
    let machine = SoftwareMachine::new(description, 0);
    let allocated = machine.allocated();
    let boot = Boot::new(description, &machine);
    machine.fail_allocation(nth);
    boot.arrive_all(BootOptions::CALM);
    let failed = machine.stop_failing();
    boot.check_end();
    let shut_out = boot.check_fail_closed();
    boot.try_again();
    boot.check_end();
    let picture = picture_of(&boot.subsystem.reports());
    boot.take_down(allocated);
    Failing { failed, shut_out, picture, promises: boot.promises.verdicts() }
}

impl Boot<'_, SoftwareMachine> {
    /// Every device that is behind an IOMMU and not bound is blocked or waits, and holds nothing; returns how many there are.
    fn check_fail_closed(&self) -> usize {
        let mut shut_out = 0;
        for client in &self.clients {
            let behind = matches!(client.device.description().dma, DmaPath::Translated(_));
            let stage = client.device.stage();
            if !behind || stage == DeviceStage::Bound {
                continue;
            }
            shut_out += 1;
            let closed = matches!(
                stage,
                DeviceStage::Waiting(_) | DeviceStage::Blocked(_) | DeviceStage::Failed(_)
            );
            self.promises.check("P2", closed, || format!("{}: {stage:?}", client.device.path()));
        }
        let counts = self.subsystem.counts();
        let owners: usize = self.clients.len() - shut_out;
        self.promises.check("P7", counts.bound <= owners, || format!("{counts:?}"));
        shut_out
    }

    fn try_again(&self) {
        for iommu in self.description.iommus.iter().filter(|iommu| iommu.enabled) {
            if !matches!(self.subsystem.node_state(iommu.node), NodeState::Registered { .. }) {
                self.register(iommu);
                self.subsystem.run_deferred();
            }
        }
        for client in &self.clients {
            if client.device.stage() != DeviceStage::Bound {
                self.bind(client);
            }
        }
        self.subsystem.run_deferred();
    }
}
