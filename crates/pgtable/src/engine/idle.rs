//! Idle tables: a leaf table that was unmapped whole keeps its place and its memory, and only the entry above it changes.
//!
//! That entry becomes *not present* for hardware in every format and keeps the table's address for us, so an unmap of a whole table is one store, and the next map of the same range fills the
//! table again before anybody sees it. What stands in an idle table is of no account. The table serves the same addresses for as long as it is in the tree: whoever still stands in it
//! from a call that began before (a look-up) reads nothing of another range there.
//!
//! A map of part of the range must empty the table first. It claims the table meanwhile, and another map that comes by does not wait: it puts a table of its own there, and the claimed one is kept
//! until nobody can stand in it.

use super::IoPageTable;
use super::walk::Slot;
use crate::Format;
use crate::gather::TakenOut;
use portcullis_addr::PhysAddr;
use portcullis_platform::DmaMemory;

/// What makes an entry present in some format: bit 0 (Arm, x86, AMD, RISC-V) or one of 0 to 2 (VT-d second stage). All other bits of an entry without these are ignored.
const PRESENT: u64 = 0b111;
/// Marks an entry above an idle table.
const IDLE: u64 = 1 << 10;
/// Marks one above an idle table that one map is emptying.
const CLAIMED: u64 = 1 << 11;
/// The bits of such an entry that are no address: tables are aligned to 4 KiB at least.
const FLAGS: u64 = 0xfff;

/// The idle table below `entry`.
#[inline(always)]
pub(super) fn idle(entry: u64) -> Option<PhysAddr> {
    (entry & (PRESENT | IDLE) == IDLE).then(|| PhysAddr::new(entry & !FLAGS))
}

/// The table below `entry` that a map has claimed.
#[inline(always)]
pub(super) fn claimed(entry: u64) -> Option<PhysAddr> {
    (entry & (PRESENT | CLAIMED) == CLAIMED).then(|| PhysAddr::new(entry & !FLAGS))
}

/// The table below `entry` that hardware cannot reach.
#[inline(always)]
pub(super) fn unreachable(entry: u64) -> Option<PhysAddr> {
    idle(entry).or_else(|| claimed(entry))
}

impl<F: Format, M: DmaMemory> IoPageTable<F, M> {
    /// Makes the leaf table for `iova` idle; all of its pages are mapped, and the caller's. `false` where it has to be cleared instead: it is the root, or has not reached hardware for sure.
    pub(super) fn make_idle(&self, iova: u64) -> bool {
        let slot = self.descend::<false>(iova, 1);
        if slot.level.number != 1 {
            return false;
        }
        let Some(table) = self.format.settled_table(slot.entry, slot.level) else { return false };
        let idle = table | IDLE;
        // Only one of two callers that both, against the rules, unmap here may go on.
        let done = self.memory.compare_exchange64(slot.address, slot.entry, idle).is_ok();
        if done {
            self.publish(slot.address, 8);
        }
        done
    }

    /// Whether `entries` are all of the leaf table that holds them.
    #[inline(always)]
    pub(super) fn is_whole_table(&self, entries: usize) -> bool {
        entries * 8 == self.table_layout.size()
    }

    /// Takes the idle `table` below `slot` for one map, which empties it, and returns the slot as it is then. `None` where another has been faster.
    pub(super) fn claim(&self, slot: Slot, table: PhysAddr) -> Option<Slot> {
        let entry = table.raw() | CLAIMED;
        let claimed = self.memory.compare_exchange64(slot.address, slot.entry, entry);
        claimed.ok().map(|()| Slot { entry, ..slot })
    }

    /// Leads hardware from `slot`, whose entry is not present, to `table`. Everything in it has reached memory. `false` where somebody has changed the entry meanwhile.
    pub(super) fn lead_to(&self, slot: Slot, table: PhysAddr) -> bool {
        // Hardware that snoops sees the pointer as soon as any CPU does; otherwise it is settled below, or by whoever follows it before that.
        let settled = if self.params.coherent { F::SOFTWARE_BIT } else { 0 };
        let entry = self.format.table(table, slot.level) | settled;
        if self.memory.compare_exchange64(slot.address, slot.entry, entry).is_err() {
            return false;
        }
        if settled == 0 {
            self.settle(slot.address, entry);
        } else {
            self.publish(slot.address, 8);
        }
        true
    }

    /// As [`lead_to`](Self::lead_to), for a new table in the place of one that another map has claimed and that is kept until nobody can stand in it. `None` where there is no place to keep it: 64 tables
    /// wait already.
    pub(super) fn displace(&self, slot: Slot, old: PhysAddr, table: PhysAddr) -> Option<bool> {
        let place = self.taken_out.reserve(&TakenOut::default())?;
        let done = self.lead_to(slot, table);
        if done {
            // Retired by no gather: its own may not have been paid yet.
            self.taken_out.keep(place, old, &mut TakenOut::default());
        } else {
            self.taken_out.give_up(place);
        }
        Some(done)
    }
}
