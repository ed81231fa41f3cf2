//! The cases of Linux's io-pgtable-arm selftest and of its generic page-table KUnit suite (`kunit_generic_pt.h`, `kunit_iommu_pt.h`) on every format in every
//! shape, against the independent walker.

use super::shapes::{Shape, all, on_all};
use super::{RW, Rng, TestMemory, lookup, map, unmap, walker};
use portcullis_addr::{Iova, PageSize, PhysAddr, Prot};
use portcullis_pgtable::{
    AmdV1, Format, IoPageTable, IotlbGather, MapError, PageTable, TableFormat, TableRoot,
    UnmapError,
};
use std::collections::BTreeSet;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn sizes_of(table: &dyn PageTable) -> Vec<u64> {
    (12..64).map(|log2| 1 << log2).filter(|size| table.page_sizes().bitmap() & size != 0).collect()
}

/// The last input address.
fn last(shape: &Shape) -> u64 {
    u64::MAX >> (64 - shape.input_bits())
}

/// The largest output address that is a multiple of `size`.
fn highest(shape: &Shape, size: u64) -> u64 {
    (u64::MAX >> (64 - u32::from(shape.params.output_bits))) & !(size - 1)
}

fn check(memory: &TestMemory, table: &dyn PageTable, iova: u64, expected: Option<u64>) {
    let walked = walker::both(memory, table.config(), iova).ok().map(|leaf| leaf.translate(iova));
    assert_eq!(walked, expected, "{iova:#x}, by the walker");
    assert_eq!(lookup(table, iova), expected, "{iova:#x}, by the table");
}

/// Every format is here, in as many shapes as KUnit runs (12) and more.
#[test]
fn all_formats_are_tested() {
    let shapes = all();
    let memory = TestMemory::new();
    let formats: BTreeSet<String> =
        shapes.iter().map(|shape| format!("{:?}", shape.table(&memory).config().format)).collect();
    assert_eq!(formats.len(), 13, "{formats:?}");
    assert!(shapes.len() >= 62, "{}", shapes.len());
}

/// `test_init` and `test_entry_possible_sizes`: the smallest page is there, and each size takes fewer entries of its level than a table has.
#[test]
fn sizes_fit_their_tables() {
    on_all(|shape, _, table| {
        let sizes = sizes_of(table);
        assert_eq!(sizes.first(), Some(&shape.page()));
        let page = shape.page().ilog2();
        for size in sizes {
            let level_shift = page + (size.ilog2() - page) / (page - 3) * (page - 3);
            assert!(size >> level_shift < shape.page() / 8, "{size:#x}");
        }
    });
}

/// `test_table_ptr`, for one format: at every level an entry that leads to a table says so, and where; it is no leaf; whether it has reached hardware is a bit of its own; and 0 is nothing.
pub(crate) fn table_entries<F: Format>(params: portcullis_pgtable::TableParams) {
    let (format, geometry) = F::new(&params).expect("supported");
    let (page, bits) = (u32::from(params.granule.log2()), u32::from(params.output_bits));
    let highest = (u64::MAX >> (64 - bits)) & !(params.granule.bytes() - 1);
    for number in 1..geometry.levels() {
        let shift = page + u32::from(number) * (page - 3);
        let level = portcullis_pgtable::Level { number, shift };
        assert!(!format.is_table(0, level) && !format.is_leaf(0, level));
        for address in [params.granule.bytes(), highest, 0x5a_a55a_a55a_a55a & highest] {
            let entry = format.table(PhysAddr::new(address), level);
            assert!(format.is_table(entry, level) && !format.is_leaf(entry, level), "{level:?}");
            assert_eq!(format.table_address(entry), address, "{level:?}");
            assert!(entry & F::SOFTWARE_BIT == 0 && format.settled_table(entry, level).is_none());
            let settled = entry | F::SOFTWARE_BIT;
            assert_eq!(format.settled_table(settled, level), Some(address), "{level:?}");
            assert_eq!(format.table_address(settled), address, "the bit is no address bit");
            let block = address >> shift << shift;
            let leaf =
                format.leaf_bits(Prot::READ).map(|bits| format.leaf(bits, block, level, shift));
            let other =
                [F::SOFTWARE_BIT, address | F::SOFTWARE_BIT, leaf.unwrap_or(0) | F::SOFTWARE_BIT];
            assert!(other.iter().all(|entry| format.settled_table(*entry, level).is_none()));
        }
    }
}

