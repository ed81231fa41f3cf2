//! The interface of a table, whatever its format.

use crate::{Flushed, IotlbGather};
use core::fmt;
use portcullis_addr::{Iova, IovaRange, PageSize, PageSizes, PhysAddr, PhysRange, Prot};
use portcullis_platform::AllocError;

/// A table's format, as far as hardware must be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TableFormat {
    /// VMSAv8-64 stage 1 (Arm DDI 0487, D8).
    #[doc(alias = "ARM_64_LPAE_S1")]
    ArmLpaeStage1,
    /// VMSAv8-64 stage 2, possibly with concatenated root tables.
    #[doc(alias = "ARM_64_LPAE_S2")]
    ArmLpaeStage2,
    /// VMSAv8-64 stage 1 with `DS` set: 4 and 16 KiB tables of 52 bits.
    ArmLpa2Stage1,
    /// VMSAv8-64 stage 2 with `DS` set.
    ArmLpa2Stage2,
    /// AArch32 long descriptors, stage 1.
    #[doc(alias = "ARM_32_LPAE_S1")]
    Aarch32LpaeStage1,
    /// AArch32 long descriptors, stage 2.
    #[doc(alias = "ARM_32_LPAE_S2")]
    Aarch32LpaeStage2,
    /// Intel VT-d second stage.
    VtdSecondStage,
    /// Intel VT-d first stage.
    VtdFirstStage,
    /// AMD host tables.
    AmdV1,
    /// AMD guest tables.
    AmdV2,
    /// RISC-V Sv39, Sv48, Sv57.
    RiscvFirstStage,
    /// RISC-V Sv39x4, Sv48x4, Sv57x4.
    RiscvSecondStage,
    /// The processor's own tables.
    X86_64,
}

/// What hardware must know to walk a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableConfig {
    /// The format.
    pub format: TableFormat,
    /// The smallest page: 4, 16 or 64 KiB.
    pub granule: PageSize,
    /// Width of input addresses in bits.
    pub input_bits: u8,
    /// Width of output addresses in bits.
    pub output_bits: u8,
    /// Where the root is and how deep the tree is, in the format's own terms.
    pub root: TableRoot,
    /// Whether hardware's walks snoop the CPU's caches.
    pub coherent_walk: bool,
    /// Whether leaves say that a device's accesses snoop ([`TableParams::force_snoop`](crate::TableParams::force_snoop)): hardware without that may take such leaves for malformed.
    pub force_snoop: bool,
}

/// Where a walk begins, in the terms of the registers and configuration entries of each hardware family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TableRoot {
    /// Arm: what TTB0, S2TTB or a TTBR holds.
    Arm {
        /// The root, aligned to its size.
        address: PhysAddr,
        /// The level at which the walk starts, in Arm's numbers: -1..=3, pages are at level 3.
        start_level: i8,
        /// Root tables side by side: 1 or, for stage 2, up to 16 (Arm DDI 0487, D8.2, "Concatenated translation tables").
        tables: u8,
    },
    /// Intel VT-d, second stage: what a context or PASID entry's SSPTPTR holds; AW is `levels` - 2.
    Vtd {
        /// The root.
        address: PhysAddr,
        /// 3, 4 or 5.
        levels: u8,
    },
    /// x86-64 tables: CR3, VT-d's FSPTPTR, AMD's GCR3 table entry.
    X86 {
        /// The root.
        address: PhysAddr,
        /// 4 or 5.
        levels: u8,
    },
    /// AMD host tables: what a device table entry holds. It changes when the tree grows.
    Amd {
        /// The root.
        address: PhysAddr,
        /// Paging mode: the number of levels, 1..=6.
        mode: u8,
    },
    /// RISC-V: what `iohgatp` or a first-stage context holds.
    Riscv {
        /// The root; 16 KiB for the second stage.
        address: PhysAddr,
        /// MODE: 8, 9 or 10 for three, four or five levels.
        mode: u8,
    },
}

impl TableRoot {
    /// Where the root table is.
    pub fn address(self) -> PhysAddr {
        match self {
            Self::Arm { address, .. }
            | Self::Vtd { address, .. }
            | Self::X86 { address, .. }
            | Self::Amd { address, .. }
            | Self::Riscv { address, .. } => address,
        }
    }
}

