//! Why a DMA call failed.

use crate::description::FwNode;
use crate::ops::OpsError;
use core::fmt;
use portcullis_addr::{Iova, PhysAddr};
use portcullis_iova::AllocateError;
use portcullis_pgtable::{MapError, UnmapError};
use portcullis_platform::AllocError;

/// Why a DMA call failed. Except for [`Quarantined`](Self::Quarantined), everything is as before the call.
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
    Window(&'static str),
    /// The table refused.
    Map(MapError),
    /// The table refused.
    Unmap(UnmapError),
    /// The mapping is gone from the table, but hardware did not confirm that it forgot it. The frames must not be reused: the device may still reach
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
    /// The mapping was made through another handle.
    ForeignMapping,
    /// The device's address width must be in 1..=64.
    AddressBits(u8),
    /// No memory for a buffer.
    NoMemory(AllocError),
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
            Self::Quarantined { iova, len, node, error } => write!(
                f,
                "{len:#x} bytes at {iova} are in quarantine: the IOMMU at {node} did not confirm ({error})"
            ),
            Self::ForeignMapping => f.write_str("the mapping belongs to another device's handle"),
            Self::AddressBits(bits) => write!(f, "{bits} address bits; must be 1 to 64"),
            Self::NoMemory(error) => write!(f, "{error}"),
        }
    }
}

impl core::error::Error for DmaError {}
