//! One measurement, in this process.

use portcullis_explore::search::{Control, Outcome, Strategy, explore};
use stateright::{Checker, Model};

use crate::packed::Packed;
use crate::protocol::comparison;
use crate::stateright_model::Comparison;
use crate::{cpu, loom_model, shuttle_model, spin};

/// The size of the model.
#[derive(Debug, Clone, Copy)]
pub struct World {
    pub clients: u32,
    pub iommus: u32,
    pub fixed: bool,
}

/// What a measurement prints, on one line: `CPU-seconds states generated peak-KiB remark`.
struct Line {
    seconds: f64,
    states: u64,
    generated: u64,
    remark: String,
}

/// Runs `tool` on `world` and prints the result.
pub fn measure(tool: &str, world: World) {
    let started = cpu::own();
    let mut line = match tool {
        "packed-full" => ours(&by_hand(world, Strategy::Exhaustive { reduce: false })),
        "packed-reduced" => ours(&by_hand(world, Strategy::Exhaustive { reduce: true })),
        "protocol-full" => ours(&protocol(world, Strategy::Exhaustive { reduce: false })),
        "protocol-reduced" => ours(&protocol(world, Strategy::Exhaustive { reduce: true })),
        "stateright-bfs" | "stateright-dfs" => stateright(world, tool.ends_with("bfs")),
        "shuttle-dfs" | "shuttle-random" | "shuttle-pct" => shuttle(world, tool),
        "loom" => loom(world),
        "spin-full" => spin_line(world, false),
        "spin-reduced" => spin_line(world, true),
        other => panic!("no tool `{other}`"),
    };
    if line.seconds == 0.0 {
        line.seconds = cpu::own() - started;
    }
    let Line { seconds, states, generated, remark } = line;
    println!("{seconds} {states} {generated} {} {remark}", peak_kib());
}

/// First-bug searches stop at the first violation.
fn control(world: World) -> Control<'static> {
    Control { stop_at_first: !world.fixed, ..Control::default() }
}

fn by_hand(world: World, strategy: Strategy) -> Outcome {
    let model = Packed::new(world.clients, world.iommus, world.fixed);
    explore(&model, "packed", strategy, &mut control(world)).expect("a sound model")
}

fn protocol(world: World, strategy: Strategy) -> Outcome {
    let protocol = comparison(world.clients as usize, world.iommus as usize, world.fixed);
    let outcome = protocol.explore(strategy, &mut control(world)).expect("a sound protocol");
    for violation in &outcome.violations {
        let trace = protocol.replay(&violation.schedule).expect("a schedule replays");
        assert!(trace.violated().contains(&violation.property.as_str()));
    }
    outcome
}

fn ours(outcome: &Outcome) -> Line {
    let bug = outcome.violations.first().map(|v| {
        let shortest = if v.shortest { "shortest" } else { "not shown to be the shortest" };
        format!("bug in {} steps, {shortest}", v.schedule.moves.len())
    });
    let per_state = outcome.bytes as f64 / outcome.states as f64;
    Line {
        seconds: 0.0,
        states: outcome.states,
        generated: outcome.transitions,
        remark: bug.unwrap_or_else(|| format!("{per_state:.1} B a state in own tables")),
    }
}

fn stateright(world: World, breadth: bool) -> Line {
    let model = Comparison {
        clients: world.clients as u8,
        iommus: world.iommus as u8,
        fixed: world.fixed,
        search_on: false,
    };
    let builder = model.checker().threads(1);
    let (unique, generated, bug) = if breadth {
        let checker = builder.spawn_bfs().join();
        let path = checker.discovery("right DMA").map(|p| p.into_actions().len());
        (checker.unique_state_count(), checker.state_count(), path)
    } else {
        let checker = builder.spawn_dfs().join();
        let path = checker.discovery("right DMA").map(|p| p.into_actions().len());
        (checker.unique_state_count(), checker.state_count(), path)
    };
    let remark = bug.map_or_else(String::new, |n| format!("bug in {n} steps"));
    Line { seconds: 0.0, states: unique as u64, generated: generated as u64, remark }
}

/// Counts executions; a panic in one is the bug.
fn executions(
    run: impl FnOnce(Box<dyn Fn() + Send + Sync>),
    world: World,
    body: fn(World),
) -> Line {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    std::panic::set_hook(Box::new(|_| {}));
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    let all = Box::new(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        body(world);
    });
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(all)));
    let _ = std::panic::take_hook();
    let count = count.load(Ordering::Relaxed);
    let remark = if result.is_err() { format!("bug in execution {count}") } else { String::new() };
    Line { seconds: 0.0, states: 0, generated: count, remark }
}

fn shuttle(world: World, tool: &str) -> Line {
    let body = |w: World| shuttle_model::run(w.clients as usize, w.iommus as usize, w.fixed);
    match tool {
        "shuttle-dfs" => executions(|f| ::shuttle::check_dfs(f, None), world, body),
        "shuttle-random" => executions(|f| ::shuttle::check_random(f, 10_000), world, body),
        _ => executions(|f| ::shuttle::check_pct(f, 10_000, 3), world, body),
    }
}

fn loom(world: World) -> Line {
    let body = |w: World| loom_model::run(w.clients as usize, w.iommus as usize, w.fixed);
    executions(
        |f| {
            let mut builder = ::loom::model::Builder::new();
            builder.max_branches = 100_000;
            builder.check(f);
        },
        world,
        body,
    )
}

fn spin_line(world: World, reduce: bool) -> Line {
    let result = spin::run(world, reduce);
    Line {
        seconds: result.seconds,
        states: result.states,
        generated: result.transitions,
        remark: format!("{}; {} MB", result.remark, result.megabytes),
    }
}

/// The peak resident memory of this process.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}
