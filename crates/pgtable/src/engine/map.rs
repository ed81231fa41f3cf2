//! Mapping: look at the whole range, take the memory, then store.

use super::{IoPageTable, Slot, chain::FreeChain, entry_at};
use crate::{Format, MapError};
use core::sync::atomic::Ordering;
use portcullis_addr::{Iova, PhysAddr, Prot};
use portcullis_platform::DmaMemory;

/// What is still to be mapped.
#[derive(Clone, Copy)]
struct Span {
    iova: u64,
    phys: u64,
    len: u64,
}

impl Span {
    fn skip(&mut self, bytes: u64) {
        self.iova += bytes;
        self.phys += bytes;
        self.len -= bytes;
    }
}

/// Leaves of one size side by side in one table, which may not exist yet.
struct Run {
    /// The first leaf's entry, or the empty entry above it where tables are missing.
    slot: Slot,
    /// The leaves' shift.
    shift: u32,
    count: usize,
}

impl Run {
    fn bytes(&self) -> u64 {
        (self.count as u64) << self.shift
    }
}

impl<F: Format, M: DmaMemory> IoPageTable<F, M> {
    pub(super) fn map_range(
        &self,
        iova: Iova,
        phys: PhysAddr,
        len: u64,
        prot: Prot,
    ) -> Result<(), MapError> {
        self.check_map(iova, phys, len)?;
        let bits = self.leaf_bits[usize::from(prot.bits() & 63)];
        if bits == 0 {
            return Err(MapError::BadProt { prot });
        }
        let span = Span { iova: iova.raw(), phys: phys.raw(), len };
        // Most calls are for leaves of one size in one table that exists: one walk, no survey.
        let shift = self.geometry.best_shift(span.iova | span.phys, len);
        let slot = self.descend::<true>(span.iova, shift);
        if slot.entry != 0 || slot.shift != shift {
            return self.map_many(span, bits);
        }
        let count = len >> shift;
        if len == 1 << shift {
            self.store_run(slot.address, shift, 1, bits, span.phys);
            return Ok(());
        }
        let room = self.geometry.entries(shift) - self.geometry.index(span.iova, shift);
        let whole = count << shift == len && count <= room as u64;
        if whole && self.free_entries(slot, count as usize, span)? == count as usize {
            self.store_run(slot.address, shift, count as usize, bits, span.phys);
            return Ok(());
        }
        self.map_many(span, bits)
    }

    #[inline(always)]
    fn check_map(&self, iova: Iova, phys: PhysAddr, len: u64) -> Result<(), MapError> {
        let unit = self.config.granule.bytes() - 1;
        if (iova.raw() | phys.raw() | len) & unit != 0 || len == 0 {
            return Err(MapError::Unaligned { iova, phys, len });
        }
        if !self.check_input(iova, len) {
            return Err(MapError::OutOfRange { iova, len });
        }
        let phys_end = phys.raw().checked_add(len);
        if phys_end.is_none_or(|end| end > self.output_end) {
            return Err(MapError::PhysOutOfRange { phys, len });
        }
        Ok(())
    }

