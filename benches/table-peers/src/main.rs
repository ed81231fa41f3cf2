//! Page tables and IOVA allocators side by side, in one process, in turn, best of several rounds.
//!
//! `cargo run --release` prints nanoseconds a call and ratios; `cargo run --release -- count WORKLOAD CONTESTANT CALLS` runs one of them bare, for an
//! instruction counter.

#[cfg(test)]
mod oracle;
mod pool;
mod spaces;
mod tables;

use spaces::{Locked, Space};
use std::hint::black_box;
use std::sync::Mutex;
use std::time::Instant;
use tables::{Aarch64Paging, Multiarch, Ours, Table, X86};

const PAGE: u64 = 4096;
const GIB: u64 = 1 << 30;
const PHYS: u64 = 0x10_0000_0000;
const ROUNDS: usize = 7;

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// A workload: one call per place, `len` bytes each.
struct Workload {
    name: &'static str,
    places: Vec<u64>,
    len: u64,
    /// Added to the IOVA to make the physical address.
    phys: u64,
}

/// The workload with this letter.
fn workload(letter: &str) -> Workload {
    let ascending = |count: u64, len: u64| (0..count).map(|i| i * len).collect::<Vec<_>>();
    let phys = PHYS + PAGE;
    match letter {
        "A" => Workload { name: "A seq 4K", places: ascending(1 << 18, PAGE), len: PAGE, phys },
        "B" => {
            let (mut places, mut rng) = (ascending(1 << 18, PAGE), Rng(1));
            for index in (1..places.len()).rev() {
                places.swap(index, rng.below(index as u64 + 1) as usize);
            }
            Workload { name: "B rand 1G", places, len: PAGE, phys }
        }
        // 2^20 distinct pages of 2^24, in an order without a pattern: a full-period walk over the pages, cut off.
        "C" => {
            let page = |i: u64| (i.wrapping_mul(0x9e_3779) & 0xff_ffff) * PAGE;
            let places = (0..1 << 20).map(page).collect();
            Workload { name: "C rand 64G", places, len: PAGE, phys }
        }
        "D" => {
            let places = ascending(8192, 2 << 20);
            Workload { name: "D 2M blocks", places, len: 2 << 20, phys: PHYS }
        }
        "E" => {
            let places = ascending(GIB / PAGE / 64, 64 * PAGE);
            Workload { name: "E 64 pages", places, len: 64 * PAGE, phys }
        }
        "F" => {
            let places = ascending(512, 2 << 20);
            Workload { name: "F 512 pages", places, len: 2 << 20, phys }
        }
        other => panic!("no workload {other}: A to F"),
    }
}

/// Nanoseconds of this thread's CPU time: what other programs on the machine take does not count, what they do to the caches does.
fn cpu_time() -> f64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer leads to a timespec of ours.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut now) };
    assert_eq!(result, 0, "the clock exists");
    now.tv_sec as f64 * 1e9 + now.tv_nsec as f64
}

fn time(calls: usize, work: impl FnOnce()) -> f64 {
    let start = cpu_time();
    work();
    (cpu_time() - start) / calls as f64
}

fn map_all<T: Table>(table: &mut T, workload: &Workload) -> f64 {
    time(workload.places.len(), || {
        for place in &workload.places {
            table.map(*place, place + workload.phys, workload.len);
        }
    })
}

fn unmap_all<T: Table>(table: &mut T, workload: &Workload) -> f64 {
    time(workload.places.len(), || {
        workload.places.iter().for_each(|place| table.unmap(*place, workload.len));
    })
}

fn look_up_all<T: Table>(table: &mut T, workload: &Workload) -> f64 {
    let mut sum = 0u64;
    let found = time(workload.places.len(), || {
        for place in &workload.places {
            sum = sum.wrapping_add(table.phys(*place));
        }
    });
    black_box(sum);
    found
}

