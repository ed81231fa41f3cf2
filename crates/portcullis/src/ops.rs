//! What a hardware driver gives the core.

use crate::description::FwNode;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use portcullis_addr::{Iova, PageSizes, StreamId};
use portcullis_pgtable::{IotlbGather, PageTable};
use portcullis_platform::{AllocError, Timeout};

/// What an instance can do, read from its id registers once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "iommu_capable")]
pub struct Capabilities {
    /// Leaf sizes its tables can use.
    pub page_sizes: PageSizes,
    /// Width of input addresses in bits.
    pub input_bits: u8,
    /// Width of output addresses in bits.
    pub output_bits: u8,
    /// Width of stream ids in bits.
    pub stream_id_bits: u8,
    /// Whether table walks snoop the CPU's caches.
    pub coherent_walk: bool,
    /// Whether it can pass addresses through unchanged ([`StreamTarget::Identity`]).
    pub identity: bool,
}

/// What a new address space must satisfy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceRequest {
    /// At most these leaf sizes.
    pub page_sizes: PageSizes,
    /// At most this width of input addresses, in bits.
    pub input_bits: u8,
    /// At most this width of output addresses, in bits.
    pub output_bits: u8,
    /// Whether every walker that will read the table snoops the CPU's caches.
    pub coherent_walk: bool,
}

/// An instance's own name for an address space it has been told of (Arm: an ASID or VMID with its context descriptor).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpaceTag(pub u32);

/// Where an instance sends the transactions of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamTarget {
    /// Nowhere: refused and reported.
    Blocked,
    /// To the same address.
    Identity,
    /// Through the address space with that tag.
    Space(SpaceTag),
}

/// Why an instance could not do what the core asked. The instance's state is as before, except where said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpsError {
    /// The id does not fit the instance.
    StreamOutOfRange {
        /// The id.
        id: StreamId,
        /// The instance's width of ids in bits.
        bits: u8,
    },
    /// Another device, outside the group, has claimed the id.
    StreamInUse {
        /// The id.
        id: StreamId,
    },
    /// The stream was never claimed.
    UnknownStream {
        /// The id.
        id: StreamId,
    },
    /// The tag is not, or no longer, in use.
    UnknownSpace {
        /// The tag.
        tag: SpaceTag,
    },
    /// The table's format, granule or width is not one that the instance can walk.
    IncompatibleTable,
    /// The instance cannot do this at all.
    Unsupported {
        /// What was asked for.
        what: &'static str,
    },
    /// All tags are in use.
    OutOfTags,
    /// No memory.
    NoMemory(AllocError),
    /// Hardware did not confirm in time. What it holds is unknown: frames under it must be quarantined.
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// The bound that passed.
        timeout: Timeout,
    },
    /// Hardware reported an error of its own, or reads as all ones (gone). As for `Timeout`, nothing is confirmed.
    Hardware {
        /// What it reported.
        what: &'static str,
        /// The raw status it came with.
        status: u64,
    },
}

impl fmt::Display for OpsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StreamOutOfRange { id, bits } => {
                write!(f, "stream {id} is beyond the IOMMU's {bits} id bits")
            }
            Self::StreamInUse { id } => write!(f, "stream {id} belongs to another device"),
            Self::UnknownStream { id } => write!(f, "stream {id} was never claimed"),
            Self::UnknownSpace { tag } => write!(f, "address space {} is not in use", tag.0),
            Self::IncompatibleTable => f.write_str("the IOMMU cannot walk this table"),
            Self::Unsupported { what } => write!(f, "the IOMMU does not support {what}"),
            Self::OutOfTags => f.write_str("all address space tags are in use"),
            Self::NoMemory(error) => write!(f, "{error}"),
            Self::Timeout { what, timeout } => write!(f, "{what}: {timeout}"),
            Self::Hardware { what, status } => write!(f, "{what} (status {status:#x})"),
        }
    }
}

impl core::error::Error for OpsError {}

impl From<AllocError> for OpsError {
    fn from(error: AllocError) -> Self {
        Self::NoMemory(error)
    }
}

impl OpsError {
    /// Whether the request may have reached hardware without being confirmed, so that frames must be quarantined.
    pub fn is_unconfirmed(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Hardware { .. })
    }
}

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

