//! Driver for the virtio-iommu: OASIS Virtual I/O Device 1.3 ("§" below is a section of it; §5.13 is the virtio-iommu), over virtio-mmio and over virtio-pci.
//!
//! [`Iommu::bring_up`] resets a device in whatever state it is found, agrees on features, **closes its bypass**, and returns an instance that serves: every endpoint blocked because it is attached to nothing. Through
//! [`IommuOps`] the core then claims endpoints, names address spaces, attaches, maps and unmaps by requests, and collects faults.
//!
//! - `unit`: the registers of both transports.
//! - `identify`: features and configuration; the bypass.
//! - `probe`: take-over, starting, starting again, stopping.
//! - `command`, `command_queue`: requests, their queue, their answers in any order.
//! - `context`: address spaces: domains, what is mapped in them, and what is requested again.
//! - `properties`: what the device says of an endpoint: reserved ranges, windows of messages.
//! - `event_queue`, `interrupt`: refused accesses; a device that cannot go on.
//! - `hooks`: safeguards that a test can leave out.
//!
//! # What is and is not given of boot bypass
//!
//! Out of reset a device lets every endpoint reach all memory, unless the hypervisor was told otherwise (QEMU: `boot-bypass=off`). Until its driver runs nobody can change that, and P2 is not given. With
//! `VIRTIO_IOMMU_F_BYPASS_CONFIG` the driver writes 0 to the field `bypass` before it does anything else, and reads it back; from then on what is attached to nothing is blocked, also while the device is reset. A
//! device without that feature blocks from the moment on at which it is started without `VIRTIO_IOMMU_F_BYPASS`; for its resets (a restart, the end) nobody says what endpoints reach, so a bring-up that fails leaves that
//! [unknown](portcullis::Blocking::Unknown), and stopping it is never confirmed.
//!
//! # Requests
//!
//! An UNMAP is placed when the core unmaps and told to the device when the core asks for confirmation, so any number of them costs one notification. MAPs are told at once, those of a list together, and waited for: a device may refuse one. Endpoints are
//! attached in one run, and what was mapped before that is requested in another. Every wait has a bound ([`RESET_BOUND`], [`ANSWER_BOUND`]). After a wait that was in vain nothing is placed any more until the device has answered the oldest request, because answers
//! come in any order and an UNMAP must not overtake its MAP; [`forget_all`](IommuOps::forget_all) resets a device that never answers and requests everything again. A device that refuses an UNMAP is not believed in what it unmapped until it was reset.
//!
//! The short locks `virtio.requests` and `virtio.events` are never held while the device is waited for. A space's own lock (`virtio.space`) is held while its endpoints are attached and, where the queue is full, until there is room.
//!
//! ```
//! use portcullis::IommuOps;
//! use portcullis_machine::{Machine, MachinePlatform, VirtioProfile};
//! use portcullis_platform::host::HostThreads;
//! use portcullis_virtio_iommu::{Iommu, Options, Transport};
//! use std::sync::Arc;
//!
//! let machine = Machine::builder().build();
//! let registers = machine.add_virtio(VirtioProfile::qemu10()).registers();
//! let platform = Arc::new(MachinePlatform::<HostThreads>::new(&machine));
//! let iommu = Iommu::bring_up(platform, registers, Transport::Mmio, Options::default())?;
//! // It is ready to be handed to `Subsystem::register`; an endpoint that is attached to nothing is blocked.
//! assert!(iommu.capabilities().id_bits >= 16);
//! # Ok::<(), portcullis_virtio_iommu::BringUpError>(())
//! ```
//!
//! # Not supported
//!
//! Legacy devices; virtio-pci devices whose register blocks are in several BARs; packed queues, indirect descriptors and event indexes; PASID; page tables of the guest's own (`ATTACH_TABLE` is a draft); changing what a mapping allows (`turn` answers that it
//! is not supported: the buffer must be mapped again); page faults that can be answered. What is mapped is kept in a tree, whose nodes are allocated when a mapping begins one.
//!
//! Why not the queue and the transports of the crate `virtio-drivers`: its `Hal` has no `self`, so two platforms in one process (or one under the explorer) cannot each have theirs; its queue waits without a bound; and its PCI transport needs registers
//! that are mapped, which QEMU's over a socket are not.
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
mod error;
mod event_queue;
mod hooks;
mod identify;
mod interrupt;
mod ops;
mod probe;
mod properties;
mod unit;

