//! The software machine's SMMUv3, made to look like QEMU's.

use super::{Bench, Board, Client, Failure, Line};
use crate::driver::Setup;
use portcullis::IommuOps;
use portcullis_addr::{Iova, PhysAddr};
use portcullis_machine::{
    AccessKind, Device, InterruptLine, Machine, MachinePlatform, Policy, Profile, SmmuRegisters,
};
use portcullis_platform::host::HostThreads;
use portcullis_platform::{DmaMemory, Registers};
use std::sync::{Arc, Mutex, PoisonError};

const RAM_BASE: PhysAddr = PhysAddr::new(0x4000_0000);
const RAM_LEN: u64 = 64 << 20;

/// A machine of 64 MiB with five devices.
#[derive(Debug)]
pub struct SoftwareBench {
    machine: Arc<Machine>,
    registers: SmmuRegisters,
    devices: [Arc<Device>; 5],
    interrupts: Arc<Mutex<Vec<Line>>>,
}

impl SoftwareBench {
    /// A machine that uses its freedom as QEMU does, so that stale translations show in the same places.
    pub fn like_qemu(board: Board) -> Self {
        // Scenarios use stale translations on purpose: what the model says of them is theirs to judge.
        Self::new(board, Policy::like_qemu().verify(false))
    }

    /// A machine that uses its freedom to the full: late, piecemeal, keeping everything.
    pub fn harsh(board: Board) -> Self {
        Self::new(board, Policy::default().verify(false))
    }

    fn new(board: Board, policy: Policy) -> Self {
        let machine = Machine::builder().ram(RAM_BASE, RAM_LEN).policy(policy).build();
        let smmu = machine.add_smmuv3(profile(board));
        let devices = Client::ALL
            .map(|client| machine.add_client(client.to_string(), &smmu, client.stream()));
        let interrupts = Arc::new(Mutex::new(Vec::new()));
        let inbox = Arc::clone(&interrupts);
        smmu.on_interrupt(move |line| {
            let line = match line {
                InterruptLine::EventQueue => Line::EventQueue,
                InterruptLine::PriQueue => return,
                InterruptLine::CommandSync => Line::CommandSync,
                InterruptLine::GlobalError => Line::GlobalError,
            };
            inbox.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        });
        Self { registers: smmu.registers(), machine, devices, interrupts }
    }

    fn copy(&self, kind: AccessKind, client: Client, iova: Iova, offset: usize, len: usize) {
        let index = Client::ALL.iter().position(|other| *other == client);
        let device = &self.devices[index.expect("ALL has every client")];
        // An aborted transfer shows in memory, in the device's buffer and in the event queue, as on hardware.
        let _outcome = device.copy(&self.machine, kind, iova, offset, len);
    }
}

fn profile(board: Board) -> Profile {
    match board {
        Board::StageOne | Board::Nested => Profile::qemu10(),
        Board::OnlyStageOne => Profile { stage2: false, ..Profile::qemu10() },
        Board::OnlyStageTwo => Profile { stage1: false, ..Profile::qemu10() },
    }
}

impl Bench for SoftwareBench {
    fn name(&self) -> String {
        "software machine".to_owned()
    }

    fn memory(&self) -> &dyn DmaMemory {
        &**self.machine.memory()
    }

    fn read_bytes(&self, address: PhysAddr, bytes: &mut [u8]) {
        let inside = self.machine.memory().read_bytes(address, bytes);
        assert!(inside, "{address} is outside the RAM");
    }

    fn write_bytes(&self, address: PhysAddr, bytes: &[u8]) {
        let inside = self.machine.memory().write_bytes(address, bytes);
        assert!(inside, "{address} is outside the RAM");
    }

    fn smmu(&self) -> &dyn Registers {
        &self.registers
    }

    fn device_reads(
        &self,
        client: Client,
        iova: Iova,
        offset: usize,
        len: usize,
    ) -> Result<(), Failure> {
        self.copy(AccessKind::Read, client, iova, offset, len);
        Ok(())
    }

    fn device_writes(
        &self,
        client: Client,
        iova: Iova,
        offset: usize,
        len: usize,
    ) -> Result<(), Failure> {
        self.copy(AccessKind::Write, client, iova, offset, len);
        Ok(())
    }

    fn take_interrupts(&self) -> Result<Vec<Line>, Failure> {
        let mut interrupts = self.interrupts.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut *interrupts))
    }

    fn start_driver(&self, setup: &Setup) -> Result<Box<dyn IommuOps>, Failure> {
        let platform = MachinePlatform::<HostThreads>::new(&self.machine);
        crate::driver::bring_up(Arc::new(platform), self.registers.clone(), setup)
    }

    fn records_class(&self) -> bool {
        true
    }

    fn offences(&self) -> Vec<String> {
        self.machine.violations().iter().map(|violation| violation.to_string()).collect()
    }
}
