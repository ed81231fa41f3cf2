//! What a format is to the engine: the layout of an entry and the shape of the tree, nothing else.

use crate::{Geometry, TableError, TableFormat, TableParams, TableRoot};
use core::fmt;
use portcullis_addr::{PhysAddr, Prot};

/// A level of a tree, as an entry encoder sees it.
///
/// Levels are counted from the smallest pages up, because that is where all formats agree; a format's own level numbers are for hardware
/// (Arm calls number 0 "level 3", AMD "level 1").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// 0 for the tables whose entries are the smallest pages.
    pub number: u8,
    /// log2 of the bytes that one entry covers.
    pub shift: u32,
}

impl Level {
    /// Whether its entries are the smallest pages, below which there are no tables.
    pub const fn is_last(self) -> bool {
        self.number == 0
    }
}

/// The bit layout of one table format. The engine owns the algorithms; a format is a value made from a table's parameters, and touches no memory.
///
/// An entry of all zeroes is "not present" in every format.
///
/// A leaf may take several neighbouring entries of one table (Arm's contiguous hint, RISC-V's Svnapot, AMD's encoded sizes). The engine stores all of
/// them and never a part; the encoder is asked for each of them.
pub trait Format: fmt::Debug + Send + Sync + Sized + 'static {
    /// Its name towards hardware drivers.
    const FORMAT: TableFormat;
    /// A bit of a table entry that hardware ignores. The engine keeps there whether the entry is known to have reached hardware.
    const SOFTWARE_BIT: u64;
    /// The bits of a table entry that hold the table's address.
    const TABLE_ADDRESS: u64;

    /// The format and the shape of the tree for `params`.
    ///
    /// # Errors
    ///
    /// [`TableError`] where the format has no such table.
    fn new(params: &TableParams) -> Result<(Self, Geometry), TableError>;
    /// What hardware must be given to find a tree with its root at `root`, `levels` levels deep.
    fn root(&self, geometry: &Geometry, root: PhysAddr, levels: u8) -> TableRoot;
    /// The bits of a leaf apart from its address and type; `None` where the format cannot express `prot`. Never 0.
    fn leaf_bits(&self, prot: Prot) -> Option<u64>;
    /// One entry of `level` that belongs to a leaf of 2^`size_log2` bytes with [`leaf_bits`](Self::leaf_bits) `bits`. `phys` is where the part of the
    /// leaf leads that this entry stands for, so it grows by the level's entry size from one entry of a leaf to the next.
    fn leaf(&self, bits: u64, phys: u64, level: Level, size_log2: u32) -> u64;
    /// An entry of `level`, which is not the last, that leads to the table at `table`.
    fn table(&self, table: PhysAddr, level: Level) -> u64;
    /// Whether `entry`, of a level above the last, leads to a table.
    fn is_table(&self, entry: u64, level: Level) -> bool;
    /// The table that `entry` leads to, if it is known to have reached hardware: the entry is one of [`table`](Self::table) with [`SOFTWARE_BIT`](Self::SOFTWARE_BIT)
    /// and nothing else, so what differs from one for address 0 is the address, and no more than it may.
    #[inline(always)]
    fn settled_table(&self, entry: u64, level: Level) -> Option<u64> {
        // A difference: unlike a masked compare, which the compiler would make of an exclusive or, it is the address already.
        let rest = entry.wrapping_sub(self.table(PhysAddr::new(0), level) | Self::SOFTWARE_BIT);
        (rest & !Self::TABLE_ADDRESS == 0).then(|| self.table_address(rest))
    }
    /// Bits of the leaf `leaf` of the last level such that every entry of that level that has them all is a leaf.
    fn presence(&self, leaf: u64) -> u64;
    /// Whether `entry` is a leaf or part of one.
    fn is_leaf(&self, entry: u64, level: Level) -> bool;
    /// Where a table entry leads.
    fn table_address(&self, entry: u64) -> u64;
    /// log2 of the bytes of the whole leaf that `leaf` belongs to; the level's shift where a leaf takes one entry.
    fn leaf_size(&self, leaf: u64, level: Level) -> u32 {
        let _ = leaf;
        level.shift
    }
    /// Where the first byte of the whole leaf leads.
    fn leaf_address(&self, leaf: u64, level: Level) -> u64;
    /// What a leaf allows.
    fn prot(&self, leaf: u64) -> Prot;
}
