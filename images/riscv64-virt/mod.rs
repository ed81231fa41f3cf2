//! QEMU's `virt` of RISC-V: incoming message interrupts (IMSIC), SBI, and a RISC-V IOMMU as a platform device.

pub mod cpu;
mod imsic;
pub mod port;
mod tree;

use crate::board::{Board, Handed, Interrupt};
use crate::state;
use alloc::boxed::Box;
use alloc::sync::Arc;
use portcullis_iommu::ReadyInstance;
use portcullis_iommu::addr::PhysAddr;
use portcullis_iommu::bare::Mmio;
use portcullis_iommu::firmware::{DescribedDevice, IommuNode, MachineDescription};
use portcullis_iommu::riscv::{Iommu, Message, Options};
use tree::Tree;
use virtio_drivers::transport::pci::bus::DeviceFunction;

core::arch::global_asm!(include_str!("entry.s"));

pub struct Hardware {
    tree: Tree,
    ram: (u64, u64),
}

impl Board for Hardware {
    const NAME: &str = "QEMU's virt of RISC-V";
    const PCI_WINDOW: u64 = 0x4000_0000;
    const RECORDS_EACH_FAULT: bool = true;
    const KEPT_BY_STOP: usize = 0;

    fn read(handed: Handed) -> (Self, MachineDescription) {
        // SAFETY: SBI firmware hands the address of a devicetree over, and nobody writes it.
        let (tree, described) = unsafe { crate::devicetree(handed.description) };
        let ram = described.memory.first().expect("RAM");
        let ram = (ram.start().raw(), ram.len());
        let tree = Tree::read(&tree, handed.cpu);
        cpu::set_counter_frequency(tree.counter_frequency);
        (Self { tree, ram }, described)
    }

    fn ram(&self) -> (u64, u64) {
        self.ram
    }

    fn ecam(&self) -> usize {
        self.tree.ecam
    }

    fn start(&mut self) {
        cpu::set_second(self.tree.second_hart);
        imsic::init_cpu();
        cpu::unmask_interrupts();
    }

    fn start_second() {
        imsic::init_cpu();
        cpu::unmask_interrupts();
    }

    /// Messages need no more than that their sender is told of them, in [`Self::bring_up`].
    fn let_iommu_interrupt(&mut self, _: &IommuNode) {}

    fn take_interrupts(_: usize, mut act: impl FnMut(Interrupt)) {
        imsic::handle(|identity| match identity {
            imsic::IOMMU => act(Interrupt::Iommu),
            _ => act(Interrupt::Message),
        });
    }

    fn doorbell(bridge: &DescribedDevice) -> PhysAddr {
        bridge
            .msi
            .iter()
            .find_map(|msi| msi.doorbell)
            .expect("IMSICs as msi-parent: -machine aia=aplic-imsic")
    }

    /// Both harts take messages, so the file of hart 0 will do whichever this is.
    fn route_message(&mut self, _: DeviceFunction) -> u16 {
        imsic::DEVICE as u16
    }

    fn bring_up(&self, iommu: &IommuNode, registers: Mmio, events_log2: u8) -> ReadyInstance {
        let message = Message { address: self.tree.imsic as u64, data: imsic::IOMMU };
        let options = Options {
            event_queue_log2: events_log2,
            coherent: Some(iommu.coherent),
            message: Some(message),
            ..Options::default()
        };
        let platform = Arc::clone(state().subsystem.platform());
        Box::new(Iommu::bring_up(platform, registers, options).expect("it can be driven"))
    }
}
