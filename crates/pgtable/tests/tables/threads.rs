//! Several threads on one table without a lock.

use super::{RW, Rng, Stage1, Stage2, TestMemory, params, walker};
use portcullis_addr::{Iova, PageSize, PhysAddr};
use portcullis_pgtable::{IotlbGather, PageTable};
use std::sync::{Arc, Barrier};
use std::thread;

const PAGE: u64 = 4096;

/// Maps, looks in both views as hardware would, unmaps, looks again.
fn round(memory: &TestMemory, table: &dyn PageTable, iova: u64, phys: u64, len: u64) {
    table.map(Iova::new(iova), PhysAddr::new(phys), len, RW).expect("the range is ours");
    for at in [iova, iova + len - PAGE] {
        let leaf = walker::both(memory, table.config(), at).expect("mapped");
        assert_eq!(leaf.translate(at), phys + (at - iova));
    }
    let mut gather = IotlbGather::new();
    table.unmap(Iova::new(iova), len, &mut gather).expect("mapped by us");
    assert!(walker::both(memory, table.config(), iova).is_err());
    table.retire(gather.confirm());
}

/// `threads` threads, each on every `threads`-th page of the same leaf tables.
fn alternate(threads: u64) {
    let memory = TestMemory::new();
    let table = Stage1::new(&memory, params(PageSize::SIZE_4K, 39, 40)).expect("supported");
    thread::scope(|scope| {
        for thread in 0..threads {
            let (memory, table) = (&memory, &table);
            scope.spawn(move || {
                for step in 0..20_000 {
                    let page = (step * threads + thread) % 2048;
                    round(memory, table, page * PAGE, (page + 1) * PAGE, PAGE);
                }
            });
        }
    });
    assert_eq!(walker::all_leaves(&memory, table.config()), []);
    super::debts::reclaim_all(&table);
    assert_eq!((table.table_pages(), memory.live()), (1, 1));
}

#[test]
fn two_threads_on_alternate_pages() {
    alternate(2);
}

#[test]
fn four_threads_on_alternate_pages() {
    alternate(4);
}

/// Ranges of their own inside shared upper tables, whole leaf tables among them, so that tables come and go under the neighbours' feet.
#[test]
fn four_threads_on_adjacent_ranges() {
    let memory = TestMemory::new();
    let table = Stage2::new(&memory, params(PageSize::SIZE_4K, 39, 40)).expect("supported");
    thread::scope(|scope| {
        for thread in 0..4u64 {
            let (memory, table) = (&memory, &table);
            scope.spawn(move || {
                let mut rng = Rng(thread);
                let region = 4 << 20;
                for _ in 0..3000 {
                    let start = rng.below(region / PAGE) * PAGE;
                    let len = (rng.below((region - start) / PAGE).min(1100) + 1) * PAGE;
                    let len = len.min(region - start);
                    round(memory, table, thread * region + start, start + PAGE, len);
                    // Every so often the whole region, which takes its tables out.
                    if rng.below(8) == 0 {
                        round(memory, table, thread * region, PAGE, region);
                    }
                }
            });
        }
    });
    assert_eq!(walker::all_leaves(&memory, table.config()), []);
    super::debts::reclaim_all(&table);
    assert_eq!((table.table_pages(), memory.live()), (1, 1));
}

/// All threads need the same missing tables at the same moment: one wins, the others' pages go back.
#[test]
fn racing_for_the_same_tables() {
    let memory = TestMemory::new();
    for coherent in [false, true] {
        for _ in 0..1500 {
            let params =
                portcullis_pgtable::TableParams { coherent, ..params(PageSize::SIZE_4K, 48, 48) };
            let table = Arc::new(Stage1::new(&memory, params).expect("supported"));
            let barrier = Barrier::new(3);
            thread::scope(|scope| {
                for thread in 0..3u64 {
                    let (memory, table, barrier) = (&memory, &table, &barrier);
                    scope.spawn(move || {
                        barrier.wait();
                        let iova = Iova::new(thread * PAGE);
                        table.map(iova, PhysAddr::new(PAGE), PAGE, RW).expect("free");
                        // Hardware that snoops sees what another CPU stored but did not publish yet; the view of hardware that does not is no promise then.
                        let look = if coherent { walker::snooping } else { walker::both };
                        let leaf = look(memory, table.config(), iova.raw());
                        assert!(leaf.is_ok_and(|leaf| leaf.phys == PAGE));
                    });
                }
            });
            assert_eq!(table.table_pages(), 4);
            assert_eq!(memory.live(), 4);
            assert_eq!(walker::all_leaves(&memory, table.config()).len(), 3);
        }
        assert_eq!(memory.live(), 0);
    }
}
