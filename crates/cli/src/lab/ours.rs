//! `lab ours`: the shipped core and driver.

use super::{Answer, OursArgs, OursFamily, render};
use crate::interrupt;
use crate::page;
use crate::progress::{Ticker, short};
use crate::screen::Screen;
use crate::style::Tone;
use crate::table::{Cell, Table};
use portcullis_lab::ours::{Budget, Family, Report, Verdict, World, check};
use portcullis_lab::picture::{Ladder, html};
use portcullis_threads::{Progress, Strategy};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Random schedules of a world that is too big for all.
const RUNS: u64 = 100_000;

pub(crate) fn run(args: &OursArgs) -> Result<Answer, String> {
    if args.list {
        return Ok(Answer { text: list(args), held: true });
    }
    let stop = interrupt::flag();
    let mut found: Vec<Report> = Vec::new();
    for world in worlds(args) {
        let mut ticker = Ticker::new();
        let name = world.title();
        let report = check(&world, budget(args, &world, &stop), move |progress| {
            ticker.say(|_| describe(progress, &name));
        });
        found.push(report);
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    if let Some(path) = &args.html {
        page::write(path, &html::ours(&found))?;
    }
    let held = found.iter().all(|report| report.verdict != Verdict::Violated);
    let text = match args.json {
        true => format!("{:#}\n", as_json(&found)),
        false => {
            let view = render::View::of_stdout(args.full);
            as_text(&found, view)
        }
    };
    Ok(Answer { text, held })
}

fn list(args: &OursArgs) -> String {
    let mut table = Table::new(["world", "what happens"]);
    let all = World::exhaustive().into_iter().chain(World::coarse()).chain(World::revoking());
    let all = all.chain(World::other_families());
    let named = ["busiest", "one-queue"].into_iter().filter_map(World::named);
    for world in all.chain(named).chain([World::storm(args.rounds.into())]) {
        table.row([world.key.as_str().into(), world.title().into()]);
    }
    table.render(Screen::of_stdout())
}

fn describe(progress: &Progress, world: &str) -> String {
    let covered = progress.covered.map(|share| format!("about {:.1} % covered, ", share * 100.0));
    let (runs, rate) = (short(progress.executions as f64), short(progress.rate));
    let covered = covered.unwrap_or_default();
    format!("{runs} runs, {covered}{} violated, {rate} runs/s; {world}", progress.violations)
}

fn worlds(args: &OursArgs) -> Vec<World> {
    match &args.world {
        None => match args.iommu {
            Some(OursFamily(Family::SmmuV3)) => World::exhaustive(),
            Some(OursFamily(family)) => World::of_family(family),
            None => World::exhaustive().into_iter().chain(World::other_families()).collect(),
        },
        Some(world) if world.0.rounds > 0 => vec![World::storm(args.rounds.into())],
        Some(world) => vec![world.0.clone()],
    }
}

fn budget(args: &OursArgs, world: &World, stop: &Arc<AtomicBool>) -> Budget {
    let (seed, runs) = (args.seed, args.random.unwrap_or(RUNS));
    let mut budget = Budget::for_world(world, seed, runs);
    match (args.bound, args.pct, args.random) {
        (Some(bound), ..) => budget.strategy = Strategy::Preemptions { bound },
        (None, Some(depth), _) => budget.strategy = Strategy::Pct { depth, seed, runs },
        (None, None, Some(_)) => budget.strategy = Strategy::Random { seed, runs },
        (None, None, None) => {}
    }
    budget.workers = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    budget.stop = Some(Arc::clone(stop));
    budget
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Clean => "clean",
        Verdict::Violated => "violated",
        Verdict::Bounded => "bounded",
    }
}

fn as_text(found: &[Report], view: render::View) -> String {
    let style = view.style;
    let mut table = Table::new(["world", "verdict", "how", "runs", "longest", "seconds"]);
    for report in found {
        let explored = &report.explored;
        let tone = match report.verdict {
            Verdict::Clean => Tone::Good,
            Verdict::Bounded => Tone::Warn,
            Verdict::Violated => Tone::Bad,
        };
        table.row([
            report.world.title().into(),
            Cell::new(tone, word(report.verdict)),
            explored.strategy.as_str().into(),
            explored.executions.to_string().into(),
            format!("{} steps", explored.longest).into(),
            format!("{:.2}", explored.time.as_secs_f64()).into(),
        ]);
    }
    let mut out = table.render(view.screen);
    for report in found {
        for violation in &report.violations {
            let wrong = format!("{}: {}", violation.property, violation.message);
            let ladder = Ladder::of_run(&violation.ladder, std::slice::from_ref(&wrong));
            out += &format!("\n{}\n{}", style.strong(&report.world.title()), view.ladder(&ladder));
            out += &view.say("wrong", &wrong);
            out += &view.command("replay", &violation.schedule);
        }
    }
    out
}

fn as_json(found: &[Report]) -> Value {
    let worlds = found.iter().map(|report| {
        let violations = report.violations.iter().map(|violation| {
            json!({
                "property": violation.property,
                "message": violation.message,
                "steps": violation.ladder.len(),
                "shortest": violation.shortest,
                "schedule": violation.schedule,
            })
        });
        let explored = &report.explored;
        json!({
            "world": report.world.key,
            "name": report.world.title(),
            "explored": {
                "how": explored.strategy,
                "schedules": explored.executions,
                "steps": explored.steps,
                "exhaustive": explored.exhaustive,
                "seconds": explored.time.as_secs_f64(),
            },
            "verdict": word(report.verdict),
            "violations": violations.collect::<Vec<_>>(),
        })
    });
    Value::Array(worlds.collect())
}
