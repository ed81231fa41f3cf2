//! Why an instance could not do what the core asked.

use super::SpaceTag;
use crate::stream::{Pasid, StreamSpec};
use core::fmt;
use portcullis_pgtable::{MapError, ProtectError, UnmapError};
use portcullis_platform::{AllocError, Timeout};

/// What an instance cannot do at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unsupported {
    /// None of its formats has these leaf sizes.
    PageSizes,
    /// Its tables have no such widths of addresses.
    AddressWidth,
    /// The representation of the address space.
    Format,
    /// Address spaces by PASID.
    Pasid(Pasid),
    /// Streams that are compared under a mask.
    StreamMask(StreamSpec),
    /// Passing addresses through unchanged.
    Identity,
    /// Anything, before it was brought up.
    NotBroughtUp,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PageSizes => f.write_str("these page sizes"),
            Self::AddressWidth => f.write_str("addresses of these widths"),
            Self::Format => f.write_str("this representation of an address space"),
            Self::Pasid(pasid) => write!(f, "an address space for {pasid}"),
            Self::StreamMask(stream) => write!(f, "the match mask of stream {stream}"),
            Self::Identity => f.write_str("identity domains"),
            Self::NotBroughtUp => f.write_str("anything before it was brought up"),
        }
    }
}

/// What was waited for in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Awaited {
    /// Room in the queue of commands or requests.
    Room,
    /// The confirmation that commands were carried out (SMMUv3: CMD_SYNC; VT-d: invalidation wait).
    Confirmation,
    /// The answer to a request.
    Answer,
    /// A control register, by its name.
    Register(&'static str),
}

impl fmt::Display for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Room => f.write_str("room in the IOMMU's command queue"),
            Self::Confirmation => f.write_str("the IOMMU's confirmation of its commands"),
            Self::Answer => f.write_str("the IOMMU's answer"),
            Self::Register(name) => write!(f, "the IOMMU's register {name}"),
        }
    }
}

/// How hardware itself is broken, or gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Breakage {
    /// Its registers read as all ones.
    Gone,
    /// It was shut down.
    ShutDown,
    /// It refused a command.
    CommandRefused,
    /// Its command queue stopped and does not go on.
    QueueStopped,
    /// One of its index registers names commands that were never submitted.
    BadIndex,
    /// It answered a request with an error.
    RequestFailed,
}

impl fmt::Display for Breakage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gone => "the IOMMU's registers read as all ones: it is gone",
            Self::ShutDown => "the IOMMU is shut down",
            Self::CommandRefused => "the IOMMU refused a command",
            Self::QueueStopped => "the IOMMU's command queue does not go on",
            Self::BadIndex => "the IOMMU points to commands that were never sent",
            Self::RequestFailed => "the IOMMU answered with an error",
        })
    }
}

/// Why an instance could not do what the core asked. The instance's state is as before, except where said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpsError {
    /// The id does not fit the instance.
    StreamOutOfRange {
        /// The stream.
        stream: StreamSpec,
        /// The instance's width of ids in bits.
        bits: u8,
    },
    /// Somebody else has claimed the stream, or one that overlaps it.
    StreamInUse {
        /// The stream.
        stream: StreamSpec,
    },
    /// The stream was never claimed.
    UnknownStream {
        /// The stream.
        stream: StreamSpec,
    },
    /// The tag is not, or no longer, in use.
    UnknownSpace {
        /// The tag.
        tag: SpaceTag,
    },
    /// The address space is not one that the instance can translate by.
    IncompatibleSpace,
    /// The instance cannot do this at all.
    Unsupported(Unsupported),
    /// All tags are in use.
    OutOfTags,
    /// All entries for streams are in use (SMMUv2: stream match registers).
    OutOfStreams,
    /// No memory.
    NoMemory(AllocError),
    /// Hardware did not confirm in time. What it holds is unknown: frames under it must be quarantined.
    Timeout {
        /// What was waited for.
        awaited: Awaited,
        /// The bound that passed.
        timeout: Timeout,
    },
    /// Hardware reported an error of its own, or is gone. As for `Timeout`, nothing is confirmed.
    Hardware {
        /// What is wrong with it.
        breakage: Breakage,
        /// The raw status it came with; 0 where there is none.
        status: u64,
    },
    /// As `Hardware`, but hardware has confirmed since that the streams are blocked: nothing is in doubt.
    Blocked {
        /// What went wrong before that.
        breakage: Breakage,
        /// The raw status it came with; 0 where there is none.
        status: u64,
    },
    /// An earlier wait was in vain, so nothing was tried: the unit counts as dead until it confirms something again. As for `Timeout`, nothing is confirmed.
    Dead,
}

impl fmt::Display for OpsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StreamOutOfRange { stream, bits } => {
                write!(f, "stream {stream} is beyond the IOMMU's {bits} id bits")
            }
            Self::StreamInUse { stream } => write!(f, "stream {stream} belongs to another device"),
            Self::UnknownStream { stream } => write!(f, "stream {stream} was never claimed"),
            Self::UnknownSpace { tag } => write!(f, "address space {} is not in use", tag.0),
            Self::IncompatibleSpace => {
                f.write_str("the IOMMU cannot translate by this address space")
            }
            Self::Unsupported(what) => write!(f, "the IOMMU does not support {what}"),
            Self::OutOfTags => f.write_str("all address space tags are in use"),
            Self::OutOfStreams => f.write_str("all of the IOMMU's stream entries are in use"),
            Self::NoMemory(error) => write!(f, "{error}"),
            Self::Timeout { awaited, timeout } => write!(f, "{awaited}: {timeout}"),
            Self::Hardware { breakage, status: 0 } => write!(f, "{breakage}"),
            Self::Hardware { breakage, status } => write!(f, "{breakage} (status {status:#x})"),
            Self::Blocked { breakage, .. } => write!(f, "{breakage}; the streams are blocked"),
            Self::Dead => f.write_str("the IOMMU stopped answering"),
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
        matches!(self, Self::Timeout { .. } | Self::Hardware { .. } | Self::Dead)
    }
}

/// Why an address space could not map or unmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpaceError {
    /// It refused to map: nothing has changed.
    Map(MapError),
    /// It refused to unmap: nothing has changed.
    Unmap(UnmapError),
    /// It refused to change what a mapping allows: nothing has changed.
    Protect(ProtectError),
    /// The request for it failed. Where that is [unconfirmed](OpsError::is_unconfirmed), hardware may or may not have carried it out: neither the addresses nor the
    /// frames may be used again.
    Request(OpsError),
}

impl fmt::Display for SpaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Map(error) => write!(f, "{error}"),
            Self::Unmap(error) => write!(f, "{error}"),
            Self::Protect(error) => write!(f, "{error}"),
            Self::Request(error) => write!(f, "{error}"),
        }
    }
}

impl core::error::Error for SpaceError {}

impl From<MapError> for SpaceError {
    fn from(error: MapError) -> Self {
        Self::Map(error)
    }
}

impl From<ProtectError> for SpaceError {
    fn from(error: ProtectError) -> Self {
        Self::Protect(error)
    }
}

impl From<UnmapError> for SpaceError {
    fn from(error: UnmapError) -> Self {
        Self::Unmap(error)
    }
}
