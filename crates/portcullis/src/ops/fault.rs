//! What hardware reports unasked: refused accesses, and errors of its own.

use crate::description::FwNode;
use crate::stream::Pasid;
use bitflags::bitflags;
use core::fmt;
use portcullis_addr::{Iova, StreamId};

/// Why hardware refused an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultReason {
    /// The stream has no usable configuration entry, or one that says "abort".
    StreamBlocked,
    /// A configuration entry or its fetch is bad: a driver bug or broken memory.
    BadConfiguration,
    /// Nothing is mapped at the address.
    Translation,
    /// The address is outside what tables can express.
    AddressSize,
    /// Mapped, but not for this kind of access.
    Permission,
    /// Mapped, but the access flag is clear.
    AccessFlag,
    /// A table walk or the access itself hit an external abort.
    ExternalAbort,
    /// Anything else; the raw record says more.
    Other,
}

impl fmt::Display for FaultReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StreamBlocked => "stream blocked",
            Self::BadConfiguration => "bad configuration entry",
            Self::Translation => "not mapped",
            Self::AddressSize => "address too wide",
            Self::Permission => "permission",
            Self::AccessFlag => "access flag",
            Self::ExternalAbort => "external abort",
            Self::Other => "other",
        })
    }
}

/// Which stage of translation refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Stage 1 (or the only one).
    One,
    /// Stage 2.
    Two,
}

/// The direction of an access, as the device sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessKind {
    /// The device read memory.
    Read,
    /// The device wrote memory.
    Write,
}

/// One access that hardware refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The id it came with.
    pub stream: StreamId,
    /// The PASID, where the access had one.
    pub pasid: Option<Pasid>,
    /// Why it was refused.
    pub reason: FaultReason,
    /// The address, where hardware recorded one.
    pub iova: Option<Iova>,
    /// Read or write, where hardware recorded it.
    pub access: Option<AccessKind>,
    /// The stage, where hardware recorded it.
    pub stage: Option<Stage>,
    /// Hardware's own record, as the document lays it out, for logs.
    pub raw: [u64; 4],
}

/// A fault together with where it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportedFault {
    /// The IOMMU that refused.
    pub iommu: FwNode,
    /// What it refused.
    pub fault: Fault,
}

bitflags! {
    /// Errors of an instance as a whole.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    #[doc(alias = "GERROR")]
    pub struct GlobalErrors: u16 {
        /// It could not read or carry out a command; its driver has repaired what could be repaired.
        const COMMAND = 1 << 0;
        /// It could not write a fault record: that fault is lost.
        const FAULT_RECORD = 1 << 1;
        /// It could not write a page request.
        const PAGE_REQUEST = 1 << 2;
        /// It could not send an interrupt of its own by message.
        const INTERRUPT = 1 << 3;
        /// It has stopped translating and aborts everything (SMMUv3: service failure mode).
        const SERVICE_FAILURE = 1 << 4;
        /// Its registers read as all ones.
        const GONE = 1 << 5;
        /// Anything else; the raw status says more.
        const OTHER = 1 << 6;
    }
}

/// What one look at an instance's interrupt sources found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "errors and overflows are told here and nowhere else"]
pub struct Serviced {
    /// Faults given to the sink.
    pub faults: usize,
    /// How often hardware said that it lost faults for want of room. It does not say how many each time.
    pub overflows: u32,
    /// Errors that were active; they have been acknowledged.
    pub errors: GlobalErrors,
    /// The raw status behind `errors`, for logs.
    pub status: u64,
    /// The budget ended before the faults did: call again.
    pub more: bool,
}

impl Serviced {
    /// Whether the instance had anything to say, so that a shared interrupt was its own.
    pub fn is_ours(&self) -> bool {
        *self != Self::default()
    }

    /// This and what an `earlier` look found, whose faults are delivered with this one's.
    pub(crate) fn after(self, earlier: Self) -> Self {
        Self {
            faults: self.faults + earlier.faults,
            overflows: self.overflows.saturating_add(earlier.overflows),
            errors: self.errors | earlier.errors,
            status: self.status | earlier.status,
            more: self.more,
        }
    }
}
