//! Long random sequences against a flat model: one entry a page.

use super::shapes::{Shape, all};
use super::{RW, Rng, TestMemory, walker};
use portcullis_addr::{Iova, PageSize, PhysAddr, Prot};
use portcullis_pgtable::{IotlbGather, MapError, PageTable, UnmapError};
use std::collections::BTreeMap;
use std::sync::Arc;

const PROTS: [Prot; 4] =
    [RW, Prot::READ, RW.union(Prot::CACHE).union(Prot::NOEXEC), Prot::READ.union(Prot::MMIO)];

struct Run {
    memory: Arc<TestMemory>,
    table: Arc<dyn PageTable>,
    /// Page number to physical address and protection.
    model: BTreeMap<u64, (u64, Prot)>,
    rng: Rng,
    unit: u64,
    /// Pages of the window that the ranges come from.
    window: u64,
    /// First address of the window.
    base: u64,
    counts: [usize; 5],
}

impl Run {
    fn new(memory: &Arc<TestMemory>, shape: &Shape, seed: u64) -> Self {
        let memory = Arc::clone(memory);
        let table = shape.table(&memory);
        let unit = shape.page();
        let per_table = unit / 8;
        // Three leaf tables around the end of an upper table, so that all levels meet their edges.
        let base = per_table * per_table * unit - 2 * per_table * unit;
        let last = u64::MAX >> (64 - shape.input_bits());
        let base = if base + 3 * per_table * unit > last { 0 } else { base };
        let window = 3 * per_table;
        let model = BTreeMap::new();
        Self { memory, table, model, rng: Rng(seed), unit, window, base, counts: [0; 5] }
    }

    fn range(&mut self) -> (u64, u64) {
        let per_table = self.unit / 8;
        let rng = &mut self.rng;
        let (first, pages) = match rng.below(8) {
            0 => (rng.below(3) * per_table, per_table),
            1 => (rng.below(3) * per_table, per_table * (1 + rng.below(3))),
            2 => (rng.below(self.window), 1 + rng.below(per_table)),
            3 => (rng.below(self.window), 1 + rng.below(40)),
            _ => (rng.below(self.window), 1 + rng.below(2)),
        };
        (first, pages.min(self.window - first))
    }

    fn iova(&self, page: u64) -> u64 {
        self.base + page * self.unit
    }

    fn map(&mut self) {
        let (first, pages) = self.range();
        // Often congruent modulo the block size, so that blocks occur.
        let block = self.unit * (self.unit / 8);
        let off = if self.rng.below(2) == 0 { 0 } else { self.rng.below(4) * self.unit };
        let phys = block * self.rng.below(64) + (first * self.unit) % block + off;
        let prot = PROTS[self.rng.below(4) as usize];
        let result = self.table.map(
            Iova::new(self.iova(first)),
            PhysAddr::new(phys),
            pages * self.unit,
            prot,
        );
        match self.model.range(first..first + pages).next() {
            Some((page, _)) => {
                let iova = Iova::new(self.iova(*page));
                assert_eq!(result, Err(MapError::Occupied { iova }));
                self.counts[1] += 1;
            }
            None => {
                assert_eq!(result, Ok(()));
                // What the format makes of the protection is tested elsewhere; here it must not change or go astray.
                let (_, kept) = self.table.translate(Iova::new(self.iova(first))).expect("mapped");
                assert_eq!(kept & RW, prot & RW);
                for page in 0..pages {
                    self.model.insert(first + page, (phys + page * self.unit, kept));
                }
                self.counts[0] += 1;
            }
        }
        self.look(first, pages);
    }

    /// What the model and the walker say about unmapping the range.
    fn expected(&self, first: u64, pages: u64) -> Result<(), UnmapError> {
        let mut page = first;
        while page < first + pages {
            if !self.model.contains_key(&page) {
                return Err(UnmapError::NotMapped { iova: Iova::new(self.iova(page)) });
            }
            let leaf = walker::both(&self.memory, self.table.config(), self.iova(page));
            let leaf = leaf.expect("the model says mapped");
            let inside =
                leaf.iova == self.iova(page) && leaf.size / self.unit <= first + pages - page;
            if !inside {
                let size = PageSize::from_log2(u8::try_from(leaf.size.ilog2()).expect("small"));
                let size = size.expect("a leaf's size");
                return Err(UnmapError::SplitsLeaf { leaf: Iova::new(leaf.iova), size });
            }
            page += leaf.size / self.unit;
        }
        Ok(())
    }