fn hot_pairs<T: Table>(table: &mut T) -> f64 {
    let calls = 1 << 18;
    time(calls, || {
        for call in 0..calls as u64 {
            let place = (call % 256) * PAGE;
            table.map(place, place + PHYS, PAGE);
            table.unmap(place, PAGE);
        }
    })
}

/// Best times of one contestant: map, unmap, look-up.
#[derive(Clone, Copy)]
struct Best([f64; 3]);

impl Best {
    fn note(&mut self, round: [f64; 3]) {
        for (best, new) in self.0.iter_mut().zip(round) {
            *best = best.min(new);
        }
    }
}

fn round<T: Table>(
    make: fn() -> T,
    workload: &Workload,
    names: &mut Vec<&'static str>,
    best: &mut Vec<Best>,
    turn: usize,
) {
    let mut table = make();
    if names.len() <= turn {
        names.push(table.name());
        best.push(Best([f64::MAX; 3]));
    }
    // The first pass makes the tables.
    map_all(&mut table, workload);
    unmap_all(&mut table, workload);
    for _ in 0..2 {
        let map = map_all(&mut table, workload);
        let first = workload.places[workload.places.len() / 2];
        assert_eq!(table.phys(first + 42), first + workload.phys + 42, "{}", table.name());
        let phys = look_up_all(&mut table, workload);
        let unmap = unmap_all(&mut table, workload);
        best[turn].note([map, unmap, phys]);
    }
}

fn compare_tables() {
    let heading = ["map", "unmap", "phys"];
    println!("page tables, ns a call (ratio to portcullis)");
    for letter in ["A", "B", "C", "D", "E", "F"] {
        let workload = workload(letter);
        let (mut names, mut best) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            round(Ours::new, &workload, &mut names, &mut best, 0);
            round(Aarch64Paging::new, &workload, &mut names, &mut best, 1);
            round(Multiarch::new, &workload, &mut names, &mut best, 2);
            round(X86::new, &workload, &mut names, &mut best, 3);
            round(Ours::word_by_word, &workload, &mut names, &mut best, 4);
        }
        for (index, what) in heading.iter().enumerate() {
            print!("{:<12} {what:<6}", workload.name);
            for (name, best_of) in names.iter().zip(&best) {
                let ratio = best_of.0[index] / best[0].0[index];
                print!("  {name} {:.1} ({ratio:.2})", best_of.0[index]);
            }
            println!();
        }
    }
    let mut best = [f64::MAX; 4];
    for _ in 0..ROUNDS {
        best[0] = best[0].min(hot_pairs(&mut Ours::new()));
        best[1] = best[1].min(hot_pairs(&mut Aarch64Paging::new()));
        best[2] = best[2].min(hot_pairs(&mut Multiarch::new()));
        best[3] = best[3].min(hot_pairs(&mut X86::new()));
    }
    println!(
        "H hot pair (map + unmap)  portcullis {:.1}  aarch64-paging {:.1}  page_table_multiarch {:.1}  x86_64 {:.1}",
        best[0], best[1], best[2], best[3]
    );
}

