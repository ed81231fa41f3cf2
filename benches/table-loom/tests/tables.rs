//! Two calls at once on one table, in every order and with every value that weak memory lets them read.

use portcullis_addr::{Iova, PageSize, PageSizes, PhysAddr, Prot};
use portcullis_pgtable::{Aarch32LpaeStage1, IoPageTable, IotlbGather, PageTable, TableParams};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use table_loom::LoomMemory;

const RW: Prot = Prot::READ.union(Prot::WRITE);
const PAGE: u64 = 4096;
const SHIFT: u64 = 0x1_0000_0000;
/// What a leaf table covers.
const WHOLE: u64 = 512 * PAGE;
/// Where the range of a whole table leads before it is unmapped.
const BEFORE: u64 = 0x2_0000_1000;

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

/// Maps a whole leaf table at address 0, as of `phys`.
fn map_whole<const RELAXED: bool>(table: &Table<RELAXED>, phys: u64) {
    table.map(Iova::new(0), PhysAddr::new(phys), WHOLE, RW).expect("the range is ours");
}

/// Unmaps it whole: the table keeps its place, hidden by one store.
fn hide<const RELAXED: bool>(table: &Table<RELAXED>) {
    let mut gather = IotlbGather::new();
    table.unmap(Iova::new(0), WHOLE, &mut gather).expect("mapped");
    table.retire(gather.confirm());
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

/// Two maps of parts of an idle table: one of them empties it before it is seen again, and nobody finds what stood there.
fn two_maps_in_an_idle_table<const RELAXED: bool>() {
    let displaced = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let counts = Arc::clone(&displaced);
    model(move || {
        let table = table::<RELAXED>();
        map_whole(&table, BEFORE);
        hide(&table);
        let other = Arc::clone(&table);
        let thread = loom::thread::spawn(move || map(&other, 0));
        map(&table, PAGE);
        thread.join().expect("no panic");
        for (page, found) in [Some(SHIFT), Some(PAGE + SHIFT), None, None].into_iter().enumerate() {
            let iova = Iova::new(page as u64 * PAGE);
            assert_eq!(table.look_up(iova).map(PhysAddr::raw), found, "page {page}");
        }
        // The table that was displaced while its map emptied it is kept.
        counts[table.table_pages() - 2].fetch_add(1, Ordering::Relaxed);
    });
    let [kept, displaced] = [0, 1].map(|end: usize| displaced[end].load(Ordering::Relaxed));
    assert!(kept > 0 && displaced > 0, "{kept} and {displaced}");
}

#[test]
fn an_idle_table_is_emptied_once_and_before_it_is_seen() {
    two_maps_in_an_idle_table::<false>();
}

/// The planted bug: without the orderings a thread takes an idle table for free whose old leaves it still sees.
#[test]
#[should_panic(expected = "the range is ours: Occupied")]
fn an_idle_table_shown_without_orderings_is_found() {
    two_maps_in_an_idle_table::<true>();
}

/// A look-up beside a table that is unmapped whole and filled again finds the mapping of before, that of after, or nothing: never an entry of another range.
#[test]
fn a_look_up_beside_a_table_that_is_hidden_and_filled_again() {
    let seen = Arc::new([const { AtomicUsize::new(0) }; 3]);
    let counts = Arc::clone(&seen);
    model(move || {
        let table = table::<false>();
        map_whole(&table, BEFORE);
        let (other, counts) = (Arc::clone(&table), Arc::clone(&counts));
        let thread = loom::thread::spawn(move || {
            let found = other.look_up(Iova::new(PAGE)).map(PhysAddr::raw);
            let answers = [None, Some(BEFORE + PAGE), Some(SHIFT + PAGE)];
            let which = answers.iter().position(|answer| *answer == found);
            counts[which.expect("old, new or nothing")].fetch_add(1, Ordering::Relaxed);
        });
        hide(&table);
        map_whole(&table, SHIFT);
        thread.join().expect("no panic");
        assert_eq!(table.table_pages(), 2);
    });
    let seen: Vec<usize> = seen.iter().map(|count| count.load(Ordering::Relaxed)).collect();
    assert!(seen.iter().all(|count| *count > 0), "nothing, before, after: {seen:?}");
}