    /// Several tables, tables that are missing, or leftover ones. Nothing is stored where hardware could see it before all of the range is known to be free and
    /// all memory is there.
    #[inline(never)]
    fn map_many(&self, span: Span, bits: u64) -> Result<(), MapError> {
        let missing = self.survey(span)?;
        let mut pages = self.chain();
        pages.reserve(missing)?;
        let mut rest = span;
        while rest.len > 0 {
            match self.map_run(rest, bits, &mut pages) {
                Ok(bytes) => rest.skip(bytes),
                Err(error) => {
                    // Only for a caller that broke the rule of disjoint ranges: somebody stored into ours after the survey.
                    self.forget(span.iova, rest.iova - span.iova);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// How many tables the range lacks.
    fn survey(&self, mut span: Span) -> Result<usize, MapError> {
        // Per level the start of the last missing table that was counted: runs come in ascending order, so a table is met again only while it is last.
        let mut counted = [u64::MAX; 8];
        let mut missing = 0;
        while span.len > 0 {
            let run = self.next_run::<true>(span)?;
            let depth = (run.slot.shift - run.shift) / self.geometry.index_bits();
            for above in 1..=depth {
                let shift = run.shift + above * self.geometry.index_bits();
                let start = span.iova >> shift;
                let level = (shift - self.geometry.leaf_shift()) / self.geometry.index_bits();
                if core::mem::replace(&mut counted[level as usize], start) != start {
                    missing += 1;
                }
            }
            span.skip(run.bytes());
        }
        Ok(missing)
    }

    /// Maps the first run of `span` and returns its bytes.
    fn map_run(
        &self,
        span: Span,
        bits: u64,
        pages: &mut FreeChain<'_, F, M>,
    ) -> Result<u64, MapError> {
        loop {
            let run = self.next_run::<false>(span)?;
            if run.slot.shift == run.shift {
                self.store_run(run.slot.address, run.shift, run.count, bits, span.phys);
                return Ok(run.bytes());
            }
            self.install(run.slot.address, pages)?;
        }
    }

    /// The longest run of free entries of one table from the start of `span`, for the largest leaves that fit.
    ///
    /// A leftover table where a block would fit is used, with smaller leaves: replacing it would need an invalidation first.
    /// `LOOK`: whether the pages of the run may be in use; after the survey they are known to be free.
    fn next_run<const LOOK: bool>(&self, span: Span) -> Result<Run, MapError> {
        let mut shift = self.geometry.best_shift(span.iova | span.phys, span.len);
        let mut len = span.len;
        loop {
            let slot = self.descend::<true>(span.iova, shift);
            let room = self.geometry.entries(shift) - self.geometry.index(span.iova, shift);
            let wanted = usize::try_from(len >> shift).map_or(room, |count| count.min(room));
            if slot.entry == 0 {
                let look = slot.shift == shift && (LOOK || !self.is_last(shift));
                let count = if look { self.free_entries(slot, wanted, span)? } else { wanted };
                return Ok(Run { slot, shift, count });
            }
            if slot.shift > shift || self.is_last(shift) || !F::is_table(slot.entry) {
                return Err(MapError::Occupied { iova: Iova::new(span.iova) });
            }
            len = len.min(1 << shift);
            shift -= self.geometry.index_bits();
        }
    }

    /// How many entries from the empty `slot` on are empty too, at most `wanted`. A table ends the run; a leaf is an error.
    #[inline(always)]
    fn free_entries(&self, slot: Slot, wanted: usize, span: Span) -> Result<usize, MapError> {
        for offset in 1..wanted {
            let entry = self.load_at(slot.address, offset);
            if entry == 0 {
                continue;
            }
            if !self.is_last(slot.shift) && F::is_table(entry) {
                return Ok(offset);
            }
            let iova = Iova::new(span.iova + ((offset as u64) << slot.shift));
            return Err(MapError::Occupied { iova });
        }
        Ok(wanted)
    }

    #[inline(always)]
    fn store_run(&self, first: PhysAddr, shift: u32, count: usize, bits: u64, phys: u64) {
        // Leaves of one run differ in their address field only, and the addresses are multiples of the leaf size.
        let mut entry = F::leaf(bits, phys, self.is_last(shift));
        for offset in 0..count {
            self.memory.store64(entry_at(first, offset), entry);
            entry += 1 << shift;
        }
        self.publish(first, count * 8);
    }

    /// Puts a table into the entry at `address`, unless another thread has just done so.
    fn install(&self, address: PhysAddr, pages: &mut FreeChain<'_, F, M>) -> Result<(), MapError> {
        let page = pages.take()?;
        self.publish(page, self.geometry.table_bytes());
        // Hardware that snoops sees the pointer as soon as any CPU does; otherwise it is settled below, or by whoever follows it before that.
        let settled = if self.config.coherent_walk { F::SOFTWARE_BIT } else { 0 };
        let entry = F::table(page) | settled;
        if self.memory.compare_exchange64(address, 0, entry).is_err() {
            pages.push(page);
            return Ok(());
        }
        self.pages.fetch_add(1, Ordering::Relaxed);
        if settled == 0 {
            self.settle(address, entry);
        } else {
            self.publish(address, 8);
        }
        Ok(())
    }
}
