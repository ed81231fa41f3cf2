//! Driver for the AMD IOMMU (AMD-Vi): AMD I/O Virtualization Technology, document 48882, revision 3 ("§" below is a section of it, numbered as `portcullis_spec::amdvi` says).
//!
//! Such a unit lets a device pass untranslated wherever nobody said otherwise: while it is off, and where the device's entry is not valid (V = 0). So [`Iommu::bring_up`] fills a device table for *every* id with entries that
//! are valid and permit nothing, and only then shows it to the unit and enables it; from then on the unit is never turned off and no entry ever says V = 0, not even for a moment. Through [`IommuOps`] the core claims
//! devices, names page tables, attaches, invalidates, and collects faults.
//!
//! - `identify`: extended features to [`Features`], refusal of what this driver cannot drive.
//! - `probe`, `firmware`: take-over, enabling, stopping; what becomes of what firmware left.
//! - `stream_table`, `context`, `growth`: who is who: the device table, address spaces, tables that grow.
//! - `entry`: changes of device table entries that hardware reads at the same time.
//! - `command_queue`, `invalidate`: commands, invalidations, recovery.
//! - `event_queue`, `interrupt`: the event log, errors of the command queue.
//! - `hooks`: safeguards that a test can leave out.
//!
//! A unit that firmware or an earlier kernel left on stays on: its device table is replaced by one register write of 64 bits, and [`FirmwareTable`] says which of its devices go on until they are attached. Everything else about
//! it is turned off first, its exclusion range too, which would let devices pass by.
//!
//! **What a stopped unit keeps**: [`shutdown`](IommuOps::shutdown) blocks every device and turns the queues off, but leaves the unit on with its device table, because off would mean open. That table (2 MiB for 16 bits
//! of id) is never freed. The next bring-up replaces it.
//!
//! Every wait has a bound ([`REGISTER_BOUND`], [`COMPLETION_BOUND`]). The short locks `amdvi.cq` and `amdvi.ev`, which the interrupt takes too, and the long ones `iommu.streams` and `amdvi.spaces` are never held while hardware is
//! waited for. `amdvi.control` is taken inside the two short ones, and nothing inside it. `amdvi.restart` is held while a command queue that does not answer is restarted; only [`forget_all`](IommuOps::forget_all) takes it. `amdvi.growing` is held while
//! entries are led to a table's new root; who wants to change one of them meanwhile waits for it.
//!
//! Addresses beyond the 39 bits that a table begins with make it grow ([`Capabilities::formats`](portcullis::Capabilities) says how far): the map that needs it waits until the entries of all devices lead to the new root.
//!
//! ```
//! use portcullis::IommuOps;
//! use portcullis_machine::{Machine, MachinePlatform, AmdViProfile};
//! use portcullis_platform::host::HostThreads;
//! use portcullis_amdvi::{Iommu, Options};
//! use std::sync::Arc;
//!
//! let machine = Machine::builder().build();
//! let registers = machine.add_amdvi(AmdViProfile::qemu10()).registers();
//! let platform = Arc::new(MachinePlatform::<HostThreads>::new(&machine));
//! let iommu = Iommu::bring_up(platform, registers, Options::default())?;
//! // It is ready to be handed to `Subsystem::register`; until a device is attached, each of its accesses is refused.
//! assert_eq!(iommu.capabilities().id_bits, 16);
//! # Ok::<(), portcullis_amdvi::BringUpError>(())
//! ```
//!
//! # Not supported
//!
//! Guest (v2) tables, PASID, SVA and nested translation, also where the unit has them (`GTSup`); interrupt remapping (entries say IV = 0: a device's interrupts pass unchanged to the doorbell window, which is never translated, so a device
//! can raise any interrupt); ATS and page requests (turned off); accessed and dirty flags set by hardware; the guest virtual APIC; secure nested paging; MARC; dual logs; performance counters; the attributes of a unit's own requests
//! that an IVHD block asks for (HtTunEn, PassPW, ResPassPW, Isoc: kept as found). A platform whose [`Registers::write64`] is two accesses cannot take over a unit that is on without a moment in which the table's
//! address is half old and half new.
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
mod firmware;
mod growth;
mod hooks;
mod identify;
mod interrupt;
mod invalidate;
mod ops;
mod probe;
mod stream_table;
mod unit;

