//! What the kernel asks of the board that it is built for. Each board's folder beside `src` answers that, and says what only its CPU knows (`cpu.rs`).

use portcullis_iommu::ReadyInstance;
use portcullis_iommu::addr::PhysAddr;
use portcullis_iommu::bare::Mmio;
use portcullis_iommu::firmware::{DescribedDevice, IommuNode, MachineDescription};
use virtio_drivers::transport::pci::bus::DeviceFunction;

/// Who interrupts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Interrupt {
    /// The IOMMU has something to say.
    Iommu,
    /// A device has written a message.
    Message,
}

/// What the loader handed to [`crate::rust_main`], in the registers' order.
#[derive(Clone, Copy)]
pub struct Handed {
    /// Where firmware's description begins; the board may know better.
    pub description: usize,
    /// The CPU that runs, as hardware numbers it. Only SBI says.
    #[cfg_attr(not(target_arch = "riscv64"), expect(dead_code, reason = "for RISC-V"))]
    pub cpu: usize,
}

pub trait Board: Sized {
    const NAME: &str;
    /// 32-bit addresses for the registers of PCI functions.
    const PCI_WINDOW: u64;
    /// The IOMMU records each refused access by itself, until its queue is full. One that has few places leaves out what a device repeats.
    const RECORDS_EACH_FAULT: bool;
    /// Pages that an IOMMU keeps each time it is stopped, because it blocks by them.
    const KEPT_BY_STOP: usize;

    /// Reads firmware's description.
    fn read(handed: Handed) -> (Self, MachineDescription);

    /// Where RAM begins, and its length in bytes.
    fn ram(&self) -> (u64, u64);

    /// PCIe configuration space.
    fn ecam(&self) -> usize;

    /// Sets up the interrupt controller and the CPU that calls, the first, and lets interrupts in.
    fn start(&mut self);

    /// The same on the second CPU.
    fn start_second();

    /// Lets the IOMMU interrupt.
    fn let_iommu_interrupt(&mut self, iommu: &IommuNode);

    /// Takes the pending interrupts of this CPU; `vector` says which one where the CPU knows.
    fn take_interrupts(vector: usize, act: impl FnMut(Interrupt));

    /// Where functions below `bridge` write their interrupts.
    fn doorbell(bridge: &DescribedDevice) -> PhysAddr;

    /// Has messages of `at` arrive; says what it must write to the doorbell.
    fn route_message(&mut self, at: DeviceFunction) -> u16;

    /// The IOMMU, up and blocking, with room for `1 << events_log2` faults where its queue can be chosen.
    fn bring_up(&self, iommu: &IommuNode, registers: Mmio, events_log2: u8) -> ReadyInstance;
}