#[test]
fn table_entries_lead_where_they_say() {
    all().iter().for_each(|shape| (shape.check_table_entries)(shape.params));
}

/// `test_table_radix`: the levels decode every address bit once.
#[test]
fn each_input_bit_is_decoded_once() {
    on_all(|shape, memory, table| {
        let page = shape.page();
        let bits = page.ilog2()..shape.input_bits();
        let phys = |bit: u32| page << (bit % 7);
        bits.clone().for_each(|bit| map(table, 1 << bit, phys(bit), page));
        bits.clone().for_each(|bit| check(memory, table, 1 << bit, Some(phys(bit))));
        check(memory, table, 0, None);
        assert_eq!(walker::all_leaves(memory, table.config()).len(), bits.len());
        bits.for_each(|bit| unmap(table, 1 << bit, page));
    });
}

/// `test_entry_oa`, `test_max_va`, and the selftest's last page of the input range: each size, at the end of the input, with all address bits.
#[test]
fn leaves_carry_the_whole_output_address() {
    on_all(|shape, memory, table| {
        for size in sizes_of(table).into_iter().filter(|size| *size - 1 <= last(&shape)) {
            let iova = last(&shape) & !(size - 1);
            let highest = highest(&shape, size);
            for phys in [0, highest, 0x5a_a55a_a55a_a55a & highest] {
                map(table, iova, phys, size);
                let leaf = walker::both(memory, table.config(), iova).expect("mapped");
                assert_eq!((leaf.phys, leaf.size), (phys, size));
                check(memory, table, iova + (size - 1), Some(phys + (size - 1)));
                unmap(table, iova, size);
            }
            super::debts::reclaim_all(table);
        }
    });
}

/// `test_attr_from_entry`: what a leaf allows is what was asked for, never more, and reads back to the same entry.
#[test]
fn protections_survive_the_entry() {
    on_all(|shape, memory, table| {
        let page = shape.page();
        for raw in 0..64u8 {
            let prot = Prot::from_bits(raw).expect("six flags");
            let (iova, again) = (u64::from(raw) * page, (64 + u64::from(raw)) * page);
            let result = table.map(Iova::new(iova), PhysAddr::new(page), page, prot);
            if result.is_err() {
                assert_eq!(result, Err(MapError::BadProt { prot }));
                assert!(!prot.intersects(RW) || prot.contains(Prot::PRIV));
                continue;
            }
            let (_, read_back) = table.translate(Iova::new(iova)).expect("mapped");
            let walked = walker::both(memory, table.config(), iova).expect("mapped");
            let (walked, compared) = (walked.prot(), Prot::all() - Prot::NOEXEC);
            assert_eq!(walked & compared, read_back & compared, "{prot:?}");
            assert!(read_back.contains(prot & RW), "{prot:?} became {read_back:?}");
            assert_eq!(read_back.contains(Prot::WRITE), prot.contains(Prot::WRITE));
            assert_eq!(read_back.contains(Prot::PRIV), prot.contains(Prot::PRIV));
            let may_execute = prot.contains(Prot::NOEXEC) && !walked.contains(Prot::NOEXEC);
            assert!(!may_execute || !has_execution(table.config().format), "{prot:?}");
            // Mapped with what was read back, it is the same leaf.
            table.map(Iova::new(again), PhysAddr::new(page), page, read_back).expect("readable");
            let leaves = [iova, again].map(|iova| {
                let leaf = walker::both(memory, table.config(), iova).expect("mapped");
                walker::Leaf { iova: 0, ..leaf }
            });
            assert_eq!(leaves[0], leaves[1], "{prot:?} became {read_back:?}");
            unmap(table, iova, page);
            unmap(table, again, page);
        }
    });
}

