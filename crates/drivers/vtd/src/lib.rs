//! Driver for Intel VT-d: Virtualization Technology for Directed I/O, architecture specification 4.1 (D51397; "§" below is a section of it, cited as `portcullis_spec::vtd` says).
//!
//! [`Iommu::bring_up`] takes a unit over in whatever state it is found and returns an instance that serves: every device blocked by an empty root table. A unit that translates is never turned off, because one that is off lets
//! everything pass: its root table is exchanged while it goes on. Through [`IommuOps`] the core then claims devices, names page tables, attaches, invalidates, and collects faults.
//!
//! Both modes are driven. In *legacy* mode a context entry leads each device to a second stage of three to five levels. In *scalable* mode, which is used where it is offered, it leads to a PASID directory and table of the device's own, of
//! which entry 0 stands for requests without a PASID and leads to a first or a second stage.
//!
//! - `identify`: capabilities to [`Features`], the choice of the mode, refusal of what this driver cannot drive.
//! - `probe`: take-over, enabling, stopping.
//! - `stream_table`, `context`: who is who: root table, context tables, PASID tables, and address spaces.
//! - `entry`: context and PASID entries.
//! - `command_queue`, `command`, `invalidate`: descriptors, invalidations, recovery.
//! - `event_queue`, `interrupt`: fault recording registers, errors of the queue.
//! - `hooks`: safeguards that a test can leave out.
//!
//! A blocked device's entry is not present, so each of its accesses is refused and recorded. What firmware had set up is not looked at and not kept ([`FirmwareTranslation::Block`]); devices that must go on while the
//! kernel boots have their regions in the description (RMRR), and are attached with these mapped. Between the take-over and that, they are blocked.
//!
//! Hardware that caches what is not present (caching mode) and hardware with write buffers is told of every change, also of those that other hardware would see by itself.
//!
//! **A stopped unit blocks.** Where it has abort-dma mode, it is left in that, and nothing is kept. Otherwise it is left on with its own root table, in which nothing is present: off would mean open. That page is never freed ([`Iommu::root_table_memory`]), and the next bring-up replaces it; AMD's driver does the same with its device table.
//!
//! Every wait has a bound ([`REGISTER_BOUND`], [`WAIT_BOUND`]). The short locks `vtd.iq` and `vtd.faults`, which the interrupt takes too, and the long ones `iommu.streams` and `iommu.spaces` are never held while hardware is
//! waited for, and none is taken inside another. `vtd.restart` is held while a unit that does not answer is restarted, which only [`forget_all`](IommuOps::forget_all) does, and `vtd.gcmd` while a global command takes effect.
//!
//! ```
//! use portcullis::IommuOps;
//! use portcullis_machine::{Machine, MachinePlatform, VtdProfile};
//! use portcullis_platform::host::HostThreads;
//! use portcullis_vtd::{Iommu, Options};
//! use std::sync::Arc;
//!
//! let machine = Machine::builder().build();
//! let registers = machine.add_vtd(VtdProfile::qemu10()).registers();
//! let platform = Arc::new(MachinePlatform::<HostThreads>::new(&machine));
//! let iommu = Iommu::bring_up(platform, registers, Options::default())?;
//! // It is ready to be handed to `Subsystem::register`; until a device is attached, each of its accesses is refused.
//! assert_eq!(iommu.capabilities().id_bits, 16);
//! # Ok::<(), portcullis_vtd::BringUpError>(())
//! ```
//!
//! # Not supported
//!
//! Units without queued invalidation; interrupt remapping (its enable bit is left as it is found: without it, whoever can make a device write to `0xfee00000` and above can raise any interrupt); device TLBs (ATS) and page requests; requests with a
//! PASID and SVA; nested stages; accessed and dirty flags that hardware sets; keeping what firmware left translated ([`FirmwareTranslation::Copy`] is refused); the advanced fault log; posted interrupts; performance monitoring; virtual and
//! enhanced commands; extended root and context entries of revisions before 3.0 (a unit that is found in that mode is refused, unless it has abort-dma mode).
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

pub use command_queue::WAIT_BOUND;
pub use error::{BringUpCause, BringUpError};
pub use hooks::Safeguard;
pub use identify::{Features, Mode};
pub use interrupt::Interrupts;
pub use ops::Statistics;
pub use unit::REGISTER_BOUND;

use crate::command_queue::CommandQueue;
use crate::context::Spaces;
use crate::event_queue::FaultRegisters;
use crate::stream_table::RootTable;
use crate::unit::Unit;
use core::fmt;
#[cfg(doc)]
use portcullis::IommuOps;
use portcullis_driver_parts::Running;
use portcullis_platform::{Lock, Platform, Registers};

/// What firmware calls units that this driver serves: the word that the reader of DMAR tables gives them.
pub const COMPATIBLE: &[&str] = &["intel,vt-d"];

/// Where the unit's own interrupts go as messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The address that is written, a multiple of 4.
    pub address: u64,
    /// What is written there.
    pub data: u32,
}

/// What becomes of translation that is found enabled, by firmware or an earlier kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FirmwareTranslation {
    /// It ends: every device is blocked until it is attached.
    #[default]
    Block,
    /// It goes on by a copy of the tables until a device is attached (what Linux does in a crash kernel). Not supported: such a unit is refused and left as it is.
    Copy,
}

/// How a unit is to be driven: what its registers do not say.
#[derive(Clone, Debug)]
pub struct Options {
    /// Tells the locks of two units apart in reports.
    pub index: u64,
    /// log2 of the queue's descriptors, raised to a page of 4 KiB and cut to 128 of them.
    pub command_queue_log2: u8,
    /// Address spaces at the same time, besides the unit's own limit.
    pub spaces: u32,
    /// Bits of a physical address: DMAR's "host address width", 52 at most.
    pub address_bits: u8,
    /// Use scalable mode where it is offered.
    pub scalable: bool,
    /// What becomes of translation that is found enabled.
    pub firmware: FirmwareTranslation,
    /// Where the unit's own interrupts go as messages. Without it somebody must call [`service`](IommuOps::service) now and then.
    pub message: Option<Message>,
}

impl Default for Options {
    /// A page of descriptors, both modes, addresses of 52 bits.
    fn default() -> Self {
        Self {
            index: 0,
            command_queue_log2: 8,
            spaces: u32::MAX,
            address_bits: 52,
            scalable: true,
            firmware: FirmwareTranslation::Block,
            message: None,
        }
    }
}

/// One unit that serves.
///
/// Dropping it stops the unit; where the unit does not confirm that, everything that it may still read is leaked.
#[doc(alias = "intel_iommu")]
pub struct Iommu<P: Platform, R: Registers> {
    unit: Unit<P, R>,
    index: u64,
    features: Features,
    running: Running,
    commands: CommandQueue<P>,
    faults: FaultRegisters<P>,
    root: RootTable<P>,
    spaces: Spaces<P>,
    message: Option<Message>,
    /// Held by whoever takes the unit through a restart.
    restarting: Lock<P, ()>,
}

impl<P: Platform, R: Registers> Iommu<P, R> {
    /// In how many pieces is what stays allocated when the unit is stopped, and how many bytes these have: its root table, or nothing where it has abort-dma mode.
    pub fn root_table_memory(&self) -> (usize, u64) {
        if self.features.abort_mode { (0, 0) } else { (1, stream_table::TABLE_BYTES as u64) }
    }

    /// What the unit can do, and in which mode it works.
    pub fn features(&self) -> &Features {
        &self.features
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
