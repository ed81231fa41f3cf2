//! Mapping: look at the whole range, take the memory, then store.

use super::IoPageTable;
use super::idle::{claimed, idle, unreachable};
use super::pages::FreeChain;
use super::walk::{COMMON_PAGE, Slot, common_level, entry_at};
use crate::{Format, Level, MapError};
use core::sync::atomic::Ordering;
use portcullis_addr::{Iova, PhysAddr, PhysRange, Prot};
use portcullis_platform::{AllocError, DmaMemory};

/// What is still to be mapped.
#[derive(Clone, Copy)]
struct Span {
    iova: u64,
    phys: u64,
    len: u64,
}

impl Span {
    fn skip(&mut self, bytes: u64) {
        // Wraps at the end of a span that ends with the last address; nothing is left to map then.
        self.iova = self.iova.wrapping_add(bytes);
        self.phys = self.phys.wrapping_add(bytes);
        self.len -= bytes;
    }
}

/// Segments one behind the other, neighbours in physical memory taken together, so that they get larger leaves.
#[derive(Clone)]
struct Spans<'a> {
    iova: u64,
    segments: core::iter::Peekable<core::slice::Iter<'a, PhysRange>>,
}

impl Iterator for Spans<'_> {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        let first = self.segments.next()?;
        let mut span = Span { iova: self.iova, phys: first.start().raw(), len: first.len() };
        let adjoins = |span: &Span, next: &PhysRange| {
            span.phys.checked_add(span.len) == Some(next.start().raw())
        };
        while let Some(next) = self.segments.next_if(|next| adjoins(&span, next)) {
            span.len += next.len();
        }
        self.iova = self.iova.wrapping_add(span.len);
        Some(span)
    }
}

/// Smallest pages with their entries, in a table of `level`, from the one at `first` on.
#[inline(always)]
fn pages_from(first: PhysAddr, level: Level, entries: usize) -> Run {
    let slot = Slot { address: first, entry: 0, level };
    Run { slot, level, size: level.shift, entries }
}

/// Leaves of one size side by side in one table, which may not exist yet.
struct Run {
    /// The first leaf's entry, or the empty entry above it where tables are missing.
    slot: Slot,
    /// Where the leaves stand.
    level: Level,
    /// log2 of a leaf's bytes.
    size: u32,
    entries: usize,
}

impl Run {
    fn bytes(&self) -> u64 {
        (self.entries as u64) << self.level.shift
    }
}

impl<F: Format, M: DmaMemory> IoPageTable<F, M> {
    #[inline(always)]
    pub(super) fn map_range(
        &self,
        iova: Iova,
        phys: PhysAddr,
        len: u64,
        prot: Prot,
    ) -> Result<(), MapError> {
        let (iova, phys) = (iova.raw(), phys.raw());
        if len == COMMON_PAGE && self.map_one::<0, true>(iova, phys, COMMON_PAGE - 1, prot) {
            return Ok(());
        }
        // In the order of this call's own arguments, so that they stay where they are.
        self.map_block(iova, phys, len, prot)
    }

    /// A block of the level above the pages, or anything else that [`map_one`](Self::map_one) did not map. A function of its own, so that neither it nor its caller keeps a stack frame.
    #[inline(never)]
    fn map_block(&self, iova: u64, phys: u64, len: u64, prot: Prot) -> Result<(), MapError> {
        const BLOCK: u64 = 1 << common_level(1).shift;
        if len == BLOCK
            && self.block == BLOCK
            && self.map_one::<1, true>(iova, phys, BLOCK - 1, prot)
        {
            return Ok(());
        }
        self.map_pages(iova, phys, len, prot)
    }

    /// Several smallest pages in one table of the common tree, or anything else.
    #[inline(never)]
    fn map_pages(&self, iova: u64, phys: u64, len: u64, prot: Prot) -> Result<(), MapError> {
        if self.map_in_one_table::<true>(iova, phys, len, prot) {
            return Ok(());
        }
        self.map_more(iova, phys, len, prot)
    }