/// One IOMMU instance as the core sees it; a hardware driver implements it.
///
/// The core promises: the streams given to [`attach`](Self::attach) were claimed; calls about one stream or one tag never overlap each other, calls
/// about different ones may come from several threads at once. The driver promises: every wait is bounded; a failed call leaves the
/// stream as it was or blocked, never open; [`attach`](Self::attach) returns only when hardware has confirmed the new configuration.
#[doc(alias = "iommu_ops")]
pub trait IommuOps: Send + Sync + fmt::Debug {
    /// A word for reports, e.g. `"smmuv3"`.
    fn driver_name(&self) -> &'static str;

    /// What the instance can do.
    fn capabilities(&self) -> Capabilities;

    /// Makes the streams known, so that they can be attached: they are blocked. Claiming a stream again counts: it is released when each claim was.
    ///
    /// # Errors
    ///
    /// [`OpsError::StreamOutOfRange`], [`OpsError::NoMemory`] (second-level stream tables): none of them is claimed then.
    #[doc(alias = "probe_device")]
    fn claim(&self, streams: &[StreamId]) -> Result<(), OpsError>;

    /// Undoes one [`claim`](Self::claim); a stream whose last claim went is blocked first.
    #[doc(alias = "release_device")]
    fn release(&self, streams: &[StreamId]);

    /// A new, empty table that this instance can walk.
    ///
    /// # Errors
    ///
    /// [`OpsError::NoMemory`], or [`OpsError::Unsupported`] where nothing satisfies the request.
    #[doc(alias = "domain_alloc_paging")]
    fn create_table(&self, request: &SpaceRequest) -> Result<Arc<dyn PageTable>, OpsError>;

    /// Tells the instance of a table, made by itself or by another instance, and names it.
    ///
    /// # Errors
    ///
    /// [`OpsError::IncompatibleTable`], [`OpsError::OutOfTags`], [`OpsError::NoMemory`].
    fn bind_space(&self, table: &Arc<dyn PageTable>) -> Result<SpaceTag, OpsError>;

    /// Forgets a space that no stream uses: invalidates all that hardware holds of it, then frees the tag.
    ///
    /// # Errors
    ///
    /// When the invalidation was not confirmed the tag stays in quarantine (it is never reused), and so must the table: the caller keeps it alive.
    fn unbind_space(&self, tag: SpaceTag) -> Result<(), OpsError>;

    /// Points all the streams to `target`, each by changes that hardware can only read as the old entry, the new one or "abort", and waits until hardware confirmed it.
    ///
    /// # Errors
    ///
    /// [`OpsError`]; the streams are blocked then (or, if hardware does not even confirm that, reported as [`OpsError::is_unconfirmed`]).
    #[doc(alias = "attach_dev")]
    fn attach(&self, streams: &[StreamId], target: StreamTarget) -> Result<(), OpsError>;

    /// Pays what `gather` owes for the space `tag`: returns when hardware has confirmed that nothing of it is cached any more.
    ///
    /// # Errors
    ///
    /// Unconfirmed ([`OpsError::is_unconfirmed`]): the frames must be quarantined.
    #[doc(alias = "iotlb_sync")]
    fn invalidate(&self, tag: SpaceTag, gather: &IotlbGather) -> Result<(), OpsError>;

    /// Takes the faults that hardware recorded since the last call and gives each to `sink`; returns how many were lost (queue overflow).
    fn drain_faults(&self, sink: &mut dyn FnMut(Fault)) -> u64;

    /// Blocks every stream and stops the instance, so that its memory can be freed.
    ///
    /// # Errors
    ///
    /// When hardware did not confirm: its memory must stay allocated for ever (the driver leaks it).
    fn shutdown(&self) -> Result<(), OpsError>;
}

/// An instance on its way to the registry: brought up completely by its driver, all streams blocked, not yet visible to anybody.
pub type ReadyInstance = Box<dyn IommuOps>;

/// A fault together with where it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportedFault {
    /// The IOMMU that refused.
    pub iommu: FwNode,
    /// What it refused.
    pub fault: Fault,
}
