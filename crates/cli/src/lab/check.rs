//! `lab check`.

use super::confirm::{Bench, Confirmation};
use super::render::Cure;
use super::{Answer, CheckArgs, render};
use crate::interrupt;
use crate::page;
use crate::progress::{Background, Ticker, short};
use portcullis_explore::search::{Mode, Progress, Strategy};
use portcullis_lab::linux::{self, Budget, Commit, Protocol, Report, Verdict, World};
use portcullis_lab::picture::html;
use portcullis_lab::tree;
use serde_json::Value;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Sets of commits that are looked at in the worlds beside.
const ADVISED: usize = 4;

/// Random schedules when only their kind is given.
const RUNS: u64 = 100_000;

pub(crate) fn run(args: &CheckArgs) -> Result<Answer, String> {
    let world = args.world.world()?;
    let (heading, protocols) = protocols(args)?;
    let mut answer = Answer { text: heading, held: true };
    let mut found = Vec::new();
    let bench = Bench::set_up(&args.confirm)?;
    for (assumed, protocol) in protocols {
        let (report, cure) = explore(args, &protocol, &world)?;
        answer.held &= report.verdict != Verdict::Violated;
        if !args.json {
            answer.text += &assumed;
            let view = render::View::of_stdout(args.full);
            answer.text += &render::report(&report, cure.as_ref(), args.all, view);
        }
        let confirmed = bench.as_ref().map(|bench| bench.confirm(&report, args.all));
        for (name, confirmation) in confirmed.iter().flatten().filter(|_| !args.json) {
            let view = render::View::of_stdout(args.full);
            let words = format!("{name}: {}", confirmation.words());
            answer.text += &view.say(confirmation.word(), &words);
        }
        found.push(Found { report, cure, confirmed });
    }
    if let (Some(path), [Found { report, cure, .. }, ..]) = (&args.html, &found[..]) {
        let cure = cure.as_ref().map(|cure| (&cure.closers, &cure.advice[..]));
        page::write(path, &html::report(report, cure))?;
    }
    if args.json {
        answer.text = match &found[..] {
            [one] => one.to_json()? + "\n",
            many => {
                let all: Result<Vec<String>, String> = many.iter().map(Found::to_json).collect();
                format!("[{}]\n", all?.join(",\n"))
            }
        };
    }
    Ok(answer)
}

/// What was found for one protocol.
struct Found {
    report: Report,
    cure: Option<Cure>,
    /// With `--confirm`: properties, and what became of each on a kernel.
    confirmed: Option<Vec<(&'static str, Confirmation)>>,
}

impl Found {
    fn to_json(&self) -> Result<String, String> {
        let text = self.report.to_json();
        let Some(confirmed) = &self.confirmed else { return Ok(text) };
        let mut value: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let all = confirmed.iter().map(|(property, confirmation)| confirmation.as_json(property));
        value["confirmed"] = all.collect();
        Ok(format!("{value:#}"))
    }
}

/// What to say before, and the protocols to explore, each with what is assumed for it.
fn protocols(args: &CheckArgs) -> Result<(String, Vec<(String, Protocol)>), String> {
    let say = |error: &dyn std::fmt::Display| error.to_string();
    let Some(path) = &args.tree else {
        let base = args.base.as_deref().unwrap_or_default();
        let protocol =
            Protocol::parse(base, &args.apply, &args.revert).map_err(|error| say(&error))?;
        return Ok((String::new(), vec![(String::new(), protocol)]));
    };
    let findings = tree::read(path).map_err(|error| say(&error))?;
    let readings = findings.protocols().map_err(|error| say(&error))?;
    let view = render::View::of_stdout(false);
    let heading = super::tree::summary(path, &findings, &readings, view) + "\n";
    let mut protocols = Vec::new();
    for reading in &readings {
        let protocol = changed(&reading.protocol, args)?;
        protocols.push((super::tree::assumption(reading, view), protocol));
    }
    Ok((heading, protocols))
}

/// The tree's protocol with what the command line applies and reverts.
fn changed(protocol: &Protocol, args: &CheckArgs) -> Result<Protocol, String> {
    let commit = |id: &String| {
        Commit::find(id).ok_or_else(|| format!("unknown commit `{id}`; `lab list` has those known"))
    };
    let mut protocol = protocol.clone();
    for id in &args.revert {
        protocol = protocol.without(commit(id)?).map_err(|error| error.to_string())?;
    }
    for id in &args.apply {
        protocol = protocol.with(commit(id)?).map_err(|error| error.to_string())?;
    }
    Ok(protocol)
}

fn explore(
    args: &CheckArgs,
    protocol: &Protocol,
    world: &World,
) -> Result<(Report, Option<Cure>), String> {
    let stop = interrupt::flag();
    let mut budget = Budget { stop: Some(&stop), ..Budget::for_world(world) };
    if let Some(strategy) = strategy(args) {
        budget.strategy = strategy;
    }
    if strategy(args).is_none() && takes_minutes(protocol, world) && std::io::stderr().is_terminal()
    {
        eprintln!(
            "this world takes minutes; `--bound 2` covers, sooner, every schedule with at most two interruptions"
        );
    }
    let mut ticker = Ticker::new();
    let report = linux::check(protocol, world, budget, &mut |progress| {
        ticker.say(|_| describe(progress));
    });
    drop(ticker);
    let report = report.map_err(|error| error.to_string())?;
    let wants_closers = !args.no_closers && (!args.json || args.html.is_some());
    let cure = if wants_closers { find_cure(&report, &stop)? } else { None };
    Ok((report, cure))
}

/// Whether every schedule of a world is more than a minute's work (docs/performance.md, "Linux worlds"). From bcb81ac6ae3c on, whose walk gives the probe
/// lock back for each client, one registration or client fewer is enough for that.
fn takes_minutes(protocol: &Protocol, world: &World) -> bool {
    let walks_overlap = protocol.has(Commit::ParseInWalk);
    world.registering > 1 && world.registering + world.clients > if walks_overlap { 4 } else { 5 }
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

fn find_cure(report: &Report, stop: &AtomicBool) -> Result<Option<Cure>, String> {
    if report.verdict != Verdict::Violated || stop.load(Ordering::Relaxed) {
        return Ok(None);
    }
    let began = Instant::now();
    let ticker = Background::new("looking for commits that close it");
    let closers = linux::closers(report, Some(stop)).map_err(|error| error.to_string())?;
    drop(ticker);
    let _ticker = Background::new("looking at these in the worlds beside");
    let first: Vec<_> = closers.clean.iter().take(ADVISED).cloned().collect();
    let advice = linux::advise(report, &first, Some(stop)).map_err(|error| error.to_string())?;
    let cut_short = stop.load(Ordering::Relaxed);
    Ok((!cut_short).then(|| Cure { closers, advice, seconds: began.elapsed().as_secs_f64() }))
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

#[cfg(test)]
mod tests {
    use super::takes_minutes;
    use portcullis_lab::linux::{Protocol, World};

    /// Measured: `docs/performance.md`, "Linux worlds".
    #[test]
    fn long_searches_are_known_beforehand() {
        let takes = |base: &str, registering, clients| {
            let protocol = Protocol::parse::<&str>(base, &[], &[]).unwrap();
            takes_minutes(&protocol, &World::of(3, registering, clients))
        };
        assert!(takes("v7.3", 3, 2) && !takes("v7.3", 2, 2) && !takes("v7.3", 1, 3));
        assert!(takes("v6.6", 3, 3) && !takes("v6.6", 3, 2) && !takes("v6.6", 2, 3));
    }
}
