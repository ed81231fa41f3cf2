//! Workloads A to H on page tables, and the contestants that need nobody else's code: ours and the floor. The peers are in `benches/table-peers`, which uses the same workloads.

use crate::clock::{time, wall_time};
use crate::floor::{Floor, FloorTable};
use crate::pool::memory;
use crate::random::Random;
use portcullis_addr::{Iova, PageSize, PageSizes, PhysAddr, Prot};
use portcullis_pgtable::{ArmLpaeStage1, Format, IoPageTable, IotlbGather, PageTable, TableParams};
use std::hint::black_box;
use std::sync::Arc;

/// Bytes of a page.
pub const PAGE: u64 = 4096;
const GIB: u64 = 1 << 30;
const BLOCK: u64 = 2 << 20;
const PHYS: u64 = 0x10_0000_0000;

/// One call for each place.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Its letter and what it does.
    pub name: &'static str,
    /// Where the calls begin.
    pub places: Vec<u64>,
    /// Bytes of each.
    pub len: u64,
    /// Added to the IOVA to make the physical address.
    pub phys: u64,
}

/// The letters of [`workload`].
pub const LETTERS: [char; 6] = ['A', 'B', 'C', 'D', 'E', 'F'];

/// The workload with this letter (A: 4 KiB ascending in 1 GiB, B: the same in random order, C: 2^20 pages of 64 GiB without order, D: 2 MiB blocks, E: 64 pages a call,
/// F: 512 pages a call), cut to `most` calls.
///
/// # Panics
///
/// On other letters.
pub fn workload(letter: char, most: usize) -> Workload {
    let ascending = |count: u64, len: u64| (0..count).map(|i| i * len).collect::<Vec<_>>();
    // Not where a larger leaf would fit.
    let odd = PHYS + PAGE;
    let (name, mut places, len, phys) = match letter {
        'A' => ("A 4 KiB, ascending", ascending(1 << 18, PAGE), PAGE, odd),
        'B' => ("B 4 KiB, random in 1 GiB", shuffled(ascending(1 << 18, PAGE)), PAGE, odd),
        // A full-period walk over the pages, cut off.
        'C' => {
            let page = |i: u64| (i.wrapping_mul(0x9e_3779) & 0xff_ffff) * PAGE;
            ("C 4 KiB, scattered over 64 GiB", (0..1 << 20).map(page).collect(), PAGE, odd)
        }
        'D' => ("D 2 MiB blocks", ascending(8192, BLOCK), BLOCK, PHYS),
        'E' => ("E 64 pages a call", ascending(GIB / PAGE / 64, 64 * PAGE), 64 * PAGE, odd),
        'F' => ("F 512 pages a call", ascending(512, BLOCK), BLOCK, odd),
        other => panic!("no workload {other}: A to F"),
    };
    places.truncate(most);
    Workload { name, places, len, phys }
}

fn shuffled(mut places: Vec<u64>) -> Vec<u64> {
    let mut random = Random(1);
    for index in (1..places.len()).rev() {
        places.swap(index, random.below(index as u64 + 1) as usize);
    }
    places
}

/// A contestant.
pub trait Table {
    /// Its name in reports.
    fn name(&self) -> &'static str;
    /// Maps a range that is free.
    fn map(&mut self, iova: u64, phys: u64, len: u64);
    /// Unmaps a range that was mapped in one call.
    fn unmap(&mut self, iova: u64, len: u64);
    /// Where `iova` leads; 0 for nowhere.
    fn phys(&mut self, iova: u64) -> u64;
}

const READ_WRITE: Prot = Prot::READ.union(Prot::WRITE).union(Prot::CACHE);

/// What ours are made with: Arm stage 1, 48 bits, pages and blocks, hardware that snoops.
pub const PARAMS: TableParams = TableParams {
    granule: PageSize::SIZE_4K,
    input_bits: 48,
    output_bits: 48,
    leaf_sizes: PageSizes::from_bitmap(0x4020_1000),
    force_snoop: false,
    coherent: true,
};

/// Ours, as a domain calls it: through `dyn`, a gather for each unmap.
#[derive(Clone, Debug)]
pub struct Ours(Arc<dyn PageTable>, &'static str);

impl Ours {
    /// In a memory that stores runs 16 bytes at a time.
    pub fn new() -> Self {
        Self::of::<ArmLpaeStage1, true>("portcullis", PARAMS)
    }

    /// In a memory that stores every word alone.
    pub fn word_by_word() -> Self {
        Self::of::<ArmLpaeStage1, false>("by words", PARAMS)
    }

    /// Another format.
    ///
    /// # Panics
    ///
    /// Where the format has no such table, or the pool is empty.
    pub fn of<F: Format, const WIDE: bool>(name: &'static str, params: TableParams) -> Self {
        let memory = Arc::new(memory::<WIDE>());
        let table = IoPageTable::<F, _>::new(&memory, params);
        Self(black_box(Arc::new(table.expect("supported"))), name)
    }
}

impl Default for Ours {
    fn default() -> Self {
        Self::new()
    }
}

impl Table for Ours {
    fn name(&self) -> &'static str {
        self.1
    }

    #[inline(always)]
    fn map(&mut self, iova: u64, phys: u64, len: u64) {
        self.0.map(Iova::new(iova), PhysAddr::new(phys), len, READ_WRITE).expect("free");
    }

    #[inline(always)]
    fn unmap(&mut self, iova: u64, len: u64) {
        let mut gather = IotlbGather::new();
        self.0.unmap(Iova::new(iova), len, &mut gather).expect("mapped");
        black_box(&gather);
    }

    #[inline(always)]
    fn phys(&mut self, iova: u64) -> u64 {
        self.0.look_up(Iova::new(iova)).map_or(0, PhysAddr::raw)
    }
}

