//! The root, and trees that grow at it.

use super::IoPageTable;
use crate::{Format, Level, MapError, TableRoot};
use core::sync::atomic::Ordering;
use portcullis_addr::{Iova, PhysAddr};
use portcullis_platform::DmaMemory;

/// The root table.
#[derive(Clone, Copy)]
pub(super) struct Top {
    pub(super) root: PhysAddr,
    pub(super) level: Level,
}

/// The bits of a packed top that hold the number of levels; roots are aligned to 4 KiB at least.
const LEVELS: u64 = 0xf;

impl<F: Format, M: DmaMemory> IoPageTable<F, M> {
    /// The root's address and the number of levels.
    #[inline(always)]
    pub(super) fn root_and_levels(&self) -> (u64, u8) {
        let packed = self.top.load(Ordering::Acquire);
        (packed & !LEVELS, (packed & LEVELS) as u8)
    }

    pub(super) fn top(&self) -> Top {
        let (root, levels) = self.root_and_levels();
        Top { root: PhysAddr::new(root), level: self.geometry.level(levels - 1) }
    }

    pub(super) fn root_for_hardware(&self, top: Top) -> TableRoot {
        self.format.root(&self.geometry, top.root, top.level.number + 1)
    }

    /// Why a range above the reach cannot be mapped.
    #[cold]
    pub(super) fn out_of_reach(&self, iova: Iova, len: u64) -> MapError {
        let last = iova.raw().checked_add(len - 1);
        match last {
            Some(last) if last <= self.geometry.last_input() => MapError::TooShallow { iova, len },
            _ => MapError::OutOfRange { iova, len },
        }
    }

    /// Adds levels until the tree reaches `last`.
    pub(super) fn grow_to(&self, last: Iova) -> Result<(), MapError> {
        if last.raw() > self.geometry.last_input() {
            return Err(MapError::OutOfRange { iova: last, len: 1 });
        }
        loop {
            let old = self.top();
            let levels = old.level.number + 1;
            if last.raw() <= self.geometry.last_of(levels) {
                return Ok(());
            }
            let page = self.allocate_table()?;
            let above = self.geometry.level(levels);
            // Published whole before hardware is told of it, so nobody has to settle the entry.
            self.memory.store64(page, self.format.table(old.root, above) | F::SOFTWARE_BIT);
            self.publish(page, self.geometry.table_bytes());
            let packed = |root: PhysAddr, levels: u8| root.raw() | u64::from(levels);
            let (from, to) = (packed(old.root, levels), packed(page, levels + 1));
            if self.top.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                self.pages.fetch_add(1, Ordering::Relaxed);
            } else {
                self.memory.free(page, self.table_layout);
            }
        }
    }

    /// Notes that hardware walks from `root`; says whether that is the root still.
    pub(super) fn hardware_walks_from(&self, root: TableRoot) -> bool {
        let top = self.top();
        if root != self.root_for_hardware(top) {
            return false;
        }
        // Never back: another thread may have told us of a deeper tree.
        self.reach.fetch_max(self.geometry.last_of(top.level.number + 1), Ordering::AcqRel);
        true
    }
}
