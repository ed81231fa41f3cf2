//! How a device's transactions are told apart at an IOMMU.

use core::fmt;
use portcullis_addr::StreamId;

/// The ids of one or several streams: all ids that agree with `id` in the bits that `mask` does not set.
///
/// Most hardware looks ids up one by one (`mask` 0). SMMUv2 compares under a mask (Arm IHI 0062, `SMMU_SMRn`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[doc(alias = "SMR")]
pub struct StreamSpec {
    /// The id.
    pub id: StreamId,
    /// Bits of `id` that are ignored in comparisons; 0 for an exact id.
    pub mask: u32,
}

impl StreamSpec {
    /// Exactly the stream `id`.
    pub const fn exact(id: StreamId) -> Self {
        Self { id, mask: 0 }
    }

    /// Whether both stand for the same ids: what the mask ignores does not count.
    pub const fn is_same_set(&self, other: &Self) -> bool {
        self.mask == other.mask && self.overlaps(other)
    }

    /// Whether there is an id that both stand for.
    pub const fn overlaps(&self, other: &Self) -> bool {
        (self.id.raw() ^ other.id.raw()) & !(self.mask | other.mask) == 0
    }
}

impl fmt::Display for StreamSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mask {
            0 => write!(f, "{}", self.id),
            mask => write!(f, "{} under mask {mask:#x}", self.id),
        }
    }
}

impl fmt::Debug for StreamSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamSpec({self})")
    }
}

/// Tells the address spaces of one stream apart (PCIe: Process Address Space ID, at most 20 bits).
///
/// # Invariants
///
/// Below 2^20.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[doc(alias = "SubstreamID")]
#[doc(alias = "process_id")]
pub struct Pasid(u32);

impl Pasid {
    /// The PASID `raw`; `None` from 2^20 on (PCI Express Base Specification, "PASID TLP Prefix").
    pub const fn new(raw: u32) -> Option<Self> {
        // INVARIANT: the bound is checked here.
        if raw < 1 << 20 { Some(Self(raw)) } else { None }
    }

    /// The plain number.
    pub const fn raw(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Pasid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PASID {:#x}", self.0)
    }
}
