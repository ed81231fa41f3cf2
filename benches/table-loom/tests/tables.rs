//! Two calls at once on one table, in every order and with every value that weak memory lets them read.

use portcullis_addr::{Iova, PageSize, PageSizes, PhysAddr, Prot};
use portcullis_pgtable::{Aarch32LpaeStage1, IoPageTable, IotlbGather, PageTable, TableParams};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use table_loom::LoomMemory;

const RW: Prot = Prot::READ.union(Prot::WRITE);
const PAGE: u64 = 4096;
const SHIFT: u64 = 0x1_0000_0000;

type Table<const RELAXED: bool> = IoPageTable<Aarch32LpaeStage1, LoomMemory<RELAXED>>;

/// Two levels: one table may be missing.
fn table<const RELAXED: bool>() -> Arc<Table<RELAXED>> {
    let params = TableParams {
        granule: PageSize::SIZE_4K,
        input_bits: 25,
        output_bits: 40,
        leaf_sizes: PageSizes::from_bitmap(PAGE),
        force_snoop: false,
        coherent: true,
    };
    Arc::new(Table::new(&Arc::default(), params).expect("supported"))
}

fn map<const RELAXED: bool>(table: &Table<RELAXED>, iova: u64) {
    let result = table.map(Iova::new(iova), PhysAddr::new(iova + SHIFT), PAGE, RW);
    result.expect("the range is ours");
    let found = table.look_up(Iova::new(iova));
    assert_eq!(found, Some(PhysAddr::new(iova + SHIFT)), "a thread does not see what it mapped");
}

fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 20_000;
    let executions = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&executions);
    builder.check(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        check();
    });
    let executions = executions.load(Ordering::Relaxed);
    println!("{executions} executions");
    assert!(executions > 10, "{executions}");
}

fn two_maps<const RELAXED: bool>() {
    model(|| {
        let table = table::<RELAXED>();
        let other = Arc::clone(&table);
        // The first word of a fresh page has held a link: a thread that reads that finds a page in use that is free.
        let thread = loom::thread::spawn(move || map(&other, 0));
        map(&table, PAGE);
        thread.join().expect("no panic");
        for iova in [0, PAGE] {
            assert_eq!(table.look_up(Iova::new(iova)), Some(PhysAddr::new(iova + SHIFT)));
        }
        assert_eq!(table.table_pages(), 2);
    });
}

#[test]
fn two_maps_share_a_missing_table() {
    two_maps::<false>();
}

/// A look-up beside a map and an unmap finds the mapping or nothing. (The thread that only reads is the second one: loom remembers of a word its last access only, and so would not
/// try the writer first if the writer had read the word itself.)
#[test]
fn a_look_up_beside_a_change_finds_old_new_or_nothing() {
    let seen = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let counts = Arc::clone(&seen);
    model(move || {
        let table = table::<false>();
        let (other, counts) = (Arc::clone(&table), Arc::clone(&counts));
        let thread = loom::thread::spawn(move || {
            let found = other.look_up(Iova::new(PAGE));
            assert!(found.is_none_or(|phys| phys.raw() == PAGE + SHIFT), "{found:?}");
            counts[usize::from(found.is_some())].fetch_add(1, Ordering::Relaxed);
        });
        map(&table, PAGE);
        let mut gather = IotlbGather::new();
        table.unmap(Iova::new(PAGE), PAGE, &mut gather).expect("mapped");
        table.retire(gather.confirm());
        thread.join().expect("no panic");
        assert_eq!(table.look_up(Iova::new(PAGE)), None);
    });
    let [nothing, mapped] = [0, 1].map(|answer: usize| seen[answer].load(Ordering::Relaxed));
    assert!(nothing > 0 && mapped > 0, "{nothing} and {mapped}");
}

/// The planted bug: without the orderings a thread follows a pointer to a table that it does not see filled.
#[test]
#[should_panic(expected = "a thread does not see what it mapped")]
fn orderings_left_out_are_found() {
    two_maps::<true>();
}
