//! Translation tables written by hand from the Arm manual (DDI 0487, D8.3), on purpose without the crate that drivers use: what is wrong there must not be
//! wrong here in the same way.

use crate::bench::{Bench, Failure};
use crate::pattern::allocate;
use portcullis_addr::PhysAddr;
use portcullis_platform::Coherency;

const TABLE_OR_PAGE: u64 = 3;
const BLOCK: u64 = 1;
const VALID: u64 = 1;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// Size of a page and of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Granule {
    /// 4 KiB.
    K4,
    /// 16 KiB.
    K16,
    /// 64 KiB.
    K64,
}

impl Granule {
    /// log2 of its bytes.
    pub const fn log2(self) -> u32 {
        match self {
            Self::K4 => 12,
            Self::K16 => 14,
            Self::K64 => 16,
        }
    }

    /// log2 of the bytes that an entry at `level` covers.
    pub const fn shift(self, level: u32) -> u32 {
        self.log2() + (self.log2() - 3) * (3 - level)
    }
}

/// The attributes of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Leaf(u64);

impl Leaf {
    /// Stage 1: accessed, inner shareable, not global, readable and writable for EL0.
    pub const READ_WRITE: Self = Self(1 << 10 | 3 << 8 | 1 << 11 | 1 << 6);
    /// The same, read only (bit 2 of AP).
    pub const READ_ONLY: Self = Self(Self::READ_WRITE.0 | 1 << 7);
    /// Readable and writable, access flag clear.
    pub const NOT_ACCESSED: Self = Self(Self::READ_WRITE.0 & !(1 << 10));
    /// Stage 2: accessed, inner shareable, S2AP read and write, normal memory.
    pub const S2_READ_WRITE: Self = Self(1 << 10 | 3 << 8 | 3 << 6 | 0xf << 2);
    /// The same, S2AP read only.
    pub const S2_READ_ONLY: Self = Self(Self::S2_READ_WRITE.0 & !(1 << 7));
}

/// A tree of tables.
pub struct Tree<'a> {
    bench: &'a dyn Bench,
    granule: Granule,
    input_bits: u32,
    start: u32,
    root: PhysAddr,
}

impl std::fmt::Debug for Tree<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tree").field("granule", &self.granule).finish_non_exhaustive()
    }
}

impl<'a> Tree<'a> {
    /// An empty tree for input addresses of `input_bits` bits.
    ///
    /// # Errors
    ///
    /// When there is no memory.
    pub fn new(bench: &'a dyn Bench, granule: Granule, input_bits: u32) -> Result<Self, Failure> {
        // The first level whose entries cover less than the whole.
        let start = (0..3).find(|level| granule.shift(*level) < input_bits).unwrap_or(3);
        let root = allocate(bench, 1 << granule.log2())?;
        Ok(Self { bench, granule, input_bits, start, root })
    }

    /// The granule.
    pub fn granule(&self) -> Granule {
        self.granule
    }

    /// Bits of an input address.
    pub fn input_bits(&self) -> u32 {
        self.input_bits
    }

    /// The root table.
    pub fn root(&self) -> PhysAddr {
        self.root
    }

    /// `SL0` for stage 2 (DDI 0487, table D8-18): counts levels down from 2 with 4 KiB, from 3 with the others.
    pub fn stage_two_start(&self) -> u64 {
        let from = if self.granule == Granule::K4 { 2 } else { 3 };
        u64::from(from - self.start)
    }

    /// Maps the page at `iova`.
    ///
    /// # Errors
    ///
    /// When there is no memory for a table.
    pub fn map(&self, iova: u64, phys: PhysAddr, leaf: Leaf) -> Result<(), Failure> {
        self.map_at(3, iova, phys, leaf)
    }

    /// Maps the block or page at `iova` with an entry at `level`.
    ///
    /// # Errors
    ///
    /// When there is no memory for a table.
    pub fn map_at(&self, level: u32, iova: u64, phys: PhysAddr, leaf: Leaf) -> Result<(), Failure> {
        let kind = if level == 3 { TABLE_OR_PAGE } else { BLOCK };
        let place = self.entry(level, iova, true)?;
        self.store(place, phys.raw() | leaf.0 | kind);
        Ok(())
    }

    /// Removes what is mapped at `iova` by an entry at level 3, and nothing else.
    ///
    /// # Errors
    ///
    /// When nothing is mapped there.
    pub fn unmap(&self, iova: u64) -> Result<(), Failure> {
        self.clear(3, iova)
    }

    /// Removes the entry at `level` for `iova`, and nothing else.
    ///
    /// # Errors
    ///
    /// When there is no such entry.
    pub fn clear(&self, level: u32, iova: u64) -> Result<(), Failure> {
        let place = self.entry(level, iova, false)?;
        self.store(place, 0);
        Ok(())
    }

    /// Replaces the table pointer at `level` on the way to `iova` by one to `phys`.
    ///
    /// # Errors
    ///
    /// When there is no such entry.
    pub fn redirect(&self, level: u32, iova: u64, phys: PhysAddr) -> Result<(), Failure> {
        let place = self.entry(level, iova, false)?;
        self.store(place, phys.raw() | TABLE_OR_PAGE);
        Ok(())
    }

    /// Sets attribute bits of the table descriptor at `level` on the way to `iova`.
    ///
    /// # Errors
    ///
    /// When there is no such entry.
    pub fn restrict(&self, level: u32, iova: u64, bits: u64) -> Result<(), Failure> {
        let place = self.entry(level, iova, false)?;
        let word = self.bench.memory().load64(place);
        self.store(place, word | bits);
        Ok(())
    }

    /// Every table page on the way to `iova`, from the root down.
    ///
    /// # Errors
    ///
    /// When a table is missing.
    pub fn tables(&self, iova: u64) -> Result<Vec<PhysAddr>, Failure> {
        let size = 1u64 << self.granule.log2();
        let table = |level| Ok(self.entry(level, iova, false)?.align_down(size));
        (self.start..=3).map(table).collect()
    }

    fn entry(&self, level: u32, iova: u64, grow: bool) -> Result<PhysAddr, Failure> {
        let mut table = self.root;
        for above in self.start..level {
            let place = self.place(table, above, iova);
            let mut word = self.bench.memory().load64(place);
            if word & VALID == 0 {
                if !grow {
                    return Err(Failure(format!("no table at level {above} for {iova:#x}")));
                }
                let fresh = allocate(self.bench, 1 << self.granule.log2())?;
                word = fresh.raw() | TABLE_OR_PAGE;
                self.store(place, word);
            }
            table = PhysAddr::new(word & ADDRESS);
        }
        Ok(self.place(table, level, iova))
    }

    fn place(&self, table: PhysAddr, level: u32, iova: u64) -> PhysAddr {
        let index = iova >> self.granule.shift(level) & ((1 << (self.granule.log2() - 3)) - 1);
        PhysAddr::new(table.raw() + 8 * index)
    }

    fn store(&self, place: PhysAddr, word: u64) {
        self.bench.memory().store64(place, word);
        self.bench.memory().publish(place, 8, Coherency::NonCoherent);
    }
}
