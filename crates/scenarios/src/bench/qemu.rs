//! QEMU's own SMMUv3.

use super::{Bench, Board, Client, Failure, Line, failing};
use crate::driver::Setup;
use portcullis::IommuOps;
use portcullis_addr::{Iova, PhysAddr};
use portcullis_platform::{DmaMemory, Registers};
use portcullis_qemu::endpoint::Edu;
use portcullis_qemu::{
    BusId, Error, ErrorKind, Installation, Mmio, QemuPlatform, Slot, SmmuLine, SmmuStages, Virt,
    VirtMachine,
};
use std::sync::Arc;

/// A `virt` board with five `edu` devices.
#[derive(Debug)]
pub struct QemuBench {
    machine: VirtMachine,
    smmu: Mmio,
    edus: [Edu; 5],
}

impl QemuBench {
    /// Starts a QEMU. `None` when this one has no such SMMU.
    ///
    /// # Errors
    ///
    /// When it does not start, or a device is not where it should be.
    pub fn start(board: Board, installation: &Installation) -> Result<Option<Self>, Failure> {
        let stages = match board {
            Board::StageOne => SmmuStages::Newest,
            Board::OnlyStageOne => SmmuStages::One,
            Board::OnlyStageTwo => SmmuStages::Two,
            Board::Nested => SmmuStages::Nested,
        };
        let mut virt = Virt::new(stages);
        let port = virt.root_port(BusId::ROOT.slot(5));
        let conventional = virt.express_to_conventional_bridge(BusId::ROOT.slot(6));
        let slots = [
            BusId::ROOT.slot(2),
            BusId::ROOT.slot(3),
            port.slot(0),
            conventional.slot(1),
            conventional.slot(2),
        ];
        for slot in slots {
            virt.edu(slot);
        }
        let machine = match virt.start_on(installation) {
            Ok(machine) => machine,
            Err(error) if matches!(error.kind(), ErrorKind::Unsupported { .. }) => return Ok(None),
            Err(error) => return Err(failing("starting QEMU")(error)),
        };
        machine.watch_iommu_interrupts().map_err(failing("watching interrupts"))?;
        let edus = clients(&machine, slots)?;
        let smmu = machine.iommu();
        Ok(Some(Self { machine, smmu, edus }))
    }

    fn edu(&self, client: Client) -> &Edu {
        let index = Client::ALL.iter().position(|other| *other == client);
        &self.edus[index.expect("ALL has every client")]
    }
}

/// The devices, each checked to arrive with the id that scenarios count on.
fn clients(machine: &VirtMachine, slots: [Slot; 5]) -> Result<[Edu; 5], Failure> {
    let mut edus = Vec::new();
    for (client, slot) in Client::ALL.into_iter().zip(slots) {
        let function = machine.function(slot).map_err(failing("finding a device"))?;
        let id = u32::from(function.dma_alias().requester_id());
        if id != client.stream().raw() {
            return Err(Failure(format!("{client} arrives as {id:#x}")));
        }
        edus.push(machine.edu(slot).map_err(failing("finding an edu"))?);
    }
    edus.try_into().map_err(|_| Failure("not every device was found".to_owned()))
}

fn device_failure(error: Error) -> Failure {
    failing("transfer")(error)
}

impl Bench for QemuBench {
    fn name(&self) -> String {
        format!("QEMU {}", self.machine.version())
    }

    fn memory(&self) -> &dyn DmaMemory {
        &**self.machine.ram()
    }

    fn read_bytes(&self, address: PhysAddr, bytes: &mut [u8]) {
        self.machine.ram().read(address, bytes);
    }

    fn write_bytes(&self, address: PhysAddr, bytes: &[u8]) {
        self.machine.ram().write(address, bytes);
    }

    fn smmu(&self) -> &dyn Registers {
        &self.smmu
    }

    fn device_reads(
        &self,
        client: Client,
        iova: Iova,
        offset: usize,
        len: usize,
    ) -> Result<(), Failure> {
        self.edu(client).read_memory(iova, offset, len).map_err(device_failure)
    }

    fn device_writes(
        &self,
        client: Client,
        iova: Iova,
        offset: usize,
        len: usize,
    ) -> Result<(), Failure> {
        self.edu(client).write_memory(iova, offset, len).map_err(device_failure)
    }

    fn take_interrupts(&self) -> Result<Vec<Line>, Failure> {
        let lines = self.machine.take_smmu_interrupts().map_err(failing("interrupts"))?;
        let line = |line: &SmmuLine| match line {
            SmmuLine::EventQueue => Some(Line::EventQueue),
            SmmuLine::PriQueue => None,
            SmmuLine::CommandSync => Some(Line::CommandSync),
            SmmuLine::GlobalError => Some(Line::GlobalError),
        };
        Ok(lines.iter().filter_map(line).collect())
    }

    fn start_driver(&self, setup: &Setup) -> Result<Box<dyn IommuOps>, Failure> {
        let platform: Arc<QemuPlatform> = Arc::new(self.machine.platform());
        crate::driver::bring_up(platform, self.machine.iommu(), setup)
    }

    fn records_class(&self) -> bool {
        self.machine.version().major >= 8
    }

    fn offences(&self) -> Vec<String> {
        self.machine.qemu().check().err().map(|error| error.to_string()).into_iter().collect()
    }
}