pub use command_queue::ANSWER_BOUND;
pub use error::{BringUpCause, BringUpError};
pub use hooks::Safeguard;
pub use identify::Features;
pub use ops::Statistics;
pub use unit::{PciLayout, RESET_BOUND, Transport};

use crate::command_queue::CommandQueue;
use crate::context::Spaces;
use crate::event_queue::EventQueue;
use crate::properties::ProbeBuffer;
use crate::unit::Unit;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::fmt;
#[cfg(doc)]
use portcullis::IommuOps;
use portcullis::SpaceTag;
use portcullis_driver_parts::{Claims, Running};
use portcullis_platform::{Lock, Platform, Registers};

/// What firmware calls such devices: devicetree's `virtio,mmio` (whose `DeviceID` says which kind it is) and `virtio,pci-iommu`, and the PCI id of one.
pub const COMPATIBLE: &[&str] = &["virtio,mmio", "virtio,pci-iommu", "pci1af4,1057"];

/// How a device is to be driven: what its registers do not say.
#[derive(Clone, Debug)]
pub struct Options {
    /// Tells the locks of two devices apart in reports.
    pub index: u64,
    /// What firmware says of coherency; `None` for "its accesses snoop", as every hypervisor's do.
    #[doc(alias = "dma-coherent")]
    pub coherent: Option<bool>,
    /// log2 of the requests at the same time, at most 6, cut to what the device offers.
    pub command_queue_log2: u8,
    /// log2 of the buffers for events, at most 10, cut to what the device offers.
    pub event_queue_log2: u8,
    /// Address spaces at the same time, at most 65,535, cut to the device's domains.
    pub spaces: u32,
}

impl Default for Options {
    /// 64 requests and 256 events, because one access of a device may be many records (QEMU: one for each four bytes); as many spaces as there are domains.
    fn default() -> Self {
        Self {
            index: 0,
            coherent: None,
            command_queue_log2: 6,
            event_queue_log2: 8,
            spaces: u32::MAX,
        }
    }
}

/// The part of a device that its address spaces need, too.
pub(crate) struct Device<P: Platform, R: Registers> {
    unit: Unit<P, R>,
    features: Features,
    commands: CommandQueue<P>,
    running: Running,
}

/// Where an endpoint is attached, or may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Space(SpaceTag),
    Identity,
}

/// One device that serves.
///
/// Dropping it resets the device; where the device does not confirm that, everything that it may still read is leaked.
#[doc(alias = "viommu_dev")]
pub struct Iommu<P: Platform, R: Registers> {
    device: Arc<Device<P, R>>,
    index: u64,
    events: EventQueue<P>,
    probe: ProbeBuffer<P>,
    claims: Claims<P, ()>,
    spaces: Spaces<P, R>,
    /// The endpoints that are, or may be, attached.
    endpoints: Lock<P, BTreeMap<u32, Place>>,
    /// Held by whoever takes the device through a restart.
    restarting: Lock<P, ()>,
}

impl<P: Platform, R: Registers> Iommu<P, R> {
    /// What the device can do.
    pub fn features(&self) -> &Features {
        &self.device.features
    }

    /// How many requests can be on their way at the same time.
    pub fn request_slots(&self) -> u64 {
        self.device.commands.slots()
    }
}

impl<P: Platform, R: Registers> fmt::Debug for Iommu<P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iommu")
            .field("index", &self.index)
            .field("features", self.features())
            .finish_non_exhaustive()
    }
}
