//! `lab ours`: the shipped core and driver.

use super::progress::{Ticker, short};
use super::{Answer, OursArgs, OursWorld, interrupt, render};
use crate::style::table;
use portcullis_lab::ours::World;
use portcullis_lab::picture::Ladder;
use portcullis_threads::{Budget, Explorer, Report, Schedule, Strategy};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;

/// How a schedule of the shipped core begins, as it is printed: `ours/<world>/t1:...`.
pub(crate) const PREFIX: &str = "ours/";

/// Random schedules of a world that is too big for all.
const RUNS: u64 = 100_000;

pub(crate) fn run(args: &OursArgs) -> Result<Answer, String> {
    let stop = interrupt::flag();
    let mut found: Vec<(String, World, Report)> = Vec::new();
    for (key, world) in worlds(args) {
        let mut ticker = Ticker::new();
        let name = world.name;
        let explorer =
            Explorer::new(Budget::default()).strategy(strategy(args, &world)).stop(stop.clone());
        let explorer = explorer.progress(move |progress| {
            ticker.say(|| {
                let covered =
                    progress.covered.map(|share| format!("about {:.1} % covered, ", share * 100.0));
                let (runs, rate) = (short(progress.executions as f64), short(progress.rate));
                let covered = covered.unwrap_or_default();
                format!(
                    "{runs} runs, {covered}{} violated, {rate} runs/s; {name}",
                    progress.violations
                )
            });
        });
        let workers = std::thread::available_parallelism().map_or(1, usize::from) as u64;
        let report = explorer.run_on(workers, |w| world.build(w));
        found.push((key, world, report));
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    let held = found.iter().all(|(.., report)| report.is_clean());
    let text = match args.json {
        true => format!("{:#}\n", as_json(&found)),
        false => {
            let view = render::View::of_stdout(args.full);
            as_text(&found, view)
        }
    };
    Ok(Answer { text, held })
}

fn worlds(args: &OursArgs) -> Vec<(String, World)> {
    match args.world {
        None => World::exhaustive().into_iter().map(|world| (letter(&world), world)).collect(),
        Some(name) => vec![world(name, args.rounds)],
    }
}

fn letter(world: &World) -> String {
    world.name.chars().take(1).collect()
}

fn world(name: OursWorld, rounds: u16) -> (String, World) {
    match name {
        OursWorld::Busiest => ("busiest".to_owned(), World::busiest()),
        OursWorld::Storm => (format!("storm{rounds}"), World::storm(rounds.into())),
        OursWorld::Letter(wanted) => {
            let mut worlds = World::exhaustive().into_iter();
            let world = worlds.find(|world| world.name.starts_with(wanted));
            (wanted.to_string(), world.expect("parsing accepts only letters of worlds"))
        }
    }
}

fn strategy(args: &OursArgs, world: &World) -> Strategy {
    let (seed, runs) = (args.seed, args.random.unwrap_or(RUNS));
    let too_big = world.rounds > 0;
    match (args.bound, args.pct, args.random) {
        (Some(bound), ..) => Strategy::Preemptions { bound },
        (None, Some(depth), _) => Strategy::Pct { depth, seed, runs },
        (None, None, None) if !too_big => Strategy::Exhaustive,
        (None, None, _) => Strategy::Random { seed, runs },
    }
}

fn verdict(report: &Report) -> &'static str {
    match (report.is_clean(), report.exhaustive) {
        (false, _) => "violated",
        (true, true) => "clean",
        (true, false) => "bounded",
    }
}

fn as_text(found: &[(String, World, Report)], view: render::View) -> String {
    let style = view.style;
    let head = ["world", "verdict", "how", "runs", "longest", "seconds"];
    let mut rows = vec![head.map(|word| style.head(word)).to_vec()];
    for (_, world, report) in found {
        let verdict = match verdict(report) {
            "clean" => style.good("clean"),
            "bounded" => style.warn("bounded"),
            other => style.bad(other),
        };
        rows.push(vec![
            world.name.to_owned(),
            verdict,
            report.strategy.clone(),
            report.executions.to_string(),
            format!("{} steps", report.longest),
            format!("{:.2}", report.time.as_secs_f64()),
        ]);
    }
    let mut out = table(&rows);
    for (key, world, report) in found {
        for violation in &report.violations {
            let wrong = format!("{}: {}", violation.property, violation.message);
            let ladder = Ladder::of_run(&violation.ladder, std::slice::from_ref(&wrong));
            out += &format!("\n{}\n{}", style.strong(world.name), view.ladder(&ladder));
            out += &view.say("wrong", &wrong);
            out += &view.command("replay", &format!("{PREFIX}{key}/{}", violation.schedule));
        }
    }
    out
}

fn as_json(found: &[(String, World, Report)]) -> Value {
    let worlds = found.iter().map(|(key, world, report)| {
        let violations = report.violations.iter().map(|violation| {
            json!({
                "property": violation.property,
                "message": violation.message,
                "steps": violation.ladder.len(),
                "shortest": violation.shortest,
                "schedule": format!("{PREFIX}{key}/{}", violation.schedule),
            })
        });
        json!({
            "world": key,
            "name": world.name,
            "explored": {
                "how": report.strategy,
                "schedules": report.executions,
                "steps": report.steps,
                "exhaustive": report.exhaustive,
                "seconds": report.time.as_secs_f64(),
            },
            "verdict": verdict(report),
            "violations": violations.collect::<Vec<_>>(),
        })
    });
    Value::Array(worlds.collect())
}

/// A title, the world in words, the picture and what is wrong.
pub(crate) type Replayed = (String, String, Ladder, Vec<String>);

/// Runs `<world>/t1:...` again.
pub(crate) fn replay(rest: &str) -> Result<Replayed, String> {
    let (key, schedule) = rest.split_once('/').ok_or_else(|| {
        format!("`{PREFIX}{rest}` is not a schedule; it must be `{PREFIX}<world>/t1:...`")
    })?;
    let world = match key.strip_prefix("storm") {
        Some(rounds) => {
            let rounds = rounds
                .parse()
                .map_err(|_| format!("`{key}` is not a world; a storm is `storm<rounds>`"))?;
            world(OursWorld::Storm, rounds).1
        }
        None => world(key.parse()?, 1).1,
    };
    let schedule: Schedule = schedule.parse().map_err(|error| format!("{error}"))?;
    let replay = Explorer::new(Budget::default())
        .replay(&schedule, |w| world.build(w))
        .map_err(|error| error.to_string())?;
    let wrong: Vec<String> = replay
        .violations
        .iter()
        .map(|(property, message)| format!("{property}: {message}"))
        .collect();
    let ladder = Ladder::of_run(&replay.ladder, &wrong);
    Ok(("our core".to_owned(), world.name.to_owned(), ladder, wrong))
}