/// Why nothing, or only a part, was mapped. Whatever was mapped by the failing call has been removed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// IOVA, physical address or length is not a multiple of the smallest page.
    Unaligned {
        /// First address asked for.
        iova: Iova,
        /// Where it should have led.
        phys: PhysAddr,
        /// Bytes.
        len: u64,
    },
    /// The range leaves the table's input addresses.
    OutOfRange {
        /// First address asked for.
        iova: Iova,
        /// Bytes.
        len: u64,
    },
    /// The range lies above what hardware walks at present: see [`PageTable::grow`].
    TooShallow {
        /// First address asked for.
        iova: Iova,
        /// Bytes.
        len: u64,
    },
    /// The physical range leaves the output addresses.
    PhysOutOfRange {
        /// First physical address.
        phys: PhysAddr,
        /// Bytes.
        len: u64,
    },
    /// Something is mapped there already.
    #[doc(alias = "EEXIST")]
    Occupied {
        /// The first address in use.
        iova: Iova,
    },
    /// Neither reading nor writing was allowed, or the format cannot express the protection.
    BadProt {
        /// What was asked for.
        prot: Prot,
    },
    /// No memory for a table.
    NoMemory(AllocError),
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unaligned { iova, phys, len } => {
                write!(
                    f,
                    "mapping {iova} to {phys} ({len:#x} bytes) is not a whole number of pages"
                )
            }
            Self::OutOfRange { iova, len } => {
                write!(f, "mapping {iova} ({len:#x} bytes) leaves the table's input range")
            }
            Self::TooShallow { iova, len } => {
                write!(f, "mapping {iova} ({len:#x} bytes) needs more levels: grow the table first")
            }
            Self::PhysOutOfRange { phys, len } => {
                write!(f, "mapping to {phys} ({len:#x} bytes) leaves the table's output range")
            }
            Self::Occupied { iova } => write!(f, "{iova} is mapped already"),
            Self::BadProt { prot } => write!(f, "the format cannot express {prot:?}"),
            Self::NoMemory(error) => write!(f, "no memory for a page table: {error}"),
        }
    }
}

impl core::error::Error for MapError {}

impl From<AllocError> for MapError {
    fn from(error: AllocError) -> Self {
        Self::NoMemory(error)
    }
}

/// Why nothing was unmapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnmapError {
    /// Start or length is not a multiple of the smallest page.
    Unaligned {
        /// First address.
        iova: Iova,
        /// Bytes.
        len: u64,
    },
    /// The range leaves the table's input addresses.
    OutOfRange {
        /// First address.
        iova: Iova,
        /// Bytes.
        len: u64,
    },
    /// Part of the range is not mapped.
    NotMapped {
        /// The first address without a mapping.
        iova: Iova,
    },
    /// The range cuts a larger leaf.
    SplitsLeaf {
        /// Where the leaf begins.
        leaf: Iova,
        /// Its size.
        size: PageSize,
    },
}

impl fmt::Display for UnmapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unaligned { iova, len } => {
                write!(f, "unmapping {iova} ({len:#x} bytes) is not a whole number of pages")
            }
            Self::OutOfRange { iova, len } => {
                write!(f, "unmapping {iova} ({len:#x} bytes) leaves the table's input range")
            }
            Self::NotMapped { iova } => write!(f, "{iova} is not mapped"),
            Self::SplitsLeaf { leaf, size } => {
                write!(f, "the range cuts the {size} page at {leaf}: unmap all of it")
            }
        }
    }
}

impl core::error::Error for UnmapError {}

/// Why no protection was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtectError {
    /// The range is not what is mapped there, for the same reasons for which it could not be unmapped.
    Range(UnmapError),
    /// Neither reading nor writing was allowed, or the format cannot express the protection.
    BadProt {
        /// What was asked for.
        prot: Prot,
    },
    /// The mapping at `iova` has another memory type, which hardware must not see change under a cached translation: unmap it first.
    MemoryType {
        /// First address of the entry.
        iova: Iova,
    },
    /// This address space cannot change a mapping.
    Unsupported,
}

impl fmt::Display for ProtectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(error) => write!(f, "cannot change the protection: {error}"),
            Self::BadProt { prot } => write!(f, "the format cannot express {prot:?}"),
            Self::MemoryType { iova } => {
                write!(f, "{iova} is mapped with another memory type: unmap it first")
            }
            Self::Unsupported => f.write_str("this address space cannot change a mapping"),
        }
    }
}

impl core::error::Error for ProtectError {}

impl From<UnmapError> for ProtectError {
    fn from(error: UnmapError) -> Self {
        Self::Range(error)
    }
}

