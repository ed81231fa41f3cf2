//! Every interleaving of a few calls at once, each access to the tables a step of the explorer.

use super::planted::as_the_real_one;
use super::walker::Walker;
use super::{RW, params};
use portcullis_addr::{Iova, PageSize, PageSizes, PhysAddr};
use portcullis_pgtable::{
    Aarch32LpaeStage1, AmdV1, ArmLpaeStage1, Format, IoPageTable, IotlbGather, PageTable,
    TableConfig, TableFormat, TableParams,
};
use portcullis_platform::{AllocError, Coherency, DmaMemory, PageLayout};
use portcullis_threads::{Budget, Explorer, Report, World, step, violation};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What a word of a page holds that was never published.
const UNPUBLISHED: u64 = u64::MAX;

/// The words that are not 0, as the CPUs see them, and those that a walker sees which does not snoop.
#[derive(Debug, Default)]
struct Words {
    cpu: BTreeMap<u64, u64>,
    published: BTreeMap<u64, u64>,
    next: u64,
    live: usize,
}

/// Memory whose every access is a step. `GLOBAL`: all accesses depend on each other, for trees that grow: the engine keeps their root in a word of its own, whose
/// accesses lie between two steps. `TORN`: the planted bug of an exchange in two steps.
#[derive(Debug, Default)]
struct Stepping<const GLOBAL: bool, const TORN: bool>(Mutex<Words>);

impl<const GLOBAL: bool, const TORN: bool> Stepping<GLOBAL, TORN> {
    fn words<R>(&self, act: impl FnOnce(&mut Words) -> R) -> R {
        act(&mut self.0.lock().expect("no panic inside"))
    }

    fn step(&self, address: u64, what: &'static str, write: bool) {
        step("word", if GLOBAL { 0 } else { address }, what, write || GLOBAL);
    }

    fn cpu(&self, address: u64) -> u64 {
        self.words(|words| words.cpu.get(&address).copied().unwrap_or(0))
    }

    /// What hardware reads that does not snoop, each read a step.
    fn published(&self, address: u64) -> u64 {
        self.step(address, "hardware reads", false);
        self.words(|words| words.published.get(&address).copied().unwrap_or(UNPUBLISHED))
    }
}

// SAFETY: the words are entries of maps; no address is given out twice.
#[expect(unsafe_code, reason = "DmaMemory's obligations are promised here")]
unsafe impl<const GLOBAL: bool, const TORN: bool> DmaMemory for Stepping<GLOBAL, TORN> {
    fn allocate(&self, layout: PageLayout) -> Result<PhysAddr, AllocError> {
        self.words(|words| {
            let start = (0x10_0000 + words.next).next_multiple_of(layout.align() as u64);
            words.next = start + layout.size() as u64 - 0x10_0000;
            words.live += 1;
            Ok(PhysAddr::new(start))
        })
    }
    fn free(&self, _: PhysAddr, _: PageLayout) {
        self.words(|words| words.live -= 1);
    }
    fn load64(&self, address: PhysAddr) -> u64 {
        self.step(address.raw(), "reads", false);
        self.cpu(address.raw())
    }
    fn store64(&self, address: PhysAddr, value: u64) {
        self.step(address.raw(), "stores", true);
        self.words(|words| words.cpu.insert(address.raw(), value));
    }
    fn compare_exchange64(&self, address: PhysAddr, old: u64, new: u64) -> Result<(), u64> {
        self.step(address.raw(), "exchanges", true);
        let found = self.cpu(address.raw());
        if found != old {
            return Err(found);
        }
        if TORN {
            self.step(address.raw(), "exchanges, part two", true);
        }
        self.words(|words| words.cpu.insert(address.raw(), new));
        Ok(())
    }
    fn publish(&self, address: PhysAddr, len: usize, _: Coherency) {
        // A whole table is published before anybody can reach it; what is published later is an entry or a few.
        let shared = if len > 64 { 8 } else { len };
        for at in (address.raw()..).step_by(8).take(shared / 8) {
            self.step(at, "publishes", true);
        }
        self.words(|words| {
            for at in (address.raw()..).step_by(8).take(len / 8) {
                let value = words.cpu.get(&at).copied().unwrap_or(0);
                words.published.insert(at, value);
            }
        });
    }
    fn refresh(&self, _: PhysAddr, _: usize, _: Coherency) {}
}

type Tables<F, const GLOBAL: bool = false, const TORN: bool = false> =
    IoPageTable<F, Stepping<GLOBAL, TORN>>;

/// A table and its memory.
struct Stand<F: Format, const GLOBAL: bool = false, const TORN: bool = false> {
    memory: Arc<Stepping<GLOBAL, TORN>>,
    table: Tables<F, GLOBAL, TORN>,
}

