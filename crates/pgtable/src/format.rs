//! What a format is to the engine: the layout of an entry and the shape of the tree, nothing else.

use crate::{TableError, TableFormat, TableParams};
use core::fmt;
use portcullis_addr::{PageSize, PageSizes, PhysAddr, Prot};

/// The bit layout of one table format. The engine owns the algorithms; a format has no state and touches no memory.
///
/// An entry of all zeroes is "not present" in every format.
pub trait Format: fmt::Debug + Send + Sync + 'static {
    /// Its name towards hardware drivers.
    const FORMAT: TableFormat;
    /// A bit of a table entry that hardware ignores. The engine keeps there whether the entry is known to have reached hardware.
    const SOFTWARE_BIT: u64;

    /// The shape of the tree for `params`.
    ///
    /// # Errors
    ///
    /// [`TableError`] where the format has no such table.
    fn geometry(params: &TableParams) -> Result<Geometry, TableError>;
    /// The bits of a leaf apart from its address and type; `None` where the format cannot express `prot`.
    fn leaf_bits(prot: Prot) -> Option<u64>;
    /// A leaf that leads to `phys` with [`leaf_bits`](Self::leaf_bits) `bits`. `last_level`: whether it stands in a table of the last level.
    fn leaf(bits: u64, phys: u64, last_level: bool) -> u64;
    /// An entry that leads to the table at `table`.
    fn table(table: PhysAddr) -> u64;
    /// Whether `entry`, of a level above the last, leads to a table.
    fn is_table(entry: u64) -> bool;
    /// Whether `entry` is a leaf.
    fn is_leaf(entry: u64, last_level: bool) -> bool;
    /// Where a table entry or a leaf leads.
    fn address(entry: u64) -> u64;
    /// What a leaf allows.
    fn prot(leaf: u64) -> Prot;
}

/// The shape of a tree.
///
/// Inside the engine a level is known by its *shift*, log2 of the bytes that one of its entries covers; Arm's level numbers (the smallest pages are in
/// tables of level 3) are for hardware.
///
/// # Invariants
///
/// `leaf_shift <= first_leaf_shift <= root_shift`, all of them `leaf_shift` plus a multiple of `index_bits`; `root_entries` is a power of two;
/// `root_shift` plus log2 of `root_entries` is the width of input addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    leaf_shift: u32,
    index_bits: u32,
    first_leaf_shift: u32,
    root_shift: u32,
    root_entries: usize,
    last_level: u8,
}

impl Geometry {
    /// Tables of `granule` bytes (4, 16 or 64 KiB) with 8-byte entries over `levels` levels (1..=4), the last of them `last_level`, the highest with leaves `first_leaf_level`
    /// (or the root, where that is lower), and `root_entries` entries in the root.
    ///
    /// `None` where the numbers do not make a tree.
    pub fn new(
        granule: PageSize,
        levels: u8,
        first_leaf_level: u8,
        last_level: u8,
        root_entries: usize,
    ) -> Option<Self> {
        let start_level = (last_level + 1).checked_sub(levels)?;
        let leaf_shift = u32::from(granule.log2());
        let index_bits = leaf_shift - 3;
        let above = last_level.checked_sub(first_leaf_level.max(start_level))?;
        let sane = (1..=4).contains(&levels)
            && matches!(leaf_shift, 12 | 14 | 16)
            && root_entries.is_power_of_two();
        // INVARIANT: the root lies `levels - 1` levels up, the highest leaves at most as high.
        sane.then_some(Self {
            leaf_shift,
            index_bits,
            first_leaf_shift: leaf_shift + index_bits * u32::from(above),
            root_shift: leaf_shift + index_bits * u32::from(levels - 1),
            root_entries,
            last_level,
        })
    }

    /// Level of the root, by Arm's numbers.
    pub fn start_level(&self) -> u8 {
        let depth = (self.root_shift - self.leaf_shift) / self.index_bits;
        self.last_level - u8::try_from(depth).expect("at most as many levels as `last_level` + 1")
    }

    /// Entries of the root, a power of two; with concatenated roots all of them together.
    pub fn root_entries(&self) -> usize {
        self.root_entries
    }

    /// Leaf sizes of all levels.
    pub fn leaf_sizes(&self) -> PageSizes {
        let shifts = (self.leaf_shift..=self.first_leaf_shift).step_by(self.index_bits as usize);
        PageSizes::from_bitmap(shifts.fold(0, |set: u64, shift| set | 1 << shift))
    }

    /// The shift of the root's entries.
    pub(crate) fn root_shift(&self) -> u32 {
        self.root_shift
    }

    /// The shift of the smallest leaves.
    pub(crate) fn leaf_shift(&self) -> u32 {
        self.leaf_shift
    }

    /// What a shift grows by from a level to the one above it.
    pub(crate) fn index_bits(&self) -> u32 {
        self.index_bits
    }

    /// Entries of a table whose entries have `shift`.
    pub(crate) fn entries(&self, shift: u32) -> usize {
        if shift == self.root_shift { self.root_entries } else { 1 << self.index_bits }
    }

    /// The index of the entry that covers `iova`, an address inside the input range, in a table whose entries have `shift`.
    pub(crate) fn index(&self, iova: u64, shift: u32) -> usize {
        (iova >> shift) as usize & (self.entries(shift) - 1)
    }

    /// Bytes of a table below the root.
    pub(crate) fn table_bytes(&self) -> usize {
        1 << self.leaf_shift
    }

    /// The shift of the largest leaves that divide `aligned` (the OR of both addresses) and are not above `len`.
    #[inline(always)]
    pub(crate) fn best_shift(&self, aligned: u64, len: u64) -> u32 {
        // Most mappings are shorter than any block.
        if len >> (self.leaf_shift + self.index_bits) == 0 {
            return self.leaf_shift;
        }
        let mut shift = self.first_leaf_shift;
        while shift > self.leaf_shift && (aligned & ((1 << shift) - 1) != 0 || len >> shift == 0) {
            shift -= self.index_bits;
        }
        shift
    }
}

/// Leaves with `shift` as a size.
pub(crate) fn leaf_size(shift: u32) -> PageSize {
    let log2 = u8::try_from(shift).ok().and_then(PageSize::from_log2);
    log2.expect("an entry covers 2^12 to 2^63 bytes")
}
