//! The core of the IOMMU subsystem: which device reaches which memory, decided once, before its driver can see it.
//!
//! Scope: the registry of IOMMU instances by firmware node, devices and their drivers, deferral, groups, domains, and the [`DmaHandle`] that a
//! driver's [`probe`](Driver::probe) receives. [`Subsystem`] is the entry point:
//!
//! 1. [`Subsystem::add_device`] takes a [`DeviceDescription`]. Devices that hardware cannot tell apart end up in one group.
//! 2. A hardware driver brings an IOMMU up completely and hands it to [`Subsystem::register`]. Nobody sees it before that.
//! 3. [`Subsystem::bind`] gives a device a driver. If an IOMMU in front of the device is not there yet, the device waits for exactly that one.
//! 4. Worker threads call [`Subsystem::run_deferred`], which tries the devices again whose IOMMU has arrived.
//!
//! # What can be relied on
//!
//! - A driver's `probe` runs only when its device's DMA path is final, and that path does not change while the driver is bound: the [`DmaHandle`] is an
//!   argument of `probe` and can be made only from a group whose domain is attached.
//! - A device that the description puts behind an IOMMU reaches memory through it or not at all. Every error ends *blocked*. Where hardware did not confirm that, the
//!   call returns [`Unconfirmed`], the report says [`Reach::Unknown`], and the memory that the device could reach stays in quarantine until
//!   [`Subsystem::reconfirm`] or a new bring-up settles the matter.
//! - Memory is *lent*: [`DmaHandle::map`] takes a buffer, and an unmap gives it back only after hardware has confirmed the invalidation; otherwise the buffer is
//!   quarantined. Safe code cannot map memory that it does not own ([`Lendable`]).
//! - Unbinding is a barrier: when [`Subsystem::unbind`] returns, no operation of the old driver's handles is in progress and nothing of that driver is mapped. A handle that somebody
//!   keeps is void, and pins neither a table nor an IOMMU. Addresses belong to one bind of one driver; nobody else can unmap them.
//! - A failed operation leaves every counter ([`Subsystem::counts`]) as it was before the call.
//!
//! # Example
//!
//! A device behind an IOMMU that has not come up yet waits for exactly that one. The front page of the crate `portcullis-iommu` and the README continue with an IOMMU that does come up.
//!
//! ```
//! use portcullis::{
//!     BindOutcome, BoundDriver, DeviceDescription, DmaHandle, DmaPath, Driver, FwNode, FwSpec, FwStream,
//!     Policy, ProbeContext, ProbeError, Subsystem,
//! };
//! use portcullis_addr::StreamId;
//! use portcullis_platform::Platform;
//! use portcullis_platform::host::{HostMemory, HostPlatform};
//! use std::sync::Arc;
//!
//! struct Nic;
//!
//! impl BoundDriver for Nic {}
//!
//! impl<P: Platform> Driver<P> for Nic {
//!     fn name(&self) -> &str {
//!         "nic"
//!     }
//!
//!     fn probe(&self, _: &ProbeContext<'_>, _dma: DmaHandle<P>) -> Result<Box<dyn BoundDriver>, ProbeError> {
//!         unreachable!("its IOMMU never comes in this example")
//!     }
//! }
//!
//! let platform = Arc::new(HostPlatform::new(Arc::new(HostMemory::default())));
//! let subsystem = Subsystem::new(platform, Policy::default());
//! let iommu = FwNode(3);
//! let spec = FwSpec { streams: vec![FwStream::new(iommu, StreamId::new(0x10))] };
//! let nic = subsystem.add_device(DeviceDescription::new("/soc/nic", DmaPath::Translated(spec)))?;
//! assert_eq!(subsystem.bind(&nic, Arc::new(Nic)), Ok(BindOutcome::Deferred(iommu)));
//! # Ok::<(), portcullis::AddDeviceError>(())
//! ```
//!
//! # What may be called where
//!
//! | | interrupt handler | thread that holds a spin lock | thread | inside a driver's `probe`, `remove`, `on_fault` |
//! | --- | --- | --- | --- | --- |
//! | [`InterruptHandle::collect`], [`InterruptHandle::service`] | yes | yes | yes | yes |
//! | [`RawEvent::notify_all`](portcullis_platform::RawEvent::notify_all), [`Subsystem::wake_workers`] | yes | yes | yes | yes |
//! | [`DmaHandle::map`], [`DmaHandle::unmap`], [`DmaHandle::doorbell`] | no: they wait for hardware | no | yes | yes |
//! | [`Subsystem::drain_faults`], [`Subsystem::run_deferred`] | no: they call drivers | no | yes | yes; its own device is left out |
//! | [`Subsystem::bind`], [`Subsystem::unbind`], [`Subsystem::remove_device`], [`Subsystem::register`], [`Subsystem::unregister`] | no | no | yes | yes, but for its own device the answer is `WithinCallback` |
//!
//! Whatever is not in the table belongs to threads that hold no spin lock.
//!
//! # Lock order
//!
//! `device` → `group` → `node` → the locks of a hardware driver; `topology`, `status`, `lease`, `work`, `quarantine` and `space` are leaves. The core waits for hardware under `device` and
//! `group` only. Interrupt handlers use an [`InterruptHandle`], which takes none of these.
//!
//! # Not supported
//!
//! PASIDs, nested domains, page requests, ATS, dirty tracking, suspend and resume; transfers between PCI functions. A mapping
//! that is not a whole number of pages exposes the rest of its first and last page to the device. Where the description says that the device is not trusted, such a mapping is
//! refused, and the driver uses a [`Bounce`].
//!
//! # Dependency rule
//!
//! Uses `addr`, `platform`, `pgtable` and `iova`, and from other authors a hash map, small vectors, a cell that is filled once, and flag sets. Knows no hardware and no firmware format. `no_std` + `alloc`; `unsafe` only in
//! `revocable`, `dma::lend` and `dma::bounce`, and in one line each of `space` and `ops`.
#![no_std]

