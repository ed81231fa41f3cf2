//! Why a device reaches nothing, or has no driver. Decisions are made on these values, never on their words.

use crate::description::{DomainType, FwNode, ReservedRegion};
use crate::error::DmaError;
use crate::ops::{OpsError, SpaceError};
use alloc::string::String;
use core::fmt;

/// What the instances in front of a group would have to share, and do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotShared {
    /// A representation of the address space with a common page size.
    Format,
    /// Passing addresses through unchanged.
    Identity,
}

impl fmt::Display for NotShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Format => "table format with a common page size",
            Self::Identity => "support for identity domains",
        })
    }
}

/// Why a group's domain could not be set up. What was done for it has been undone, unless an error says that this was not confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SetUpError {
    /// The IOMMU at the node refused.
    Ops(FwNode, OpsError),
    /// The IOMMUs in front of the group share no way to translate for it.
    NoCommonGround(NotShared),
    /// A region that must be mapped 1:1 could not be.
    Direct(ReservedRegion, SpaceError),
    /// Two reserved regions of the group overlap and say different things.
    RegionsConflict(ReservedRegion, ReservedRegion),
}

impl SetUpError {
    /// Whether the same attempt can succeed once there is memory.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(
            self,
            Self::Ops(_, OpsError::NoMemory(_))
                | Self::Direct(_, SpaceError::Request(OpsError::NoMemory(_)))
                | Self::Direct(_, SpaceError::Map(portcullis_pgtable::MapError::NoMemory(_)))
        )
    }
}

impl fmt::Display for SetUpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ops(node, error) => write!(f, "IOMMU at {node}: {error}"),
            Self::NoCommonGround(what) => write!(f, "the IOMMUs in front of it share no {what}"),
            Self::Direct(region, error) => write!(f, "reserved region {}: {error}", region.range),
            Self::RegionsConflict(one, other) => write!(
                f,
                "reserved regions {} ({}) and {} ({}) of its group overlap",
                one.range, one.kind, other.range, other.kind
            ),
        }
    }
}

impl core::error::Error for SetUpError {}

/// Why a device reaches nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlockedReason {
    /// The description is broken for this device; in the words of whoever read it.
    Description(String),
    /// The description puts it behind an IOMMU, and it has no group.
    NoGroup,
    /// Its streams join groups of which one is in use.
    JoinsGroupsInUse,
    /// Its group is owned from outside the kernel.
    OwnedOutside,
    /// What stands at the node is not an IOMMU.
    NotAnIommu(FwNode),
    /// The IOMMU at the node will not come; in the words of whoever said so.
    NodeFailed(FwNode, String),
    /// Two members of its group need different types of domain.
    Disagreement {
        /// One of them, by path.
        first: String,
        /// What it needs.
        first_needs: DomainType,
        /// The other.
        second: String,
        /// What that needs.
        second_needs: DomainType,
    },
    /// Its group is in use with a domain of this type, and it needs another.
    GroupUses(DomainType),
    /// Its group is in use without this IOMMU, which it is behind.
    GroupLacksIommu(FwNode),
    /// Its group is in use without this region, which it needs.
    GroupLacksRegion(ReservedRegion),
    /// It is not trusted, and its group is in use with lazy invalidation.
    GroupIsLazy,
    /// Its group's domain could not be set up.
    SetUp(SetUpError),
}

impl BlockedReason {
    /// Whether the same attempt can succeed once there is memory.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::SetUp(error) if error.is_out_of_memory())
    }
}

impl fmt::Display for BlockedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Description(words) => f.write_str(words),
            Self::NoGroup => f.write_str("it has no group"),
            Self::JoinsGroupsInUse => f.write_str(
                "its stream ids join groups that are in use: unbind their devices, then add it again",
            ),
            Self::OwnedOutside => {
                f.write_str("its group is owned from outside the kernel: release it first")
            }
            Self::NotAnIommu(_) => f.write_str("the node it names is not an IOMMU"),
            Self::NodeFailed(_, words) => f.write_str(words),
            Self::Disagreement { first, first_needs, second, second_needs } => write!(
                f,
                "{first} needs a domain of type {first_needs}, {second} one of type {second_needs}, and they share a group"
            ),
            Self::GroupUses(kind) => {
                write!(f, "its group is in use with a domain of type {kind}: unbind it first")
            }
            Self::GroupLacksIommu(node) => {
                write!(f, "its group is in use without the IOMMU at {node}: unbind it first")
            }
            Self::GroupLacksRegion(region) => {
                let range = region.range;
                write!(f, "its group is in use without its reserved {range}: unbind it first")
            }
            Self::GroupIsLazy => {
                f.write_str("it is not trusted, and its group is in use with lazy invalidation: unbind it first")
            }
            Self::SetUp(error) => write!(f, "its IOMMU could not be set up: {error}"),
        }
    }
}

/// A call of the core into a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Callback {
    /// [`Driver::probe`](crate::Driver::probe).
    Probe,
    /// [`BoundDriver::remove`](crate::BoundDriver::remove), and the drop after it.
    Remove,
    /// [`BoundDriver::on_fault`](crate::BoundDriver::on_fault).
    OnFault,
}

impl fmt::Display for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Probe => "probe",
            Self::Remove => "remove",
            Self::OnFault => "on_fault",
        })
    }
}

/// Why a device has no driver although its path is final.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailedReason {
    /// There was no driver to probe.
    NoDriver,
    /// The driver defers on a node that is there.
    DefersOnPresent(FwNode),
    /// The driver panicked, and the stack was unwound: its handle is void and its device blocked.
    Panicked(Callback),
    /// The driver could not use its DMA handle.
    Dma {
        /// The driver's name.
        driver: String,
        /// What failed.
        error: DmaError,
    },
    /// The driver gave up; in its own words.
    Driver {
        /// The driver's name.
        driver: String,
        /// Its words.
        words: String,
    },
}

impl FailedReason {
    /// Whether the same attempt can succeed once there is memory.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::Dma { error, .. } if error.is_out_of_memory())
    }
}

impl fmt::Display for FailedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDriver => f.write_str("it has no driver"),
            Self::DefersOnPresent(node) => write!(f, "it defers on {node}, which is there"),
            Self::Panicked(callback) => write!(f, "its driver panicked in {callback}"),
            Self::Dma { driver, error } => write!(f, "{driver}: {error}"),
            Self::Driver { driver, words } => write!(f, "{driver}: {words}"),
        }
    }
}