fn two_threads() {
    println!(
        "\ntwo threads on one table, 2^17 pages each, map all and unmap all, ns an operation in total"
    );
    let places = |thread: u64, shape: &str| -> Vec<u64> {
        let base = if shape == "512G apart" { thread << 39 } else { thread * (GIB / 2) };
        let page =
            |i: u64| if shape == "alternate" { (2 * i + thread) * PAGE } else { base + i * PAGE };
        (0..1 << 17).map(page).collect()
    };
    for shape in ["512G apart", "adjacent", "alternate"] {
        let work = |places: Vec<u64>| Workload { name: "", places, len: PAGE, phys: PHYS };
        let parts = [work(places(0, shape)), work(places(1, shape))];
        let (mut alone, mut together) = (f64::MAX, f64::MAX);
        // Many short rounds: the best of them ran undisturbed, on two processors at once.
        for _ in 0..100 {
            let mut table = Ours::new();
            for part in &parts {
                map_all(&mut table, part);
                unmap_all(&mut table, part);
            }
            let calls = 4 * parts[0].places.len();
            let start = Instant::now();
            for part in &parts {
                map_all(&mut table, part);
                unmap_all(&mut table, part);
            }
            alone = alone.min(start.elapsed().as_nanos() as f64 / calls as f64);
            // From the first thread's start to the last one's end, by their own clocks.
            let start = std::sync::Barrier::new(2);
            let spans: Vec<(Instant, Instant)> = std::thread::scope(|scope| {
                let threads: Vec<_> = parts
                    .iter()
                    .map(|part| {
                        let (mut table, start) = (table.share(), &start);
                        scope.spawn(move || {
                            start.wait();
                            let from = Instant::now();
                            map_all(&mut table, part);
                            unmap_all(&mut table, part);
                            (from, Instant::now())
                        })
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
            });
            let from = spans.iter().map(|span| span.0).min().expect("two threads");
            let to = spans.iter().map(|span| span.1).max().expect("two threads");
            together = together.min((to - from).as_nanos() as f64 / calls as f64);
        }
        println!("{shape:<12} one {alone:.1}  two {together:.1}  speed-up {:.2}", alone / together);
    }
}

/// Keeps `live` ranges and replaces one of them by another at each step.
fn replace<S: Space>(mut space: S, live: usize, size: impl Fn(&mut Rng) -> u64) -> f64 {
    let mut rng = Rng(5);
    let mut held: Vec<S::Handle> = (0..live).map(|_| space.allocate(size(&mut rng))).collect();
    let steps = 100_000;
    let plan: Vec<(usize, u64)> =
        (0..steps).map(|_| (rng.below(live as u64) as usize, size(&mut rng))).collect();
    time(steps, || {
        for (index, pages) in plan {
            space.free(held[index]);
            held[index] = space.allocate(pages);
        }
    })
}

fn one_page<S: Space>(mut space: S) -> f64 {
    let calls = 200_000;
    time(calls, || {
        for _ in 0..calls {
            let handle = space.allocate(1);
            space.free(handle);
        }
    })
}

/// 100,000 one-page holes; mean and worst time of a two-page allocation among them.
fn fragmented<S: Space>(mut space: S) -> (f64, f64) {
    let mut held: Vec<S::Handle> = (0..200_000).map(|_| space.allocate(1)).collect();
    for index in (0..held.len()).step_by(2) {
        space.free(held[index]);
    }
    let mut rng = Rng(9);
    let (mut sum, mut worst) = (0.0, 0.0f64);
    for _ in 0..2000 {
        let index = rng.below(100_000) as usize * 2 + 1;
        space.free(held[index]);
        let start = Instant::now();
        let pair = space.allocate(2);
        let took = start.elapsed().as_nanos() as f64;
        sum += took;
        worst = worst.max(took);
        space.free(pair);
        held[index] = space.allocate(1);
    }
    (sum / 2000.0, worst)
}

fn iova_row<S: Space>(name: &str, make: fn() -> S) {
    let best = |work: &dyn Fn(S) -> f64| (0..ROUNDS).map(|_| work(make())).fold(f64::MAX, f64::min);
    let sizes = [1, 2, 4, 8, 16, 32];
    let rows = [
        best(&one_page),
        best(&|space| replace(space, 256, |_| 1)),
        best(&|space| replace(space, 1024, |rng| sizes[rng.below(6) as usize])),
        best(&|space| replace(space, 1024, |rng| 1 + rng.below(32))),
        best(&|space| replace(space, 256, |rng| 64 + rng.below(449))),
    ];
    print!("{name:<26}");
    rows.iter().for_each(|row| print!("{row:>9.1}"));
    let (mean, worst) = (0..3)
        .map(|_| fragmented(make()))
        .fold((f64::MAX, f64::MAX), |best, new| (best.0.min(new.0), best.1.min(new.1)));
    println!("{mean:>11.0} / {worst:.0}");
}

fn compare_spaces() {
    println!(
        "\nIOVA, ns an allocation and free; I6: mean / worst of a 2-page allocation (clock included, about 20 ns)"
    );
    println!("{:<26}{:>9}{:>9}{:>9}{:>9}{:>9}{:>14}", "", "I1", "I2", "I3", "I4", "I5", "I6");
    iova_row("portcullis, slabs", spaces::Slabs::new);
    iova_row("portcullis, tree", spaces::Ours::new);
    iova_row("  in Mutex", || Locked(Mutex::new(spaces::Ours::new())));
    iova_row("buddy_system_allocator", spaces::Buddy::new);
    iova_row("  in Mutex", || Locked(Mutex::new(spaces::Buddy::new())));
    iova_row("offset-allocator", spaces::Offset::new);
    iova_row("  in Mutex", || Locked(Mutex::new(spaces::Offset::new())));
    iova_row("range-alloc", spaces::Ranges::new);
}

/// One page taken and given back, by one thread and by two at the same time.
fn two_threads_of_addresses() {
    let calls = 200_000;
    let work = |mut space: spaces::Slabs| {
        let start = Instant::now();
        for _ in 0..calls {
            let handle = space.allocate(1);
            space.free(handle);
        }
        (start, Instant::now())
    };
    let (mut alone, mut together) = (f64::MAX, f64::MAX);
    for _ in 0..50 {
        let space = spaces::Slabs::new();
        let (from, to) = work(space.clone());
        alone = alone.min((to - from).as_nanos() as f64 / f64::from(calls));
        let start = std::sync::Barrier::new(2);
        let spans: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..2)
                .map(|_| {
                    let (space, start) = (space.clone(), &start);
                    scope.spawn(move || {
                        start.wait();
                        work(space)
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        let from = spans.iter().map(|span| span.0).min().expect("two threads");
        let to = spans.iter().map(|span| span.1).max().expect("two threads");
        together = together.min((to - from).as_nanos() as f64 / f64::from(2 * calls));
    }
    println!(
        "slabs, I1: one thread {alone:.1}, two {together:.1} in total, speed-up {:.2}",
        alone / together
    );
}

/// Runs one workload `passes` times on one contestant.
fn count<T: Table>(mut table: T, workload: &Workload, passes: usize) {
    for _ in 0..passes {
        map_all(&mut table, workload);
        unmap_all(&mut table, workload);
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("count") => {
            pool::small(16 << 20);
            let workload = &mut workload(&arguments[1]);
            let keep = 4 * (2 << 20) / workload.len.min(2 << 20);
            workload.places.truncate(keep as usize);
            let passes: usize = arguments[3].parse().expect("a number of passes");
            println!("{} calls a pass", workload.places.len());
            match arguments[2].as_str() {
                "portcullis" => count(Ours::new(), workload, passes),
                "words" => count(Ours::word_by_word(), workload, passes),
                "aarch64-paging" => count(Aarch64Paging::new(), workload, passes),
                "multiarch" => count(Multiarch::new(), workload, passes),
                "x86_64" => count(X86::new(), workload, passes),
                other => panic!("no contestant {other}"),
            }
        }
        Some("count-iova") => {
            // The difference between two numbers of rounds is what a pair costs.
            let rounds: usize = arguments[2].parse().expect("a number of rounds");
            let run = |pair: &dyn Fn()| (0..rounds).for_each(|_| pair());
            match arguments[1].as_str() {
                "slabs" => run(&|| _ = one_page(spaces::Slabs::new())),
                "tree" => run(&|| _ = one_page(spaces::Ours::new())),
                other => panic!("no allocator {other}"),
            }
        }
        Some("tables") => compare_tables(),
        Some("threads") => two_threads(),
        Some("iova") => {
            compare_spaces();
            two_threads_of_addresses();
        }
        Some(other) => panic!("no part {other}: tables, threads, iova or count"),
        None => {
            compare_tables();
            two_threads();
            compare_spaces();
        }
    }
}