extern crate alloc;

mod attachment;
mod callback;
mod deferred;
mod description;
mod device;
mod dma;
mod driver;
mod error;
mod faults;
mod flushes;
mod group;
mod hooks;
mod instance;
mod interrupt;
mod member;
mod neighbours;
mod node;
mod omit;
mod ops;
mod owner;
mod port;
mod probe;
mod quarantine;
mod rate;
mod reason;
mod regions;
mod registry;
mod report;
mod revocable;
mod segments;
mod space;
mod status;
mod stream;
mod stream_index;
mod subsystem;
mod topology;
mod waiters;
mod work;

pub use description::{
    DeviceDescription, DmaPath, DomainType, FwNode, FwSpec, FwStream, IsolationSet, ReservedKind,
    ReservedRegion,
};
pub use device::Device;
pub use dma::{
    Both, Bounce, BufferList, CpuView, DeviceReads, DeviceWrites, DmaBuffer, DmaDirection,
    DmaHandle, DmaMapping, DmaRun, FromDevice, Lendable, Lent, MapFailure, MemoryKind, NoBounce,
    NotRedeemed, NotTurned, Parked, Quarantined, RawMemory, Reach, Segment, ToDevice, UnmapFailure,
};
pub use driver::{BoundDriver, Driver, ProbeContext, ProbeError};
pub use error::{DmaError, Unconfirmed, WindowError};
pub use hooks::Safeguard;
pub use interrupt::InterruptHandle;
pub use member::DeviceId;
pub use node::{Blocking, NodeFailure, NodeState};
pub use ops::{
    AccessKind, AddressSpace, Awaited, Breakage, Capabilities, Fault, FaultReason, FormatSupport,
    Formats, GlobalErrors, HardwareRegion, HardwareRegionKind, IommuOps, MsiDoorbell, OpsError,
    ReadyInstance, ReportedFault, Serviced, SpaceError, SpaceFormat, SpaceRequest, SpaceTag, Stage,
    StreamTarget, TableSpace, Ticket, Unsupported,
};
pub use owner::OwnerError;
pub use probe::{BindError, BindOutcome};
pub use rate::RateLimit;
pub use reason::{BlockedReason, Callback, FailedReason, NotShared, SetUpError};
pub use regions::merge as merge_regions;
pub use registry::{ReconfirmError, RegisterError, UnregisterError};
pub use report::{Counts, DeviceReport};
pub use segments::SegmentLimits;
pub use status::DeviceStage;
pub use stream::{Pasid, StreamSpec};
pub use stream_index::{MOST_MASKS, StreamIndex};
pub use subsystem::{Policy, Subsystem};
pub use topology::AddDeviceError;
