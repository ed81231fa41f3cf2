//! Many schedules on many kernels: the table of `docs/replay.md`.

use super::{Sources, said};
use portcullis_qemu::Installation;
use portcullis_replay::board::{Board, SURVEY};
use portcullis_replay::{Options, Outcome, Replay, Report, Schedule};
use std::io::Write;

/// Runs every schedule of the survey on each kernel, and prints a row of Markdown as soon as it is known. Says whether everything was as predicted.
pub(super) fn run(
    sources: &mut Sources,
    qemu: &Installation,
    versions: &[String],
    runs: u32,
) -> Result<bool, String> {
    let busybox = sources.busybox(None)?;
    row("| kernel | board | schedule | predicted | observed | as predicted | seconds |")?;
    row("| --- | --- | --- | --- | --- | --- | --- |")?;
    let mut all_agree = true;
    for version in versions {
        let kernel = sources.kernel(&[], None, Some(version))?;
        for (board, name) in SURVEY {
            let board = Board::find(board).map_err(said)?;
            let schedule = Schedule::parse(name).map_err(said)?;
            if board.supported_by(qemu).is_err() || !schedule.exists_on(kernel.version, board) {
                continue;
            }
            let options = Options::default();
            let replay =
                Replay { qemu, kernel: &kernel, busybox: &busybox, board, schedule, options };
            let reports: Vec<_> = (0..runs).map(|_| replay.run()).collect();
            let head = format!("| {} | {} | {name} |", kernel.name, board.name);
            all_agree &= reports.iter().all(|report| report.as_ref().is_ok_and(Report::agrees));
            row(&format!("{head} {}", cells(&reports)))?;
        }
    }
    Ok(all_agree)
}

fn cells(reports: &[Result<Report, portcullis_replay::Error>]) -> String {
    let done: Vec<&Report> = reports.iter().filter_map(|report| report.as_ref().ok()).collect();
    let agreeing = done.iter().filter(|report| report.agrees()).count();
    let Some(first) = done.first() else {
        let error = reports.iter().find_map(|report| report.as_ref().err());
        let error = error.map(ToString::to_string).unwrap_or_default();
        return format!(
            "| not done: {} | 0 of {} | |",
            error.lines().next().unwrap_or_default(),
            reports.len()
        );
    };
    // What is worth telling is what is not as predicted.
    let told = done.iter().find(|report| !report.agrees()).unwrap_or(first);
    let observed = match (told.agrees(), told.observed == told.predicted) {
        (true, true) => brief(&told.observed),
        // The only difference that agrees with a prediction.
        (true, false) => {
            format!("{}; the driver fails and gives its claim back", brief(&told.observed))
        }
        (false, _) => told.answer(),
    };
    let slowest = done.iter().map(|report| report.seconds.1).fold(0.0, f64::max);
    format!(
        "{} | {observed} | {agreeing} of {} | {slowest:.0} |",
        brief(&told.predicted),
        reports.len()
    )
}

fn brief(outcome: &Outcome) -> String {
    outcome.to_string().replace(": the whole schedule ran, nothing is wrong", "")
}

fn row(text: &str) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|error| error.to_string())
}
