//! Leaves of several entries: Arm's contiguous hint.

use super::planted::as_the_real_one;
use super::{GRANULES, RW, TestMemory, lookup, map, params, unmap, walker};
use portcullis_addr::{Iova, PageSize, PageSizes, PhysAddr};
use portcullis_pgtable::{
    ArmLpaeStage1, ArmLpaeStage2, Format, IoPageTable, IotlbGather, Level, MapError, PageTable,
    TableFormat, TableParams, UnmapError,
};
use std::sync::Arc;

fn table<F: Format>(granule: PageSize) -> (Arc<TestMemory>, IoPageTable<F, TestMemory>) {
    let memory = TestMemory::new();
    let params = TableParams { leaf_sizes: PageSizes::ALL, ..params(granule, 48, 48) };
    let table = IoPageTable::new(&memory, params).expect("supported");
    (memory, table)
}

fn in_both_stages(case: impl Fn(&TestMemory, &dyn PageTable)) {
    for granule in GRANULES {
        let (memory, one) = table::<ArmLpaeStage1>(granule);
        case(&memory, &one);
        let (memory, two) = table::<ArmLpaeStage2>(granule);
        case(&memory, &two);
    }
}

fn sizes_of(table: &dyn PageTable) -> Vec<u64> {
    (12..64).map(|log2| 1 << log2).filter(|size| table.page_sizes().bitmap() & size != 0).collect()
}

#[test]
fn each_size_is_one_leaf_of_the_whole_address() {
    in_both_stages(|memory, table| {
        for size in sizes_of(table) {
            let last = (1u64 << 48) - size;
            for phys in [0, last, 0x5aa5_5aa5_5aa5 & !(size - 1)] {
                map(table, last, phys, size);
                let leaves = walker::all_leaves(memory, table.config());
                assert_eq!(leaves.len(), 1);
                assert_eq!((leaves[0].iova, leaves[0].phys, leaves[0].size), (last, phys, size));
                assert_eq!(lookup(table, last + size - 1), Some(phys + size - 1));
                let mut gather = IotlbGather::new();
                table.unmap(Iova::new(last), size, &mut gather).expect("mapped");
                let range = gather.range().expect("one range");
                assert_eq!((range.start.raw(), range.last.raw()), (last, last + size - 1));
                assert!(range.leaf.bytes() <= size, "a TLB may hold the parts one by one");
                assert_eq!(walker::all_leaves(memory, table.config()), []);
            }
            super::debts::reclaim_all(table);
        }
    });
}

/// The leaves of a range are those of a greedy reading: at each address the largest size that divides both addresses and fits.
#[test]
fn largest_leaves_everywhere() {
    in_both_stages(|memory, table| {
        let sizes = sizes_of(table);
        let (page, run, block) = (sizes[0], sizes[1], sizes[2]);
        let points = [0, page, run - page, run, 3 * run + page];
        for (from, to) in points.iter().flat_map(|from| points.map(|to| (*from, to))) {
            for shift in [0, page, run, block] {
                let (start, end) = (2 * block - 4 * run + from, 2 * block + 2 * run + to);
                map(table, start, start + shift, end - start);
                let mut at = start;
                for leaf in walker::all_leaves(memory, table.config()) {
                    let fits = |size: &&u64| {
                        let divides = (at | (at + shift)).is_multiple_of(**size);
                        divides && end - at >= **size
                    };
                    let best = *sizes.iter().rev().find(fits).expect("a page fits");
                    let expected = (at, at + shift, best);
                    assert_eq!((leaf.iova, leaf.phys, leaf.size), expected, "{start:#x}..{end:#x}");
                    at += best;
                }
                assert_eq!(at, end);
                unmap(table, start, end - start);
            }
        }
    });
}

#[test]
fn a_part_of_a_group_is_refused_and_a_page_in_its_way_makes_smaller_leaves() {
    in_both_stages(|memory, table| {
        let sizes = sizes_of(table);
        let (page, run) = (sizes[0], sizes[1]);
        map(table, run, run, run);
        let before = walker::all_leaves(memory, table.config());
        let size = PageSize::from_log2(run.ilog2() as u8).expect("a size");
        let splits = UnmapError::SplitsLeaf { leaf: Iova::new(run), size };
        let mut gather = IotlbGather::new();
        for (iova, len) in [(run, page), (run + page, run - page), (2 * run - page, page)] {
            assert_eq!(table.unmap(Iova::new(iova), len, &mut gather), Err(splits));
        }
        for offset in [0, page, run - page] {
            let iova = Iova::new(run + offset);
            let result = table.map(iova, PhysAddr::new(0), page, RW);
            assert_eq!(result, Err(MapError::Occupied { iova }));
        }
        assert_eq!(walker::all_leaves(memory, table.config()), before);
        assert!(gather.is_empty());
        unmap(table, run, run);
        // Both sides of a leftover page, then around it.
        map(table, run + page, 0, page);
        let occupied = MapError::Occupied { iova: Iova::new(run + page) };
        let result = table.map(Iova::new(run), PhysAddr::new(run), run, RW);
        assert_eq!(result, Err(occupied));
        unmap(table, run + page, page);
        map(table, run, run, run);
        assert_eq!(walker::all_leaves(memory, table.config()), before);
    });
}

/// A table that stands where a group of blocks would be: the blocks around it are used one by one, the table is filled.
#[test]
fn a_leftover_table_inside_a_group_of_blocks_is_filled() {
    let (memory, table) = table::<ArmLpaeStage2>(PageSize::SIZE_4K);
    let (block, group) = (2u64 << 20, 32u64 << 20);
    map(&table, group + 3 * block, 0, 4096);
    unmap(&table, group + 3 * block, 4096);
    map(&table, group, 4 * group, group);
    let leaves = walker::all_leaves(&memory, table.config());
    let count = |size| leaves.iter().filter(|leaf| leaf.size == size).count();
    assert_eq!((count(block), count(0x1_0000)), (15, 32), "64 KiB groups inside the old table");
    assert!(leaves.iter().all(|leaf| leaf.phys == leaf.iova + 3 * group));
    unmap(&table, group, group);
    super::debts::reclaim_all(&table);
    map(&table, group, 4 * group, group);
    assert_eq!(walker::all_leaves(&memory, table.config()).len(), 1);
}

/// A format that forgets the hint in one entry of a group.
#[derive(Debug)]
struct Lossy(ArmLpaeStage1);

impl Format for Lossy {
    const FORMAT: TableFormat = TableFormat::ArmLpaeStage1;
    const SOFTWARE_BIT: u64 = ArmLpaeStage1::SOFTWARE_BIT;
    const TABLE_ADDRESS: u64 = ArmLpaeStage1::TABLE_ADDRESS;

    as_the_real_one!(ArmLpaeStage1: root leaf_bits table is_table presence is_leaf table_address leaf_size leaf_address prot);

    fn leaf(&self, bits: u64, phys: u64, level: Level, size_log2: u32) -> u64 {
        let size = if phys % (1 << size_log2) == 0x1000 { level.shift } else { size_log2 };
        self.0.leaf(bits, phys, level, size)
    }
}

#[test]
#[should_panic(expected = "entry 1 of a group")]
fn a_lost_contiguous_bit_is_found() {
    let (memory, table) = table::<Lossy>(PageSize::SIZE_4K);
    map(&table, 0x1_0000, 0x2_0000, 0x1_0000);
    walker::all_leaves(&memory, table.config());
}
