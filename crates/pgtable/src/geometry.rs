//! The shape of a tree: how many levels, what an entry covers, which leaf sizes.

use crate::Level;
use portcullis_addr::{PageSize, PageSizes};

/// The most levels that any format has (AMD: 6).
pub(crate) const MAX_LEVELS: u8 = 6;

/// The shape of a tree.
///
/// In every format that we know a table below the root is as large as the smallest page, with entries of 8 bytes; only the root may differ.
///
/// # Invariants
///
/// `1 <= levels <= 6`; an input address has `leaf_shift + (levels - 1) * index_bits + root_bits` bits, at most 64; every leaf size stands at a level, takes
/// fewer entries than a table has, and the smallest is one entry of the last level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    leaf_shift: u8,
    levels: u8,
    first_levels: u8,
    root_bits: u8,
    root_log2: u8,
    sizes: PageSizes,
}

impl Geometry {
    /// Tables of `granule` bytes over `levels` levels (1..=6), the smallest pages `granule` large, input addresses of `input_bits` bits. What the levels
    /// below it leave of the input address indexes the root. Of the leaf `sizes` those are used that fit into a table; `granule` always is.
    ///
    /// `None` where the numbers do not make a tree.
    pub fn new(granule: PageSize, levels: u8, input_bits: u8, sizes: PageSizes) -> Option<Self> {
        let leaf_shift = granule.log2();
        let index_bits = leaf_shift - 3;
        let below = levels.checked_sub(1)?.checked_mul(index_bits)?.checked_add(leaf_shift)?;
        let root_bits = input_bits.checked_sub(below)?;
        let sane = (1..=MAX_LEVELS).contains(&levels)
            && matches!(leaf_shift, 12 | 14 | 16)
            && root_bits <= 16
            && input_bits <= 64;
        let root_log2 = (root_bits + 3).max(12);
        let mut geometry =
            Self { leaf_shift, levels, first_levels: levels, root_bits, root_log2, sizes };
        if !sane {
            return None;
        }
        // INVARIANT: levels and widths are checked above, the sizes here.
        let fits = |log2: &u8| *log2 == leaf_shift || geometry.has_room_for(u32::from(*log2));
        let wanted = (leaf_shift..64).filter(|log2| sizes.bitmap() >> log2 & 1 == 1);
        let bitmap = wanted.filter(fits).fold(granule.bytes(), |set, log2| set | 1 << log2);
        geometry.sizes = PageSizes::from_bitmap(bitmap);
        Some(geometry)
    }

    /// The same tree, which begins with `first_levels` levels and gets the others when addresses need them. Roots of fewer levels are tables like others.
    #[must_use]
    pub fn growing_from(self, first_levels: u8) -> Self {
        Self { first_levels: first_levels.clamp(1, self.levels), ..self }
    }

    /// The same tree with at least `size` of memory for its root: what hardware reads, whatever part of it the input addresses use.
    #[must_use]
    pub fn with_root_of(self, size: PageSize) -> Self {
        Self { root_log2: self.root_log2.max(size.log2()), ..self }
    }

    /// Whether a leaf of 2^`log2` bytes takes fewer entries than its table has, and than a table of the level would have that is not the root: a larger one
    /// is a leaf of a level that is not there.
    fn has_room_for(&self, log2: u32) -> bool {
        let level = self.level_of(log2);
        let entries = self.entry_bits(level.number).min(self.index_bits());
        log2 < level.shift + u32::from(entries)
    }

    /// How many levels there are.
    pub fn levels(&self) -> u8 {
        self.levels
    }

    /// How many levels there are at first.
    pub fn first_levels(&self) -> u8 {
        self.first_levels
    }

    /// The last address of a tree of `levels` levels.
    pub(crate) fn last_of(&self, levels: u8) -> u64 {
        if levels >= self.levels {
            return self.last_input();
        }
        u64::MAX >> (64 - self.level(levels).shift)
    }

    /// Bytes of the root, which is aligned to them.
    pub(crate) fn root_bytes(&self) -> usize {
        1 << self.root_log2
    }

