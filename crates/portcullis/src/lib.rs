//! The core of the IOMMU subsystem.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod description;
mod ops;

pub use description::{
    DeviceDescription, DmaPath, DomainType, FwNode, FwSpec, FwStream, ReservedKind, ReservedRegion,
};
pub use ops::{
    AccessKind, Capabilities, Fault, FaultReason, IommuOps, OpsError, ReadyInstance, ReportedFault,
    SpaceRequest, SpaceTag, Stage, StreamTarget,
};
