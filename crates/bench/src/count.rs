//! Workloads without a clock, for an instruction counter.

use crate::instant::BoundDevice;
use crate::queue::Queue;
use crate::spaces::{Locked, Slabs, Space, Tree, mixed};
use crate::tables::{Ours, Table, ThroughDyn, Workload, look_up_all, map_all, unmap_all, workload};
use crate::{dma, pool};

/// What can be counted: maps and unmaps of a workload (a call is either), look-ups, addresses, whole pairs of `map` and `unmap`, invalidations. "by words" is the table in a memory without
/// wide runs, "tree" are addresses without slabs: figures of their own, and slow-downs that a check must see when they stand in for the others.
pub const CASES: [&str; 20] = [
    "table A",
    "table D",
    "table E",
    "table F",
    "look-up A",
    "floor A",
    "floor-look-up A",
    "words E",
    "words F",
    "iova I1",
    "iova I3",
    "iova I5",
    "tree I1",
    "dma 1",
    "dma 8",
    "dma 32",
    "dma 64",
    "dma 512",
    "queue 1",
    "queue 512",
];

/// The most calls of a round: few, because a counter makes them fifty times slower.
const CALLS: usize = 512;

/// Runs `case` for `rounds` rounds and returns how many calls a round has; `None` where there is no such case.
pub fn run(case: &str, rounds: usize) -> Option<usize> {
    pool::small(128 << 20);
    let (what, which) = case.split_once(' ')?;
    let table = || Some(workload(which.chars().next()?, CALLS));
    let number = || which.trim_start_matches('I').parse::<u16>().ok();
    match what {
        "table" => Some(pairs(Ours::new(), &table()?, rounds)),
        "words" => Some(pairs(Ours::word_by_word(), &table()?, rounds)),
        "floor" => Some(pairs(ThroughDyn::new(), &table()?, rounds)),
        "look-up" => Some(look_ups(Ours::new(), &table()?, rounds)),
        "floor-look-up" => Some(look_ups(ThroughDyn::new(), &table()?, rounds)),
        "iova" => addresses(Slabs::new(), number()?, rounds),
        "tree" => addresses(Locked::new(Tree::new()), number()?, rounds),
        "dma" => {
            let device = BoundDevice::new(true);
            dma::Ring::new(&device, number()?.into()).pairs(CALLS * rounds);
            Some(CALLS)
        }
        "queue" => {
            Queue::new(true).calls(number()?.into(), CALLS * rounds);
            Some(CALLS)
        }
        _ => None,
    }
}

/// The first round makes the tables.
fn pairs<T: Table>(mut table: T, workload: &Workload, rounds: usize) -> usize {
    for _ in 0..=rounds {
        map_all(&mut table, workload);
        unmap_all(&mut table, workload);
    }
    2 * workload.places.len()
}

fn look_ups<T: Table>(mut table: T, workload: &Workload, rounds: usize) -> usize {
    map_all(&mut table, workload);
    (0..rounds).for_each(|_| _ = look_up_all(&mut table, workload));
    workload.places.len()
}

fn addresses<S: Space>(space: S, number: u16, rounds: usize) -> Option<usize> {
    let number = u8::try_from(number).ok().filter(|number| (1..=5).contains(number))?;
    mixed(number, space, CALLS * rounds);
    Some(CALLS)
}
