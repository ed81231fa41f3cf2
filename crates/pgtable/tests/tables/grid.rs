//! The grid of Linux's io-pgtable-arm selftest: every page-size set, every pair of input and output widths, both stages.

use super::{GRANULES, TestMemory, params, walker};
use portcullis_addr::{Iova, PageSize, PhysAddr, Prot};
use portcullis_pgtable::{
    ArmLpaeStage1, ArmLpaeStage2, Format, IoPageTable, IotlbGather, MapError, PageTable,
    TableFormat,
};
use std::sync::Arc;

const WIDTHS: [u8; 6] = [32, 36, 40, 42, 44, 48];
const GIB: u64 = 1 << 30;

/// Counts what it checks.
struct Checks {
    count: usize,
    place: String,
}

impl Checks {
    fn that(&mut self, holds: bool, what: impl FnOnce() -> String) {
        self.count += 1;
        assert!(holds, "{}: {}", self.place, what());
    }
}

struct Bench<'a, F: Format> {
    memory: &'a Arc<TestMemory>,
    table: IoPageTable<F, TestMemory>,
    checks: Checks,
}

impl<F: Format> Bench<'_, F> {
    /// The engine's and the independent walker's answer for `iova`, as one check.
    fn leads_to(&mut self, iova: u64, expected: Option<u64>) {
        let found = self.table.translate(Iova::new(iova)).map(|(phys, _)| phys.raw());
        let walked = walker::both(self.memory, self.table.config(), iova);
        let walked = walked.ok().map(|leaf| leaf.translate(iova));
        self.checks.that(found == expected && walked == expected, || {
            format!("{iova:#x} leads to {found:x?}, walked {walked:x?}, expected {expected:x?}")
        });
    }

    fn map(&mut self, iova: u64, size: PageSize, prot: Prot) {
        let result = self.table.map(Iova::new(iova), PhysAddr::new(iova), size.bytes(), prot);
        self.checks.that(result.is_ok(), || format!("map {size} at {iova:#x}: {result:?}"));
        let leaf = walker::both(self.memory, self.table.config(), iova).expect("mapped");
        assert_eq!(leaf.size, size.bytes(), "one leaf of the size that was asked for");
    }

    fn unmap(&mut self, iova: u64, size: PageSize) {
        let mut gather = IotlbGather::new();
        let result = self.table.unmap(Iova::new(iova), size.bytes(), &mut gather);
        let range = gather.range();
        let exact = range.is_some_and(|range| {
            range.start.raw() == iova
                && range.last.raw() - iova + 1 == size.bytes()
                && (range.leaf == size || range.tables_freed)
        });
        self.checks.that(result.is_ok() && exact, || format!("unmap {size}: {result:?} {range:?}"));
        self.table.retire(gather.confirm());
    }

    fn run(mut self, input_bits: u8) -> usize {
        let pages = self.table.table_pages();
        for base in [0, GIB, 2 * GIB] {
            self.leads_to(base + 42, None);
        }
        let sizes: Vec<PageSize> = (12..=30)
            .filter_map(PageSize::from_log2)
            .filter(|size| self.table.page_sizes().contains(*size))
            .collect();
        let attributes = Prot::NOEXEC | Prot::CACHE;
        for (base, size) in (0..).step_by(GIB as usize).zip(&sizes) {
            self.map(base, *size, Prot::READ | Prot::WRITE | attributes);
            let other = PhysAddr::new(base + size.bytes());
            let again = self.table.map(Iova::new(base), other, size.bytes(), Prot::READ);
            self.checks.that(again == Err(MapError::Occupied { iova: Iova::new(base) }), || {
                format!("a second map of {base:#x}: {again:?}")
            });
            self.leads_to(base + 42, Some(base + 42));
        }
        for (base, size) in (0..).step_by(GIB as usize).zip(&sizes) {
            self.unmap(base, *size);
            self.leads_to(base + 42, None);
            self.map(base, *size, Prot::WRITE);
            self.leads_to(base + 42, Some(base + 42));
            let (_, prot) = self.table.translate(Iova::new(base)).expect("mapped");
            let stage1 = self.table.config().format == TableFormat::ArmLpaeStage1;
            self.checks.that(prot.contains(Prot::READ) == stage1, || format!("{prot:?}"));
            self.unmap(base, *size);
        }
        let largest = *sizes.last().expect("a granule has leaves");
        let last = (1u64 << input_bits) - largest.bytes();
        self.map(last, largest, Prot::READ);
        self.leads_to(last + largest.bytes() - 1, Some(last + largest.bytes() - 1));
        self.unmap(last, largest);
        self.leads_to(last + largest.bytes() - 1, None);
        self.empty_again(pages, input_bits);
        self.checks.count
    }

    fn empty_again(&mut self, pages: usize, input_bits: u8) {
        let mut gather = IotlbGather::new();
        let everything = 1u64 << input_bits;
        self.table.reclaim(Iova::new(0), everything, &mut gather).expect("in range");
        self.table.retire(gather.confirm());
        super::free_retired(&self.table);
        let left = self.table.table_pages();
        self.checks.that(left == pages, || format!("{left} table pages, {pages} at first"));
        let beyond = self.table.map(
            Iova::new(everything),
            PhysAddr::new(0),
            self.table.config().granule.bytes(),
            Prot::READ,
        );
        self.checks.that(matches!(beyond, Err(MapError::OutOfRange { .. })), || {
            format!("map beyond the input: {beyond:?}")
        });
    }
}

fn run<F: Format>(memory: &Arc<TestMemory>, granule: PageSize, input: u8, output: u8) -> usize {
    let table = IoPageTable::<F, _>::new(memory, params(granule, input, output));
    let table = table.expect("every pair of the grid is supported");
    let place = format!("{:?} {granule} {input}->{output}", F::FORMAT);
    let checks = Bench { memory, table, checks: Checks { count: 0, place } }.run(input);
    assert_eq!(memory.live(), 0, "everything was freed");
    checks
}

#[test]
fn every_page_size_set_width_pair_and_stage() {
    let memory = TestMemory::new();
    let (mut tables, mut checks) = (0, 0);
    for granule in GRANULES {
        for (index, input) in WIDTHS.into_iter().enumerate() {
            for output in WIDTHS.into_iter().skip(index) {
                checks += run::<ArmLpaeStage1>(&memory, granule, input, output);
                checks += run::<ArmLpaeStage2>(&memory, granule, input, output);
                tables += 2;
            }
        }
    }
    println!("{tables} tables, {checks} checks");
    assert_eq!(tables, 126);
    assert!(checks >= 2_814, "{checks}");
}
