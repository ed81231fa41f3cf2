//! What hardware can read between any two stores. `TestMemory` itself refuses a valid entry that turns into another valid one in every test.

use super::planted::as_the_real_one;
use super::{RW, Stage1, TestMemory, params, walker};
use portcullis_addr::{Iova, PageSize, PhysAddr};
use portcullis_pgtable::{
    AmdV1, ArmLpaeStage1, Format, IoPageTable, IotlbGather, Level, PageTable, TableFormat,
};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

const MIB: u64 = 1 << 20;

/// After every single store, walks addresses of the range in both views: each leads where it led before, where it shall lead, or nowhere.
#[test]
fn every_intermediate_state_is_old_new_or_nothing() {
    let memory = TestMemory::new();
    let table = Stage1::new(&memory, params(PageSize::SIZE_4K, 39, 40)).expect("supported");
    let (config, looks) = (table.config(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&looks);
    let (start, shift) = (2 * MIB - 2 * 4096, 64 * MIB);
    let places = [start, 2 * MIB - 4096, 2 * MIB, 3 * MIB, 4 * MIB, 4 * MIB + 4096];
    memory.watch(move |memory, _, _, _| {
        let snooped = |address| memory.snooped(address);
        let published = |address| memory.published(address);
        for read in [&snooped as walker::Read<'_>, &published] {
            for place in places {
                if let Ok(leaf) = walker::Walker::new(config, read).walk(place) {
                    assert_eq!(leaf.translate(place), place + shift);
                    assert!(leaf.readable && leaf.writable);
                }
                counted.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let len = 2 * MIB + 4 * 4096;
    for _ in 0..2 {
        table.map(Iova::new(start), PhysAddr::new(start + shift), len, RW).expect("free");
        let mut gather = IotlbGather::new();
        table.unmap(Iova::new(start), len, &mut gather).expect("mapped");
        table.retire(gather.confirm());
        super::debts::reclaim_all(&table);
    }
    assert!(looks.load(Ordering::Relaxed) > 500, "{looks:?}");
}

/// The instant between a table's installation by one CPU and its publication: another CPU maps through the new pointer. On return of its map,
/// hardware that does not snoop must find the mapping. The watcher plays the other CPU.
fn second_cpu_in_the_window<F: Format>() -> bool {
    let memory = TestMemory::new();
    let table = IoPageTable::<F, _>::new(&memory, params(PageSize::SIZE_4K, 39, 40));
    let table = Arc::new(table.expect("supported"));
    let (shared, once) = (Arc::new(OnceLock::new()), AtomicBool::new(false));
    let visible = Arc::new(AtomicBool::new(false));
    assert!(shared.set(Arc::downgrade(&table)).is_ok());
    let (seen, config) = (Arc::clone(&visible), table.config());
    memory.watch(move |memory, _, old, new| {
        if old == 0 && new & 3 == 3 && !once.swap(true, Ordering::SeqCst) {
            let table: &std::sync::Weak<IoPageTable<F, TestMemory>> =
                shared.get().expect("set before the first map");
            let table = table.upgrade().expect("alive");
            table.map(Iova::new(4096), PhysAddr::new(0x9000), 4096, RW).expect("free");
            let published = |address| memory.published(address);
            let found = walker::Walker::new(config, &published).walk(4096);
            seen.store(found.is_ok_and(|leaf| leaf.phys == 0x9000), Ordering::SeqCst);
        }
    });
    table.map(Iova::new(0), PhysAddr::new(0x8000), 4096, RW).expect("free");
    assert!(walker::both(&memory, table.config(), 0).is_ok_and(|leaf| leaf.phys == 0x8000));
    visible.load(Ordering::SeqCst)
}

#[test]
fn a_follower_publishes_the_pointer_it_follows() {
    assert!(second_cpu_in_the_window::<ArmLpaeStage1>());
}

/// The planted bug: the "published" bit is one that every entry has, so nobody settles what another CPU installed.
#[test]
fn the_window_is_found_when_nobody_settles() {
    assert!(!second_cpu_in_the_window::<Forgetful>());
}

#[derive(Debug)]
struct Forgetful(ArmLpaeStage1);

impl Format for Forgetful {
    const FORMAT: TableFormat = TableFormat::ArmLpaeStage1;
    const SOFTWARE_BIT: u64 = 1;
    const TABLE_ADDRESS: u64 = ArmLpaeStage1::TABLE_ADDRESS;

    as_the_real_one!(ArmLpaeStage1: root leaf_bits leaf table is_table presence is_leaf table_address leaf_size leaf_address prot);
}

/// Costs that a batch may have: one publication a run of leaves, no walk a page.
#[test]
fn a_batch_is_one_run() {
    let memory = TestMemory::new();
    let table = Stage1::new(&memory, params(PageSize::SIZE_4K, 39, 40)).expect("supported");
    let publishes = || memory.publishes.load(Ordering::SeqCst);
    table.map(Iova::new(0), PhysAddr::new(4096), 4096, RW).expect("free");
    let before = publishes();
    table.map(Iova::new(4096), PhysAddr::new(0x10_0000), 510 * 4096, RW).expect("free");
    assert_eq!(publishes() - before, 1);
    let mut gather = IotlbGather::new();
    table.unmap(Iova::new(0), 511 * 4096, &mut gather).expect("mapped");
    assert_eq!(publishes() - before, 2);
}

/// The memory's own check is a check: a block that takes a page's place in one store is refused.
#[test]
#[should_panic(expected = "without a not-present entry between")]
fn a_valid_entry_cannot_become_another() {
    use portcullis_platform::DmaMemory;
    let memory = TestMemory::new();
    let table = Stage1::new(&memory, params(PageSize::SIZE_4K, 39, 40)).expect("supported");
    table.map(Iova::new(0), PhysAddr::new(0x4000_0000), 1 << 30, RW).expect("free");
    let root = table.config().root.address();
    memory.store64(root, 0x8000_0000 | 1);
}

/// The planted bug of cache maintenance: a run of which one line did not reach memory is seen by the walker that does not snoop.
#[test]
#[should_panic(expected = "hardware that does not snoop sees something else")]
fn a_missing_line_is_found() {
    let memory = TestMemory::new();
    let table = Stage1::new(&memory, params(PageSize::SIZE_4K, 39, 40)).expect("supported");
    super::map(&table, 0, 0x1000, 4096);
    memory.lose_lines();
    super::map(&table, 4096, 0x10_0000, 64 * 4096);
    for page in 1..65 {
        assert!(walker::both(&memory, table.config(), page * 4096).is_ok());
    }
}

/// An AMD format whose table entries name a level too many.
#[derive(Debug)]
struct OneOff(AmdV1);

impl Format for OneOff {
    const FORMAT: TableFormat = TableFormat::AmdV1;
    const SOFTWARE_BIT: u64 = AmdV1::SOFTWARE_BIT;
    const TABLE_ADDRESS: u64 = AmdV1::TABLE_ADDRESS;

    as_the_real_one!(AmdV1: root leaf_bits leaf presence is_leaf table_address leaf_size leaf_address prot);

    fn table(&self, table: PhysAddr, level: Level) -> u64 {
        self.0.table(table, Level { number: level.number + 1, ..level })
    }
    fn is_table(&self, entry: u64, level: Level) -> bool {
        self.0.is_table(entry, Level { number: level.number + 1, ..level })
    }
}

/// The planted bug: a level that is off by one agrees with itself, and not with the document.
#[test]
#[should_panic(expected = "no level is skipped")]
fn a_level_off_by_one_is_found() {
    let memory = TestMemory::new();
    memory.set_software_bit(OneOff::SOFTWARE_BIT);
    let table = IoPageTable::<OneOff, _>::new(&memory, params(PageSize::SIZE_4K, 39, 40));
    let table = table.expect("supported");
    super::map(&table, 0, 0x1000, 4096);
    assert_eq!(super::lookup(&table, 0), Some(0x1000));
    walker::all_leaves(&memory, table.config()).clear();
}
