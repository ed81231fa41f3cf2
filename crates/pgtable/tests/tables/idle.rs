//! Leaf tables that are unmapped whole keep their place: one store takes them out of hardware's reach, and nothing of what they held comes back.

use super::shapes::{Shape, on_all};
use super::{RW, Stage1, TestMemory, free_retired, lookup, map, params, unmap, walker};
use portcullis_addr::{Iova, PageSize, PhysAddr};
use portcullis_pgtable::{Dump, FlushRange, IotlbGather, MapError, PageTable};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;

/// What one leaf table covers.
fn covered(shape: &Shape) -> u64 {
    shape.page() * shape.page() / 8
}

/// Maps the second leaf table full of smallest pages, and unmaps all of it.
fn empty_one(shape: &Shape, table: &dyn PageTable) -> FlushRange {
    let (start, page) = (covered(shape), shape.page());
    map(table, start, 2 * start + page, start);
    let mut gather = IotlbGather::new();
    table.unmap(Iova::new(start), start, &mut gather).expect("mapped");
    let owed = gather.range().expect("one range");
    table.retire(gather.confirm());
    owed
}

/// A whole table costs one published line, walk caches are told, and the next map there takes no memory.
#[test]
fn a_table_that_is_unmapped_whole_keeps_its_place() {
    on_all(|shape, memory, table| {
        let (start, page) = (covered(&shape), shape.page());
        map(table, start, 2 * start + page, start);
        let (pages, live) = (table.table_pages(), memory.live());
        let before = memory.publishes.load(Ordering::SeqCst);
        let mut gather = IotlbGather::new();
        table.unmap(Iova::new(start), start, &mut gather).expect("mapped");
        assert_eq!(memory.publishes.load(Ordering::SeqCst) - before, 1);
        let owed = gather.range().expect("one range");
        assert_eq!((owed.start.raw(), owed.last.raw()), (start, 2 * start - 1));
        assert_eq!((owed.leaf.bytes(), owed.tables_freed), (page, true));
        table.retire(gather.confirm());
        assert_eq!(walker::all_leaves(memory, table.config()), []);
        for iova in [start, 2 * start - page] {
            assert_eq!(lookup(table, iova), None);
            let mut gather = IotlbGather::new();
            table.unmap(Iova::new(iova), page, &mut gather).expect_err("nothing is mapped");
        }
        memory.allow(0);
        map(table, start, 4 * start + page, start);
        memory.allow(usize::MAX);
        for iova in [start, 2 * start - page] {
            let walked = walker::both(memory, table.config(), iova).expect("mapped");
            assert_eq!(walked.translate(iova), iova + 3 * start + page);
        }
        assert_eq!((table.table_pages(), memory.live()), (pages, live));
        unmap(table, start, start);
    });
}

/// The one page that is mapped next in such a table is the only one there.
fn one_page_comes_back_alone(lose_clears: bool) {
    on_all(|shape, memory, table| {
        let (start, page) = (covered(&shape), shape.page());
        let owed = empty_one(&shape, table);
        assert!(owed.tables_freed);
        memory.lose_clears(lose_clears);
        memory.allow(0);
        map(table, start + 3 * page, 8 * start, page);
        memory.allow(usize::MAX);
        let leaves = walker::all_leaves(memory, table.config());
        let found: Vec<u64> = leaves.iter().map(|leaf| leaf.iova).collect();
        assert_eq!(found, [start + 3 * page], "what was unmapped stays unmapped");
        unmap(table, start + 3 * page, page);
    });
}

#[test]
fn nothing_old_comes_back_with_an_idle_table() {
    one_page_comes_back_alone(false);
}

/// The planted bug: the table is put to use again without being emptied.
#[test]
#[should_panic(expected = "what was unmapped stays unmapped")]
fn an_idle_table_that_is_not_emptied_is_found() {
    one_page_comes_back_alone(true);
}

/// Large leaves do not take an idle table's place before it is reclaimed, and a person sees where it stands.
#[test]
fn an_idle_table_can_be_reclaimed() {
    on_all(|shape, memory, table| {
        let start = covered(&shape);
        empty_one(&shape, table);
        assert!(Dump(table).to_string().contains(": idle"), "{}", Dump(table));
        let live = memory.live();
        let mut gather = IotlbGather::new();
        let part = table.reclaim(Iova::new(start), start / 2, &mut gather);
        assert_eq!(part, Ok(0), "half of what it covers");
        let taken = table.reclaim(Iova::new(start), start, &mut gather);
        assert!(matches!(taken, Ok(1)), "{taken:?}");
        assert_eq!(memory.live(), live, "not before it is confirmed");
        table.retire(gather.confirm());
        assert_eq!((free_retired(table), memory.live()), (1, live - 1));
        map(table, start, 2 * start, start);
        unmap(table, start, start);
    });
}

/// A map of part of an idle table beside another, which comes by at the instant when the first has claimed it: each finds its page, and the claimed table is kept. As often as there are
/// places for such tables; then the second one is refused and changes nothing.
#[test]
fn a_map_does_not_wait_for_another_that_empties_a_table() {
    let memory = TestMemory::new();
    let table = Stage1::new(&memory, params(PageSize::SIZE_4K, 39, 40)).expect("supported");
    let table = Arc::new(table);
    let shared: Arc<OnceLock<Weak<Stage1>>> = Arc::default();
    assert!(shared.set(Arc::downgrade(&table)).is_ok());
    let (claims, answer) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Ok(()))));
    let (counted, said) = (Arc::clone(&claims), Arc::clone(&answer));
    memory.watch(move |_, _, _, new| {
        if new & 0xfff == 0x800 {
            counted.fetch_add(1, Ordering::SeqCst);
            let table = shared.get().and_then(Weak::upgrade).expect("alive");
            let result = table.map(Iova::new(2 * MIB + PAGE), PhysAddr::new(PAGE), PAGE, RW);
            *said.lock().expect("no panic") = result;
        }
    });
    let empty = || {
        map(&*table, 2 * MIB, 64 * MIB + PAGE, 2 * MIB);
        unmap(&*table, 2 * MIB, 2 * MIB);
    };
    for round in 0..64 {
        empty();
        map(&*table, 2 * MIB, 0, PAGE);
        assert_eq!(*answer.lock().expect("no panic"), Ok(()), "{round}");
        assert_eq!(claims.load(Ordering::SeqCst), round + 1);
        for page in [0, PAGE] {
            let found = walker::both(&memory, table.config(), 2 * MIB + page).expect("mapped");
            assert_eq!(found.phys, page);
        }
        assert_eq!(walker::all_leaves(&memory, table.config()).len(), 2);
        unmap(&*table, 2 * MIB, 2 * PAGE);
        assert_eq!((free_retired(&*table), memory.live()), (0, 3 + 1 + round));
    }
    empty();
    map(&*table, 2 * MIB, 0, PAGE);
    let refused = *answer.lock().expect("no panic");
    assert!(matches!(refused, Err(MapError::NoMemory(_))), "{refused:?}");
    assert_eq!(walker::all_leaves(&memory, table.config()).len(), 1);
    drop(table);
    assert_eq!(memory.live(), 0);
}
