//! A table page goes back to its memory only after the invalidation that covers it was confirmed.

use super::{RW, Stage1, map, params, table, walker};
use portcullis_addr::{Iova, PageSize, PhysAddr};
use portcullis_pgtable::{ArmLpaeStage1, IotlbGather, PageTable};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Takes out every empty table and pays the debt.
pub(crate) fn reclaim_all(table: &dyn PageTable) {
    let mut gather = IotlbGather::new();
    let range = table.input_range();
    table.reclaim(range.start(), range.len(), &mut gather).expect("in range");
    table.retire(gather.confirm());
}

#[test]
fn a_whole_table_leaves_the_tree_and_waits() {
    let (memory, table) = table::<ArmLpaeStage1>(PageSize::SIZE_4K);
    map(&table, 2 * MIB, 4096, 2 * MIB);
    let (pages, live) = (table.table_pages(), memory.live());
    let mut gather = IotlbGather::new();
    table.unmap(Iova::new(2 * MIB), 2 * MIB, &mut gather).expect("mapped");
    assert_eq!(gather.tables(), 1);
    let range = gather.range().expect("one range");
    assert_eq!((range.start.raw(), range.last.raw()), (2 * MIB, 4 * MIB - 1));
    assert!(range.tables_freed, "walk caches must be told");
    assert_eq!((table.table_pages(), memory.live()), (pages, live), "nothing was freed yet");
    // The slot can be used again before the debt is paid; it gets another table.
    map(&table, 2 * MIB, 4096, 2 * MIB);
    assert_eq!(memory.live(), live + 1);
    let flushed = gather.confirm();
    assert_eq!(flushed.tables(), 1);
    table.retire(flushed);
    assert_eq!((table.table_pages(), memory.live()), (pages, live));
}

#[test]
fn a_stale_walk_cache_finds_no_entry_of_ours_to_follow() {
    let (memory, table) = table::<ArmLpaeStage1>(PageSize::SIZE_4K);
    map(&table, 0, GIB + 4096, GIB);
    // What a walk cache may remember: the addresses of the tables on the way to 0.
    let mut tables = vec![table.config().root.raw()];
    for _ in 0..3 {
        let entry = memory.snooped(*tables.last().expect("root"));
        tables.push(entry & 0x0000_ffff_ffff_f000);
    }
    let mut gather = IotlbGather::new();
    table.unmap(Iova::new(0), GIB, &mut gather).expect("mapped");
    assert_eq!(gather.tables(), 513, "512 leaf tables and the one above them");
    for address in &tables[2..] {
        assert_eq!(memory.snooped(*address) & 1, 0, "the link reads as not present");
    }
    // All other entries lead where they led before: frames that the caller keeps until the flush.
    assert_eq!(memory.snooped(tables[3] + 8) & 0x0000_ffff_ffff_f000, GIB + 2 * 4096);
    table.retire(gather.confirm());
    assert_eq!(table.table_pages(), 2, "the root and the table below it");
}

#[test]
fn quarantined_pages_stay_until_the_table_goes() {
    let (memory, table) = table::<ArmLpaeStage1>(PageSize::SIZE_4K);
    for round in 1..=3 {
        map(&table, 0, 4096, 4 * MIB);
        let mut gather = IotlbGather::new();
        table.unmap(Iova::new(0), 4 * MIB, &mut gather).expect("mapped");
        let live = memory.live();
        table.quarantine(&mut gather);
        assert!(gather.is_empty());
        assert_eq!(memory.live(), live, "nothing was freed");
        assert_eq!(table.table_pages(), 3 + 2 * round);
        let mut again = gather;
        table.retire(again.confirm());
        assert_eq!(memory.live(), live, "an empty gather frees nothing");
    }
    drop(table);
    assert_eq!(memory.live(), 0);
}

#[test]
fn a_dropped_gather_leaks_and_frees_nothing() {
    let (memory, table) = table::<ArmLpaeStage1>(PageSize::SIZE_4K);
    map(&table, 0, 4096, 2 * MIB);
    let mut gather = IotlbGather::new();
    table.unmap(Iova::new(0), 2 * MIB, &mut gather).expect("mapped");
    drop(gather);
    drop(table);
    assert_eq!(memory.live(), 1, "the unconfirmed page was never handed out again");
}

#[test]
fn a_gather_of_another_table_takes_no_pages_and_frees_none() {
    let (memory, one) = table::<ArmLpaeStage1>(PageSize::SIZE_4K);
    let two = Stage1::new(&memory, params(PageSize::SIZE_4K, 48, 48)).expect("supported");
    map(&one, 0, 4096, 2 * MIB);
    map(&two, 0, 4096, 2 * MIB);
    let mut gather = IotlbGather::new();
    one.unmap(Iova::new(0), 2 * MIB, &mut gather).expect("mapped");
    two.unmap(Iova::new(0), 2 * MIB, &mut gather).expect("mapped");
    assert_eq!(gather.tables(), 1, "the second table keeps its pages in its tree");
    assert_eq!(two.translate(Iova::new(0)), None);
    assert_eq!(two.table_pages(), 4);
    let live = memory.live();
    two.retire(gather.confirm());
    assert_eq!(memory.live(), live, "pages of another table are not freed");
    reclaim_all(&two);
    assert_eq!((two.table_pages(), memory.live()), (1, live - 3));
}

/// What a TLB holds after an unmap is inside what the gather owes, with the right stride.
#[test]
fn the_gather_covers_what_was_removed() {
    let (memory, table) = table::<ArmLpaeStage1>(PageSize::SIZE_4K);
    for (start, len) in [(4096, 4096), (0, 4 * MIB), (MIB, 2 * MIB), (GIB - MIB, 2 * MIB + 4096)] {
        table.map(Iova::new(start), PhysAddr::new(start), len, RW).expect("free");
        let cached = walker::all_leaves(&memory, table.config());
        let mut gather = IotlbGather::new();
        table.unmap(Iova::new(start), len, &mut gather).expect("mapped");
        for leaf in cached {
            let covered = gather.is_everything()
                || gather.range().is_some_and(|range| {
                    range.start.raw() <= leaf.iova
                        && leaf.iova + (leaf.size - 1) <= range.last.raw()
                        && (range.leaf.bytes() == leaf.size || range.tables_freed)
                });
            assert!(covered, "{leaf:x?} is not in {gather:?}");
        }
        table.retire(gather.confirm());
    }
}
