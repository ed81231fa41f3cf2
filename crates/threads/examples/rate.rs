//! How many runs a second: tiny bodies, and what unwinding costs.

use portcullis_platform::{LockLabel, Mutex};
use portcullis_threads::{Budget, Explorer, LabLock, Strategy, World, step};
use std::sync::Arc;

fn main() {
    let show = |name: &str, strategy, build: &dyn Fn(&mut World)| {
        let report = Explorer::new(Budget { shorten: 0, ..Budget::default() })
            .strategy(strategy)
            .run(|w| build(w));
        println!("{name:24} {}", report.to_string().lines().next().unwrap_or_default());
    };
    let writers = |w: &mut World| {
        (0..8).for_each(|_| w.thread("writer", || step("x", 0, "write", true)));
    };
    let sections = |w: &mut World| {
        let total = Arc::new(Mutex::<u64, LabLock>::new(LockLabel::new("total", 0), 0));
        for _ in 0..3 {
            let total = Arc::clone(&total);
            w.thread("adder", move || (0..4).for_each(|_| *total.lock() += 1));
        }
    };
    let stuck = |w: &mut World| {
        let lock = || Arc::new(Mutex::<u64, LabLock>::new(LockLabel::new("l", 0), 0));
        let locks: Vec<_> = (0..6).map(|_| lock()).collect();
        for seat in 0..6 {
            let (a, b) = (locks[seat].clone(), locks[(seat + 1) % 6].clone());
            w.thread("p", move || {
                let _a = a.lock();
                let _b = b.lock();
            });
        }
    };
    show("8 writers", Strategy::Exhaustive, &writers);
    show("3 x 4 sections", Strategy::Exhaustive, &sections);
    show("6 philosophers", Strategy::Exhaustive, &stuck);
    show("3 x 4 sections", Strategy::Random { seed: 1, runs: 200_000 }, &sections);
    show("3 x 4 sections", Strategy::Pct { depth: 3, seed: 1, runs: 200_000 }, &sections);
}
