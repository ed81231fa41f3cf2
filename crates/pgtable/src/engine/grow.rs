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

/// A root and its shape in one word.
pub(super) fn pack(root: PhysAddr, leaf_shift: u32, levels: u8) -> u64 {
    root.raw() | u64::from(shape(leaf_shift, levels))
}

/// The bits of a packed top that hold the tree's shape; roots are aligned to 4 KiB at least.
pub(super) const SHAPE: u64 = 0xf;

/// The root's address and the shape of a packed top.
#[inline(always)]
pub(super) fn unpack(packed: u64) -> (u64, u8) {
    (packed & !SHAPE, (packed & SHAPE) as u8)
}

/// A number for a granule and a number of levels: 1 to 6 with 4 KiB, 7 to 10 with 16 KiB (1 to 4 levels), 10 to 12 with 64 KiB (1 to 3; a tree of one level of
/// 64 KiB is too narrow for any format).
pub(super) const fn shape(leaf_shift: u32, levels: u8) -> u8 {
    match leaf_shift {
        12 => levels,
        14 => levels + 6,
        _ => levels + 9,
    }
}

/// The levels of a shape.
pub(super) const fn levels(shape: u8) -> u8 {
    match shape {
        0..=6 => shape,
        7..=10 => shape - 6,
        _ => shape - 9,
    }
}

impl<F: Format, M: DmaMemory> IoPageTable<F, M> {
    /// The root's address and the tree's [`shape`].
    #[inline(always)]
    pub(super) fn root_and_shape(&self) -> (u64, u8) {
        unpack(self.packed_top())
    }

    /// Both in one word, as [`pack`] makes it.
    #[inline(always)]
    pub(super) fn packed_top(&self) -> u64 {
        self.top.load(Ordering::Acquire)
    }

    pub(super) fn top(&self) -> Top {
        let (root, shape) = self.root_and_shape();
        Top { root: PhysAddr::new(root), level: self.geometry.level(levels(shape) - 1) }
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
            let leaf_shift = self.geometry.leaf_shift();
            let (from, to) =
                (pack(old.root, leaf_shift, levels), pack(page, leaf_shift, levels + 1));
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
