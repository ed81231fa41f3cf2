//! A table page goes back to its memory only after the invalidation that covers it was confirmed, and only when no thread can be walking through it.

use super::{RW, Rng, Stage1, TestMemory, free_retired, map, params, table, unmap, walker};
use portcullis_addr::{Iova, PageSize, PhysAddr};
use portcullis_pgtable::{ArmLpaeStage1, IotlbGather, PageTable};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Takes out every empty table, pays the debt, and frees them: nobody else is there.
pub(crate) fn reclaim_all(table: &dyn PageTable) {
    // In two halves, because a length cannot say 2^64.
    let half = 1u64 << (table.config().input_bits - 1);
    for start in [0, half] {
        loop {
            let mut gather = IotlbGather::new();
            let taken = table.reclaim(Iova::new(start), half, &mut gather).expect("in range");
            table.retire(gather.confirm());
            assert_eq!(free_retired(table), taken);
            if taken == 0 {
                break;
            }
        }
    }
}

fn reclaim(table: &dyn PageTable, iova: u64, len: u64) -> IotlbGather {
    let mut gather = IotlbGather::new();
    let taken = table.reclaim(Iova::new(iova), len, &mut gather).expect("in range");
    assert_eq!(taken, gather.tables());
    gather
}

#[test]
fn an_unmap_leaves_its_tables_where_they_are() {
    let (memory, table) = table::<ArmLpaeStage1>(PageSize::SIZE_4K);
    map(&table, 2 * MIB, 4096, 2 * MIB);
    let (pages, live) = (table.table_pages(), memory.live());
    let mut gather = IotlbGather::new();
    for part in [2 * MIB, 3 * MIB] {
        table.unmap(Iova::new(part), MIB, &mut gather).expect("mapped");
    }
    let range = gather.range().expect("one range");
    assert_eq!((range.start.raw(), range.last.raw()), (2 * MIB, 4 * MIB - 1));
    assert!(!range.tables_freed, "hardware may keep its cached walks");
    assert_eq!((gather.tables(), table.table_pages(), memory.live()), (0, pages, live));
    // The next mapping there needs no memory.
    memory.allow(0);
    map(&table, 2 * MIB, 4096, 2 * MIB);
}

#[test]
fn a_table_that_was_taken_out_waits_for_hardware_and_for_the_walkers() {
    let (memory, table) = table::<ArmLpaeStage1>(PageSize::SIZE_4K);
    map(&table, 2 * MIB, 4096, 2 * MIB);
    unmap(&table, 2 * MIB, 2 * MIB);
    let (pages, live) = (table.table_pages(), memory.live());
    let mut gather = reclaim(&table, 2 * MIB, 2 * MIB);
    assert_eq!(gather.tables(), 1);
    let range = gather.range().expect("one range");
    assert_eq!((range.start.raw(), range.last.raw()), (2 * MIB, 4 * MIB - 1));
    assert!(range.tables_freed, "walk caches must be told");
    assert_eq!(free_retired(&table), 0, "hardware has not confirmed");
    // The slot can be used again before the debt is paid; it gets another table.
    map(&table, 2 * MIB, 4096, 2 * MIB);
    assert_eq!((table.table_pages(), memory.live()), (pages + 1, live + 1));
    let flushed = gather.confirm();
    assert_eq!(flushed.tables(), 1);
    table.retire(flushed);
    assert_eq!(memory.live(), live + 1, "a thread may still be walking there");
    assert_eq!(free_retired(&table), 1);
    assert_eq!((table.table_pages(), memory.live()), (pages, live));
    assert_eq!(free_retired(&table), 0);
}

#[test]
fn a_stale_walk_cache_finds_only_empty_entries() {
    let (memory, table) = table::<ArmLpaeStage1>(PageSize::SIZE_4K);
    map(&table, 0, GIB + 4096, 64 * MIB);
    // What a walk cache may remember: the addresses of the tables on the way to 0.
    let mut tables = vec![table.config().root.address().raw()];
    for _ in 0..3 {
        let entry = memory.snooped(*tables.last().expect("root"));
        tables.push(entry & 0x0000_ffff_ffff_f000);
    }
    // In halves of tables: one that is unmapped whole is hidden from hardware at once, and its walk caches are told.
    (0..64).for_each(|part| unmap(&table, part * MIB, MIB));
    let gather = reclaim(&table, 0, GIB);
    assert_eq!(gather.tables(), 33, "32 leaf tables and the one above them");
    for address in tables[2..].iter().flat_map(|table| (*table..table + 4096).step_by(8)) {
        assert_eq!(memory.snooped(address), 0);
        assert_eq!(memory.published(address), 0);
    }
}

#[test]
fn unconfirmed_pages_stay_until_the_table_goes() {
    let (memory, table) = table::<ArmLpaeStage1>(PageSize::SIZE_4K);
    for round in 1..=3 {
        map(&table, 0, 4096, 4 * MIB);
        unmap(&table, 0, 4 * MIB);
        let mut gather = reclaim(&table, 0, 4 * MIB);
        let live = memory.live();
        table.quarantine(&mut gather);
        assert!(gather.is_empty());
        assert_eq!((free_retired(&table), memory.live()), (0, live), "nothing was freed");
        assert_eq!(table.table_pages(), 3 + 2 * round);
        let mut again = gather;
        table.retire(again.confirm());
        assert_eq!((free_retired(&table), memory.live()), (0, live), "nor by an empty gather");
        // A gather that is dropped without a word is no confirmation either.
        map(&table, 8 * MIB, 4096, 2 * MIB);
        unmap(&table, 8 * MIB, 2 * MIB);
        if round == 3 {
            drop(reclaim(&table, 8 * MIB, 2 * MIB));
            assert_eq!((free_retired(&table), memory.live()), (0, live + 1));
        }
        reclaim_all(&table);
    }
    drop(table);
    assert_eq!(memory.live(), 0);
}