/// Whether leaves of a format decide about execution; elsewhere a device's configuration does.
fn has_execution(format: TableFormat) -> bool {
    !matches!(
        format,
        TableFormat::VtdFirstStage | TableFormat::AmdV1 | TableFormat::AmdV2 | TableFormat::X86_64
    )
}

/// The selftest's steps 1 to 7 and `test_map_simple`: each size once, mapped over in vain, looked up, unmapped, mapped write-only.
#[test]
fn each_size_once() {
    on_all(|shape, memory, table| {
        [42, GIB + 42, 2 * GIB + 42].into_iter().for_each(|at| check(memory, table, at, None));
        let fits = |size: &u64| *size - 1 <= last(&shape) / 8 && *size <= highest(&shape, 1) / 4;
        for size in sizes_of(table).into_iter().filter(fits) {
            let (iova, phys) = (4 * size, 2 * size);
            map(table, iova, phys, size);
            let leaves = walker::all_leaves(memory, table.config());
            assert_eq!(leaves.iter().map(|leaf| leaf.size).collect::<Vec<_>>(), [size]);
            let again = table.map(Iova::new(iova), PhysAddr::new(0), size, RW);
            assert_eq!(again, Err(MapError::Occupied { iova: Iova::new(iova) }));
            check(memory, table, iova + 42, Some(phys + 42));
            let mut gather = IotlbGather::new();
            table.unmap(Iova::new(iova), size, &mut gather).expect("mapped");
            let range = gather.range().expect("one range");
            assert_eq!((range.start.raw(), range.last.raw()), (iova, iova + size - 1));
            assert!(range.leaf.bytes() <= size && !range.tables_freed);
            check(memory, table, iova + 42, None);
            table.map(Iova::new(iova), PhysAddr::new(phys), size, Prot::WRITE).expect("free");
            check(memory, table, iova + 42, Some(phys + 42));
            unmap(table, iova, size);
            super::debts::reclaim_all(table);
        }
    });
}

/// `test_map_table_to_oa`: a large leaf where small ones were, whose table is in the way until it is reclaimed.
#[test]
fn a_large_leaf_where_small_ones_were() {
    on_all(|shape, memory, table| {
        let page = shape.page();
        let large = page * (page / 8);
        let (first, rest) = (large, large - page);
        map(table, first, 3 * large + page, large);
        unmap(table, first, page);
        unmap(table, first + page, rest);
        map(table, first, 5 * large, large);
        check(memory, table, first, Some(5 * large));
        check(memory, table, first + large - 1, Some(6 * large - 1));
        let leaf = walker::both(memory, table.config(), first).expect("mapped");
        assert!(leaf.size < large, "the leftover table is filled");
        unmap(table, first, large);
        super::debts::reclaim_all(table);
        map(table, first, 6 * large, large);
        let leaf = walker::both(memory, table.config(), first).expect("mapped");
        assert_eq!((leaf.size, leaf.phys), (large, 6 * large));
        unmap(table, first, large);
    });
}

/// `test_unmap_split`, with our contract: what would cut a leaf is refused whole, names the whole leaf, and leaves everything as it was.
#[test]
fn an_unmap_that_cuts_a_leaf_is_refused_whole() {
    on_all(|shape, memory, table| {
        let page = shape.page();
        let sizes = sizes_of(table);
        let large = *sizes.iter().filter(|size| **size <= page * (page / 8)).max().expect("a page");
        if large == page {
            return;
        }
        map(table, large, large, 2 * large - page);
        map(table, 3 * large - page, 0, page);
        map(table, 3 * large, 0, page);
        let before = walker::all_leaves(memory, table.config());
        let size = PageSize::from_log2(large.ilog2() as u8).expect("a size");
        let splits = Err(UnmapError::SplitsLeaf { leaf: Iova::new(large), size });
        let mut gather = IotlbGather::new();
        let mut refused = |iova, len| table.unmap(Iova::new(iova), len, &mut gather);
        assert_eq!(refused(large, page), splits);
        assert_eq!(refused(large + page, large - page), splits);
        assert_eq!(refused(2 * large - page, page), splits);
        let hole = Err(UnmapError::NotMapped { iova: Iova::new(3 * large + page) });
        assert_eq!(refused(large, 2 * large + 2 * page), hole);
        let hole = Err(UnmapError::NotMapped { iova: Iova::new(large - page) });
        assert_eq!(refused(large - page, 2 * large), hole);
        assert!(gather.is_empty(), "a refused unmap owes nothing");
        assert_eq!(walker::all_leaves(memory, table.config()), before);
        unmap(table, large, 2 * large + page);
    });
}