    /// Maps one leaf of one entry, of level number `DOWN` and 1 + `below` bytes, where its entry is free in a table that exists and has reached hardware; the
    /// errors are for the long way. `COMMON`: see [`slot`](Self::slot).
    #[inline(always)]
    fn map_one<const DOWN: u8, const COMMON: bool>(
        &self,
        iova: u64,
        phys: u64,
        below: u64,
        prot: Prot,
    ) -> bool {
        let bits = self.leaf_bits[usize::from(prot.bits()) & 63];
        // Both limits are the last bytes of pages of any size that the table has.
        let aligned = (iova | phys) & below == 0;
        if bits == 0 || !aligned || iova > self.reach() || phys > self.last_output {
            return false;
        }
        let Some(address) = self.slot::<DOWN, COMMON>(iova) else { return false };
        if self.memory.load64(address) != 0 {
            return false;
        }
        let level = if COMMON { common_level(DOWN) } else { self.geometry.level(DOWN) };
        self.memory.store64(address, self.format.leaf(bits, phys, level, level.shift));
        self.publish(address, 8);
        true
    }

    /// More pages than one, or one that [`map_one`](Self::map_one) did not map.
    #[inline(never)]
    fn map_more(&self, iova: u64, phys: u64, len: u64, prot: Prot) -> Result<(), MapError> {
        if (len == self.block && self.map_one::<1, false>(iova, phys, len - 1, prot))
            || (len == self.page() && self.map_one::<0, false>(iova, phys, len - 1, prot))
            || self.map_in_one_table::<false>(iova, phys, len, prot)
        {
            return Ok(());
        }
        self.map_anything(Span { iova, phys, len }, prot)
    }

    /// Whether the arguments are whole pages inside both ranges.
    #[inline(always)]
    fn is_mappable(&self, iova: u64, phys: u64, len: u64) -> bool {
        let but_one = len.wrapping_sub(1);
        let (last, last_out) = (iova.wrapping_add(but_one), phys.wrapping_add(but_one));
        // A length of 0 wraps to an end below the start, like any range that wraps.
        (iova | phys | len) & self.below_page == 0
            && last >= iova
            && last <= self.reach()
            && last_out >= phys
            && last_out <= self.last_output
    }

    /// Maps smallest pages, where their entries stand in one table that exists and are all free: one check of the arguments, one walk, no survey. `COMMON`: see [`slot`](Self::slot).
    #[inline(always)]
    fn map_in_one_table<const COMMON: bool>(
        &self,
        iova: u64,
        phys: u64,
        len: u64,
        prot: Prot,
    ) -> bool {
        let bits = self.leaf_bits[usize::from(prot.bits()) & 63];
        let pages = len < self.second_size || (iova ^ phys) & (self.second_size - 1) != 0;
        if bits == 0 || !pages || !self.is_mappable(iova, phys, len) {
            return false;
        }
        let level = self.last_level::<COMMON>();
        let count = (len >> level.shift) as usize;
        let Some(first) = self.slot::<0, COMMON>(iova) else {
            return self.is_whole_table(count) && self.refill(iova, phys, bits);
        };
        if len > self.left_of_table::<COMMON>(iova) || !self.memory.is_zero(first, count) {
            return false;
        }
        self.store_run(first, &pages_from(first, level, count), bits, phys);
        true
    }

    /// Maps a whole table of smallest pages where an idle one stands.
    #[inline(never)]
    fn refill(&self, iova: u64, phys: u64, bits: u64) -> bool {
        let slot = self.descend::<true>(iova, 1);
        let whole = self.left_of_table::<false>(iova) == 1 << slot.level.shift;
        let Some(table) = idle(slot.entry).filter(|_| whole) else { return false };
        let run = pages_from(table, self.geometry.level(0), self.table_layout.size() / 8);
        self.store_run(table, &run, bits, phys);
        self.lead_to(slot, table)
    }

    /// The level of the smallest pages; `COMMON`: in a tree of the common shape.
    #[inline(always)]
    pub(super) fn last_level<const COMMON: bool>(&self) -> Level {
        if COMMON { common_level(0) } else { self.geometry.level(0) }
    }

