//! Table pages that are in no tree: taken in advance for a map, waiting in a gather, or in quarantine. All are lists through the pages' first
//! words, so that none of the three needs memory.

use super::IoPageTable;
use crate::{Format, gather::TableChain};
use core::sync::atomic::Ordering;
use portcullis_addr::PhysAddr;
use portcullis_platform::{AllocError, DmaMemory};

/// The end of a list. No page: it lies above every output address; and no present entry: in every format a present entry has a low bit set.
pub(super) const END: u64 = !0xfff;

/// Pages that a map has taken before its first store. What is left over goes back on drop.
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
        self.table.free_list(self.head);
    }
}

impl<F: Format, M: DmaMemory> IoPageTable<F, M> {
    /// Hangs a table page that has left the tree into `chain`, which accepts it.
    pub(super) fn unhooked(&self, chain: &mut TableChain, page: PhysAddr) {
        debug_assert!(chain.accepts(self.config.root), "the caller has asked the chain");
        let next = if chain.count == 0 { END } else { chain.head.raw() };
        self.memory.store64(page, next);
        if chain.count == 0 {
            chain.tail = page;
            chain.owner = self.config.root;
        }
        chain.head = page;
        chain.count += 1;
    }

    /// Frees the pages of a chain that hardware cannot reach any more.
    pub(super) fn free_chain(&self, chain: &TableChain) {
        if chain.count == 0 || !chain.accepts(self.config.root) {
            return;
        }
        self.free_list(chain.head.raw());
        self.pages.fetch_sub(chain.count, Ordering::Relaxed);
    }

    /// Puts the pages of a chain into the quarantine.
    pub(super) fn keep_chain(&self, chain: &TableChain) {
        if chain.count == 0 || !chain.accepts(self.config.root) {
            return;
        }
        let mut head = self.quarantined.load(Ordering::Relaxed);
        loop {
            self.memory.store64(chain.tail, head);
            let ours = chain.head.raw();
            match self.quarantined.compare_exchange_weak(
                head,
                ours,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(found) => head = found,
            }
        }
    }

    /// Frees the quarantine. Only for a table that no hardware walks any more.
    pub(super) fn free_quarantine(&mut self) {
        let head = core::mem::replace(self.quarantined.get_mut(), END);
        self.free_list(head);
    }

    /// Frees a list of pages that nobody else knows.
    fn free_list(&self, mut head: u64) {
        while head != END {
            let page = PhysAddr::new(head);
            head = self.memory.load64(page);
            self.memory.free(page, self.table_layout);
        }
    }
}