/// `test_unmap_split` as KUnit has it: unmapping a page at the head, in the middle or at the end of a large leaf removes the whole leaf and reports it; a neighbour is untouched. Every size, also of several
/// entries, and both ends at once.
#[test]
fn a_leaf_that_is_cut_goes_whole_and_is_reported_whole() {
    on_all(|shape, memory, table| {
        let page = shape.page();
        let fits = |size: &u64| *size - 1 <= last(&shape) / 8 && *size <= highest(&shape, 1) / 4;
        for size in sizes_of(table).into_iter().filter(fits) {
            let first = 4 * size;
            let whole = |iova: u64, len: u64, removed: (u64, u64)| {
                map(table, first, 2 * size, 2 * size - page);
                map(table, first + 2 * size - page, page, page);
                let mut gather = IotlbGather::new();
                let range = table.unmap_whole_leaves(Iova::new(iova), len, &mut gather);
                let range = range.expect("mapped");
                assert_eq!((range.start().raw(), range.last().raw()), removed, "{size:#x}");
                let owed = gather.range();
                assert!(
                    gather.is_everything()
                        || owed.is_some_and(|owed| {
                            owed.start.raw() <= removed.0 && owed.last.raw() >= removed.1
                        })
                );
                table.retire(gather.confirm());
                let left = walker::all_leaves(memory, table.config());
                let bytes: u64 = left.iter().map(|leaf| leaf.size).sum();
                assert_eq!(bytes, 2 * size - (removed.1 - removed.0 + 1), "{left:x?}");
                left.iter().for_each(|leaf| unmap(table, leaf.iova, leaf.size));
                super::debts::reclaim_all(table);
            };
            let all = (first, first + size - 1);
            whole(first, page, all);
            whole(
                (first + size / 2) & !(page - 1),
                page,
                if size == page { (first, first + page - 1) } else { all },
            );
            whole(first + size - page, page, all);
            // From the middle of the leaf to the end of what is mapped behind it.
            whole(first + size - page, size + page, (first, first + 2 * size - 1));
        }
    });
}

/// `test_random_map`: ranges squeezed into 1 GiB; a collision changes nothing, and succeeds once what was in the way is gone.
#[test]
fn random_ranges_in_one_gib() {
    on_all(|shape, memory, table| {
        let page = shape.page();
        let mut rng = Rng(0x0dd_ba11);
        let mut live: Vec<(u64, u64)> = Vec::new();
        for _ in 0..150 {
            let start = rng.below(GIB / page) * page;
            let limit = (GIB - start).min(page << rng.below(10));
            let len = (rng.below(limit / page) + 1) * page;
            let phys = rng.below(1 << 30) * page % (1 << 38);
            let clash = |&(s, l): &(u64, u64)| s < start + len && start < s + l;
            let result = table.map(Iova::new(start), PhysAddr::new(phys), len, RW);
            if live.iter().any(clash) {
                assert!(matches!(result, Err(MapError::Occupied { .. })), "{result:?}");
                live.iter().filter(|range| clash(range)).for_each(|&(s, l)| unmap(table, s, l));
                live.retain(|range| !clash(range));
                map(table, start, phys, len);
            } else {
                assert_eq!(result, Ok(()));
            }
            live.push((start, len));
            check(memory, table, start + len - 1, Some(phys + len - 1));
        }
        let leaves = walker::all_leaves(memory, table.config());
        let mapped: u64 = live.iter().map(|range| range.1).sum();
        assert_eq!(leaves.iter().map(|leaf| leaf.size).sum::<u64>(), mapped);
        live.iter().for_each(|&(s, l)| unmap(table, s, l));
    });
}

