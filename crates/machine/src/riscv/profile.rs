//! What a unit implements.

use portcullis_spec::riscv::{capabilities, igs};

/// How a unit sends its interrupts (5.3, `IGS`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RiscvInterrupts {
    /// As messages only.
    Messages,
    /// By wire only.
    Wires,
    /// As software chooses.
    Both,
}

/// What a RISC-V IOMMU implements, within what the model can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RiscvProfile {
    /// The deepest first stage: 0 for none, 3, 4 or 5 levels (Sv39, Sv48, Sv57).
    pub first_stage: u8,
    /// The deepest second stage: 0 for none, 3, 4 or 5 levels.
    pub second_stage: u8,
    /// Device contexts have the extended format (`MSI_FLAT`). MSI page tables themselves are not modelled: a context that turns them on is misconfigured.
    pub extended: bool,
    /// Which `ddtp` modes there are: one, two and three levels.
    pub levels: [bool; 3],
    /// How interrupts are sent.
    pub interrupts: RiscvInterrupts,
    /// log2 of the number of interrupt vectors, 0..=4.
    pub vectors_log2: u8,
    /// The page-request queue exists (`ATS`); nothing is ever put there.
    pub page_requests: bool,
    /// Bits of a physical address.
    pub pas_bits: u8,
    /// log2 of the largest queues, 1..=32.
    pub queue_log2: u8,
    /// Out of reset everything passes (`ddtp` says "bare") instead of nothing.
    pub reset_bare: bool,
    /// The unit's own accesses snoop the CPUs' caches.
    pub coherent: bool,
}

impl RiscvProfile {
    /// QEMU's of `virt,iommu-sys=on` (10.0): everything but the larger process directories.
    pub fn qemu10() -> Self {
        Self {
            first_stage: 5,
            second_stage: 5,
            extended: true,
            levels: [true; 3],
            interrupts: RiscvInterrupts::Both,
            vectors_log2: 4,
            page_requests: true,
            pas_bits: 56,
            queue_log2: 32,
            reset_bare: false,
            coherent: true,
        }
    }

    /// QEMU's `riscv-iommu-pci` (10.0): the same, with messages only.
    pub fn qemu10_function() -> Self {
        Self { interrupts: RiscvInterrupts::Messages, ..Self::qemu10() }
    }

    /// A small unit as in a system on a chip: Sv39, contexts of the base format, wires.
    pub fn small() -> Self {
        Self {
            first_stage: 3,
            second_stage: 3,
            extended: false,
            interrupts: RiscvInterrupts::Wires,
            vectors_log2: 0,
            page_requests: false,
            pas_bits: 44,
            queue_log2: 10,
            ..Self::qemu10()
        }
    }

    /// `capabilities` (5.3).
    pub fn capabilities(&self) -> u64 {
        let interrupts = match self.interrupts {
            RiscvInterrupts::Messages => igs::MSI,
            RiscvInterrupts::Wires => igs::WSI,
            RiscvInterrupts::Both => igs::BOTH,
        };
        let flag = |on: bool| u64::from(on);
        capabilities::VERSION.of(portcullis_spec::riscv::VERSION_1_0)
            | capabilities::SV39.of(flag(self.first_stage >= 3))
            | capabilities::SV48.of(flag(self.first_stage >= 4))
            | capabilities::SV57.of(flag(self.first_stage >= 5))
            | capabilities::SV39X4.of(flag(self.second_stage >= 3))
            | capabilities::SV48X4.of(flag(self.second_stage >= 4))
            | capabilities::SV57X4.of(flag(self.second_stage >= 5))
            | capabilities::MSI_FLAT.of(flag(self.extended))
            | capabilities::ATS.of(flag(self.page_requests))
            | capabilities::IGS.of(interrupts)
            | capabilities::PAS.of(u64::from(self.pas_bits.min(56)))
    }

    /// Bytes of a device context.
    pub(super) fn context_bytes(&self) -> u64 {
        if self.extended { 64 } else { 32 }
    }

    /// Bits of a device id that a leaf directory resolves (2.1): 6 or 7.
    pub(super) fn leaf_bits(&self) -> u32 {
        if self.extended { 6 } else { 7 }
    }
}
