//! The hardware seam: what a hardware driver gives the core.
//!
//! Nothing here belongs to one family. An address space may be a table that hardware walks ([`TableSpace`]) or a channel of requests; streams are ids
//! with masks; formats are negotiated; invalidating is [submitting](IommuOps::submit) and [waiting](IommuOps::wait), so that several
//! instances work at the same time.

mod capabilities;
mod error;
mod fault;
mod instance;
mod space;

pub use capabilities::{
    Capabilities, FormatSupport, Formats, HardwareRegion, HardwareRegionKind, MsiDoorbell,
    SpaceFormat, SpaceRequest,
};
pub use error::{Awaited, Breakage, OpsError, SpaceError, Unsupported};
pub use fault::{AccessKind, Fault, FaultReason, GlobalErrors, ReportedFault, Serviced, Stage};
pub use instance::{IommuOps, ReadyInstance, SpaceTag, StreamTarget, Ticket};
pub use space::{AddressSpace, TableSpace};