    /// Bytes from `iova` to the end of what a table of the last level covers.
    #[inline(always)]
    pub(super) fn left_of_table<const COMMON: bool>(&self, iova: u64) -> u64 {
        let above = if COMMON { common_level(1) } else { self.geometry.level(1) };
        let covered = 1u64 << above.shift;
        covered - (iova & (covered - 1))
    }

    /// Every map that is not [`map_in_one_table`](Self::map_in_one_table).
    #[inline(never)]
    fn map_anything(&self, span: Span, prot: Prot) -> Result<(), MapError> {
        self.check_map(Iova::new(span.iova), PhysAddr::new(span.phys), span.len)?;
        let bits = self.bits_of(prot)?;
        let run = self.next_run::<true>(span, 64)?;
        if run.slot.level == run.level && run.bytes() == span.len {
            self.store_run(run.slot.address, &run, bits, span.phys);
            return Ok(());
        }
        self.map_many(core::iter::once(span), bits)
    }

    pub(super) fn map_list(
        &self,
        iova: Iova,
        segments: &[PhysRange],
        prot: Prot,
    ) -> Result<(), MapError> {
        let bits = self.bits_of(prot)?;
        let mut at = Some(iova);
        for segment in segments {
            let (phys, len) = (segment.start(), segment.len());
            // The address behind the last segment may be 2^64, but no segment begins there.
            let here = at.ok_or(MapError::OutOfRange { iova, len })?;
            self.check_map(here, phys, len)?;
            at = here.checked_add(len);
        }
        if segments.is_empty() {
            return Err(MapError::Unaligned { iova, phys: PhysAddr::new(0), len: 0 });
        }
        let segments = segments.iter().peekable();
        self.map_many(Spans { iova: iova.raw(), segments }, bits)
    }

    fn bits_of(&self, prot: Prot) -> Result<u64, MapError> {
        match self.leaf_bits[usize::from(prot.bits() & 63)] {
            0 => Err(MapError::BadProt { prot }),
            bits => Ok(bits),
        }
    }

    fn check_map(&self, iova: Iova, phys: PhysAddr, len: u64) -> Result<(), MapError> {
        let unit = self.params.granule.bytes() - 1;
        if (iova.raw() | phys.raw() | len) & unit != 0 || len == 0 {
            return Err(MapError::Unaligned { iova, phys, len });
        }
        if iova.raw().checked_add(len - 1).is_none_or(|last| last > self.reach()) {
            return Err(self.out_of_reach(iova, len));
        }
        let last = phys.raw().checked_add(len - 1);
        if last.is_none_or(|last| last > self.last_output) {
            return Err(MapError::PhysOutOfRange { phys, len });
        }
        Ok(())
    }