/// A table as text for a person: what [`PageTable::describe`] writes.
#[derive(Debug)]
pub struct Dump<'a>(pub &'a dyn PageTable);

impl fmt::Display for Dump<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.describe(f)
    }
}

/// An I/O address space as a table in memory.
///
/// # What may run at the same time
///
/// All methods may be called from several threads at once. Calls on disjoint ranges do not disturb each other, also where the ranges share a table. What
/// two calls do that change the same range at the same time is unspecified (each may succeed or fail, and what stays mapped is one of the things that they
/// asked for; a table page may be lost to the tree and never freed), but no call ever touches memory that is not, or no longer, a table of this tree: table
/// pages are freed only by the drop and by [`free_retired`](Self::free_retired).
pub trait PageTable: Send + Sync + fmt::Debug {
    /// What hardware must know.
    fn config(&self) -> TableConfig;

    /// The leaf sizes it can use.
    fn page_sizes(&self) -> PageSizes;

    /// The input addresses it covers; where these are all of 2^64, all but the last page, which can be mapped nevertheless.
    fn input_range(&self) -> IovaRange;

    /// Maps `[iova, iova + len)` to `[phys, phys + len)` with the largest leaves that fit. No translation was there before, so only hardware that caches
    /// "not present" must be told. Empty tables left over from earlier are filled, not replaced (see [`reclaim`](Self::reclaim)).
    ///
    /// # Errors
    ///
    /// [`MapError`]; the table is as before the call. [`MapError::NoMemory`] also where two maps at the same instant were first in a leaf table that had been unmapped whole, as 64 pairs before them in the life of
    /// this table: the loser of each pair leaves a table page that is kept until the drop.
    fn map(&self, iova: Iova, phys: PhysAddr, len: u64, prot: Prot) -> Result<(), MapError>;

    /// Maps several physical ranges one behind the other from `iova` on, as [`map`](Self::map) does for one: all of them or none.
    ///
    /// # Errors
    ///
    /// [`MapError`]; the table is as before the call. A list without segments is refused as a length of 0.
    fn map_segments(&self, iova: Iova, segments: &[PhysRange], prot: Prot) -> Result<(), MapError>;

    /// Removes the mappings of `[iova, iova + len)` and adds to `gather` what hardware may still hold. Never allocates, and leaves tables that it
    /// empties in the tree: the next mapping there needs no memory. A leaf table of smallest pages that the range covers whole is not cleared but hidden from hardware by one store above it,
    /// and walk caches must be told ([`FlushRange::tables_freed`](crate::FlushRange)); of all others hardware may keep its cached walks.
    ///
    /// # Errors
    ///
    /// [`UnmapError`]; the table is as before the call.
    fn unmap(&self, iova: Iova, len: u64, gather: &mut IotlbGather) -> Result<(), UnmapError>;

    /// As [`unmap`](Self::unmap), but a leaf that the range cuts goes as a whole, and the range that was removed is returned: at most one leaf more at each end. For callers that
    /// unmap what others mapped and learn from the answer how much went (VFIO, iommufd). Leaves are never split: the entries that stay would have to be written while hardware may hold the old ones.
    ///
    /// # Errors
    ///
    /// [`UnmapError`], never [`UnmapError::SplitsLeaf`] unless somebody else changes the range meanwhile; the table is as before the call.
    #[doc(alias = "iommu_unmap")]
    fn unmap_whole_leaves(
        &self,
        iova: Iova,
        len: u64,
        gather: &mut IotlbGather,
    ) -> Result<IovaRange, UnmapError> {
        let outside = UnmapError::OutOfRange { iova, len };
        let mut range = IovaRange::new(iova, len).map_err(|_| outside)?;
        // Once for each end, and once that succeeds.
        for _ in 0..2 {
            let Err(error) = self.unmap(range.start(), range.len(), gather) else {
                return Ok(range);
            };
            let UnmapError::SplitsLeaf { leaf, size } = error else { return Err(error) };
            let start = range.start().min(leaf);
            let last = range.last().raw().max(leaf.raw() + (size.bytes() - 1));
            let len = (last - start.raw()).checked_add(1).ok_or(outside)?;
            range = IovaRange::new(start, len).map_err(|_| outside)?;
        }
        self.unmap(range.start(), range.len(), gather).map(|()| range)
    }

