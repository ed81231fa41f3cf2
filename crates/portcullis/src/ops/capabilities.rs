//! What an instance can do, and what an address space needs of it.

use core::fmt;
use portcullis_addr::{IovaRange, PageSizes};
use portcullis_pgtable::TableFormat;

/// How an address space is represented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SpaceFormat {
    /// A table in memory that hardware walks. Instances that walk the same format can share it.
    Table(TableFormat),
    /// Requests to the instance that made the space (virtio-iommu MAP and UNMAP). No other instance can translate by it.
    Requests,
}

/// One representation that an instance can use, with its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormatSupport {
    /// The representation.
    pub format: SpaceFormat,
    /// Leaf sizes.
    pub page_sizes: PageSizes,
    /// Width of input addresses in bits.
    #[doc(alias = "ias")]
    pub input_bits: u8,
    /// Width of output addresses in bits.
    #[doc(alias = "oas")]
    pub output_bits: u8,
}

impl FormatSupport {
    /// What both sides can do; `None` for different formats and where no leaf size is left.
    fn meet(&self, other: &Self) -> Option<Self> {
        let met = Self {
            format: self.format,
            page_sizes: self.page_sizes.intersection(other.page_sizes),
            input_bits: self.input_bits.min(other.input_bits),
            output_bits: self.output_bits.min(other.output_bits),
        };
        (self.format == other.format && !met.page_sizes.is_empty()).then_some(met)
    }
}

/// The representations that an instance can use, the preferred one first; at most [`MAX`](Self::MAX).
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Formats {
    entries: [Option<FormatSupport>; Self::MAX],
}

impl Formats {
    /// Room for both stages of translation in three sizes of address space each.
    pub const MAX: usize = 6;

    /// None.
    pub const NONE: Self = Self { entries: [None; Self::MAX] };

    /// Those of `list`, in its order.
    ///
    /// # Panics
    ///
    /// On more than [`MAX`](Self::MAX) of them: a mistake in a driver.
    pub fn of(list: &[FormatSupport]) -> Self {
        list.iter().copied().collect()
    }

    /// In order of preference.
    pub fn iter(&self) -> impl Iterator<Item = &FormatSupport> {
        self.entries.iter().flatten()
    }

    /// The preferred one.
    pub fn first(&self) -> Option<&FormatSupport> {
        self.iter().next()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.first().is_none()
    }

    /// What both sides can do, in the order that `self` prefers.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.iter().filter_map(|ours| other.iter().find_map(|theirs| ours.meet(theirs))).collect()
    }
}

impl FromIterator<FormatSupport> for Formats {
    fn from_iter<I: IntoIterator<Item = FormatSupport>>(list: I) -> Self {
        let mut formats = Self::NONE;
        for (index, support) in list.into_iter().enumerate() {
            assert!(index < Self::MAX, "more than {} formats", Self::MAX);
            formats.entries[index] = Some(support);
        }
        formats
    }
}

impl fmt::Debug for Formats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Where a device's message-signalled interrupts go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsiDoorbell {
    /// They are translated like any other write: somebody must map the doorbell (Arm SMMUs).
    Translated,
    /// Writes to this window are interrupts and are never translated; no mapping may lie there (VT-d and AMD-Vi: 0xfee00000 to 0xfeefffff).
    Window(IovaRange),
}

/// What an instance can do, for all devices behind it or for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "iommu_capable")]
pub struct Capabilities {
    /// How its address spaces are represented.
    pub formats: Formats,
    /// Width of stream ids in bits.
    pub id_bits: u8,
    /// Width of PASIDs in bits; 0 where streams have one address space only.
    pub pasid_bits: u8,
    /// Whether table walks snoop the CPU's caches.
    pub coherent_walk: bool,
    /// Whether it can pass addresses through unchanged ([`StreamTarget::Identity`](super::StreamTarget::Identity)).
    pub identity: bool,
    /// Whether hardware may cache "not present", so that a *map* must be followed by an invalidation (VT-d: `CAP.CM`).
    #[doc(alias = "caching mode")]
    pub map_needs_sync: bool,
    /// Whether invalidating a range takes one command instead of one for each leaf.
    pub range_invalidation: bool,
    /// Where interrupts of the devices go.
    pub msi: MsiDoorbell,
}

/// Why hardware keeps a range of a device's addresses to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HardwareRegionKind {
    /// No mapping has an effect there (virtio-iommu: `VIRTIO_IOMMU_RESV_MEM_T_RESERVED`).
    Reserved,
    /// A doorbell of message-signalled interrupts (virtio-iommu: `VIRTIO_IOMMU_RESV_MEM_T_MSI`).
    Msi,
}

/// A range of a device's addresses that hardware reports as its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HardwareRegion {
    /// The range.
    pub range: IovaRange,
    /// Why.
    pub kind: HardwareRegionKind,
}

/// What a new address space must satisfy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceRequest {
    /// Its representation, with at most these leaf sizes and widths.
    pub support: FormatSupport,
    /// Whether every walker that will read it snoops the CPU's caches.
    pub coherent_walk: bool,
}
