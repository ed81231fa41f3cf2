//! The core of the IOMMU subsystem: which device reaches which memory, decided once, before its driver can see it.
//!
//! Scope: the registry of IOMMU instances by firmware node, devices and their drivers, deferral, groups, domains, and the [`DmaHandle`] that a
//! driver's [`probe`](Driver::probe) receives. [`Subsystem`] is the entry point:
//!
//! 1. [`Subsystem::add_device`] takes a [`DeviceDescription`]; devices that hardware cannot tell apart land in one group.
//! 2. A hardware driver brings an IOMMU up completely and hands it to [`Subsystem::register`]; only then does anybody see it.
//! 3. [`Subsystem::bind`] gives a device a driver. If an IOMMU in front of the device is not there yet, the device waits for exactly that one.
//! 4. Worker threads call [`Subsystem::run_deferred`] to retry what became ready.
//!
//! # What can be relied on
//!
//! - A driver's `probe` runs only when its device's DMA path is final, and the path does not change while it is bound: the [`DmaHandle`] is an
//!   argument of `probe` and can be made only from a group whose domain is attached.
//! - A device that the description puts behind an IOMMU reaches memory through it or not at all. Every error ends *blocked*; where hardware did not confirm that, the
//!   call says [`Unconfirmed`], the report says [`Reach::Unknown`], and what the device reached stays in quarantine until
//!   [`Subsystem::reconfirm`] or a new bring-up settles it.
//! - Memory is *lent*: [`DmaHandle::map`] takes a buffer, and the buffer comes back from an unmap only when hardware confirmed the invalidation; otherwise it is
//!   quarantined. Safe code cannot map memory that it does not own ([`Lendable`]).
//! - Unbinding is a barrier: when [`Subsystem::unbind`] returns, no operation of the old driver's handles is under way, nothing of it is mapped, and a handle that somebody
//!   keeps is void and pins neither table nor IOMMU. Addresses belong to one bind of one driver; nobody else can unmap them.
//! - A failed operation leaves every counter ([`Subsystem::counts`]) as before it.
//!
//! # Example
//!
//! A device behind an IOMMU that has not come up yet waits for exactly that one; how it goes on with a real IOMMU stands in the crate `portcullis-iommu` and in the README.
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
//! # Lock order
//!
//! `device` → `group` → `node` → the locks of a hardware driver; `topology`, `status`, `lease`, `work`, `quarantine` and `space` are leaves. Hardware is waited for under `device` and
//! `group` only. Interrupt handlers use an [`InterruptHandle`], which takes none of these.
//!
//! # Not supported
//!
//! PASIDs, nested domains, page requests, ATS, dirty tracking, suspend and resume; transfers between PCI functions. A mapping
//! that is not a whole number of pages exposes the rest of its first and last page to the device, unless the description says that the device is not trusted: such a mapping is
//! refused then, and the driver uses a [`Bounce`].
//!
//! # Dependency rule
//!
//! Uses `addr`, `platform`, `pgtable`, `iova`, a hash map, small vectors, a place that is filled once, and flag sets. Knows no hardware and no firmware format. `no_std` + `alloc`; `unsafe` only in
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
