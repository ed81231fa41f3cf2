//! Why a DMA call failed, and what hardware did not confirm.

use crate::description::FwNode;
use crate::ops::OpsError;
use crate::segments::SegmentLimits;
use core::fmt;
use portcullis_addr::{Iova, IovaRange, PhysAddr};
use portcullis_iova::AllocateError;
use portcullis_pgtable::{MapError, ProtectError, UnmapError};
use portcullis_platform::AllocError;

/// Why a DMA call failed. Except for [`Quarantined`](Self::Quarantined) and the addresses of [`Unconfirmed`](Self::Unconfirmed), everything is as before the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DmaError {
    /// The driver was unbound: its handle is no longer valid.
    Revoked,
    /// The domain is blocked.
    Blocked,
    /// The domain translates nothing, so there is nothing to map or unmap.
    NotTranslated,
    /// Without translation the device cannot emit this address.
    OutOfReach {
        /// The last physical address asked for.
        last: PhysAddr,
        /// The width of the device's addresses in bits.
        bits: u8,
    },
    /// No address is free below the device's limit, or the allocator refused.
    Iova(AllocateError),
    /// The address space's allocator could not be set up: too little memory, or reserved ranges leave nothing.
    Window(WindowError),
    /// The table refused.
    Map(MapError),
    /// The table refused.
    Unmap(UnmapError),
    /// The table refused to change what the mapping allows.
    Protect(ProtectError),
    /// Hardware did not confirm that it goes by a mapping's new direction: the device may still use the mapping as before.
    NotTurned(Unconfirmed),
    /// Hardware did not confirm that the device reaches nothing at these addresses. The frames must not be reused: the device may still reach
    /// them. The address range stays taken.
    Quarantined {
        /// First address.
        iova: Iova,
        /// Bytes.
        len: u64,
        /// The IOMMU that did not confirm.
        node: FwNode,
        /// Why.
        error: OpsError,
    },
    /// Nothing was mapped: the IOMMU did not confirm that it forgot an older table in the way of this mapping's large pages. The addresses stay taken.
    Unconfirmed(Unconfirmed),
    /// The IOMMU did not confirm that it forgot what was unmapped lazily: all of it stays parked.
    NotFlushed(Unconfirmed),
    /// The mapping was made through another handle.
    ForeignMapping,
    /// The description does not name this doorbell for the device.
    UnknownDoorbell(PhysAddr),
    /// The device's address width must be in 1..=64.
    AddressBits(u8),
    /// A segment's limits must be 1 to 2^48 bytes and a boundary that is a power of two.
    SegmentLimits(SegmentLimits),
    /// The buffer is longer than a segment of the device, or must cross what none may cross. Map it as a list of one.
    SegmentTooLong {
        /// Bytes.
        len: u64,
        /// What the driver has said of its device.
        limits: SegmentLimits,
    },
    /// The device is not trusted, and the pages of the buffer of that many bytes at this address hold memory that is not the buffer's. Lend it by way of a [`Bounce`](crate::Bounce).
    PartialPages(PhysAddr, u64),
    /// Memory of another PCI function, which this one is not lent.
    PeerMemory(PhysAddr),
    /// The buffer is longer, in whole pages, than what is left of a run of addresses.
    RunIsFull {
        /// Bytes that are left.
        left: u64,
    },
    /// The buffers of a list are not of one kind.
    MixedKinds,
    /// No memory for a buffer.
    NoMemory(AllocError),
    /// The IOMMU at the node refused the request.
    Refused(FwNode, OpsError),
}

