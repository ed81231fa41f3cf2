//! Explores the worlds of our own core from a shell: `ours worlds`, `ours busiest`, `ours coarse`, `ours queue-bound N`, `ours storm RUNS SEED`.

use portcullis_lab::ours::World;
use portcullis_threads::{Budget, Explorer, Strategy};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_else(|| "worlds".to_owned());
    let mut number =
        |default| arguments.next().and_then(|text| text.parse().ok()).unwrap_or(default);
    let progress = |p: &portcullis_threads::Progress| {
        eprint!("\r{} runs, {:.0}/s, {:?}", p.executions, p.rate, p.covered);
    };
    let (worlds, strategy) = match what.as_str() {
        "storm" => {
            let (runs, seed) = (number(10_000), number(1));
            (vec![World::storm(1)], Strategy::Random { seed, runs })
        }
        "queue" => (vec![World::one_queue()], Strategy::Exhaustive),
        "coarse" => (World::coarse(), Strategy::Exhaustive),
        "queue-bound" => {
            let bound = number(2) as u16;
            (vec![World::one_queue()], Strategy::Preemptions { bound })
        }
        "busiest" => (vec![World::busiest()], Strategy::Exhaustive),
        _ => (World::exhaustive(), Strategy::Exhaustive),
    };
    for world in worlds {
        let explorer = Explorer::new(Budget::default()).strategy(strategy).progress(progress);
        let report = explorer.run_on(2, |w| world.build(w));
        println!("\n{}: {report}{:?}", world.name, report.reached);
    }
}
