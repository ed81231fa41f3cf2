//! The cases of Linux's generic page-table KUnit suite that apply to Arm, and the edges of each argument.

use super::{
    GRANULES, RW, Rng, Stage1, Stage2, TestMemory, lookup, map, params, table, unmap, walker,
};
use portcullis_addr::{Iova, PageSize, PhysAddr, Prot};
use portcullis_pgtable::{
    ArmLpaeStage1, ArmLpaeStage2, Format, IotlbGather, Level, MapError, PageTable, TableError,
    UnmapError,
};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn sizes_of(table: &dyn PageTable) -> Vec<PageSize> {
    let sizes = (12..=63).filter_map(PageSize::from_log2);
    sizes.filter(|size| table.page_sizes().contains(*size)).collect()
}

fn in_both_stages(case: impl Fn(&TestMemory, &dyn PageTable)) {
    for granule in GRANULES {
        let (memory, table) = table::<ArmLpaeStage1>(granule);
        case(&memory, &table);
        let (memory, table) = super::table::<ArmLpaeStage2>(granule);
        case(&memory, &table);
    }
}

#[test]
fn each_input_bit_is_decoded_once() {
    in_both_stages(|memory, table| {
        let granule = table.config().granule;
        let bits: Vec<u32> = (u32::from(granule.log2())..48).collect();
        for bit in &bits {
            map(table, 1 << bit, granule.bytes() << (bit % 7), granule.bytes());
        }
        for bit in &bits {
            let leaf = walker::both(memory, table.config(), 1 << bit).expect("mapped");
            assert_eq!(leaf.phys, granule.bytes() << (bit % 7), "bit {bit}");
        }
        assert_eq!(lookup(table, 0), None);
        assert_eq!(walker::all_leaves(memory, table.config()).len(), bits.len());
    });
}

#[test]
fn leaves_carry_the_whole_output_address() {
    in_both_stages(|memory, table| {
        for size in sizes_of(table) {
            let largest = (1u64 << 48) - size.bytes();
            for phys in [0, largest, 0x5aa5_5aa5_5aa5 & !(size.bytes() - 1)] {
                map(table, largest, phys, size.bytes());
                let leaf = walker::both(memory, table.config(), largest).expect("mapped");
                assert_eq!((leaf.phys, leaf.size), (phys, size.bytes()));
                assert_eq!(lookup(table, (1 << 48) - 1), Some(phys + size.bytes() - 1));
                unmap(table, largest, size.bytes());
            }
            super::debts::reclaim_all(table);
        }
    });
}

#[test]
fn protections_survive_the_entry() {
    fn check<F: Format>(prot: Prot) -> bool {
        let (format, _) = F::new(&params(PageSize::SIZE_4K, 48, 48)).expect("supported");
        let Some(bits) = format.leaf_bits(prot) else { return false };
        for (number, shift) in [(0, 12), (1, 21)] {
            let level = Level { number, shift };
            let entry = format.leaf(bits, 0x1_4000_0000, level, shift);
            assert!(format.is_leaf(entry, level));
            assert_eq!(format.leaf_address(entry, level), 0x1_4000_0000);
            let read_back = format.prot(entry);
            assert_eq!(format.leaf_bits(read_back), Some(bits), "{prot:?} became {read_back:?}");
        }
        true
    }
    let mut expressible = (0, 0);
    for raw in 0..64 {
        let prot = Prot::from_bits(raw).expect("six flags");
        expressible.0 += usize::from(check::<ArmLpaeStage1>(prot));
        expressible.1 += usize::from(check::<ArmLpaeStage2>(prot));
    }
    assert_eq!(expressible, (48, 24), "no access is refused, and privilege in stage 2");
}

#[test]
fn the_walker_reads_the_same_protection() {
    in_both_stages(|memory, table| {
        let granule = table.config().granule.bytes();
        for raw in 0..64u8 {
            let prot = Prot::from_bits(raw).expect("six flags");
            let iova = u64::from(raw) * granule;
            match table.map(Iova::new(iova), PhysAddr::new(granule), granule, prot) {
                Ok(()) => {
                    let (_, read_back) = table.translate(Iova::new(iova)).expect("mapped");
                    let walked = walker::both(memory, table.config(), iova).expect("mapped");
                    assert_eq!(walked.prot(), read_back);
                    assert!(read_back.contains(prot & (RW | Prot::PRIV | Prot::NOEXEC)));
                    let never_more = read_back.contains(Prot::WRITE) == prot.contains(Prot::WRITE);
                    assert!(never_more, "{prot:?} became writable");
                }
                Err(error) => assert_eq!(error, MapError::BadProt { prot }),
            }
        }
    });
}

