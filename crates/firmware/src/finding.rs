//! What the reader has to say about a description.

use alloc::string::String;
use core::fmt;

/// How bad a [`Finding`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The device or IOMMU that it is about cannot be used as described.
    Error,
    /// It can be used; the description should still be mended.
    Warning,
    /// Nothing is wrong; a reader may be surprised all the same.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        })
    }
}

/// One thing that a reader of the description should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Full path of the node that it is about.
    pub path: String,
    /// Stable id: one of the constants of [`rule`].
    pub rule: &'static str,
    /// Which property, what is wrong with it, and what to do.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {} [{}]", self.severity, self.path, self.message, self.rule)
    }
}

/// The ids of all rules. They are stable: scripts may match on them.
pub mod rule {
    macro_rules! rules {
        ($($(#[$meta:meta])* $name:ident = $id:literal;)*) => {
            $($(#[$meta])* pub const $name: &str = $id;)*
            /// Every rule there is.
            pub const ALL: &[&str] = &[$($id),*];
        };
    }

    rules! {
        /// `iommus` is empty or not a whole number of cells.
        IOMMUS_LENGTH = "iommus-length";
        /// A phandle names no node.
        DANGLING_PHANDLE = "dangling-phandle";
        /// A phandle names several nodes.
        DUPLICATE_PHANDLE = "duplicate-phandle";
        /// A specifier ends before its last cell.
        SPECIFIER_TRUNCATED = "specifier-truncated";
        /// A node is used as an IOMMU but has no `#iommu-cells`.
        IOMMU_CELLS_MISSING = "iommu-cells-missing";
        /// `#iommu-cells` is not what the IOMMU's binding allows.
        IOMMU_CELLS_UNSUPPORTED = "iommu-cells-unsupported";
        /// A device is behind IOMMUs of different kinds.
        MIXED_IOMMUS = "mixed-iommus";
        /// A device names both an enabled and a disabled IOMMU.
        PARTLY_DISABLED = "partly-disabled";
        /// A device names more IOMMUs or ids than any machine has.
        TOO_MANY_STREAMS = "too-many-streams";
        /// A stream id that this kind of IOMMU cannot receive.
        STREAM_ID_RANGE = "stream-id-range";
        /// A device names the same stream twice.
        DUPLICATE_STREAM = "duplicate-stream";
        /// Several devices share a stream.
        SHARED_STREAM = "shared-stream";
        /// The IOMMU that a device names is disabled: the device is not behind it.
        IOMMU_DISABLED = "iommu-disabled";
        /// No driver is known for the IOMMU.
        NO_DRIVER = "no-driver";
        /// An IOMMU is behind itself, directly or through others.
        IOMMU_CYCLE = "iommu-cycle";
        /// The IOMMU has no usable register window.
        IOMMU_REG = "iommu-reg";
        /// The IOMMU's register window is smaller than its registers.
        IOMMU_REG_SMALL = "iommu-reg-small";
        /// A device is behind an IOMMU that cannot be used as described.
        IOMMU_UNUSABLE = "iommu-unusable";
        /// `mmu-masters`, the binding before `iommus`, is not read.
        MMU_MASTERS = "mmu-masters";
        /// `iommu-map` is empty or not a whole number of tuples.
        IOMMU_MAP_LENGTH = "iommu-map-length";
        /// Tuples of `iommu-map` do not have the cells that the target's `#iommu-cells` asks for.
        IOMMU_MAP_CELLS = "iommu-map-cells";
        /// `iommu-map` names a two-cell IOMMU with one-cell tuples, in the one form that can be read without doubt.
        IOMMU_MAP_ONE_CELL = "iommu-map-one-cell";
        /// Two ranges of `iommu-map` cover the same requester id.
        IOMMU_MAP_OVERLAP = "iommu-map-overlap";
        /// A range of `iommu-map` has length 0.
        IOMMU_MAP_ZERO_LENGTH = "iommu-map-zero-length";
        /// No range of `iommu-map` covers any requester id.
        IOMMU_MAP_EMPTY = "iommu-map-empty";
        /// A range of `iommu-map` runs beyond 32 bits.
        IOMMU_MAP_WRAPS = "iommu-map-wraps";
        /// A requester id base has bits that `iommu-map-mask` clears.
        IOMMU_MAP_MASK = "iommu-map-mask";
        /// A described function whose requester id `iommu-map` does not cover.
        RID_NOT_MAPPED = "rid-not-mapped";
        /// `dma-ranges` of a bus above the device cannot be read.
        DMA_RANGES = "dma-ranges";
        /// `memory-region` cannot be read.
        MEMORY_REGION = "memory-region";
        /// `iommu-addresses` of a reserved region cannot be read.
        IOMMU_ADDRESSES = "iommu-addresses";
        /// An `iommu-addresses` entry has length 0.
        IOMMU_ADDRESSES_EMPTY = "iommu-addresses-empty";
        /// An `iommu-addresses` entry differs from the region's `reg`: reserved, but not mapped.
        IOMMU_ADDRESSES_REMAPPED = "iommu-addresses-remapped";
        /// A `memory` node cannot be read.
        MEMORY = "memory";
    }
}