impl<F: Format, const GLOBAL: bool, const TORN: bool> Stand<F, GLOBAL, TORN> {
    fn new(params: TableParams) -> Arc<Self> {
        let memory = Arc::<Stepping<GLOBAL, TORN>>::default();
        let table = IoPageTable::new(&memory, params).expect("supported");
        Arc::new(Self { memory, table })
    }

    /// Maps, and looks as hardware would.
    fn map(&self, iova: u64, len: u64) {
        let result = self.table.map(Iova::new(iova), PhysAddr::new(iova + SHIFT), len, RW);
        if let Err(error) = result {
            return violation("a map on a range of its own succeeds", error.to_string());
        }
        self.must_lead(self.table.config(), iova);
        self.must_lead(self.table.config(), iova + len - PAGE);
    }

    /// Maps all that a leaf table at address 0 covers, to `phys` and what follows.
    fn map_whole(&self, phys: u64) {
        let result = self.table.map(Iova::new(0), PhysAddr::new(phys), BLOCK, RW);
        if let Err(error) = result {
            violation("a map on a range of its own succeeds", error.to_string());
        }
    }

    fn unmap(&self, iova: u64, len: u64) {
        let mut gather = IotlbGather::new();
        if let Err(error) = self.table.unmap(Iova::new(iova), len, &mut gather) {
            return violation("an unmap of a range of its own succeeds", error.to_string());
        }
        if self.walk(self.table.config(), iova).is_some() {
            violation("hardware finds nothing after an unmap", format!("{iova:#x}"));
        }
        self.table.retire(gather.confirm());
    }

    fn walk(&self, config: TableConfig, iova: u64) -> Option<u64> {
        let read = |address| self.memory.published(address);
        Walker::new(config, &read).walk(iova).ok().map(|leaf| leaf.translate(iova))
    }

    /// As [`walk`](Self::walk), without steps.
    fn cpu_walk(&self, iova: u64) -> Option<u64> {
        let read = |address| self.memory.cpu(address);
        Walker::new(self.table.config(), &read).walk(iova).ok().map(|leaf| leaf.translate(iova))
    }

    fn must_lead(&self, config: TableConfig, iova: u64) {
        let found = self.walk(config, iova);
        if found != Some(iova + SHIFT) {
            violation("hardware finds what was mapped", format!("{iova:#x} leads to {found:x?}"));
        }
    }

    /// At the end: so many tables, and each place leads where it should.
    fn settle(&self, pages: usize, places: &[u64]) -> Result<(), String> {
        let lost =
            places.iter().find(|at| self.walk(self.table.config(), **at) != Some(**at + SHIFT));
        if let Some(lost) = lost {
            return Err(format!("{lost:#x} is lost"));
        }
        let (counted, live) = (self.table.table_pages(), self.memory.words(|words| words.live));
        if (counted, live) == (pages, pages) {
            return Ok(());
        }
        Err(format!("{counted} tables counted, {live} pages live, {pages} expected"))
    }
}

const WHOLE: &str = "every mapping is there, and every table is counted";
const PAGE: u64 = 4096;
const BLOCK: u64 = 2 << 20;
const SHIFT: u64 = 0x40_0000_1000;

/// Two levels, hardware that does not snoop.
fn two_levels() -> TableParams {
    params(PageSize::SIZE_4K, 25, 40)
}

/// Three levels, hardware that does not snoop.
fn three_levels() -> TableParams {
    params(PageSize::SIZE_4K, 39, 40)
}

fn run(world: impl Fn(&mut World) + Sync) -> Report {
    Explorer::new(Budget { stop_at_first: true, ..Budget::default() }).run(world)
}

fn clean(report: &Report) {
    println!("{report}");
    assert!(report.exhaustive && report.is_clean(), "{report}");
}

/// Two pages of the same tables, none of which is there: each level is installed once, nobody's page is lost, and on return hardware finds what was mapped.
fn both_miss_all_tables<F: Format, const TORN: bool>(params: TableParams) -> Report {
    let levels = F::new(&params).expect("supported").1.levels();
    run(|w| {
        let stand = Stand::<F, false, TORN>::new(params);
        for thread in 0..2 {
            let stand = Arc::clone(&stand);
            w.thread(["first", "second"][thread as usize], move || {
                stand.map(thread * PAGE, PAGE);
            });
        }
        w.at_end(WHOLE, move || stand.settle(levels.into(), &[0, PAGE]));
    })
}

