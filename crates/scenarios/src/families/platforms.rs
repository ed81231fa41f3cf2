//! The two platforms, seen the same way.

use super::Family;
use super::tamper::{Action, Tampering};
use portcullis::IommuOps;
use portcullis_addr::{Iova, StreamId};
use portcullis_machine::{
    AccessKind, Device, Machine, MachinePlatform, Policy, RegisterBlock, RegisterModel,
};
use portcullis_platform::host::HostThreads;
use portcullis_platform::{DmaMemory, Platform, Registers};
use portcullis_qemu::endpoint::Edu;
use portcullis_qemu::{BusId, Installation, Mmio, Virt, VirtMachine};
use std::sync::Arc;

/// A machine with one unit and three devices behind it.
pub trait Hardware {
    /// Memory for tables, queues and buffers.
    fn memory(&self) -> &dyn DmaMemory;
    /// The unit's registers.
    fn registers(&self) -> &dyn Registers;
    /// The devices' ids.
    fn devices(&self) -> [u32; 3];
    /// Lets a device write the first four bytes of its buffer to `iova`. Whether they arrive shows in memory.
    fn writes(&self, device: usize, iova: u64);
    /// Lets a device read four bytes at `iova` to the beginning of its buffer.
    fn reads(&self, device: usize, iova: u64);
    /// Starts the driver, with its commands altered on their way to the queue.
    fn driver(&self, tamper: Option<Action>) -> Box<dyn IommuOps>;
    /// What the platform noticed by itself.
    fn offences(&self) -> Vec<String>;
}

/// The software machine.
#[derive(Debug)]
pub struct Software<F: Family> {
    machine: Arc<Machine>,
    unit: Arc<F::Model>,
    devices: [Arc<Device>; 3],
    registers: RegisterBlock<F::Model>,
}

impl<F: Family> Software<F> {
    /// A machine whose hardware takes the freedom that `policy` gives. The oracle does not judge: scenarios use stale entries on purpose.
    pub fn new(policy: Policy) -> Self {
        let policy = policy.verify(false);
        let machine = Machine::builder().ram(F::RAM, 64 << 20).policy(policy).build();
        let unit = F::software(&machine);
        let devices =
            F::DEVICES.map(|id| machine.add_client(format!("{id:#x}"), &unit, StreamId::new(id)));
        let registers = RegisterBlock::new(&unit);
        Self { machine, unit, devices, registers }
    }

    fn copy(&self, kind: AccessKind, device: usize, iova: u64) {
        // Whether it arrived shows in memory and in the unit's record of faults.
        let _ = self.devices[device].copy(&self.machine, kind, Iova::new(iova), 0, 4);
    }
}

impl<F: Family> Hardware for Software<F>
where
    F::Model: RegisterModel,
{
    fn memory(&self) -> &dyn DmaMemory {
        &**self.machine.memory()
    }

    fn registers(&self) -> &dyn Registers {
        &self.registers
    }

    fn devices(&self) -> [u32; 3] {
        F::DEVICES
    }

    fn writes(&self, device: usize, iova: u64) {
        self.copy(AccessKind::Write, device, iova);
    }

    fn reads(&self, device: usize, iova: u64) {
        self.copy(AccessKind::Read, device, iova);
    }

    fn driver(&self, tamper: Option<Action>) -> Box<dyn IommuOps> {
        let platform: Arc<MachinePlatform<HostThreads>> =
            Arc::new(MachinePlatform::new(&self.machine));
        start::<F, _, _>(platform, RegisterBlock::new(&self.unit), tamper)
    }

    fn offences(&self) -> Vec<String> {
        self.machine.violations().iter().map(ToString::to_string).collect()
    }
}

/// QEMU.
#[derive(Debug)]
pub struct Emulated<F> {
    machine: VirtMachine,
    edus: [Edu; 3],
    registers: Mmio,
    family: std::marker::PhantomData<F>,
}

impl<F: Family> Emulated<F> {
    /// The family's board, with an `edu` for each device.
    ///
    /// # Panics
    ///
    /// When QEMU does not start.
    pub fn start(installation: &Installation) -> Self {
        Self::on(F::qemu(), installation)
    }

    /// As [`start`](Self::start), with another board.
    ///
    /// # Panics
    ///
    /// When QEMU does not start.
    pub fn on(mut board: Virt, installation: &Installation) -> Self {
        let slots = F::DEVICES.map(|id| BusId::ROOT.slot((id >> 3) as u8));
        for slot in slots {
            board.edu(slot);
        }
        let machine = board.start_on(installation).expect("QEMU starts");
        let edus = slots.map(|slot| machine.edu(slot).expect("an edu"));
        let registers = machine.iommu();
        Self { machine, edus, registers, family: std::marker::PhantomData }
    }
}

impl<F: Family> Hardware for Emulated<F> {
    fn memory(&self) -> &dyn DmaMemory {
        &**self.machine.ram()
    }

    fn registers(&self) -> &dyn Registers {
        &self.registers
    }

    fn devices(&self) -> [u32; 3] {
        F::DEVICES
    }

    fn writes(&self, device: usize, iova: u64) {
        self.edus[device].write_memory(Iova::new(iova), 0, 4).expect("it ends");
    }

    fn reads(&self, device: usize, iova: u64) {
        self.edus[device].read_memory(Iova::new(iova), 0, 4).expect("it ends");
    }

    fn driver(&self, tamper: Option<Action>) -> Box<dyn IommuOps> {
        start::<F, _, _>(Arc::new(self.machine.platform()), self.machine.iommu(), tamper)
    }

    fn offences(&self) -> Vec<String> {
        self.machine.qemu().check().err().map(|error| error.to_string()).into_iter().collect()
    }
}

fn start<F: Family, P: Platform, R: Registers>(
    platform: Arc<P>,
    registers: R,
    action: Option<Action>,
) -> Box<dyn IommuOps> {
    let memory = Arc::clone(platform.memory());
    F::bring_up(platform, Tampering::<F, _, _>::new(registers, memory, action))
}