    /// Several tables, tables that are missing, or leftover ones. Nothing is stored where hardware could see it before all of the range is known to be free and
    /// all memory is there. The spans lie one behind the other.
    #[inline(never)]
    fn map_many(
        &self,
        spans: impl Iterator<Item = Span> + Clone,
        bits: u64,
    ) -> Result<(), MapError> {
        let missing = self.survey(spans.clone())?;
        let mut pages = FreeChain::new(self);
        pages.reserve(missing)?;
        let mut first = None;
        for mut span in spans {
            let first = *first.get_or_insert(span.iova);
            while span.len > 0 {
                match self.map_run(span, bits, &mut pages) {
                    Ok(bytes) => span.skip(bytes),
                    Err(error) => {
                        // Only for a caller that broke the rule of disjoint ranges: somebody stored into ours after the survey.
                        self.forget(first, span.iova - first);
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    /// How many tables the spans lack.
    fn survey(&self, spans: impl Iterator<Item = Span>) -> Result<usize, MapError> {
        // Per level the start of the last missing table that was counted: runs come in ascending order, so a table is met again only while it is last.
        let mut counted = [u64::MAX; 8];
        let mut missing = 0;
        for mut span in spans {
            while span.len > 0 {
                let run = self.next_run::<true>(span, 64)?;
                let lacking =
                    if idle(run.slot.entry).is_some() { 0 } else { run.slot.level.number };
                for above in run.level.number + 1..=lacking {
                    let start = span.iova >> self.geometry.level(above).shift;
                    if core::mem::replace(&mut counted[usize::from(above)], start) != start {
                        missing += 1;
                    }
                }
                span.skip(run.bytes());
            }
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
            let run = self.next_run::<false>(span, 64)?;
            if run.slot.level == run.level {
                self.store_run(run.slot.address, &run, bits, span.phys);
                return Ok(run.bytes());
            }
            // A table of the last missing level is filled before anybody sees it.
            let whole = run.slot.level.number == run.level.number + 1;
            if self.install(run.slot, pages, whole.then_some((&run, bits, span)))? && whole {
                return Ok(run.bytes());
            }
        }
    }

    /// The longest run of free entries of one table from the start of `span`, for the largest leaves that fit and are below 2^`below` bytes.
    ///
    /// A leftover table where a block would fit is used, with smaller leaves: replacing it would need an invalidation first.
    /// `LOOK`: whether the pages of the run may be in use; after the survey they are known to be free.
    fn next_run<const LOOK: bool>(&self, span: Span, below: u32) -> Result<Run, MapError> {
        let size = self.geometry.best_size(span.iova | span.phys, span.len, below);
        let level = self.geometry.level_of(size);
        let slot = self.descend::<true>(span.iova, level.number);
        let missing = slot.level != level && unreachable(slot.entry).is_some();
        if slot.entry != 0 && !missing {
            if slot.level != level || !self.is_table(slot) {
                return Err(MapError::Occupied { iova: Iova::new(span.iova) });
            }
            let len = span.len.min(1 << level.shift);
            return self.smaller_run::<LOOK>(Span { len, ..span }, level.shift);
        }
        let len = self.geometry.run_len(span.iova, span.phys, span.len, size);
        let room = self.geometry.entries(level) - self.geometry.index(span.iova, level);
        let wanted = usize::try_from(len >> size << (size - level.shift));
        let wanted = wanted.map_or(room, |entries| entries.min(room));
        let look = slot.level == level && (LOOK || !level.is_last());
        let free = if look { self.free_entries(slot, wanted, span)? } else { wanted };
        let entries = free >> (size - level.shift) << (size - level.shift);
        if entries == 0 {
            // A table stands where part of the leaf would be.
            let len = (free as u64) << level.shift;
            return self.smaller_run::<LOOK>(Span { len, ..span }, size);
        }
        Ok(Run { slot, level, size, entries })
    }

    /// [`next_run`](Self::next_run) where a table is in the way of larger leaves.
    #[cold]
    fn smaller_run<const LOOK: bool>(&self, span: Span, below: u32) -> Result<Run, MapError> {
        self.next_run::<LOOK>(span, below)
    }

    /// How many entries from the empty `slot` on are empty too, at most `wanted`. A table ends the run; a leaf is an error.
    #[inline(always)]
    fn free_entries(&self, slot: Slot, wanted: usize, span: Span) -> Result<usize, MapError> {
        if self.memory.is_zero(slot.address, wanted) {
            return Ok(wanted);
        }
        for offset in 1..wanted {
            let entry = self.load_at(slot.address, offset);
            if entry == 0 {
                continue;
            }
            if self.is_table(Slot { entry, ..slot }) {
                return Ok(offset);
            }
            let iova = Iova::new(span.iova + ((offset as u64) << slot.level.shift));
            return Err(MapError::Occupied { iova });
        }
        Ok(wanted)
    }

    /// Whether a table stands below `slot`, which hardware may reach or not.
    fn is_table(&self, slot: Slot) -> bool {
        let reachable = || self.format.is_table(slot.entry, slot.level);
        !slot.level.is_last() && (reachable() || unreachable(slot.entry).is_some())
    }

    /// Stores the leaves of `run` from the entry at `first` on and shows them to hardware.
    #[inline(always)]
    fn store_run(&self, first: PhysAddr, run: &Run, bits: u64, phys: u64) {
        self.store_leaves(first, run, bits, phys);
        self.publish(first, run.entries * 8);
    }

    #[inline(always)]
    fn store_leaves(&self, first: PhysAddr, run: &Run, bits: u64, phys: u64) {
        let per_leaf = 1 << (run.size - run.level.shift);
        if per_leaf == 1 {
            self.fill(first, run, run.entries, bits, phys);
        } else {
            for offset in (0..run.entries).step_by(per_leaf) {
                let phys = phys + ((offset as u64) << run.level.shift);
                self.fill(entry_at(first, offset), run, per_leaf, bits, phys);
            }
        }
    }

    /// Stores `count` entries of leaves of `run`'s size.
    #[inline(always)]
    fn fill(&self, first: PhysAddr, run: &Run, count: usize, bits: u64, phys: u64) {
        let (level, size) = (run.level, run.size);
        let entry =
            |offset: u64| self.format.leaf(bits, phys + (offset << level.shift), level, size);
        let value = entry(0);
        let last = count as u64 - 1;
        let step = if last == 0 { 0 } else { entry(1).wrapping_sub(value) };
        // Entries differ by the same step nearly always; not where a format keeps the upper address bits apart and the run crosses them.
        if value.wrapping_add(step.wrapping_mul(last)) == entry(last) {
            self.memory.fill(first, count, value, step);
        } else {
            self.fill_one_by_one(first, (level, size), count, (bits, phys));
        }
    }

    #[cold]
    fn fill_one_by_one(
        &self,
        first: PhysAddr,
        (level, size): (Level, u32),
        count: usize,
        (bits, phys): (u64, u64),
    ) {
        for offset in 0..count {
            let phys = phys + ((offset as u64) << level.shift);
            let entry = self.format.leaf(bits, phys, level, size);
            self.memory.store64(entry_at(first, offset), entry);
        }
    }

    /// Puts a table into the entry of `slot`, which is empty or above a table that hardware cannot reach, with the leaves of `content` in it; `false` where another thread has changed the
    /// entry meanwhile.
    fn install(
        &self,
        slot: Slot,
        pages: &mut FreeChain<'_, F, M>,
        content: Option<(&Run, u64, Span)>,
    ) -> Result<bool, MapError> {
        if let Some(table) = idle(slot.entry) {
            return Ok(self.reuse(slot, table, content));
        }
        let page = pages.take()?;
        self.prepare(page, content);
        let old = claimed(slot.entry);
        let done = match old {
            None => Some(self.lead_to(slot, page)),
            Some(old) => self.displace(slot, old, page),
        };
        if done == Some(true) {
            self.pages.fetch_add(1, Ordering::Relaxed);
            return Ok(true);
        }
        let (first, entries) = self.entries_of(page, content);
        self.memory.clear(first, entries);
        pages.push(page);
        done.ok_or(MapError::NoMemory(AllocError { layout: self.table_layout }))
    }

    /// Puts the idle `table` of `slot` to use again, with nothing but the leaves of `content` in it; `false` where another thread has been faster.
    fn reuse(&self, slot: Slot, table: PhysAddr, content: Option<(&Run, u64, Span)>) -> bool {
        let Some(slot) = self.claim(slot, table) else { return false };
        if !self.is_whole_table(self.entries_of(table, content).1) {
            self.memory.clear(table, self.table_layout.size() / 8);
        }
        self.prepare(table, content);
        self.lead_to(slot, table)
    }

    /// Stores the leaves of `content` into `table`, which nobody can see, and publishes all of it.
    fn prepare(&self, table: PhysAddr, content: Option<(&Run, u64, Span)>) {
        if let Some((run, bits, span)) = content {
            self.store_leaves(self.entries_of(table, content).0, run, bits, span.phys);
        }
        self.publish(table, self.geometry.table_bytes());
    }

    /// Where the leaves of `content` stand in `table`, and how many entries they take.
    fn entries_of(&self, table: PhysAddr, content: Option<(&Run, u64, Span)>) -> (PhysAddr, usize) {
        content.map_or((table, 0), |(run, _, span)| {
            (entry_at(table, self.geometry.index(span.iova, run.level)), run.entries)
        })
    }
}
