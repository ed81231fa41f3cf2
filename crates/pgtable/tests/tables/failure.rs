//! Memory runs out at every point of a map: nothing has changed afterwards.

use super::{GRANULES, RW, TestMemory, params, walker};
use portcullis_addr::{Iova, PageSize, PhysAddr};
use portcullis_pgtable::{
    ArmLpaeStage1, ArmLpaeStage2, Format, IoPageTable, IotlbGather, MapError, PageTable, TableError,
};

/// Maps `[iova, iova + len)` with 0, 1, 2 ... allocations allowed until it succeeds; returns how many it needed.
fn fail_at_each_point<F: Format>(granule: PageSize, iova: u64, phys: u64, len: u64) -> usize {
    let memory = TestMemory::new();
    let table = IoPageTable::<F, _>::new(&memory, params(granule, 48, 48)).expect("supported");
    // A neighbour in the same leaf table as the start, so that some tables exist.
    let neighbour = Iova::new(iova - granule.bytes());
    table.map(neighbour, PhysAddr::new(0), granule.bytes(), RW).expect("free");
    let state = || {
        let leaves = walker::all_leaves(&memory, table.config());
        (leaves, table.table_pages(), memory.live())
    };
    let before = state();
    for allowed in 0.. {
        memory.allow(allowed);
        let publishes = memory.publishes.load(std::sync::atomic::Ordering::SeqCst);
        let result = table.map(Iova::new(iova), PhysAddr::new(phys), len, RW);
        memory.allow(usize::MAX);
        if result.is_ok() {
            let mapped: u64 = state().0.iter().map(|leaf| leaf.size).sum();
            assert_eq!(mapped, len + granule.bytes());
            assert_eq!(memory.live(), before.2 + allowed, "exactly what it needed was taken");
            // Unmapping needs no memory at all.
            memory.allow(0);
            let mut gather = IotlbGather::new();
            table.unmap(Iova::new(iova), len, &mut gather).expect("mapped");
            table.retire(gather.confirm());
            super::debts::reclaim_all(&table);
            assert_eq!(state(), before);
            return allowed;
        }
        assert!(matches!(result, Err(MapError::NoMemory(_))), "{result:?}");
        assert_eq!(state(), before, "after {allowed} allocations");
        let after = memory.publishes.load(std::sync::atomic::Ordering::SeqCst);
        assert_eq!(after, publishes, "hardware was shown nothing");
    }
    unreachable!("the loop ends with success")
}

#[test]
fn map_fails_whole_at_every_allocation() {
    let mut points = 0;
    for granule in GRANULES {
        let unit = granule.bytes();
        // A leaf table's last page, then whole leaf tables, one page into the next, across an upper table's end where the memory suffices.
        let table_span = unit * (unit / 8);
        let across = table_span * (unit / 8) - unit;
        for (iova, len) in [
            (table_span - unit, 2 * unit),
            (table_span - unit, 2 * table_span + 2 * unit),
            (across, 3 * unit),
        ] {
            // The physical address is off by one page, so that no block fits.
            points += fail_at_each_point::<ArmLpaeStage1>(granule, iova, 0, len);
            points += fail_at_each_point::<ArmLpaeStage2>(granule, iova, 0, len);
        }
    }
    println!("{points} points of failure");
    assert!(points >= 18);
}

#[test]
fn an_occupied_page_half_way_changes_nothing() {
    let memory = TestMemory::new();
    let params = params(PageSize::SIZE_4K, 48, 48);
    let table = IoPageTable::<ArmLpaeStage1, _>::new(&memory, params).expect("supported");
    let (start, len) = (0x1f_f000, 0x40_2000);
    for occupied in [start, start + 0x1000, 0x3f_f000, 0x40_0000, start + len - 0x1000] {
        table.map(Iova::new(occupied), PhysAddr::new(0x7000), 0x1000, RW).expect("free");
        let state = || {
            let leaves = walker::all_leaves(&memory, table.config());
            (leaves, table.table_pages(), memory.live())
        };
        let before = state();
        for phys in [start, 0x8000] {
            let result = table.map(Iova::new(start), PhysAddr::new(phys), len, RW);
            assert_eq!(result, Err(MapError::Occupied { iova: Iova::new(occupied) }));
            assert_eq!(state(), before);
        }
        super::unmap(&table, occupied, 0x1000);
    }
}

#[test]
fn no_memory_for_the_root() {
    let memory = TestMemory::new();
    memory.allow(0);
    let params = params(PageSize::SIZE_4K, 48, 48);
    let refused = IoPageTable::<ArmLpaeStage2, _>::new(&memory, params).expect_err("no memory");
    assert!(matches!(refused, TableError::NoMemory(_)), "{refused}");
    assert_eq!(memory.live(), 0);
}
