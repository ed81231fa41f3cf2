//! The tables that `portcullis bench` prints, row by row: whoever is written to can end a table by an error.

use crate::cacheless::Cacheless;
use crate::clock::Load;
use crate::queue::{Queue, hand_over};
use crate::spaces::{Locked, Slabs, Space, Tree};
use crate::tables::{Best, Inlined, LETTERS, Ours, SHAPES, ThroughDyn, workload};
use crate::{dma, spaces, tables};
use std::fmt::{self, Display, Write};

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds of which the best counts.
    pub rounds: usize,
    /// The most calls of a workload.
    pub most_calls: usize,
}

/// Where the peers are.
const PEERS: &str = "peers in the same run: cd benches/table-peers && cargo run --release\n";

/// A figure and its ratio to the floor's.
struct Against(f64, f64);

impl Display for Against {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:7.1} {:5.2}x", self.0, self.0 / self.1)
    }
}

/// Workloads A to H on page tables.
///
/// # Errors
///
/// What `out` says.
pub fn map(effort: Effort, out: &mut dyn Write) -> fmt::Result {
    let load = Load::begin();
    out.write_str(
        "page tables, Arm stage 1, 48 bits, 4 KiB; ns a call and ratio to the floor (a walk and a store, called through dyn as ours is)\n\
         workload                         what     floor  inlined     portcullis        by words\n",
    )?;
    for letter in LETTERS {
        map_rows(letter, effort, out)?;
    }
    let hot = |pair: fn() -> f64| (0..effort.rounds).map(|_| pair()).fold(f64::MAX, f64::min);
    let floor = hot(|| tables::hot_pairs(&mut ThroughDyn::new()));
    let ours = Against(hot(|| tables::hot_pairs(&mut Ours::new())), floor);
    writeln!(out, "H 256 pages in rotation           pair   {floor:7.1}         {ours}")?;
    // Once with tables that a processor's own cache holds, once with more.
    for pages in [1 << 14, 1 << 17] {
        two_threads_on_a_table(pages.min(effort.most_calls), effort, out)?;
    }
    writeln!(out, "\n{load}")?;
    out.write_str(PEERS)
}

fn two_threads_on_a_table(pages: usize, effort: Effort, out: &mut dyn Write) -> fmt::Result {
    writeln!(out, "\ntwo threads on one table, {pages} pages each: wall ns an operation in total")?;
    for shape in SHAPES {
        let (alone, together) = tables::two_threads(shape, pages, 8 * effort.rounds);
        let speed_up = alone / together;
        writeln!(
            out,
            "{shape:<16} one {alone:5.1}  two {together:5.1}  {speed_up:.2} times as fast"
        )?;
    }
    Ok(())
}

fn map_rows(letter: char, effort: Effort, out: &mut dyn Write) -> fmt::Result {
    let workload = workload(letter, effort.most_calls);
    let mut best = [Best::NONE; 4];
    for _ in 0..effort.rounds {
        best[0].note_round(ThroughDyn::new(), &workload);
        best[1].note_round(Inlined::new(), &workload);
        best[2].note_round(Ours::new(), &workload);
        best[3].note_round(Ours::word_by_word(), &workload);
    }
    for (row, what) in ["map", "unmap", "look up"].iter().enumerate() {
        let [floor, inlined, ours, words] = best.map(|Best(times)| times[row]);
        writeln!(
            out,
            "{:<32} {what:<7} {floor:7.1}  {inlined:7.1}  {}  {}",
            workload.name,
            Against(ours, floor),
            Against(words, floor)
        )?;
    }
    Ok(())
}

/// Workloads I1 to I6 on addresses.
///
/// # Errors
///
/// What `out` says.
pub fn iova(effort: Effort, out: &mut dyn Write) -> fmt::Result {
    let load = Load::begin();
    let pair = (0..effort.rounds).map(|_| spaces::lock_pair()).fold(f64::MAX, f64::min);
    write!(
        out,
        "addresses, 2^20 pages; ns an allocation and its release; the floor is an uncontended lock and unlock: {pair:.1} ns\n\
         allocator             I1      I2      I3      I4      I5   in lock pairs   I6 mean / worst\n"
    )?;
    space_row(out, "slabs", Slabs::new, pair, effort)?;
    space_row(out, "the tree alone", Tree::new, pair, effort)?;
    space_row(out, "the tree in a lock", || Locked::new(Tree::new()), pair, effort)?;
    let (alone, together) = spaces::two_threads(8 * effort.rounds);
    let speed_up = alone / together;
    writeln!(
        out,
        "two threads, slabs, one page: wall ns a pair in total: one {alone:.1}, two {together:.1}: {speed_up:.2} times as fast\n\n{load}"
    )?;
    out.write_str(PEERS)
}

