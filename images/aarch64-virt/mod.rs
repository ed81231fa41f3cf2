//! QEMU's `virt` of Arm: a GICv3 with ITS, PSCI, a PL011, and an SMMUv3.

pub mod cpu;
mod gic;
mod its;
pub mod port;
mod tree;

use crate::board::{Board, Handed, Interrupt};
use crate::state;
use alloc::boxed::Box;
use alloc::sync::Arc;
use its::Its;
use portcullis_iommu::ReadyInstance;
use portcullis_iommu::addr::PhysAddr;
use portcullis_iommu::bare::Mmio;
use portcullis_iommu::firmware::{DescribedDevice, IommuNode, MachineDescription};
use portcullis_iommu::smmuv3::{Options, Smmu};
use tree::Tree;
use virtio_drivers::transport::pci::bus::DeviceFunction;

core::arch::global_asm!(include_str!("entry.s"));

/// RAM begins here, with the devicetree of an ELF image.
const RAM: usize = 0x4000_0000;

pub struct Hardware {
    tree: Tree,
    ram: (u64, u64),
    its: Option<Its>,
}

impl Board for Hardware {
    const NAME: &str = "QEMU's virt of Arm";
    const PCI_WINDOW: u64 = 0x1000_0000;
    const RECORDS_EACH_FAULT: bool = true;
    const KEPT_BY_STOP: usize = 0;

    fn read(handed: Handed) -> (Self, MachineDescription) {
        let at = if handed.description == 0 { RAM } else { handed.description };
        // SAFETY: QEMU puts a devicetree there, and nobody writes it.
        let (tree, described) = unsafe { crate::devicetree(at) };
        let ram = described.memory.first().expect("RAM");
        let ram = (ram.start().raw(), ram.len());
        (Self { tree: Tree::read(&tree), ram, its: None }, described)
    }

    fn ram(&self) -> (u64, u64) {
        self.ram
    }

    fn ecam(&self) -> usize {
        self.tree.ecam
    }

    fn start(&mut self) {
        // SAFETY: the devicetree's addresses, mapped by entry.s.
        unsafe { gic::init(self.tree.gic, 2) };
        // SAFETY: as above.
        self.its = Some(unsafe { Its::new(self.tree.its, self.tree.gic.1) });
        cpu::unmask_interrupts();
    }

    fn start_second() {
        gic::init_cpu();
        cpu::unmask_interrupts();
    }

    fn let_iommu_interrupt(&mut self, iommu: &IommuNode) {
        for name in ["eventq", "gerror"] {
            let line = iommu.interrupts.iter().find(|line| line.name.as_deref() == Some(name));
            // Cells: type 0 (SPI), number, flags.
            gic::enable(line.and_then(|line| line.cells.get(1).copied()).expect("that line"));
        }
    }

    fn take_interrupts(_: usize, mut act: impl FnMut(Interrupt)) {
        gic::handle(|id| {
            let message = id >= its::FIRST_LPI;
            act(if message { Interrupt::Message } else { Interrupt::Iommu });
        });
    }

    fn doorbell(bridge: &DescribedDevice) -> PhysAddr {
        bridge.msi.iter().find_map(|msi| msi.doorbell).expect("an ITS in msi-map")
    }

    fn route_message(&mut self, at: DeviceFunction) -> u16 {
        // QEMU's virt maps requester ids to the ITS unchanged.
        let device = u32::from(at.bus) << 8 | u32::from(at.device) << 3 | u32::from(at.function);
        self.its.as_mut().expect("started").map(device);
        0
    }

    fn bring_up(&self, iommu: &IommuNode, registers: Mmio, events_log2: u8) -> ReadyInstance {
        let options = Options {
            event_queue_log2: events_log2,
            coherent: Some(iommu.coherent),
            ..Options::default()
        };
        let platform = Arc::clone(state().subsystem.platform());
        Box::new(Smmu::bring_up(platform, registers, options).expect("it can be driven"))
    }
}