/// The floor, inlined into the loop.
#[derive(Debug)]
pub struct Inlined(FloorTable);

/// The floor, called as ours is.
pub struct ThroughDyn(Box<dyn Floor>);

impl Inlined {
    /// An empty one.
    pub fn new() -> Self {
        Self(FloorTable::new(memory()))
    }
}

impl Default for Inlined {
    fn default() -> Self {
        Self::new()
    }
}

impl ThroughDyn {
    /// An empty one.
    pub fn new() -> Self {
        Self(black_box(Box::new(FloorTable::new(memory()))))
    }
}

impl Default for ThroughDyn {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for ThroughDyn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ThroughDyn")
    }
}

macro_rules! as_the_floor {
    ($type:ty, $name:literal) => {
        impl Table for $type {
            fn name(&self) -> &'static str {
                $name
            }
            #[inline(always)]
            fn map(&mut self, iova: u64, phys: u64, len: u64) {
                self.0.map(iova, phys, len);
            }
            #[inline(always)]
            fn unmap(&mut self, iova: u64, len: u64) {
                self.0.unmap(iova, len);
            }
            #[inline(always)]
            fn phys(&mut self, iova: u64) -> u64 {
                self.0.phys(iova)
            }
        }
    };
}

as_the_floor!(Inlined, "floor, inlined");
as_the_floor!(ThroughDyn, "floor");

/// Maps all places; nanoseconds a call.
pub fn map_all<T: Table>(table: &mut T, workload: &Workload) -> f64 {
    time(workload.places.len(), || {
        for place in &workload.places {
            table.map(*place, place + workload.phys, workload.len);
        }
    })
}

/// Unmaps all places; nanoseconds a call.
pub fn unmap_all<T: Table>(table: &mut T, workload: &Workload) -> f64 {
    time(workload.places.len(), || {
        workload.places.iter().for_each(|place| table.unmap(*place, workload.len));
    })
}

/// Looks all places up; nanoseconds a call.
pub fn look_up_all<T: Table>(table: &mut T, workload: &Workload) -> f64 {
    let mut sum = 0u64;
    let found = time(workload.places.len(), || {
        for place in &workload.places {
            sum = sum.wrapping_add(table.phys(*place));
        }
    });
    black_box(sum);
    found
}

/// Workload H: maps and unmaps one page, 256 in rotation; nanoseconds a pair.
pub fn hot_pairs<T: Table>(table: &mut T) -> f64 {
    let calls = 1 << 18;
    time(calls, || {
        for call in 0..calls as u64 {
            let place = (call % 256) * PAGE;
            table.map(place, place + PHYS, PAGE);
            table.unmap(place, PAGE);
        }
    })
}

/// The best times of one contestant, in nanoseconds a call: map, unmap, look-up.
#[derive(Clone, Copy, Debug)]
pub struct Best(pub [f64; 3]);

impl Best {
    /// Nothing measured yet.
    pub const NONE: Self = Self([f64::MAX; 3]);

    /// Makes a table of the contestant, maps and unmaps everything once so that the tables are there, and then measures twice.
    ///
    /// # Panics
    ///
    /// If the contestant does not translate what it mapped.
    pub fn note_round<T: Table>(&mut self, mut table: T, workload: &Workload) {
        map_all(&mut table, workload);
        unmap_all(&mut table, workload);
        for _ in 0..2 {
            let map = map_all(&mut table, workload);
            let place = workload.places[workload.places.len() / 2];
            assert_eq!(table.phys(place + 42), place + workload.phys + 42, "{}", table.name());
            let phys = look_up_all(&mut table, workload);
            let unmap = unmap_all(&mut table, workload);
            for (best, new) in self.0.iter_mut().zip([map, unmap, phys]) {
                *best = best.min(new);
            }
        }
    }
}

/// What `work` has been done on once.
fn once<T>(mut own: T, work: impl Fn(&mut T)) -> T {
    work(&mut own);
    own
}

/// How two threads share a table: far apart, side by side, or every other page.
pub const SHAPES: [&str; 3] = ["512 GiB apart", "adjacent", "alternate pages"];

/// Two threads on one table of ours, `pages` pages each: map all, unmap all. Wall nanoseconds an operation in total, one thread after the other and both at once, best of `rounds`. Each goes once round
/// before the clock starts: until then its tables stand in the cache of the processor that made them.
pub fn two_threads(shape: &str, pages: usize, rounds: usize) -> (f64, f64) {
    let place = |thread: u64, i: u64| match shape {
        "alternate pages" => (2 * i + thread) * PAGE,
        "adjacent" => thread * (GIB / 2) + i * PAGE,
        _ => (thread << 39) + i * PAGE,
    };
    let part = |thread: u64| {
        let places = (0..pages as u64).map(|i| place(thread, i)).collect();
        Workload { name: "", places, len: PAGE, phys: PHYS }
    };
    let parts = [part(0), part(1)];
    let (mut alone, mut together) = (f64::MAX, f64::MAX);
    let calls = 4.0 * parts[0].places.len() as f64;
    let one = |(table, part): &mut (Ours, &Workload)| {
        map_all(table, part);
        unmap_all(table, part);
    };
    let both = |parts: &mut [(Ours, &Workload); 2]| parts.iter_mut().for_each(one);
    // Many short rounds: the best of them ran undisturbed, on two processors at once.
    for _ in 0..rounds {
        let table = Ours::new();
        let work = parts.each_ref().map(|part| (table.clone(), part));
        alone = alone.min(wall_time(vec![work.clone()], |work| once(work, both), both) / calls);
        together = together.min(wall_time(work.into(), |work| once(work, one), one) / calls);
    }
    (alone, together)
}
