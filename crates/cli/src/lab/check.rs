//! `lab check`.

use super::progress::{Background, Ticker, short};
use super::{Answer, CheckArgs, interrupt, render, write_page};
use portcullis_explore::search::{Mode, Progress, Strategy};
use portcullis_lab::linux::{self, Budget, Closers, Protocol, Report, Verdict};
use portcullis_lab::picture::html;
use std::sync::atomic::AtomicBool;

/// Random schedules when only their kind is given.
const RUNS: u64 = 100_000;

pub(crate) fn run(args: &CheckArgs) -> Result<Answer, String> {
    let protocol = Protocol::parse(&args.base, &args.apply, &args.revert)
        .map_err(|error| error.to_string())?;
    let world = args.world.world()?;
    let stop = interrupt::flag();
    let mut budget = Budget { stop: Some(&stop), ..Budget::for_world(&world) };
    if let Some(strategy) = strategy(args) {
        budget.strategy = strategy;
    }
    let mut ticker = Ticker::new();
    let report = linux::check(&protocol, &world, budget, &mut |progress| {
        ticker.say(|| describe(progress));
    });
    drop(ticker);
    let report = report.map_err(|error| error.to_string())?;
    let wants_closers = !args.no_closers && (!args.json || args.html.is_some());
    let closers = if wants_closers { find_closers(&report, &stop)? } else { None };
    if let Some(path) = &args.html {
        write_page(path, &html::report(&report, closers.as_ref()))?;
    }
    let text = match args.json {
        true => report.to_json() + "\n",
        false => {
            let view = render::View::of_stdout(args.full);
            render::report(&report, closers.as_ref(), args.all, view)
        }
    };
    Ok(Answer { text, held: report.verdict != Verdict::Violated })
}

fn strategy(args: &CheckArgs) -> Option<Strategy> {
    let (runs, seed) = (args.random.unwrap_or(RUNS), args.seed);
    match (args.bound, args.pct, args.random) {
        (Some(preemptions), ..) => Some(Strategy::Bounded { preemptions }),
        (None, Some(depth), _) => Some(Strategy::Pct { depth, runs, seed }),
        (None, None, Some(_)) => Some(Strategy::Random { runs, seed }),
        (None, None, None) => None,
    }
}

fn find_closers(report: &Report, stop: &AtomicBool) -> Result<Option<Closers>, String> {
    if report.verdict != Verdict::Violated || stop.load(std::sync::atomic::Ordering::Relaxed) {
        return Ok(None);
    }
    let _ticker = Background::new("looking for commits that close it");
    let closers = linux::closers(report, Some(stop)).map_err(|error| error.to_string())?;
    let cut_short = stop.load(std::sync::atomic::Ordering::Relaxed);
    Ok((!cut_short).then_some(closers))
}

fn describe(progress: &Progress) -> String {
    let Progress { states, frontier, schedules, violations, seconds, transitions, .. } = *progress;
    let rate = short(transitions as f64 / seconds.max(1e-3));
    let covered = match progress.mode {
        Mode::Random | Mode::Pct(_) => format!("{} runs", short(schedules as f64)),
        _ => format!("{} states, {} waiting", short(states as f64), short(frontier as f64)),
    };
    format!("{seconds:.0} s: {covered}, {violations} violated, {rate} steps/s")
}
