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

/// The shape of a tree: levels of Arm's numbering (the root is at `start_level`, the smallest pages are in tables of `last_level`).
///
/// # Invariants
///
/// `start_level <= first_leaf_level <= last_level`; `root_entries` is a power of two;
/// `shift(start_level)` plus log2 of `root_entries` is the width of input addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    granule_log2: u8,
    index_bits: u8,
    start_level: u8,
    first_leaf_level: u8,
    last_level: u8,
    root_entries: usize,
}

impl Geometry {
    /// Tables of `granule` bytes with 8-byte entries over `levels` levels, the last of them `last_level`, the highest with leaves `first_leaf_level`
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
        let sane = levels > 0 && first_leaf_level <= last_level && root_entries.is_power_of_two();
        // INVARIANT: checked on the line above, and the highest leaf level is moved down to the root's.
        sane.then_some(Self {
            granule_log2: granule.log2(),
            index_bits: granule.log2() - 3,
            start_level,
            first_leaf_level: first_leaf_level.max(start_level),
            last_level,
            root_entries,
        })
    }

    /// Level of the root.
    pub fn start_level(&self) -> u8 {
        self.start_level
    }

    /// Level of the tables that hold the smallest pages.
    pub fn last_level(&self) -> u8 {
        self.last_level
    }

    /// Entries of the root, a power of two; with concatenated roots all of them together.
    pub fn root_entries(&self) -> usize {
        self.root_entries
    }

    /// Leaf sizes of all levels.
    pub fn leaf_sizes(&self) -> PageSizes {
        let bits = (self.first_leaf_level..=self.last_level).map(|level| 1 << self.shift(level));
        PageSizes::from_bitmap(bits.fold(0, |set: u64, size: u64| set | size))
    }

    /// log2 of the bytes that one entry of a table of `level` covers.
    pub(crate) fn shift(&self, level: u8) -> u32 {
        u32::from(self.granule_log2)
            + u32::from(self.index_bits) * u32::from(self.last_level - level)
    }

    /// Entries of a table of `level`.
    pub(crate) fn entries(&self, level: u8) -> usize {
        if level == self.start_level { self.root_entries } else { 1 << self.index_bits }
    }

    /// The index of the entry of a table of `level` that covers `iova`, an address inside the input range.
    pub(crate) fn index(&self, iova: u64, level: u8) -> usize {
        (iova >> self.shift(level)) as usize & (self.entries(level) - 1)
    }

    pub(crate) fn index_bits(&self) -> u32 {
        u32::from(self.index_bits)
    }

    /// Bytes of a table below the root.
    pub(crate) fn table_bytes(&self) -> usize {
        1 << self.granule_log2
    }

    /// The size of a leaf in a table of `level`, and whether the level has leaves.
    pub(crate) fn leaf_size(&self, level: u8) -> PageSize {
        let log2 = u8::try_from(self.shift(level)).ok().and_then(PageSize::from_log2);
        log2.expect("an entry covers 2^12 to 2^63 bytes")
    }

    /// The highest level whose leaves divide `aligned` (the OR of both addresses) and are not above `len`, with its shift.
    pub(crate) fn best_level(&self, aligned: u64, len: u64) -> (u8, u32) {
        let mut level = self.first_leaf_level;
        let mut shift = self.shift(level);
        while level < self.last_level && (aligned & ((1 << shift) - 1) != 0 || len >> shift == 0) {
            level += 1;
            shift -= self.index_bits();
        }
        (level, shift)
    }
}
