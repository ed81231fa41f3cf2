//! Finding an entry.

use super::{IoPageTable, grow};
use crate::{Format, Level};
use portcullis_addr::PhysAddr;
use portcullis_platform::{Coherency, DmaMemory};

/// One entry of the tree, as a walk found it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// Where the entry stands.
    pub(super) address: PhysAddr,
    pub(super) entry: u64,
    pub(super) level: Level,
}

/// The pages of trees of the shape that most have: 4 KiB, four levels.
pub(super) const COMMON_PAGE: u64 = 4096;

/// Level number `number` of such a tree.
pub(super) const fn common_level(number: u8) -> Level {
    Level { number, shift: 12 + 9 * number as u32 }
}

/// The entry for the page at `iova` in its `table` of the last level of such a tree.
#[inline(always)]
pub(super) fn common_entry(table: PhysAddr, iova: u64) -> PhysAddr {
    PhysAddr::new(table.raw() + (iova >> 12 & 511) * 8)
}

impl<F: Format, M: DmaMemory> IoPageTable<F, M> {
    /// The entry that decides about `iova`, but none below level number `deepest`. `SETTLE`: publish table entries on the way whose publication by
    /// another thread is not known to be complete, so that hardware that does not snoop follows the same way.
    #[inline(always)]
    pub(super) fn descend<const SETTLE: bool>(&self, iova: u64, deepest: u8) -> Slot {
        let (root, shape) = self.root_and_shape();
        if shape == grow::shape(12, 4) {
            return self.walk::<12, SETTLE>(root, 4, iova, deepest);
        }
        let levels = grow::levels(shape);
        match self.geometry.leaf_shift() {
            12 => self.walk::<12, SETTLE>(root, levels, iova, deepest),
            14 => self.walk::<14, SETTLE>(root, levels, iova, deepest),
            _ => self.walk::<16, SETTLE>(root, levels, iova, deepest),
        }
    }

    /// The walk for a granule of 2^`LEAF` bytes with tables of one granule.
    #[inline(always)]
    fn walk<const LEAF: u32, const SETTLE: bool>(
        &self,
        root: u64,
        levels: u8,
        iova: u64,
        deepest: u8,
    ) -> Slot {
        let memory = &*self.memory;
        let mut table = root;
        // All of the bits that are left index the root: `iova` is inside the reach.
        let mut mask = u64::MAX;
        macro_rules! step {
            ($number:literal) => {
                if levels > $number {
                    let level = Level { number: $number, shift: LEAF + $number * (LEAF - 3) };
                    let address = PhysAddr::new(table + ((iova >> level.shift) & mask) * 8);
                    let entry = memory.load64(address);
                    if deepest == $number || !self.format.is_table(entry, level) {
                        return Slot { address, entry, level };
                    }
                    if SETTLE && entry & F::SOFTWARE_BIT == 0 {
                        self.settle(address, entry);
                    }
                    table = self.format.table_address(entry);
                    mask = (1u64 << (LEAF - 3)) - 1;
                }
            };
        }
        if LEAF == 12 {
            step!(5);
            step!(4);
        }
        step!(3);
        step!(2);
        step!(1);
        let address = PhysAddr::new(table + ((iova >> LEAF) & mask) * 8);
        Slot { address, entry: memory.load64(address), level: Level { number: 0, shift: LEAF } }
    }

    /// Where the entry of level number `DOWN` (0 or 1) for `iova` stands, if all tables on the way are there and have reached hardware. `COMMON`: only in trees
    /// of the shape that most have, which is the shortest code.
    #[inline(always)]
    pub(super) fn slot<const DOWN: u8, const COMMON: bool>(&self, iova: u64) -> Option<PhysAddr> {
        let packed = self.packed_top();
        // One operation takes the shape off and shows whether it was the common one.
        let root = packed.wrapping_sub(u64::from(grow::shape(12, 4)));
        if root & grow::SHAPE == 0 {
            return self.straight::<12, 4, DOWN>(root, iova);
        }
        if COMMON {
            return None;
        }
        let (root, shape) = grow::unpack(packed);
        const { assert!(grow::shape(12, 3) == 3 && grow::shape(14, 3) == 9 && grow::shape(16, 3) == 12) };
        match shape {
            3 => self.straight::<12, 3, DOWN>(root, iova),
            5 => self.straight::<12, 5, DOWN>(root, iova),
            9 => self.straight::<14, 3, DOWN>(root, iova),
            12 => self.straight::<16, 3, DOWN>(root, iova),
            _ => None,
        }
    }

    /// The same for a tree whose shape the compiler knows: a load, a masked compare and an address a level.
    #[inline(always)]
    fn straight<const LEAF: u32, const LEVELS: u8, const DOWN: u8>(
        &self,
        root: u64,
        iova: u64,
    ) -> Option<PhysAddr> {
        let (memory, mut table, mut mask) = (&*self.memory, root, u64::MAX);
        macro_rules! step {
            ($number:literal) => {
                if LEVELS > $number && DOWN < $number {
                    let level = Level { number: $number, shift: LEAF + $number * (LEAF - 3) };
                    let index = (iova >> level.shift) & mask;
                    let entry = memory.load64(PhysAddr::new(table + index * 8));
                    table = self.format.settled_table(entry, level)?;
                    mask = (1u64 << (LEAF - 3)) - 1;
                }
            };
        }
        if LEAF == 12 {
            step!(4);
        }
        step!(3);
        step!(2);
        step!(1);
        let shift = LEAF + DOWN as u32 * (LEAF - 3);
        Some(PhysAddr::new(table + ((iova >> shift) & mask) * 8))
    }

    /// Makes sure that a table entry has reached hardware, and remembers it in the entry.
    #[cold]
    pub(super) fn settle(&self, address: PhysAddr, entry: u64) {
        self.publish(address, 8);
        // A loser finds that another thread has done the same: nothing is left to do.
        let _ = self.memory.compare_exchange64(address, entry, entry | F::SOFTWARE_BIT);
    }

    /// Shows stores to whoever walks this table.
    #[inline(always)]
    pub(super) fn publish(&self, address: PhysAddr, len: usize) {
        self.memory.publish(address, len, Coherency::of(self.params.coherent));
    }

    /// The entry `offset` places behind `first` in the same table.
    pub(super) fn load_at(&self, first: PhysAddr, offset: usize) -> u64 {
        self.memory.load64(entry_at(first, offset))
    }
}

pub(super) fn entry_at(first: PhysAddr, offset: usize) -> PhysAddr {
    PhysAddr::new(first.raw() + offset as u64 * 8)
}