/// 8 bytes are the page's entry; the rest is what leads there, the root included.
#[test]
fn dense_pages_cost_little_more_than_their_entries() {
    let memory = TestMemory::new();
    let table = Stage1::new(&memory, params(PageSize::SIZE_4K, 39, 40)).expect("supported");
    for start in (0..GIB).step_by(2 << 20) {
        // No block fits a page off its place.
        map(&table, start, 64 * GIB + start + 4096, 2 * MIB);
    }
    let (tables, pages) = (table.table_pages() as u64 * 4096, GIB / 4096);
    assert!((8.0..8.04).contains(&(tables as f64 / pages as f64)), "{tables} bytes, {pages} pages");
    assert_eq!(memory.live() as u64 * 4096, tables, "and nothing beside them");
}

#[test]
fn each_size_once() {
    in_both_stages(|memory, table| {
        let empty = table.table_pages();
        for (index, size) in sizes_of(table).into_iter().enumerate() {
            map(table, index as u64 * GIB, 7 * GIB, size.bytes());
            let leaves = walker::all_leaves(memory, table.config());
            assert_eq!(leaves.iter().filter(|leaf| leaf.size == size.bytes()).count(), 1);
            assert_eq!(leaves.len(), index + 1);
        }
        for (index, size) in sizes_of(table).into_iter().enumerate() {
            unmap(table, index as u64 * GIB, size.bytes());
        }
        assert_eq!(walker::all_leaves(memory, table.config()), []);
        super::debts::reclaim_all(table);
        assert_eq!(table.table_pages(), empty);
    });
}

#[test]
fn a_block_can_replace_an_emptied_table_after_reclaim() {
    in_both_stages(|memory, table| {
        let sizes = sizes_of(table);
        let (small, large) = (sizes[0].bytes(), sizes[1].bytes());
        let empty = table.table_pages();
        map(table, large, 3 * large, large / 2);
        map(table, large + large / 2, 3 * large + large / 2 + small, large / 2);
        // Two pieces, so that no unmap sees the whole table.
        unmap(table, large, small);
        unmap(table, large + small, large - small);
        assert!(table.table_pages() > empty, "the emptied table is still in the tree");
        // Without reclaim the leftover table is filled: right, but with small leaves.
        map(table, large, 5 * large, large);
        let leaf = walker::both(memory, table.config(), large).expect("mapped");
        assert_eq!((leaf.size, leaf.phys), (small, 5 * large));
        unmap(table, large, small);
        unmap(table, large + small, large - small);
        let mut gather = IotlbGather::new();
        assert_eq!(table.reclaim(Iova::new(large), large, &mut gather), Ok(1));
        let range = gather.range().expect("one range is owed");
        assert!(range.tables_freed && range.start.raw() == large);
        assert_eq!(range.last.raw(), 2 * large - 1);
        table.retire(gather.confirm());
        map(table, large, 6 * large, large);
        let leaf = walker::both(memory, table.config(), large).expect("mapped");
        assert_eq!((leaf.size, leaf.phys), (large, 6 * large));
        unmap(table, large, large);
        assert_eq!(walker::all_leaves(memory, table.config()), []);
    });
}

#[test]
fn reclaim_leaves_what_is_in_use() {
    let (memory, table) = table::<ArmLpaeStage1>(PageSize::SIZE_4K);
    map(&table, 0, 0, 4096);
    map(&table, 2 * MIB, 0, 4096);
    unmap(&table, 0, 4096);
    let mut gather = IotlbGather::new();
    // A range that covers a table in part does not take it.
    assert_eq!(table.reclaim(Iova::new(0), MIB, &mut gather), Ok(0));
    assert!(gather.is_empty());
    assert_eq!(table.reclaim(Iova::new(0), 4 * MIB, &mut gather), Ok(1));
    table.retire(gather.confirm());
    assert_eq!(lookup(&table, 2 * MIB), Some(0));
    assert_eq!(walker::all_leaves(&memory, table.config()).len(), 1);
    let unaligned = table.reclaim(Iova::new(1), 4096, &mut gather);
    assert_eq!(unaligned, Err(UnmapError::Unaligned { iova: Iova::new(1), len: 4096 }));
}