    /// Allows what `prot` says in `[iova, iova + len)`, which is mapped, and leads where it led; adds to `gather` what hardware may still hold: until that is
    /// flushed, it may go by the old protection. Each entry changes in one store, so an access meets the old protection or the new one and never a fault
    /// in between. (In a leaf of several entries these differ for a moment, which hardware bears where only permissions do: it goes by either.)
    ///
    /// # Errors
    ///
    /// [`ProtectError`]; nothing has changed.
    fn protect(
        &self,
        iova: Iova,
        len: u64,
        prot: Prot,
        gather: &mut IotlbGather,
    ) -> Result<(), ProtectError> {
        let _ = (iova, len, prot, gather);
        Err(ProtectError::Unsupported)
    }

    /// Writes what the table holds for a person who debugs: a line for each table, and one for each run of leaves that lead to adjacent memory alike. What other
    /// threads change meanwhile may be there or not.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.config())
    }

    /// Makes the tree deep enough for `last`, for formats whose trees begin small (AMD's), and returns what every unit that walks it must now be given. The
    /// mappings that there are stay where they are, seen from the old root and from the new one. Only after all units walk from the new root, and
    /// [`grown`](Self::grown) was told so, do mappings above the old tree succeed; until then they are refused with [`MapError::TooShallow`].
    ///
    /// # Errors
    ///
    /// [`MapError::OutOfRange`] where no tree of this table reaches `last`; [`MapError::NoMemory`], with the tree as deep as before or deeper.
    fn grow(&self, last: Iova) -> Result<TableConfig, MapError> {
        if self.input_range().contains(last) {
            return Ok(self.config());
        }
        Err(MapError::OutOfRange { iova: last, len: 1 })
    }

    /// Notes that every unit walks from the root in `config`, which [`grow`](Self::grow) returned, and has forgotten what it cached of the old one. Says
    /// whether that is still the root; if another thread has grown the tree meanwhile, its call will be told in turn.
    fn grown(&self, config: &TableConfig) -> bool {
        config.root == self.config().root
    }

    /// Takes empty tables that lie wholly inside `[iova, iova + len)` out of the tree, so that a later [`map`](Self::map) can use larger leaves
    /// there. The caller owns the whole range: nobody maps or unmaps inside meanwhile. Returns how many tables now wait in `gather`, which
    /// must be flushed *before* the range is mapped again (Arm's break-before-make; a walk cache that still leads into the old table would
    /// make the device fault). Never allocates, and so takes at most 64 tables out until [`free_retired`](Self::free_retired) makes room: a large
    /// range may need more than one call.
    ///
    /// # Errors
    ///
    /// [`UnmapError::Unaligned`], [`UnmapError::OutOfRange`]; nothing has changed.
    fn reclaim(&self, iova: Iova, len: u64, gather: &mut IotlbGather) -> Result<usize, UnmapError> {
        let _ = (iova, len, gather);
        Ok(0)
    }

    /// Notes that hardware can no longer reach the table pages of a gather: its invalidation is confirmed. Pages of another table are left alone.
    /// Their memory is free once [`free_retired`](Self::free_retired) or the drop knows that no thread can reach them either.
    fn retire(&self, flushed: Flushed) {
        drop(flushed);
    }

    /// Empties a gather whose invalidation was *not* confirmed: its table pages are kept until the table itself is dropped. The frames that the gather
    /// covered are the caller's to keep.
    fn quarantine(&self, gather: &mut IotlbGather) {
        drop(gather.confirm());
    }

    /// Gives the retired table pages back to their memory and returns how many these were.
    ///
    /// # Safety
    ///
    /// No other call on this table is under way on any thread: a call that began before a table page was taken out may still read and write it. Whoever
    /// can stop and drain the callers knows that (a device's last handle is gone, for example); nobody else can, which is why this is `unsafe`.
    #[expect(
        unsafe_code,
        reason = "the contract is about other threads, which no type here can see"
    )]
    unsafe fn free_retired(&self) -> usize {
        0
    }

    /// Where `iova` leads now and what is allowed there.
    fn translate(&self, iova: Iova) -> Option<(PhysAddr, Prot)>;

    /// Where `iova` leads now.
    #[doc(alias = "iova_to_phys")]
    fn look_up(&self, iova: Iova) -> Option<PhysAddr> {
        self.translate(iova).map(|(phys, _)| phys)
    }

    /// Table pages in use, the root included (once, whatever its size): those in the tree and those that were taken out and not yet freed.
    fn table_pages(&self) -> usize;
}
