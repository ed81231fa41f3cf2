//! Table pages that are in no tree: taken in advance for a map, or taken out of the tree by a reclaim.

use super::IoPageTable;
use super::idle::unreachable;
use super::walk::entry_at;
use crate::gather::TakenOut;
use crate::{Format, Level};
use core::sync::atomic::{AtomicU64, Ordering};
use portcullis_addr::PhysAddr;
use portcullis_platform::{AllocError, DmaMemory};

/// The end of a chain. It lies above every output address, and is no present entry in any format, in which some low bit is set.
const END: u64 = !0xfff;

/// Pages that a map has taken before its first store, linked through their first words: nobody else knows them. What is left over goes back on drop.
pub(super) struct FreeChain<'a, F: Format, M: DmaMemory> {
    table: &'a IoPageTable<F, M>,
    head: u64,
}

impl<'a, F: Format, M: DmaMemory> FreeChain<'a, F, M> {
    pub(super) fn new(table: &'a IoPageTable<F, M>) -> Self {
        Self { table, head: END }
    }

    /// Adds `count` zeroed pages from the memory. On failure the drop gives back those that were taken.
    pub(super) fn reserve(&mut self, count: usize) -> Result<(), AllocError> {
        for _ in 0..count {
            let page = self.table.allocate_table()?;
            self.push(page);
        }
        Ok(())
    }

    /// Adds a page whose words other than the first are zero.
    pub(super) fn push(&mut self, page: PhysAddr) {
        self.table.memory.store64(page, self.head);
        self.head = page.raw();
    }

    /// A zeroed page, from the chain or, when it is used up, from the memory.
    pub(super) fn take(&mut self) -> Result<PhysAddr, AllocError> {
        if self.head == END {
            return self.table.allocate_table();
        }
        let page = PhysAddr::new(self.head);
        self.head = self.table.memory.load64(page);
        self.table.memory.store64(page, 0);
        Ok(page)
    }
}

impl<F: Format, M: DmaMemory> Drop for FreeChain<'_, F, M> {
    fn drop(&mut self) {
        while self.head != END {
            let page = PhysAddr::new(self.head);
            self.head = self.table.memory.load64(page);
            self.table.memory.free(page, self.table.table_layout);
        }
    }
}

/// How many pages may be out of the tree at a time: one bit each of a [`TakenOut`].
const PLACES: usize = 64;

/// Table pages that have left the tree. A thread that stood in one when it was taken out may still read and write it, so the list is not kept in the pages,
/// and a page stays memory of this table until nobody can be in it.
pub(super) struct TakenOutPages {
    /// What distinguishes this table from all others that were ever made.
    owner: u64,
    /// One bit a place that is in use.
    used: AtomicU64,
    /// Those of them whose invalidation is confirmed.
    retired: AtomicU64,
    pages: [AtomicU64; PLACES],
}

impl TakenOutPages {
    pub(super) fn new() -> Self {
        static NEXT_OWNER: AtomicU64 = AtomicU64::new(1);
        Self {
            owner: NEXT_OWNER.fetch_add(1, Ordering::Relaxed),
            used: AtomicU64::new(0),
            retired: AtomicU64::new(0),
            pages: [const { AtomicU64::new(0) }; PLACES],
        }
    }

    /// A place for a page that is about to leave the tree; `None` where all are in use.
    pub(super) fn reserve(&self, taken: &TakenOut) -> Option<Place> {
        if !taken.accepts(self.owner) {
            return None;
        }
        let mut used = self.used.load(Ordering::Relaxed);
        loop {
            let number = (used != u64::MAX).then(|| used.trailing_ones())?;
            let claimed = used | 1 << number;
            match self.used.compare_exchange_weak(
                used,
                claimed,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(Place(number)),
                Err(found) => used = found,
            }
        }
    }

    /// Gives a place back that was not needed.
    pub(super) fn give_up(&self, place: Place) {
        self.used.fetch_and(!(1 << place.0), Ordering::Release);
    }

    /// Keeps `page`, which has left the tree, at `place`.
    pub(super) fn keep(&self, place: Place, page: PhysAddr, taken: &mut TakenOut) {
        self.pages[place.0 as usize].store(page.raw(), Ordering::Release);
        taken.owner = self.owner;
        taken.places |= 1 << place.0;
    }

    pub(super) fn retire(&self, taken: &TakenOut) {
        if taken.count() > 0 && taken.accepts(self.owner) {
            self.retired.fetch_or(taken.places, Ordering::Release);
        }
    }

    /// The places whose invalidation is confirmed.
    pub(super) fn retired(&self) -> u64 {
        self.retired.load(Ordering::Acquire)
    }
}

/// A place of [`TakenOutPages`].
pub(super) struct Place(u32);

impl<F: Format, M: DmaMemory> IoPageTable<F, M> {
    /// A zeroed page for a table, which nobody can see yet.
    pub(super) fn allocate_table(&self) -> Result<PhysAddr, AllocError> {
        self.memory.allocate(self.table_layout)
    }

    /// Frees the pages at those of `places` that are in use, and counts them. Nobody can be walking through them.
    pub(super) fn free_taken_out(&self, places: u64) -> usize {
        let list = &self.taken_out;
        let places = places & list.used.load(Ordering::Acquire);
        for (number, page) in list.pages.iter().enumerate() {
            if places >> number & 1 == 1 {
                self.memory.free(PhysAddr::new(page.load(Ordering::Acquire)), self.table_layout);
            }
        }
        let count = places.count_ones() as usize;
        self.pages.fetch_sub(count, Ordering::Relaxed);
        list.retired.fetch_and(!places, Ordering::Relaxed);
        list.used.fetch_and(!places, Ordering::Release);
        count
    }

    /// Frees the tables below the table at `table`. Only for a tree that nobody walks any more.
    pub(super) fn free_below(&self, table: PhysAddr, level: Level) {
        if level.is_last() {
            return;
        }
        for index in 0..self.geometry.entries(level) {
            let entry = self.memory.load64(entry_at(table, index));
            if let Some(idle) = unreachable(entry) {
                self.memory.free(idle, self.table_layout);
            } else if self.format.is_table(entry, level) {
                let child = PhysAddr::new(self.format.table_address(entry));
                self.free_below(child, self.geometry.level(level.number - 1));
                self.memory.free(child, self.table_layout);
            }
        }
    }
}
