//! The tests of the table engine against a memory that punishes, a walker written on its own from Arm DDI 0487, and a flat model.

mod cases;
mod contiguous;
mod debts;
mod explored;
mod failure;
mod formats;
mod grid;
mod idle;
mod memory;
mod order;
mod planted;
mod protect;
mod random;
mod rules;
mod segments;
mod shapes;
mod threads;
mod walker;

use memory::TestMemory;
use portcullis_addr::{Iova, PageSize, PageSizes, PhysAddr, Prot};
use portcullis_pgtable::{
    ArmLpaeStage1, ArmLpaeStage2, Format, IoPageTable, IotlbGather, PageTable, TableParams,
};
use std::sync::Arc;

type Stage1 = IoPageTable<ArmLpaeStage1, TestMemory>;
type Stage2 = IoPageTable<ArmLpaeStage2, TestMemory>;

const RW: Prot = Prot::READ.union(Prot::WRITE);

const GRANULES: [PageSize; 3] = [PageSize::SIZE_4K, PageSize::SIZE_16K, PageSize::SIZE_64K];

/// Pages and blocks, no contiguous hint.
fn params(granule: PageSize, input_bits: u8, output_bits: u8) -> TableParams {
    let (page, block) = (granule.bytes(), granule.bytes() * granule.bytes() / 8);
    let large = if granule == PageSize::SIZE_4K { 1 << 30 } else { 0 };
    let leaf_sizes = PageSizes::from_bitmap(page | block | large);
    TableParams {
        granule,
        input_bits,
        output_bits,
        leaf_sizes,
        force_snoop: false,
        coherent: false,
    }
}

/// A fresh table of `F` with 48 bits on both sides, in a memory of its own.
fn table<F: Format>(granule: PageSize) -> (Arc<TestMemory>, IoPageTable<F, TestMemory>) {
    let memory = TestMemory::new();
    let table = IoPageTable::new(&memory, params(granule, 48, 48)).expect("supported");
    (memory, table)
}

fn map(table: &dyn PageTable, iova: u64, phys: u64, len: u64) {
    table
        .map(Iova::new(iova), PhysAddr::new(phys), len, RW)
        .unwrap_or_else(|error| panic!("map {iova:#x}+{len:#x}: {error}"));
}

/// Unmaps, and pays the debt at once as if the hardware had confirmed it.
fn unmap(table: &dyn PageTable, iova: u64, len: u64) {
    let mut gather = IotlbGather::new();
    table
        .unmap(Iova::new(iova), len, &mut gather)
        .unwrap_or_else(|error| panic!("unmap {iova:#x}+{len:#x}: {error}"));
    table.retire(gather.confirm());
}

/// Frees the retired pages of a table that nobody else is using, and counts them.
#[expect(
    unsafe_code,
    reason = "the contract is about other threads, which the callers do not have"
)]
fn free_retired(table: &dyn PageTable) -> usize {
    // SAFETY: the tests that call this do so while no other thread uses the table.
    unsafe { table.free_retired() }
}

fn lookup(table: &dyn PageTable, iova: u64) -> Option<u64> {
    table.translate(Iova::new(iova)).map(|(phys, _)| phys.raw())
}

/// A small generator with a printable seed (SplitMix64).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
