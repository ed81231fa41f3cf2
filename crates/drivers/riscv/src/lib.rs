//! Driver for the RISC-V IOMMU: RISC-V IOMMU Architecture Specification 1.0 ("§" below is a section of it, numbered as `portcullis_spec::riscv` says). Platform devices and PCI functions alike: a function's
//! registers are those of its BAR 0.
//!
//! [`Iommu::bring_up`] takes a unit over in whatever state it is found, turns it off first, and returns an instance that serves: every device blocked by an empty device directory. The mode "bare", in which everything
//! passes, is left at once where it is found, and never entered. Through [`IommuOps`] the core then claims devices, names page tables, attaches, invalidates, and collects faults.
//!
//! - `identify`: capabilities to [`Features`], refusal of what this driver cannot drive.
//! - `probe`: take-over, enabling, stopping.
//! - `stream_table`, `context`: who is who: the device directory and address spaces.
//! - `entry`: changes of device contexts that hardware reads at the same time.
//! - `command_queue`, `invalidate`: commands, invalidations, recovery.
//! - `event_queue`, `interrupt`: the fault queue, errors of the queues.
//! - `hooks`: safeguards that a test can leave out.
//!
//! A blocked device's context is not valid, so each of its accesses is refused and recorded ("DDT entry not valid"). What firmware had set up is not looked at and not kept: its directory and its queues are turned
//! off before anything is installed.
//!
//! Every wait has a bound ([`REGISTER_BOUND`], [`FENCE_BOUND`]). The short locks `riscv.cq` and `riscv.fq`, which the interrupt takes too, and the long ones `iommu.streams` and `riscv.spaces` are never held while hardware is
//! waited for, and none is taken inside another. `riscv.restart` is held while a unit that does not answer is restarted; only [`forget_all`](IommuOps::forget_all) takes it.
//!
//! ```
//! use portcullis::IommuOps;
//! use portcullis_machine::{Machine, MachinePlatform, RiscvProfile};
//! use portcullis_platform::host::HostThreads;
//! use portcullis_riscv::{Iommu, Options};
//! use std::sync::Arc;
//!
//! let machine = Machine::builder().build();
//! let registers = machine.add_riscv(RiscvProfile::qemu10()).registers();
//! let platform = Arc::new(MachinePlatform::<HostThreads>::new(&machine));
//! let iommu = Iommu::bring_up(platform, registers, Options::default())?;
//! // It is ready to be handed to `Subsystem::register`; until a device is attached, each of its accesses is refused.
//! assert!(iommu.capabilities().id_bits >= 16);
//! # Ok::<(), portcullis_riscv::BringUpError>(())
//! ```
//!
//! # Not supported
//!
//! MSI page tables and memory-resident interrupt files (contexts say "off": a device's messages are translated like any other write, and [`MsiDoorbell::Translated`](portcullis::MsiDoorbell) says so; where its guest's
//! interrupt files should be reached, that is refused by there being no way to ask); process directories (PASID) and SVA; nested stages; ATS and page requests (their queue is turned off); flags
//! set by hardware; big endian; Sv32; Svpbmt; leaves of 64 KiB (Svnapot), which the document demands and QEMU 10's unit does not have; invalidation of ranges and of tables by address (the later extensions S and NL); the performance
//! monitor, debugging, quality of service; several interrupt vectors (all causes use vector 0); keeping devices that firmware left translated.
//!
//! Dependency rule: uses `addr`, `platform`, `spec`, `pgtable`, `driver-parts` and the interfaces of the core. Knows no other driver and no machine. `no_std` + `alloc`, no `unsafe`.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod command;
mod command_queue;
mod context;
mod entry;
mod error;
mod event_queue;
mod hooks;
mod identify;
mod interrupt;
mod invalidate;
mod ops;
mod probe;
mod stream_table;
mod unit;

pub use command_queue::FENCE_BOUND;
pub use error::{BringUpCause, BringUpError};
pub use hooks::Safeguard;
pub use identify::{Features, Interrupts};
pub use ops::Statistics;
pub use unit::REGISTER_BOUND;

use crate::command_queue::CommandQueue;
use crate::context::Spaces;
use crate::event_queue::EventQueue;
use crate::stream_table::DeviceDirectory;
use crate::unit::Unit;
use core::fmt;
#[cfg(doc)]
use portcullis::IommuOps;
use portcullis_driver_parts::Running;
use portcullis_platform::{Lock, Platform, Registers};

/// The `compatible` strings of the devicetree binding `iommu/riscv,iommu.yaml`: a platform device, and a PCI function.
pub const COMPATIBLE: &[&str] = &["riscv,iommu", "riscv,pci-iommu"];

/// Where the unit's own interrupts go as messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The address that is written, a multiple of 4.
    pub address: u64,
    /// What is written there.
    pub data: u32,
}

/// How a unit is to be driven: what its registers do not say.
#[derive(Clone, Debug)]
pub struct Options {
    /// Tells the locks of two units apart in reports.
    pub index: u64,
    /// What firmware says of coherency; no register does. `None` for "its accesses snoop", which is the devicetree's default on RISC-V.
    #[doc(alias = "dma-noncoherent")]
    pub coherent: Option<bool>,
    /// log2 of the command queue's entries, cut to what the unit offers.
    pub command_queue_log2: u8,
    /// log2 of the fault queue's entries, cut to what the unit offers.
    pub event_queue_log2: u8,
    /// Bits of a device id to use; the directory gets as few levels as that takes, of those that the unit offers.
    pub stream_id_bits: u8,
    /// Address spaces at the same time, at most 65,535.
    pub spaces: u32,
    /// Where the unit's own interrupts go as messages. Without it they come by wire where the unit has wires; where it has none, somebody must call [`service`](IommuOps::service) now and then.
    pub message: Option<Message>,
}

impl Default for Options {
    /// 256 commands and 128 faults (a page of 4 KiB each), everything else as the unit has it.
    fn default() -> Self {
        Self {
            index: 0,
            coherent: None,
            command_queue_log2: 8,
            event_queue_log2: 7,
            stream_id_bits: 24,
            spaces: u32::MAX,
            message: None,
        }
    }
}

/// One unit that serves.
///
/// Dropping it stops the unit; where the unit does not confirm that, everything that it may still read is leaked.
#[doc(alias = "riscv_iommu_device")]
pub struct Iommu<P: Platform, R: Registers> {
    unit: Unit<P, R>,
    index: u64,
    features: Features,
    coherent: bool,
    running: Running,
    commands: CommandQueue<P>,
    events: EventQueue<P>,
    directory: DeviceDirectory<P>,
    spaces: Spaces<P>,
    message: Option<Message>,
    /// Held by whoever takes the unit through a restart.
    restarting: Lock<P, ()>,
}

impl<P: Platform, R: Registers> Iommu<P, R> {
    /// What the unit can do.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// How its own interrupts come.
    pub fn interrupts(&self) -> Interrupts {
        self.features.choose_interrupts(self.message.is_some())
    }
}

impl<P: Platform, R: Registers> fmt::Debug for Iommu<P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iommu")
            .field("index", &self.index)
            .field("features", &self.features)
            .field("commands", &self.commands)
            .finish_non_exhaustive()
    }
}
