//! Finding an entry.

use super::IoPageTable;
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

impl<F: Format, M: DmaMemory> IoPageTable<F, M> {
    /// The entry that decides about `iova`, but none below level number `deepest`. `SETTLE`: publish table entries on the way whose publication by
    /// another thread is not known to be complete, so that hardware that does not snoop follows the same way.
    #[inline(always)]
    pub(super) fn descend<const SETTLE: bool>(&self, iova: u64, deepest: u8) -> Slot {
        match self.geometry.leaf_shift() {
            12 => self.walk::<12, SETTLE>(iova, deepest),
            14 => self.walk::<14, SETTLE>(iova, deepest),
            _ => self.walk::<16, SETTLE>(iova, deepest),
        }
    }

    /// The walk for a granule of 2^`LEAF` bytes with tables of one granule, one step a level written out, so that every shift is a constant.
    #[inline(always)]
    fn walk<const LEAF: u32, const SETTLE: bool>(&self, iova: u64, deepest: u8) -> Slot {
        // Copies, because each acquire load would have the fields read again.
        let memory = &*self.memory;
        let (root, levels) = self.root_and_levels();
        let mut table = root;
        // All of the bits that are left index the root: `iova` is inside the input range.
        let mut mask = u64::MAX;
        let below_root = (1u64 << (LEAF - 3)) - 1;
        macro_rules! step {
            ($number:literal) => {
                let level = Level { number: $number, shift: LEAF + $number * (LEAF - 3) };
                if levels > $number {
                    let address = PhysAddr::new(table + ((iova >> level.shift) & mask) * 8);
                    let entry = memory.load64(address);
                    if deepest == $number || !self.format.is_table(entry, level) {
                        return Slot { address, entry, level };
                    }
                    if SETTLE && entry & F::SOFTWARE_BIT == 0 {
                        self.settle(address, entry);
                    }
                    table = self.format.table_address(entry);
                    mask = below_root;
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