impl fmt::Display for DmaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Revoked => f.write_str("the driver was unbound: its DMA handle is void"),
            Self::Blocked => f.write_str("the device's domain is blocked"),
            Self::NotTranslated => f.write_str("the domain has no table"),
            Self::OutOfReach { last, bits } => {
                write!(f, "the device emits {bits} address bits and cannot reach {last}")
            }
            Self::Iova(error) => write!(f, "{error}"),
            Self::Window(what) => write!(f, "no address space to hand out: {what}"),
            Self::Map(error) => write!(f, "{error}"),
            Self::Unmap(error) => write!(f, "{error}"),
            Self::Protect(error) => write!(f, "{error}"),
            Self::NotTurned(Unconfirmed { node, error }) => write!(
                f,
                "the IOMMU at {node} did not confirm the mapping's new direction ({error})"
            ),
            Self::Quarantined { iova, len, node, error } => write!(
                f,
                "{len:#x} bytes at {iova} are in quarantine: the IOMMU at {node} did not confirm ({error})"
            ),
            Self::Unconfirmed(Unconfirmed { node, error }) => {
                write!(f, "nothing was mapped: the IOMMU at {node} did not confirm ({error})")
            }
            Self::NotFlushed(Unconfirmed { node, error }) => {
                write!(f, "nothing was flushed: the IOMMU at {node} did not confirm ({error})")
            }
            Self::ForeignMapping => f.write_str("the mapping belongs to another device's handle"),
            Self::UnknownDoorbell(doorbell) => {
                write!(f, "{doorbell} is no interrupt doorbell of the device")
            }
            Self::AddressBits(bits) => write!(f, "{bits} address bits; must be 1 to 64"),
            Self::SegmentLimits(SegmentLimits { most_bytes, boundary }) => write!(
                f,
                "segments of {most_bytes:#x} bytes with boundary {boundary:#x}; must be 1 to 2^48, and a power of two"
            ),
            Self::SegmentTooLong { len, limits: SegmentLimits { most_bytes, boundary } } => write!(
                f,
                "{len:#x} bytes are no single segment of the device (at most {most_bytes:#x} bytes, boundary {boundary:#x}): map a list"
            ),
            Self::PartialPages(start, len) => write!(
                f,
                "{len:#x} bytes at {start} share pages with other memory, and the device is not trusted: use a bounce buffer"
            ),
            Self::PeerMemory(start) => {
                write!(f, "{start} is another PCI function's memory, which is not mapped")
            }
            Self::RunIsFull { left } => {
                write!(f, "only {left:#x} bytes are left of the run of addresses: reserve more")
            }
            Self::MixedKinds => f.write_str("a list of no buffers, or of more than one kind"),
            Self::NoMemory(error) => write!(f, "{error}"),
            Self::Refused(node, error) => write!(f, "IOMMU at {node}: {error}"),
        }
    }
}

impl core::error::Error for DmaError {}

impl From<AllocError> for DmaError {
    fn from(error: AllocError) -> Self {
        Self::NoMemory(error)
    }
}

impl DmaError {
    /// Whether the same call can succeed once there is memory.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(
            self,
            Self::NoMemory(_)
                | Self::Iova(AllocateError::NoMemory)
                | Self::Map(MapError::NoMemory(_))
                | Self::Refused(_, OpsError::NoMemory(_))
                | Self::Window(WindowError::NoMemory)
        )
    }
}

/// Why the addresses of an address space could not be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowError {
    /// No memory for the allocator.
    NoMemory,
    /// A reserved range could not be kept out of the addresses.
    Reserved,
}

impl fmt::Display for WindowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoMemory => "no memory for the allocator",
            Self::Reserved => "a reserved range could not be kept",
        })
    }
}

/// Hardware did not confirm that a device no longer reaches what it reached. Everything else that was asked has been done.
///
/// Until the IOMMU confirms after all ([`Subsystem::reconfirm`](crate::Subsystem::reconfirm)) or is brought up anew, nothing that the device could reach may be used again.
/// The one sure remedy is to keep the device from doing DMA, e.g. by clearing its bus mastering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unconfirmed {
    /// The IOMMU's node.
    pub node: FwNode,
    /// Why there is no confirmation.
    pub error: OpsError,
}

impl fmt::Display for Unconfirmed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, error } = self;
        write!(
            f,
            "the IOMMU at {node} did not confirm that the device is blocked ({error}): turn its bus mastering off"
        )
    }
}

impl core::error::Error for Unconfirmed {}

impl Unconfirmed {
    /// The same as the error of a mapping at `range`.
    pub(crate) fn of(self, range: IovaRange) -> DmaError {
        let Self { node, error } = self;
        DmaError::Quarantined { iova: range.start(), len: range.len(), node, error }
    }
}