pub use command_queue::COMPLETION_BOUND;
pub use error::{BringUpCause, BringUpError};
pub use firmware::{Fate, FirmwareStream, FirmwareTable, FoundTable, WhyBlocked};
pub use hooks::Safeguard;
pub use identify::Features;
pub use ops::Statistics;
pub use unit::REGISTER_BOUND;

use crate::command_queue::CommandQueue;
use crate::context::Spaces;
use crate::event_queue::EventLog;
use crate::stream_table::DeviceTable;
use crate::unit::Unit;
use alloc::vec::Vec;
use core::fmt;
#[cfg(doc)]
use portcullis::IommuOps;
use portcullis_driver_parts::Running;
use portcullis_platform::{Lock, Platform, Registers};

/// What `portcullis_firmware` calls a unit that an IVRS table describes.
pub const COMPATIBLE: &[&str] = &["amd,iommu"];

/// How a unit is to be driven: what its registers do not say.
#[derive(Clone, Debug)]
pub struct Options {
    /// Tells the locks of two units apart in reports.
    pub index: u64,
    /// Whether the unit's own accesses snoop, as the IVHD block says (flag `Coherent`). `None` for "they do".
    pub coherent: Option<bool>,
    /// log2 of the command queue's entries, 8 to 15.
    pub command_queue_log2: u8,
    /// log2 of the event log's entries, 8 to 15.
    pub event_queue_log2: u8,
    /// Bits of a device id: 16, unless it is certain that no larger id exists, because beyond its table a unit is not known to block. At least 7 are used.
    pub stream_id_bits: u8,
    /// Address spaces at the same time, at most 65,534.
    pub spaces: u32,
    /// Bits of a physical address, as the unit's PCI capability says (`PAsize`); at most 52.
    pub output_bits: u8,
    /// Whether the unit may hold "not present", as its PCI capability says (`NpCache`): each map owes an invalidation then.
    pub caches_absence: bool,
    /// What becomes of devices that firmware left translated.
    pub firmware_table: FirmwareTable,
}

impl Default for Options {
    /// 256 commands and 256 events (a page of 4 KiB each), all ids, everything blocked.
    fn default() -> Self {
        Self {
            index: 0,
            coherent: None,
            command_queue_log2: 8,
            event_queue_log2: 8,
            stream_id_bits: 16,
            spaces: u32::MAX,
            output_bits: 52,
            caches_absence: false,
            firmware_table: FirmwareTable::Block,
        }
    }
}

/// One unit that serves.
///
/// Dropping it stops the unit as [`shutdown`](IommuOps::shutdown) does; where the unit does not confirm that, everything that it may still read is leaked.
#[doc(alias = "amd_iommu")]
pub struct Iommu<P: Platform, R: Registers> {
    unit: Unit<P, R>,
    index: u64,
    features: Features,
    coherent: bool,
    caches_absence: bool,
    output_bits: u8,
    /// Whether the queues are on.
    running: Running,
    /// Whether the unit was shown the device table.
    shown: Running,
    commands: CommandQueue<P>,
    events: EventLog<P>,
    devices: DeviceTable<P>,
    spaces: Spaces<P>,
    firmware: Vec<FirmwareStream>,
    /// Held by whoever takes the command queue through a restart.
    restarting: Lock<P, ()>,
    /// Held by whoever leads the entries of other threads' devices to a root that has grown.
    growing: Lock<P, ()>,
}

impl<P: Platform, R: Registers> Iommu<P, R> {
    /// What the unit can do.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// In how many pieces the device table is allocated, and how many bytes these are: what stays allocated when the unit is stopped.
    pub fn device_table_memory(&self) -> (usize, u64) {
        self.devices.memory()
    }

    /// The devices of [`FirmwareTable::Keep`], and what became of each.
    pub fn firmware_streams(&self) -> &[FirmwareStream] {
        &self.firmware
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