fn space_row<S: Space>(
    out: &mut dyn Write,
    name: &str,
    make: fn() -> S,
    pair: f64,
    effort: Effort,
) -> fmt::Result {
    let steps = effort.most_calls.min(100_000);
    let best =
        |work: &dyn Fn(S) -> f64| (0..effort.rounds).map(|_| work(make())).fold(f64::MAX, f64::min);
    let times: Vec<f64> =
        (1..=5).map(|number| best(&|space| spaces::mixed(number, space, steps))).collect();
    write!(out, "{name:<18}")?;
    times.iter().try_for_each(|time| write!(out, "{time:8.1}"))?;
    let low = times.iter().copied().fold(f64::MAX, f64::min) / pair;
    let high = times.iter().copied().fold(0.0, f64::max) / pair;
    write!(out, "     {low:4.1} to {high:4.1}")?;
    let (mean, worst) = spaces::fragmented(make, effort.rounds);
    writeln!(out, "{mean:11.0} / {worst:.0}")
}

/// The whole of `map` and `unmap`.
///
/// # Errors
///
/// What `out` says.
pub fn dma(effort: Effort, out: &mut dyn Write) -> fmt::Result {
    use crate::instant::BoundDevice;
    use portcullis::{DomainType, Policy};
    let load = Load::begin();
    let pairs = effort.most_calls.min(20_000);
    out.write_str(
        "map and unmap, strict, SMMUv3 with range invalidation whose registers act at once, 256 mappings (at most 32 MiB) in flight; ns a pair and ratio to the floor\n\
         pages    floor     portcullis  lazily, 64 together  one command a page  lazily\n",
    )?;
    for pages in dma::SIZES {
        let best = |pair: &mut dyn FnMut() -> f64| {
            (0..effort.rounds).map(|_| pair()).fold(f64::MAX, f64::min)
        };
        let floor = best(&mut || dma::PathFloor::default().pairs(pages, pairs));
        let ours =
            |ranges| best(&mut || dma::Ring::new(&BoundDevice::new(ranges), pages).pairs(pairs));
        let lazy = Policy { default_domain: DomainType::DmaLazy };
        let later = |ranges| {
            best(&mut || dma::Ring::lazy(&BoundDevice::with(ranges, lazy), pages).pairs(pairs))
        };
        write!(out, "{pages:5}  {floor:7.1}")?;
        for ranges in [true, false] {
            let strict = ours(ranges);
            let (against, lazy) = (Against(strict, floor), Against(later(ranges), strict));
            write!(out, "  {against}  {lazy} of it")?;
        }
        out.write_str("\n")?;
    }
    out.write_str("\ntwo threads, a ring each on one device: wall ns a pair in total\n")?;
    let policy = Policy::default();
    for (what, device) in [
        ("one command queue", BoundDevice::new(true)),
        ("no invalidation", BoundDevice::behind(Box::new(Cacheless::default()), policy)),
    ] {
        for pages in [1, 32] {
            let (alone, together) = dma::two_threads(&device, pages, 16 * effort.rounds);
            let speed_up = alone / together;
            writeln!(
                out,
                "{what:<17}  {pages:5}  one {alone:7.1}  two {together:7.1}  {speed_up:.2} times as fast"
            )?;
        }
    }
    writeln!(out, "\n{load}")?;
    out.write_str("peers: none exists as a crate; docs/performance.md has Linux's figures\n")
}

/// The command queue alone.
///
/// # Errors
///
/// What `out` says.
pub fn queue(effort: Effort, out: &mut dyn Write) -> fmt::Result {
    let load = Load::begin();
    let calls = effort.most_calls.min(50_000);
    let pair = (0..effort.rounds).map(|_| spaces::lock_pair()).fold(f64::MAX, f64::min);
    write!(
        out,
        "SMMUv3 command queue, registers that act at once: ns for an invalidation, its CMD_SYNC and the wait; the floor is an uncontended lock and unlock: {pair:.1} ns\n\
         pages  with ranges    a command a page\n"
    )?;
    let queues = [Queue::new(true), Queue::new(false)];
    for pages in [1, 32, 64, 512] {
        let best = |queue: &Queue| {
            (0..effort.rounds).map(|_| queue.calls(pages, calls)).fold(f64::MAX, f64::min)
        };
        let [ranges, singles] = [&queues[0], &queues[1]].map(|queue| Against(best(queue), pair));
        writeln!(out, "{pages:5}  {ranges}  {singles}")?;
    }
    let (alone, together) = queues[0].two_threads(1, 16 * effort.rounds);
    let speed_up = alone / together;
    writeln!(
        out,
        "two threads, one page: wall ns a call in total: one {alone:.1}, two {together:.1}: {speed_up:.2} times as fast\n\
         a cache line that two processors write in turn: {:.1} ns a turn\n\n{load}",
        hand_over(16 * effort.rounds)
    )
}
