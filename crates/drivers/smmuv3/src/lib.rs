//! Driver for Arm's System MMU version 3: Arm IHI 0070, revision G.a ("§" below is a section of it). Non-secure interface.
//!
//! [`Smmu::bring_up`] takes a unit over in whatever state it is found, blocks all streams first, and returns an instance that serves: tables installed, every
//! stream aborting. Through [`IommuOps`] the core then claims streams, names page tables, attaches, invalidates, and collects faults.
//!
//! - `identify`: id registers to [`Features`], refusal of what this driver cannot drive.
//! - `errata`: what is known to be broken about which implementation.
//! - `probe`: reset, take-over, enabling, stopping.
//! - `stream_table`, `context`: who is who: streams and address spaces.
//! - `entry`: changes of entries that hardware reads at the same time.
//! - `command_queue`, `invalidate`: commands, invalidations, recovery.
//! - `event_queue`, `interrupt`: faults, global errors.
//!
//! Every wait has a bound ([`REGISTER_BOUND`], [`SYNC_BOUND`]). The short locks `smmu.cmdq` and `smmu.eventq`, which the interrupt takes too, and the long ones
//! `iommu.streams` and `smmu.asids` are never held while hardware is waited for, and none is taken inside another. `smmu.restart` is held while a unit that does not answer is
//! restarted; only [`forget_all`](IommuOps::forget_all) takes it.
//!
//! `docs/broken-smmuv3.md` lists what happens on broken hardware, case by case.
//!
//! ```
//! use portcullis::IommuOps;
//! use portcullis_machine::{Machine, MachinePlatform, Profile};
//! use portcullis_platform::host::HostThreads;
//! use portcullis_smmuv3::{Options, Smmu};
//! use std::sync::Arc;
//!
//! let machine = Machine::builder().build();
//! let registers = machine.add_smmuv3(Profile::qemu10()).registers();
//! let platform = Arc::new(MachinePlatform::<HostThreads>::new(&machine));
//! let smmu = Smmu::bring_up(platform, registers, Options::default())?;
//! // It is ready to be handed to `Subsystem::register`; until a device is attached, everything aborts.
//! assert!(smmu.capabilities().range_invalidation);
//! # Ok::<(), portcullis_smmuv3::BringUpError>(())
//! ```
//!
//! # Not supported
//!
//! Secure, Realm and Root interfaces; big-endian or VMSAv8-32 tables; preset tables and queues; units that can only stall on faults (the stall model
//! is otherwise off); addresses above 48 bits; substreams (PASID) and SVA; nested stages; ATS, PRI; dirty and access flag updates by hardware; broadcast TLB
//! maintenance (`CR2.PTM` is set); MSIs and CMD_SYNC completion by message (interrupts are wired); enhanced command queues; MPAM; more than 2^25
//! stream ids with a two-level stream table, 2^16 with a linear one (those beyond are refused here and aborted by hardware); units with all registers in one
//! page (Cavium CN99xx).
//!
//! Dependency rule: uses `addr`, `platform`, `spec`, `pgtable` and the interfaces of the core. Knows no other driver and no machine. `no_std` + `alloc`, no `unsafe`.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod command;
mod command_queue;
mod context;
mod entry;
mod errata;
mod error;
mod event_queue;
mod identify;
mod interrupt;
mod invalidate;
mod ops;
mod probe;
mod stream_table;
mod unit;

pub use command_queue::SYNC_BOUND;
pub use errata::{Consequence, Erratum, Implementation};
pub use error::{BringUpCause, BringUpError};
pub use identify::Features;
pub use ops::Statistics;
pub use unit::REGISTER_BOUND;

use crate::command_queue::CommandQueue;
use crate::context::Spaces;
use crate::event_queue::EventQueue;
use crate::stream_table::StreamTable;
use crate::unit::Unit;
use core::fmt;
#[cfg(doc)]
use portcullis::IommuOps;
use portcullis_driver_parts::Running;
use portcullis_platform::{Lock, Platform, Registers};

/// How a unit is to be driven: what its registers do not say.
#[derive(Clone, Debug)]
pub struct Options {
    /// Tells the locks of two units apart in reports.
    pub index: u64,
    /// What firmware says of coherency; overrides `IDR0.COHACC`.
    #[doc(alias = "dma-coherent")]
    pub coherent: Option<bool>,
    /// log2 of the command queue's entries, cut to what the unit offers.
    pub command_queue_log2: u8,
    /// log2 of the event queue's entries, cut to what the unit offers.
    pub event_queue_log2: u8,
    /// Stream id bits to use, cut to what the unit offers.
    pub stream_id_bits: u8,
    /// Address spaces at the same time, cut to what the unit offers.
    pub spaces: u32,
}

impl Default for Options {
    /// 256 commands and 512 events (one and four pages of 4 KiB), everything else as the unit has it.
    fn default() -> Self {
        Self {
            index: 0,
            coherent: None,
            command_queue_log2: 8,
            event_queue_log2: 9,
            stream_id_bits: 32,
            spaces: u32::MAX,
        }
    }
}

/// One unit that serves.
///
/// Dropping it stops the unit; where the unit does not confirm that, everything that it may still read is leaked.
#[doc(alias = "arm_smmu_device")]
pub struct Smmu<P: Platform, R: Registers> {
    unit: Unit<P, R>,
    index: u64,
    features: Features,
    coherent: bool,
    running: Running,
    commands: CommandQueue<P>,
    events: EventQueue<P>,
    streams: StreamTable<P>,
    spaces: Spaces<P>,
    /// Held by whoever takes the unit through a restart.
    restarting: Lock<P, ()>,
}

impl<P: Platform, R: Registers> Smmu<P, R> {
    /// What the unit can do.
    pub fn features(&self) -> &Features {
        &self.features
    }
}

impl<P: Platform, R: Registers> fmt::Debug for Smmu<P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Smmu")
            .field("index", &self.index)
            .field("features", &self.features)
            .field("commands", &self.commands)
            .finish_non_exhaustive()
    }
}