#[test]
fn two_maps_install_a_missing_table_once() {
    clean(&both_miss_all_tables::<Aarch32LpaeStage1, false>(two_levels()));
}

/// A map over two tables, one of which is missing, beside an unmap in the first and a map in the missing one.
#[test]
fn a_range_over_two_tables_beside_a_neighbour() {
    clean(&run(|w| {
        let stand = Stand::<ArmLpaeStage1>::new(three_levels());
        stand.map(0, PAGE);
        let (wide, near) = (Arc::clone(&stand), Arc::clone(&stand));
        w.thread("wide", move || wide.map(BLOCK - PAGE, 2 * PAGE));
        w.thread("near", move || {
            near.unmap(0, PAGE);
            near.map(BLOCK + PAGE, PAGE);
        });
        w.at_end(WHOLE, move || stand.settle(4, &[BLOCK - PAGE, BLOCK, BLOCK + PAGE]));
    }));
}

/// Empty tables are taken out below one upper table while a neighbour maps below the same one. The explorer finds one trace: the two share no word.
#[test]
fn a_reclaim_beside_a_map() {
    clean(&run(|w| {
        let stand = Stand::<ArmLpaeStage1>::new(three_levels());
        stand.map(0, PAGE);
        stand.unmap(0, PAGE);
        let (pruner, mapper) = (Arc::clone(&stand), Arc::clone(&stand));
        w.thread("reclaims", move || {
            let mut gather = IotlbGather::new();
            let taken = pruner.table.reclaim(Iova::new(0), BLOCK, &mut gather);
            if taken != Ok(1) {
                violation("the empty table is taken out", format!("{taken:?}"));
            }
            pruner.table.retire(gather.confirm());
        });
        w.thread("maps", move || mapper.map(BLOCK, PAGE));
        // The table that was taken out is kept until nobody can stand in it.
        w.at_end(WHOLE, move || stand.settle(4, &[BLOCK]));
    }));
}

/// How often both maps ended in the idle table, and how often one of them displaced it.
type Ends = Arc<[AtomicUsize; 2]>;

/// Two maps of parts of one idle table: one of them empties it, and the other waits for nobody. Where that one was faster, the table that it has displaced is counted and kept.
fn two_maps_in_one_idle_table<const TORN: bool>(ends: &Ends) -> Report {
    run(|w| {
        let stand = Stand::<Aarch32LpaeStage1, false, TORN>::new(two_levels());
        stand.map_whole(7 * BLOCK + PAGE);
        stand.unmap(0, BLOCK);
        for (thread, name) in [(1, "first"), (2, "second")] {
            let stand = Arc::clone(&stand);
            w.thread(name, move || stand.map(thread * PAGE, PAGE));
        }
        let ends = Arc::clone(ends);
        w.at_end(WHOLE, move || {
            let old = (0..512).filter(|page| !(1..3).contains(page));
            let back = old.map(|page| page * PAGE).find(|at| stand.cpu_walk(*at).is_some());
            if let Some(back) = back {
                return Err(format!("{back:#x} has come back"));
            }
            let pages = stand.table.table_pages();
            ends[usize::from(pages == 3)].fetch_add(1, Ordering::Relaxed);
            stand.settle(pages.clamp(2, 3), &[PAGE, 2 * PAGE])
        });
    })
}

#[test]
fn two_maps_in_an_idle_table() {
    let ends = Ends::default();
    clean(&two_maps_in_one_idle_table::<false>(&ends));
    let [kept, displaced] = [0, 1].map(|end: usize| ends[end].load(Ordering::Relaxed));
    assert!(kept > 0 && displaced > 0, "{kept} and {displaced}");
}

/// The planted bug: both maps claim the idle table, and one of them empties it of what the other has mapped there.
#[test]
fn an_idle_table_claimed_by_two_maps_is_found() {
    let report = two_maps_in_one_idle_table::<true>(&Ends::default());
    assert!(!report.is_clean(), "{report}");
}

