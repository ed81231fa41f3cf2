//! What no table can beat: a walk of four levels, a look at the entry, a store and the order that hardware needs. No errors, one format, one size of pages and one of
//! blocks, no table is ever freed.

use crate::pool::FastMemory;
use portcullis_addr::PhysAddr;
use portcullis_platform::{Coherency, DmaMemory, PageLayout};

const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
const BLOCK: u64 = 2 << 20;

/// The floor, as what a domain would call through `dyn`.
pub trait Floor: Send + Sync {
    /// Maps whole pages of one table, or a block.
    fn map(&self, iova: u64, phys: u64, len: u64);
    /// Removes what [`map`](Self::map) did.
    fn unmap(&self, iova: u64, len: u64);
    /// Where `iova` leads; 0 for nowhere.
    fn phys(&self, iova: u64) -> u64;
}

/// Four levels in `M`.
#[derive(Debug)]
pub struct FloorTable {
    root: u64,
    memory: FastMemory,
}

impl FloorTable {
    /// An empty one.
    pub fn new(memory: FastMemory) -> Self {
        let root = table(&memory);
        Self { root, memory }
    }

    #[inline(always)]
    fn load(&self, at: u64) -> u64 {
        self.memory.load64(PhysAddr::new(at))
    }

    #[inline(always)]
    fn store(&self, at: u64, value: u64) {
        self.memory.store64(PhysAddr::new(at), value);
    }

    #[cold]
    #[inline(never)]
    fn make(&self, at: u64) -> u64 {
        let entry = table(&self.memory) | 3;
        self.store(at, entry);
        entry
    }

    /// The table below the entry for `iova`, made where there is none.
    #[inline(always)]
    fn step(&self, table: u64, iova: u64, shift: u32) -> u64 {
        let at = entry_at(table, iova, shift);
        let mut entry = self.load(at);
        if entry & 1 == 0 {
            entry = self.make(at);
        }
        entry & ADDRESS
    }

    #[inline(always)]
    fn publish(&self) {
        self.memory.publish(PhysAddr::new(0), 0, Coherency::Coherent);
    }
}

fn table(memory: &FastMemory) -> u64 {
    let layout = PageLayout::new(4096, 4096).expect("a page");
    memory.allocate(layout).expect("the pool is large enough").raw()
}

#[inline(always)]
fn entry_at(table: u64, iova: u64, shift: u32) -> u64 {
    table + ((iova >> shift) & 511) * 8
}

impl Floor for FloorTable {
    #[inline(always)]
    fn map(&self, iova: u64, phys: u64, len: u64) {
        let table = self.step(self.root, iova, 39);
        let table = self.step(table, iova, 30);
        if len == BLOCK && (iova | phys) & (BLOCK - 1) == 0 {
            let at = entry_at(table, iova, 21);
            assert!(self.load(at) & 1 == 0);
            self.store(at, phys | 0x701);
            return self.publish();
        }
        let first = entry_at(self.step(table, iova, 21), iova, 12);
        let mut value = phys | 0x703;
        for page in 0..len >> 12 {
            assert!(self.load(first + page * 8) & 1 == 0);
            self.store(first + page * 8, value);
            value += 4096;
        }
        self.publish();
    }

    #[inline(always)]
    fn unmap(&self, iova: u64, len: u64) {
        let table = self.load(entry_at(self.root, iova, 39)) & ADDRESS;
        let table = self.load(entry_at(table, iova, 30)) & ADDRESS;
        let at = entry_at(table, iova, 21);
        let entry = self.load(at);
        if entry & 2 == 0 {
            assert!(entry & 1 == 1);
            self.store(at, 0);
            return self.publish();
        }
        let first = entry_at(entry & ADDRESS, iova, 12);
        for page in 0..len >> 12 {
            assert!(self.load(first + page * 8) & 1 == 1);
            self.store(first + page * 8, 0);
        }
        self.publish();
    }

    #[inline(always)]
    fn phys(&self, iova: u64) -> u64 {
        let mut table = self.root;
        for shift in [39, 30, 21] {
            let entry = self.load(entry_at(table, iova, shift));
            if entry & 2 == 0 {
                let inside = iova & ((1 << shift) - 1);
                return if entry & 1 == 0 { 0 } else { entry & ADDRESS | inside };
            }
            table = entry & ADDRESS;
        }
        let entry = self.load(entry_at(table, iova, 12));
        if entry & 1 == 0 { 0 } else { entry & ADDRESS | iova & 4095 }
    }
}

impl Drop for FloorTable {
    fn drop(&mut self) {
        self.free_below(self.root, 39);
    }
}

impl FloorTable {
    fn free_below(&self, table: u64, shift: u32) {
        let entries = (0..512).map(|index| self.load(table + index * 8));
        if shift > 12 {
            let tables = entries.filter(|entry| entry & 3 == 3);
            tables.for_each(|entry| self.free_below(entry & ADDRESS, shift - 9));
        }
        let layout = PageLayout::new(4096, 4096).expect("a page");
        self.memory.free(PhysAddr::new(table), layout);
    }
}