#[test]
fn an_unmap_that_cuts_a_block_is_refused_whole() {
    in_both_stages(|memory, table| {
        let sizes = sizes_of(table);
        let (small, large) = (sizes[0].bytes(), sizes[1].bytes());
        map(table, large, large, 2 * large);
        map(table, 3 * large, 0, small);
        let before = walker::all_leaves(memory, table.config());
        let mut gather = IotlbGather::new();
        let refused =
            |iova, len, gather: &mut IotlbGather| table.unmap(Iova::new(iova), len, gather);
        let splits = |leaf| UnmapError::SplitsLeaf { leaf: Iova::new(leaf), size: sizes[1] };
        assert_eq!(refused(large, small, &mut gather), Err(splits(large)));
        assert_eq!(refused(large + small, large - small, &mut gather), Err(splits(large)));
        assert_eq!(refused(large, large + small, &mut gather), Err(splits(2 * large)));
        assert_eq!(refused(2 * large + small, large, &mut gather), Err(splits(2 * large)));
        // A hole at the end refuses all of it too, and names the first address without a mapping.
        let hole = UnmapError::NotMapped { iova: Iova::new(3 * large + small) };
        assert_eq!(refused(large, 2 * large + 2 * small, &mut gather), Err(hole));
        assert!(gather.is_empty(), "a refused unmap owes nothing");
        assert_eq!(walker::all_leaves(memory, table.config()), before);
        unmap(table, large, 2 * large + small);
        assert_eq!(walker::all_leaves(memory, table.config()), []);
    });
}

#[test]
fn a_thousand_random_ranges_in_one_gib() {
    for granule in GRANULES {
        let (memory, table) = table::<ArmLpaeStage2>(granule);
        let unit = granule.bytes();
        let mut rng = Rng(0x0dd_ba11);
        let mut live: Vec<(u64, u64)> = Vec::new();
        for _ in 0..1000 {
            let start = rng.below(GIB / unit) * unit;
            let limit = (GIB - start).min(unit << rng.below(10));
            let len = (rng.below(limit / unit) + 1) * unit;
            let phys = rng.below(1 << 30) * unit % (1 << 40);
            let clash = |&(s, l): &(u64, u64)| s < start + len && start < s + l;
            let result = table.map(Iova::new(start), PhysAddr::new(phys), len, RW);
            if live.iter().any(clash) {
                assert!(matches!(result, Err(MapError::Occupied { .. })), "{result:?}");
                for &(s, l) in live.iter().filter(|range| clash(range)) {
                    unmap(&table, s, l);
                }
                live.retain(|range| !clash(range));
                map(&table, start, phys, len);
            } else {
                assert_eq!(result, Ok(()));
            }
            live.push((start, len));
            assert_eq!(lookup(&table, start + len - 1), Some(phys + len - 1));
        }
        let mapped: u64 = live.iter().map(|range| range.1).sum();
        let leaves = walker::all_leaves(&memory, table.config());
        assert_eq!(leaves.iter().map(|leaf| leaf.size).sum::<u64>(), mapped);
        live.iter().for_each(|&(s, l)| unmap(&table, s, l));
        assert_eq!(walker::all_leaves(&memory, table.config()), []);
    }
}

/// The range that once made a page-size choice go wrong (a reserved window just below 4 GiB).
#[test]
fn a_range_that_straddles_sizes() {
    let (memory, table) = table::<ArmLpaeStage1>(PageSize::SIZE_4K);
    let (start, len) = (0xfef8_0000, 0x2_0000);
    map(&table, start, 0x0208_b950_3000, len);
    let leaves = walker::all_leaves(&memory, table.config());
    assert_eq!(leaves.len(), 32);
    assert!(leaves.iter().all(|leaf| leaf.size == 4096));
    unmap(&table, start, len);
    map(&table, start, start, len);
    assert_eq!(walker::all_leaves(&memory, table.config()).len(), 32);
}

/// A 3 GiB range with ragged ends: 14 leaves of 2 MiB, 3 of 1 GiB, 3 of 2 MiB.
#[test]
fn largest_leaves_in_a_mixed_range() {
    let (memory, table) = table::<ArmLpaeStage1>(PageSize::SIZE_4K);
    let start = 0x3_fe40_0000;
    let len = 0x4_c060_0000 - start;
    map(&table, start, 0x3e40_0000, len);
    let sizes: Vec<u64> =
        walker::all_leaves(&memory, table.config()).iter().map(|leaf| leaf.size).collect();
    let expected = [vec![2 * MIB; 14], vec![GIB; 3], vec![2 * MIB; 3]].concat();
    assert_eq!(sizes, expected);
    unmap(&table, start, len);
    assert_eq!(walker::all_leaves(&memory, table.config()), []);
}