/// `test_pgsize_boundary` and `test_mixed`: two ranges of real machines, and that leaves are the largest that fit, by a greedy reading of the rule.
#[test]
fn leaves_are_the_largest_that_fit() {
    on_all(|shape, memory, table| {
        let sizes = sizes_of(table);
        let (page, block) = (shape.page(), shape.page() * (shape.page() / 8));
        let mut ranges = vec![
            (3 * block - page, 5 * block - page, 2 * block + 2 * page),
            (3 * block - page, 5 * block, 2 * block + page),
            (block + 3 * page, 7 * block + 3 * page, 3 * block),
        ];
        if page == 4096 {
            ranges.push((0xfef8_0000, 0x18_b950_3000, 0x2_0000));
        }
        if page == 4096 && shape.input_bits() > 35 {
            ranges.push((0x3_fe40_0000, 0x3e40_0000, 0x4_c060_0000 - 0x3_fe40_0000));
        }
        for (start, phys, len) in ranges {
            map(table, start, phys, len);
            let leaves = walker::all_leaves(memory, table.config());
            let mut at = start;
            for leaf in &leaves {
                let (to, left) = (phys + (at - start), start + len - at);
                let fits = |size: &&u64| (at | to).is_multiple_of(**size) && left >= **size;
                let best = *sizes.iter().rev().find(fits).expect("a page fits");
                assert_eq!((leaf.iova, leaf.phys, leaf.size), (at, to, best));
                at += best;
            }
            assert_eq!(at, start + len);
            if len > 3 * GIB && sizes == [4096, 2 * MIB, GIB] {
                assert_eq!(leaves.len(), 20, "14 of 2 MiB, 3 of 1 GiB, 3 of 2 MiB");
            }
            unmap(table, start, len);
            super::debts::reclaim_all(table);
        }
    });
}

/// Wrap, zero length, misalignment, and both ends of both ranges.
#[test]
fn arguments_outside_the_table() {
    on_all(|shape, memory, table| {
        let page = shape.page();
        let map = |iova, phys, len| table.map(Iova::new(iova), PhysAddr::new(phys), len, RW);
        let unmap = |iova, len| table.unmap(Iova::new(iova), len, &mut IotlbGather::new());
        for (iova, phys, len) in
            [(page / 2, 0, page), (0, page / 2, page), (0, 0, page / 2), (0, 0, 0)]
        {
            assert!(matches!(map(iova, phys, len), Err(MapError::Unaligned { .. })));
        }
        for (iova, len) in [(page / 2, page), (0, page / 2), (0, 0)] {
            assert!(matches!(unmap(iova, len), Err(UnmapError::Unaligned { .. })));
        }
        let (top, phys_top) = (last(&shape), highest(&shape, page));
        assert_eq!(map(top & !(page - 1), phys_top, page), Ok(()));
        check(memory, table, top, Some(phys_top + page - 1));
        for (iova, len) in [
            (top.wrapping_add(1), page),
            (top & !(page - 1), 2 * page),
            (u64::MAX - page + 1, 2 * page),
        ] {
            if iova == 0 {
                continue;
            }
            assert!(matches!(map(iova, 0, len), Err(MapError::OutOfRange { .. })), "{iova:#x}");
            assert!(matches!(unmap(iova, len), Err(UnmapError::OutOfRange { .. })), "{iova:#x}");
        }
        for phys in [phys_top, u64::MAX - page + 1] {
            let result = map(0, phys, 2 * page);
            assert!(matches!(result, Err(MapError::PhysOutOfRange { .. })), "{phys:#x} {result:?}");
        }
        assert_eq!(unmap(0, page), Err(UnmapError::NotMapped { iova: Iova::new(0) }));
        super::unmap(table, top & !(page - 1), page);
    });
}