#[test]
fn a_gather_of_another_table_takes_no_pages_and_frees_none() {
    let (memory, one) = table::<ArmLpaeStage1>(PageSize::SIZE_4K);
    let two = Stage1::new(&memory, params(PageSize::SIZE_4K, 48, 48)).expect("supported");
    for table in [&one, &two] {
        map(table, 0, 4096, 2 * MIB);
        unmap(table, 0, 2 * MIB);
    }
    let mut gather = reclaim(&one, 0, 2 * MIB);
    assert_eq!(two.reclaim(Iova::new(0), 2 * MIB, &mut gather), Ok(0));
    assert_eq!(gather.tables(), 1, "the second table keeps its pages in its tree");
    let mut other = reclaim(&two, 0, 2 * MIB);
    let live = memory.live();
    two.retire(gather.confirm());
    assert_eq!((free_retired(&one), free_retired(&two)), (0, 0), "nobody's were confirmed");
    assert_eq!(memory.live(), live);
    two.retire(other.confirm());
    assert_eq!((free_retired(&one), free_retired(&two)), (0, 1));
}

#[test]
fn more_tables_than_places_take_more_than_one_round() {
    let (memory, table) = table::<ArmLpaeStage1>(PageSize::SIZE_4K);
    map(&table, 0, 4096, 200 * MIB);
    unmap(&table, 0, 200 * MIB);
    memory.allow(0);
    let mut first = reclaim(&table, 0, GIB);
    assert_eq!(first.tables(), 64);
    assert_eq!(reclaim(&table, 0, GIB).tables(), 0, "all places wait for the first gather");
    table.retire(first.confirm());
    assert_eq!(reclaim(&table, 0, GIB).tables(), 0, "walkers may still be there");
    assert_eq!(free_retired(&table), 64);
    reclaim_all(&table);
    assert_eq!((table.table_pages(), memory.live()), (1, 1));
}

/// Another thread takes the leaf table out just when a walker has read the pointer to it. `free`: it also frees what was retired, which its contract
/// forbids while the walker is there.
fn outrun(free: bool) -> Option<u64> {
    let memory = TestMemory::new();
    let table = Stage1::new(&memory, params(PageSize::SIZE_4K, 39, 40)).expect("supported");
    let table = Arc::new(table);
    map(&*table, 0, 4096, 4096);
    unmap(&*table, 0, 4096);
    let root = table.config().root.address();
    let above = PhysAddr::new(memory.snooped(root.raw()) & 0x0000_ffff_ffff_f000);
    let other: OnceLock<Weak<Stage1>> = OnceLock::from(Arc::downgrade(&table));
    let once = AtomicBool::new(false);
    memory.watch_loads(move |_, address, _| {
        if address == above && !once.swap(true, Ordering::SeqCst) {
            let table = other.get().and_then(Weak::upgrade).expect("alive");
            let mut gather = reclaim(&*table, 0, 2 * MIB);
            assert_eq!(gather.tables(), 1);
            table.retire(gather.confirm());
            if free {
                free_retired(&*table);
            }
        }
    });
    super::lookup(&*table, 0)
}

#[test]
fn a_walker_is_never_outrun() {
    assert_eq!(outrun(false), None);
}

/// The planted bug: freeing without waiting for the walkers is seen by the memory.
#[test]
#[should_panic(expected = "was freed")]
fn freeing_under_a_walker_is_found() {
    outrun(true);
}

/// Threads that keep no rule at all: they map, unmap, look up and reclaim the same ranges. Nothing is promised about the result, but no freed memory is
/// touched and no page is freed twice: the memory panics at either.
#[test]
fn threads_without_rules_touch_no_freed_memory() {
    let memory = TestMemory::unwatched();
    let table = Stage1::new(&memory, params(PageSize::SIZE_4K, 39, 40)).expect("supported");
    thread::scope(|scope| {
        for seed in 0..3 {
            let table = &table;
            scope.spawn(move || {
                let mut rng = Rng(seed);
                for _ in 0..20_000 {
                    let first = rng.below(4) * MIB + rng.below(4) * 4096;
                    let len = [4096, 8192, MIB, 2 * MIB][rng.below(4) as usize];
                    let (iova, phys) = (Iova::new(first), PhysAddr::new(rng.below(64) * MIB));
                    let mut gather = IotlbGather::new();
                    match rng.below(4) {
                        0 => drop(table.map(iova, phys, len, RW)),
                        1 => drop(table.unmap(iova, len, &mut gather)),
                        2 => drop(table.translate(iova)),
                        _ => drop(table.reclaim(Iova::new(0), 8 * MIB, &mut gather)),
                    }
                    table.retire(gather.confirm());
                }
            });
        }
    });
    free_retired(&table);
    let config = table.config();
    for page in 0..8 * MIB / 4096 {
        // What was left mapped is what the table says to hardware and to us alike.
        let walked = walker::snooping(&memory, config, page * 4096).ok();
        let walked = walked.map(|leaf| leaf.translate(page * 4096));
        assert_eq!(super::lookup(&table, page * 4096), walked);
    }
}