/// A table is unmapped whole, hidden by one store, and filled again before it is seen, while hardware that does not snoop walks there: it finds what was mapped before, what is mapped after, or nothing.
/// (A walk that began before the invalidation may find what is mapped after; the invalidation, which is not part of this world, waits for it.)
#[test]
fn hardware_beside_a_table_that_is_hidden_and_filled_again() {
    const BEFORE: u64 = 7 * BLOCK + PAGE;
    let seen = Arc::<[AtomicUsize; 3]>::default();
    let counts = Arc::clone(&seen);
    clean(&run(|w| {
        let stand = Stand::<Aarch32LpaeStage1>::new(two_levels());
        stand.map_whole(BEFORE);
        let (changes, walks) = (Arc::clone(&stand), Arc::clone(&stand));
        w.thread("hides and fills", move || {
            changes.unmap(0, BLOCK);
            changes.map_whole(SHIFT);
        });
        let counts = Arc::clone(&counts);
        w.thread("walks", move || {
            let answers = [Some(BEFORE + PAGE), None, Some(SHIFT + PAGE)];
            let found = walks.walk(walks.table.config(), PAGE);
            match answers.iter().position(|answer| *answer == found) {
                Some(which) => _ = counts[which].fetch_add(1, Ordering::Relaxed),
                None => {
                    violation("hardware finds what is mapped, or nothing", format!("{found:x?}"))
                }
            }
        });
        w.at_end(WHOLE, move || stand.settle(2, &[0, PAGE, BLOCK - PAGE]));
    }));
    let seen: Vec<usize> = seen.iter().map(|count| count.load(Ordering::Relaxed)).collect();
    assert!(seen.iter().all(|count| *count > 0), "before, nothing, after: {seen:?}");
}

/// A tree that begins with three levels.
fn growing() -> TableParams {
    TableParams { leaf_sizes: PageSizes::from_bitmap(PAGE), ..params(PageSize::SIZE_4K, 64, 52) }
}

/// Makes the tree reach `iova`, as a domain does it.
fn grow<const GLOBAL: bool>(stand: &Stand<AmdV1, GLOBAL>, iova: u64) {
    loop {
        let config = stand.table.grow(Iova::new(iova)).expect("memory");
        // Here all units would be told of the new root.
        if stand.table.grown(&config) {
            return;
        }
    }
}

/// Two threads find the tree too shallow: it grows once.
#[test]
fn two_threads_grow_one_tree_once() {
    let levels = AmdV1::new(&growing()).expect("supported").1.first_levels();
    let beyond = 1u64 << (12 + 9 * u32::from(levels));
    clean(&run(|w| {
        let stand = Stand::<AmdV1, true>::new(growing());
        for name in ["first", "second"] {
            let stand = Arc::clone(&stand);
            w.thread(name, move || grow(&stand, beyond));
        }
        w.at_end(WHOLE, move || {
            let root = stand.table.config().root.address();
            let below = stand.memory.cpu(root.raw());
            if below == 0 {
                return Err("the old root is lost".to_string());
            }
            stand.settle(2, &[])
        });
    }));
}

/// One thread grows the tree and the other maps below the old top.
#[test]
fn a_map_while_the_top_level_grows() {
    let levels = AmdV1::new(&growing()).expect("supported").1.first_levels();
    let beyond = 1u64 << (12 + 9 * u32::from(levels));
    clean(&run(|w| {
        let stand = Stand::<AmdV1, true>::new(growing());
        stand.map(0, PAGE);
        let (grower, mapper) = (Arc::clone(&stand), Arc::clone(&stand));
        w.thread("grows", move || grow(&grower, beyond));
        w.thread("maps", move || {
            let before = mapper.table.config();
            mapper.map(PAGE, PAGE);
            // Hardware that was not told yet still walks from the old root.
            mapper.must_lead(before, PAGE);
        });
        w.at_end(WHOLE, move || stand.settle(usize::from(levels) + 1, &[0, PAGE]));
    }));
}

/// The planted bug: the bit that says "has reached hardware" is one that every entry has, so nobody makes sure of what another CPU installed.
#[derive(Debug)]
struct Forgetful(Aarch32LpaeStage1);

impl Format for Forgetful {
    const FORMAT: TableFormat = TableFormat::Aarch32LpaeStage1;
    const SOFTWARE_BIT: u64 = 1;
    const TABLE_ADDRESS: u64 = Aarch32LpaeStage1::TABLE_ADDRESS;

    as_the_real_one!(Aarch32LpaeStage1: root leaf_bits leaf table is_table presence is_leaf table_address leaf_size leaf_address prot);
}

#[test]
fn a_pointer_that_nobody_settles_is_found() {
    let report = both_miss_all_tables::<Forgetful, false>(two_levels());
    assert!(report.violation("hardware finds what was mapped").is_some(), "{report}");
}

#[test]
fn a_torn_exchange_is_found() {
    let report = both_miss_all_tables::<Aarch32LpaeStage1, true>(two_levels());
    assert!(!report.is_clean(), "{report}");
}

/// 81,224 executions, a minute.
mod long {
    use super::*;

    #[test]
    #[ignore = "long: `PORTCULLIS_LONG=1 cargo xtask test`"]
    fn two_maps_install_each_missing_table_once() {
        clean(&both_miss_all_tables::<ArmLpaeStage1, false>(three_levels()));
    }
}