/// Every start and length around two blocks, every shift between the two addresses: the leaves are those of a greedy reading of the rule.
#[test]
fn largest_leaves_everywhere() {
    let block = 2 * MIB;
    let points = [0, 4096, MIB, block - 4096, block];
    for from in points {
        for to in points {
            for shift in [0, 4096, block] {
                let (memory, table) = table::<ArmLpaeStage2>(PageSize::SIZE_4K);
                let (start, end) = (GIB - block + from, GIB + block + to);
                let phys = start + shift;
                map(&table, start, phys, end - start);
                let mut at = start;
                for leaf in walker::all_leaves(&memory, table.config()) {
                    let fits = |size: u64| {
                        at % size == 0 && (phys + at - start) % size == 0 && end - at >= size
                    };
                    let best = if fits(block) { block } else { 4096 };
                    assert_eq!((leaf.iova, leaf.size), (at, best), "{start:#x}..{end:#x}");
                    assert_eq!(leaf.phys, phys + at - start);
                    at += leaf.size;
                }
                assert_eq!(at, end);
            }
        }
    }
}

#[test]
fn arguments_outside_the_table() {
    let memory = TestMemory::new();
    let table = Stage2::new(&memory, params(PageSize::SIZE_16K, 40, 42)).expect("supported");
    let unit = 0x4000;
    let map = |iova, phys, len| table.map(Iova::new(iova), PhysAddr::new(phys), len, RW);
    let unaligned = |result| matches!(result, Err(MapError::Unaligned { .. }));
    assert!(unaligned(map(0x1000, 0, unit)) && unaligned(map(0, 0x1000, unit)));
    assert!(unaligned(map(0, 0, 0x1000)) && unaligned(map(0, 0, 0)));
    let (top, phys_top) = (1u64 << 40, 1u64 << 42);
    assert_eq!(map(top - unit, phys_top - unit, unit), Ok(()));
    for (iova, len) in [(top, unit), (top - unit, 2 * unit), (0u64.wrapping_sub(unit), unit)] {
        assert!(matches!(map(iova, 0, len), Err(MapError::OutOfRange { .. })), "{iova:#x}");
        let mut gather = IotlbGather::new();
        let unmapped = table.unmap(Iova::new(iova), len, &mut gather);
        assert!(matches!(unmapped, Err(UnmapError::OutOfRange { .. })), "{unmapped:?}");
    }
    for phys in [phys_top, phys_top - unit, u64::MAX - unit + 1] {
        let result = map(0, phys, 2 * unit);
        assert!(matches!(result, Err(MapError::PhysOutOfRange { .. })), "{phys:#x} {result:?}");
    }
    assert_eq!(table.translate(Iova::new(top)), None);
    assert_eq!(table.translate(Iova::new(u64::MAX)), None);
    assert_eq!(table.input_range().last(), Iova::new(top - 1));
    let refused = map(0, 0, 1 << 63);
    assert!(matches!(refused, Err(MapError::OutOfRange { .. })));
}

#[test]
fn tables_above_the_output_range_are_not_used() {
    let memory = TestMemory::at(1 << 36);
    let refused = Stage2::new(&memory, params(PageSize::SIZE_64K, 32, 36)).expect_err("too high");
    assert!(matches!(refused, TableError::NoMemory(_)), "{refused}");
    assert_eq!(memory.live(), 0, "the page that is no use went back");
    let memory = TestMemory::at((1 << 36) - (4 << 20));
    let table = Stage2::new(&memory, params(PageSize::SIZE_64K, 36, 36)).expect("reachable");
    let mut refused = 0;
    for slot in 0..64 {
        let live = memory.live();
        let result = table.map(Iova::new(slot << 29), PhysAddr::new(0), 0x1_0000, RW);
        if result.is_err() {
            assert!(matches!(result, Err(MapError::NoMemory(_))));
            assert_eq!(memory.live(), live);
            refused += 1;
        }
    }
    assert!((1..64).contains(&refused), "4 MiB hold fewer than 64 tables of 64 KiB: {refused}");
}