/// `test_increase_level`: a page beyond the top adds exactly one level, up to the most; nothing above is mapped before hardware walks from the new root.
#[test]
fn an_amd_table_grows_level_by_level() {
    let memory = TestMemory::new();
    let shape = all().into_iter().find(|shape| shape.input_bits() == 64).expect("AMD");
    memory.set_software_bit(AmdV1::SOFTWARE_BIT);
    let table = IoPageTable::<AmdV1, _>::new(&memory, shape.params).expect("supported");
    map(&table, 0x1000, 0x5000, 4096);
    let mut above = vec![(0x1000, 0x5000)];
    for mode in 3..=6u8 {
        let TableRoot::Amd { mode: now, .. } = table.config().root else { panic!("AMD") };
        assert_eq!(now, mode);
        for (at, phys) in &above {
            check(&memory, &table, *at, Some(*phys));
        }
        if mode == 6 {
            break;
        }
        let beyond = 1u64 << (12 + 9 * u32::from(mode));
        let (iova, len) = (Iova::new(beyond), 4096);
        let refused = table.map(iova, PhysAddr::new(0), len, RW);
        assert_eq!(refused, Err(MapError::TooShallow { iova, len }));
        let mut gather = IotlbGather::new();
        let unmapped = table.unmap(iova, len, &mut gather);
        assert_eq!(unmapped, Err(UnmapError::NotMapped { iova }));
        let (old, live) = (table.config(), memory.live());
        let new = table.grow(iova).expect("memory");
        assert_eq!(memory.live(), live + 1, "one level");
        // Hardware may still walk from the old root: what it knew stays, what is above is refused.
        assert_eq!(table.map(iova, PhysAddr::new(0), len, RW), refused);
        for config in [old, new] {
            assert_eq!(walker::both(&memory, config, 0x1000).map(|leaf| leaf.phys), Ok(0x5000));
        }
        assert!(!table.grown(&old), "that is not the root any more");
        assert!(table.grown(&new));
        assert_eq!(table.grow(iova), Ok(new), "deep enough");
        let phys = 0x1_0000 * u64::from(mode);
        map(&table, beyond, phys, 4096);
        above.push((beyond, phys));
        let old_walk = walker::both(&memory, old, beyond);
        assert_eq!(old_walk, Err(walker::Fault::AddressSize));
    }
    above.into_iter().for_each(|(at, _)| unmap(&table, at, 4096));
    drop(table);
    assert_eq!(memory.live(), 0);
    // Memory runs out while it grows.
    let table = IoPageTable::<AmdV1, _>::new(&memory, shape.params).expect("supported");
    memory.allow(1);
    let result = table.grow(Iova::new(u64::MAX));
    memory.allow(usize::MAX);
    assert!(matches!(result, Err(MapError::NoMemory(_))), "{result:?}");
    assert!(table.grown(&table.config()), "a level more is no harm");
    drop(table);
    assert_eq!(memory.live(), 0);
}

/// Threads that all find the tree too shallow: it grows once, and each sees all of it.
#[test]
fn threads_grow_one_tree() {
    let memory = TestMemory::new();
    memory.set_software_bit(AmdV1::SOFTWARE_BIT);
    let shape = all().into_iter().find(|shape| shape.input_bits() == 64).expect("AMD");
    for _ in 0..200 {
        let table = IoPageTable::<AmdV1, _>::new(&memory, shape.params).expect("supported");
        std::thread::scope(|scope| {
            for thread in 0..3u64 {
                let (memory, table) = (&memory, &table);
                scope.spawn(move || {
                    let iova = (thread + 1) << 60;
                    while let Err(error) = table.map(Iova::new(iova), PhysAddr::new(0), 4096, RW) {
                        assert!(matches!(error, MapError::TooShallow { .. }), "{error}");
                        let config = table.grow(Iova::new(iova)).expect("memory");
                        table.grown(&config);
                    }
                    let walked = walker::snooping(memory, table.config(), iova);
                    assert_eq!(walked.map(|leaf| leaf.phys), Ok(0));
                });
            }
        });
        assert_eq!(walker::all_leaves(&memory, table.config()).len(), 3);
        drop(table);
        assert_eq!(memory.live(), 0);
    }
}
