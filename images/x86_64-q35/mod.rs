//! QEMU's `q35`: local APICs, PVH's boot protocol, ACPI tables, and Intel's VT-d.

mod apic;
pub mod cpu;
mod idt;
pub mod port;
mod start;

use crate::board::{Board, Handed, Interrupt};
use crate::state;
use alloc::boxed::Box;
use alloc::sync::Arc;
use portcullis_iommu::ReadyInstance;
use portcullis_iommu::addr::PhysAddr;
use portcullis_iommu::bare::Mmio;
use portcullis_iommu::firmware::acpi::tables;
use portcullis_iommu::firmware::{DescribedDevice, IommuNode, MachineDescription, read_acpi};
use portcullis_iommu::vtd::{Iommu, Message, Options};
use start::StartInfo;
use virtio_drivers::transport::pci::bus::DeviceFunction;

core::arch::global_asm!(include_str!("entry.s"), options(att_syntax));

pub struct Hardware {
    ram: (u64, u64),
    ecam: usize,
}

impl Board for Hardware {
    const NAME: &str = "QEMU's q35";
    const PCI_WINDOW: u64 = 0xc000_0000;
    const RECORDS_EACH_FAULT: bool = false;
    /// Its root table.
    const KEPT_BY_STOP: usize = 1;

    fn read(handed: Handed) -> (Self, MachineDescription) {
        cpu::measure_counter();
        // SAFETY: PVH's loader hands the address over; memory below 4 GiB is mapped, and nobody writes what firmware left.
        let start = unsafe { StartInfo::read(handed.description) };
        let found = tables(start.root_pointer(), |address| start.bytes_at(address));
        let described = read_acpi(found.expect("ACPI tables"), "q35").expect("sound tables");
        let ecam = described.config_spaces.first().expect("MCFG").base as usize;
        (Self { ram: start.ram(), ecam }, described)
    }

    fn ram(&self) -> (u64, u64) {
        self.ram
    }

    fn ecam(&self) -> usize {
        self.ecam
    }

    fn start(&mut self) {
        idt::load();
        apic::mask_8259();
        apic::enable();
        cpu::unmask_interrupts();
    }

    fn start_second() {
        idt::load();
        apic::enable();
        cpu::unmask_interrupts();
    }

    /// Messages need no more than that their sender is told of them, in [`Self::bring_up`].
    fn let_iommu_interrupt(&mut self, _: &IommuNode) {}

    fn take_interrupts(vector: usize, mut act: impl FnMut(Interrupt)) {
        match vector {
            apic::IOMMU => act(Interrupt::Iommu),
            apic::DEVICE => act(Interrupt::Message),
            // Spurious: not to be acknowledged (Intel SDM volume 3, 11.9).
            _ => return,
        }
        apic::end_of_interrupt();
    }

    fn doorbell(_: &DescribedDevice) -> PhysAddr {
        PhysAddr::new(apic::MESSAGES)
    }

    fn route_message(&mut self, _: DeviceFunction) -> u16 {
        apic::DEVICE as u16
    }

    /// The unit has a few fault registers and no queue.
    fn bring_up(&self, _: &IommuNode, registers: Mmio, _: u8) -> ReadyInstance {
        let message = Message { address: apic::MESSAGES, data: apic::IOMMU as u32 };
        let options = Options { message: Some(message), ..Options::default() };
        let platform = Arc::clone(state().subsystem.platform());
        Box::new(Iommu::bring_up(platform, registers, options).expect("it can be driven"))
    }
}