    /// Entries of the root of a tree with all levels, a power of two; with concatenated roots all of them together.
    pub fn root_entries(&self) -> usize {
        1 << self.root_bits
    }

    /// Leaf sizes of all levels.
    pub fn leaf_sizes(&self) -> PageSizes {
        self.sizes
    }

    /// Width of input addresses in bits.
    pub fn input_bits(&self) -> u8 {
        self.leaf_shift + (self.levels - 1) * self.index_bits() + self.root_bits
    }

    /// The last input address.
    pub fn last_input(&self) -> u64 {
        u64::MAX >> (64 - self.input_bits())
    }

    /// log2 of the smallest leaves.
    pub(crate) fn leaf_shift(&self) -> u32 {
        u32::from(self.leaf_shift)
    }

    /// Input bits that index a table below the root: its entries have 8 bytes.
    fn index_bits(&self) -> u8 {
        self.leaf_shift - 3
    }

    /// The level with this number, 0 for the smallest pages.
    #[inline(always)]
    pub(crate) fn level(&self, number: u8) -> Level {
        let shift = u32::from(self.leaf_shift) + u32::from(number) * u32::from(self.index_bits());
        Level { number, shift }
    }

    /// log2 of the entries of a table.
    fn entry_bits(&self, number: u8) -> u8 {
        if number + 1 == self.levels { self.root_bits } else { self.index_bits() }
    }

    /// Entries of a table at `level`.
    #[inline(always)]
    pub(crate) fn entries(&self, level: Level) -> usize {
        1 << self.entry_bits(level.number)
    }

    /// The index of the entry that covers `iova`, an address inside the input range, in a table at `level`.
    #[inline(always)]
    pub(crate) fn index(&self, iova: u64, level: Level) -> usize {
        (iova >> level.shift) as usize & (self.entries(level) - 1)
    }

    /// Bytes of a table below the root.
    pub(crate) fn table_bytes(&self) -> usize {
        1 << self.leaf_shift
    }

    /// The level whose entries make leaves of 2^`size_log2` bytes: the highest whose entries are not larger.
    #[inline(always)]
    pub(crate) fn level_of(&self, size_log2: u32) -> Level {
        let above = size_log2.saturating_sub(self.leaf_shift()) / u32::from(self.index_bits());
        self.level((above as u8).min(self.levels - 1))
    }

    /// log2 of the largest leaves that divide `aligned` (the OR of both addresses), are not above `len` (at least one page) and below 2^`below` bytes.
    #[inline(always)]
    pub(crate) fn best_size(&self, aligned: u64, len: u64, below: u32) -> u32 {
        let sizes = PageSizes::from_bitmap(self.sizes.bitmap() & (u64::MAX >> (64 - below)));
        let best = sizes.best_fit(aligned, len);
        best.map_or(self.leaf_shift(), |size| u32::from(size.log2()))
    }

    /// The smallest leaves but the smallest pages; `u64::MAX` where there are only these.
    pub(crate) fn second_size(&self) -> u64 {
        let larger = self.sizes.bitmap() & !(1 << self.leaf_shift);
        if larger == 0 { u64::MAX } else { larger & larger.wrapping_neg() }
    }

    /// How much of `len` bytes is best mapped with leaves of 2^`size` bytes before larger ones fit.
    #[inline(always)]
    pub(crate) fn run_len(&self, iova: u64, phys: u64, len: u64, size: u32) -> u64 {
        let larger = self.sizes.bitmap() & !((2 << size) - 1);
        // The next size above is the lowest bit.
        let next = larger & larger.wrapping_neg();
        if next == 0 || next > len || (iova ^ phys) & (next - 1) != 0 {
            return len;
        }
        let distance = next - (iova & (next - 1));
        if len - next >= distance { distance } else { len }
    }
}

/// Leaves of 2^`log2` bytes as a size.
pub(crate) fn leaf_size(log2: u32) -> PageSize {
    let size = u8::try_from(log2).ok().and_then(PageSize::from_log2);
    size.expect("an entry covers 2^12 to 2^63 bytes")
}
