//! What the machine's description says of a device. This is the core's input, whatever format it was read from.

use crate::stream::StreamSpec;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use portcullis_addr::{IovaRange, PhysAddr, StreamId};

/// A node of the firmware's description, by a number that the description's reader chose (devicetree: the node's index in the tree).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[doc(alias = "fwnode_handle")]
pub struct FwNode(pub u32);

impl fmt::Display for FwNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.0)
    }
}

/// One way in which a device's transactions reach an IOMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FwStream {
    /// The IOMMU's node.
    pub iommu: FwNode,
    /// The id on that IOMMU.
    pub id: StreamId,
    /// Bits of `id` that are ignored when streams are compared (SMMUv2 stream match mask); 0 for an exact id.
    pub mask: u32,
}

impl FwStream {
    /// The exact stream `id` on `iommu`.
    pub const fn new(iommu: FwNode, id: StreamId) -> Self {
        Self { iommu, id, mask: 0 }
    }

    /// The ids, without the IOMMU.
    pub const fn spec(&self) -> StreamSpec {
        StreamSpec { id: self.id, mask: self.mask }
    }

    /// Whether a transaction can match both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.iommu == other.iommu && self.spec().overlaps(&other.spec())
    }
}

/// What firmware says of one device: which IOMMUs it is behind, with which ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[doc(alias = "iommu_fwspec")]
pub struct FwSpec {
    /// In the description's order, without duplicates.
    pub streams: Vec<FwStream>,
}

impl FwSpec {
    /// The distinct IOMMUs that are named, in order of first mention.
    pub fn iommus(&self) -> Vec<FwNode> {
        let mut nodes = Vec::new();
        for stream in &self.streams {
            if !nodes.contains(&stream.iommu) {
                nodes.push(stream.iommu);
            }
        }
        nodes
    }
}

/// Which kind of domain a device needs, or gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[doc(alias = "IOMMU_DOMAIN_DMA")]
pub enum DomainType {
    /// Every access is refused and reported.
    #[doc(alias = "IOMMU_DOMAIN_BLOCKED")]
    Blocked,
    /// Addresses pass unchanged: only where policy asks for it.
    #[doc(alias = "IOMMU_DOMAIN_IDENTITY")]
    Identity,
    /// Translated; an unmap is finished when hardware has confirmed the invalidation.
    #[doc(alias = "strict")]
    Dma,
    /// As [`Dma`](Self::Dma), and its drivers may leave invalidations to later ([`DmaHandle::unmap_later`](crate::DmaHandle::unmap_later)), so that many mappings share one. A group with a device that is
    /// not trusted gets a [`Dma`](Self::Dma) domain instead.
    #[doc(alias = "IOMMU_DOMAIN_DMA_FQ")]
    #[doc(alias = "lazy")]
    DmaLazy,
}

impl DomainType {
    /// Whether addresses are translated by tables.
    pub const fn translates(self) -> bool {
        matches!(self, Self::Dma | Self::DmaLazy)
    }
}

impl fmt::Display for DomainType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Blocked => "blocked",
            Self::Identity => "identity",
            Self::Dma => "dma",
            Self::DmaLazy => "dma-lazy",
        })
    }
}

/// What must be true of a reserved range of a device's address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReservedKind {
    /// Mapped 1:1 before the device is attached and until its last detach (boot framebuffer; devicetree `iommu-addresses` equal to `reg`).
    #[doc(alias = "IOMMU_RESV_DIRECT")]
    Direct,
    /// Never handed out.
    #[doc(alias = "IOMMU_RESV_RESERVED")]
    Reserved,
}

impl fmt::Display for ReservedKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Reserved => "reserved",
        })
    }
}

/// A reserved range of a device's address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "iommu_resv_region")]
pub struct ReservedRegion {
    /// The range of IOVAs.
    pub range: IovaRange,
    /// What must be true of it.
    pub kind: ReservedKind,
}

/// How a device reaches memory, as far as the description says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DmaPath {
    /// The description names no IOMMU for it: bus addresses are physical addresses.
    Direct,
    /// Behind these streams. Must name at least one.
    Translated(FwSpec),
    /// The description is broken for this device: it stays blocked, with the reason.
    Unusable(String),
}

/// Devices that hardware does not isolate from each other, by a number that the description's reader chose: they reach each other's registers without passing an IOMMU (PCI
/// without ACS), so they share a domain although their streams differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[doc(alias = "pci_device_group")]
pub struct IsolationSet(pub u64);

/// One device of the machine, as described.
// In this order a bind reads one cache line of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DeviceDescription {
    /// The name that reports use (devicetree: full path; PCI functions: path of the host bridge and the requester id).
    pub path: String,
    /// How it reaches memory.
    pub dma: DmaPath,
    /// Whether it snoops the CPU's caches.
    #[doc(alias = "dma-coherent")]
    pub coherent: bool,
    /// Width in bits of the addresses it can emit (1..=64), before a driver narrows it.
    #[doc(alias = "dma_mask")]
    pub address_bits: u8,
    /// Whether it may be malicious: plugged in from outside, say (`ExternalFacingPort`, `external-facing`). Such a device is lent whole pages only, and never by lazy invalidation.
    #[doc(alias = "pci_dev->untrusted")]
    pub untrusted: bool,
    /// The reserved ranges of its address space.
    pub reserved: Vec<ReservedRegion>,
    /// The physical addresses to which it may write message-signalled interrupts (Arm: `GITS_TRANSLATER` of its ITS, `MSI_SETSPI_NS` of its GICv2m frame). Its driver
    /// asks [`DmaHandle::doorbell`](crate::DmaHandle::doorbell) where the device must write.
    #[doc(alias = "msi-parent")]
    #[doc(alias = "msi-map")]
    pub doorbells: Vec<PhysAddr>,
    /// The kind of domain it must have; `None` for no preference.
    #[doc(alias = "def_domain_type")]
    pub required_domain: Option<DomainType>,
    /// The set of devices from which nothing isolates it; `None` where its streams say it all. Of no meaning unless it is [`DmaPath::Translated`].
    pub isolation: Option<IsolationSet>,
}

impl DeviceDescription {
    /// The set of devices that it shares a group with whatever its streams are; `None` unless it is [`DmaPath::Translated`].
    pub(crate) fn isolation_set(&self) -> Option<IsolationSet> {
        self.isolation.filter(|_| !self.streams().is_empty())
    }

    /// Its streams; none unless it is [`DmaPath::Translated`].
    pub fn streams(&self) -> &[FwStream] {
        match &self.dma {
            DmaPath::Translated(spec) => &spec.streams,
            DmaPath::Direct | DmaPath::Unusable(_) => &[],
        }
    }

    /// A coherent 64-bit device at `path` with that DMA path and no special needs.
    pub fn new(path: impl Into<String>, dma: DmaPath) -> Self {
        Self {
            path: path.into(),
            dma,
            coherent: true,
            address_bits: 64,
            untrusted: false,
            reserved: Vec::new(),
            doorbells: Vec::new(),
            required_domain: None,
            isolation: None,
        }
    }
}