    fn unmap(&mut self) {
        let (mut first, mut pages) = self.range();
        // Mostly something that is mapped: the extent of mapped pages around a mapped one.
        if self.rng.below(4) != 0 {
            let Some((&page, _)) = self.model.range(first..).next() else { return };
            first = page;
            let run = (0..pages).take_while(|p| self.model.contains_key(&(page + p))).count();
            pages = run as u64;
        }
        let expected = self.expected(first, pages);
        let mut gather = IotlbGather::new();
        let (iova, len) = (self.iova(first), pages * self.unit);
        let result = self.table.unmap(Iova::new(iova), len, &mut gather);
        assert_eq!(result, expected, "{iova:#x}+{len:#x}");
        if result.is_ok() {
            let covered = gather.is_everything()
                || gather.range().is_some_and(|range| {
                    range.start.raw() <= iova && iova + len - 1 <= range.last.raw()
                });
            assert!(covered, "{gather:?}");
            for page in first..first + pages {
                self.model.remove(&page);
            }
            self.counts[2] += 1;
        } else {
            assert!(gather.is_empty());
            self.counts[3] += 1;
        }
        self.settle(gather);
        self.look(first, pages);
    }

    /// Empties one leaf table in small steps, which leaves it in the tree, and reclaims it; or reclaims a range as it is.
    fn reclaim(&mut self) {
        let (mut first, mut pages) = self.range();
        if self.rng.below(2) == 0 {
            pages = self.unit / 8;
            first = first / pages * pages;
            while let Some((&page, _)) = self.model.range(first..first + pages).next() {
                let leaf = walker::both(&self.memory, self.table.config(), self.iova(page));
                // A leaf of several entries can reach over the table's ends.
                let leaf = leaf.expect("the model says mapped");
                let mut gather = IotlbGather::new();
                self.table.unmap(Iova::new(leaf.iova), leaf.size, &mut gather).expect("mapped");
                self.settle(gather);
                let page = (leaf.iova - self.base) / self.unit;
                for page in page..page + leaf.size / self.unit {
                    self.model.remove(&page);
                }
            }
        }
        let mut gather = IotlbGather::new();
        let len = pages * self.unit;
        let taken = self.table.reclaim(Iova::new(self.iova(first)), len, &mut gather);
        assert_eq!(taken, Ok(gather.tables()));
        self.counts[4] += gather.tables();
        self.settle(gather);
        self.look(first, pages);
    }

    fn settle(&mut self, mut gather: IotlbGather) {
        let live = self.memory.live();
        let tables = gather.tables();
        self.table.retire(gather.confirm());
        assert_eq!(super::free_retired(&*self.table), tables);
        assert_eq!(self.memory.live(), live - tables);
        assert_eq!(self.table.table_pages(), self.memory.live());
    }

    /// Compares the ends of a range, its neighbours and a place inside.
    fn look(&mut self, first: u64, pages: u64) {
        let inside = first + self.rng.below(pages);
        for page in [first.saturating_sub(1), first, inside, first + pages - 1, first + pages] {
            if page >= self.window {
                continue;
            }
            let iova = self.iova(page) + self.rng.below(self.unit);
            let expected = self
                .model
                .get(&page)
                .map(|(phys, prot)| (PhysAddr::new(phys + iova % self.unit), *prot));
            assert_eq!(self.table.translate(Iova::new(iova)), expected, "{iova:#x}");
            let walked = walker::both(&self.memory, self.table.config(), iova).ok();
            let walked = walked.map(|leaf| (PhysAddr::new(leaf.translate(iova)), leaf.prot()));
            assert_eq!(walked, expected, "{iova:#x}");
        }
    }

    /// Compares everything.
    fn audit(&self) {
        let mut model = self.model.iter();
        for leaf in walker::all_leaves(&self.memory, self.table.config()) {
            for offset in (0..leaf.size).step_by(self.unit as usize) {
                let (page, (phys, prot)) = model.next().expect("more leaves than pages");
                assert_eq!((self.iova(*page), *phys), (leaf.iova + offset, leaf.phys + offset));
                assert_eq!(*prot, leaf.prot());
            }
        }
        assert_eq!(model.next(), None, "more pages than leaves");
    }

    fn drive(&mut self, steps: usize) {
        for step in 0..steps {
            match self.rng.below(20) {
                0..10 => self.map(),
                10..19 => self.unmap(),
                _ => self.reclaim(),
            }
            if step % 20_000 == 0 {
                self.audit();
            }
        }
        self.audit();
        assert!(self.counts.iter().all(|count| *count > steps / 1000), "{:?}", self.counts);
    }
}

/// 10^4 operations a format; PORTCULLIS_OPERATIONS=N makes it N operations a format, its shapes together. The seeds change with N, so that a long run is another run.
#[test]
fn every_shape_against_the_flat_model() {
    let asked = std::env::var("PORTCULLIS_OPERATIONS").ok().and_then(|steps| steps.parse().ok());
    let operations: usize = asked.unwrap_or(10_000);
    let memory = TestMemory::new();
    let shapes = all();
    for (seed, shape) in (0x5eed_0001 + operations as u64..).zip(&shapes) {
        let alike = shapes.iter().filter(|other| other.name == shape.name).count();
        let steps = operations / alike + 1;
        println!("{} {:?} seed {seed:#x}, {steps} steps", shape.name, shape.params);
        let mut run = Run::new(&memory, shape, seed);
        run.drive(steps);
        println!("  mapped, occupied, unmapped, refused, reclaimed: {:?}", run.counts);
        drop(run);
        assert_eq!(memory.live(), 0);
    }
}
