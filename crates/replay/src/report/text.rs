//! A report for a terminal.

use super::{Report, StepReport};
use std::fmt::Write as _;

/// How to paint words; the caller knows the terminal.
#[derive(Clone, Copy)]
pub struct Paint<'a> {
    /// Headings.
    pub strong: &'a dyn Fn(&str) -> String,
    /// What is as it should be.
    pub good: &'a dyn Fn(&str) -> String,
    /// What is wrong.
    pub bad: &'a dyn Fn(&str) -> String,
    /// What matters less.
    pub quiet: &'a dyn Fn(&str) -> String,
}

impl std::fmt::Debug for Paint<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Paint")
    }
}

/// The whole report.
#[must_use]
pub fn render(report: &Report, paint: Paint<'_>) -> String {
    let mut out = head(report, paint);
    for step in &report.steps {
        out += &one_step(step, paint);
    }
    out += &tail(report, paint);
    out
}

// Writing to a string cannot fail: the results of `write!` are dropped below.

fn head(report: &Report, paint: Paint<'_>) -> String {
    let mut out = String::new();
    let kernel = (paint.strong)(&format!("Linux {}", report.kernel));
    let _ = writeln!(out, "{kernel}, board {}: {}", report.board.name, report.board.summary);
    if let Some((commit, times)) = &report.ablated {
        let text =
            format!("not the stock kernel: without {commit} (one register altered, {times} times)");
        let _ = writeln!(out, "{}", (paint.bad)(&text));
    }
    let _ = writeln!(
        out,
        "schedule {}; predicted with the lab's protocol {}\n",
        report.schedule, report.protocol
    );
    out
}

fn one_step(step: &StepReport, paint: Paint<'_>) -> String {
    let mut out = String::new();
    let title = format!("{:>2}  {} to {}", step.number, step.who.name(), step.site);
    let _ = writeln!(out, "{}: {}", (paint.strong)(&title), step.words);
    let at = format!("    {} at {}: {}", step.thread, step.stop, step.arrival);
    let _ = writeln!(out, "{}", (paint.quiet)(&at));
    out += &fields(step, paint);
    for line in &step.console {
        let _ = writeln!(out, "    {}", (paint.quiet)(&format!("| {line}")));
    }
    if !step.events.is_empty() {
        let events: Vec<String> =
            step.events.iter().map(|(name, number)| format!("{name} {number}")).collect();
        let _ = writeln!(out, "    {}", (paint.quiet)(&format!("SMMU: {}", events.join(", "))));
    }
    out
}

/// A table: field, predicted, observed.
fn fields(step: &StepReport, paint: Paint<'_>) -> String {
    let (Some(predicted), Some(observed)) = (&step.predicted, &step.observed) else {
        return String::new();
    };
    let differing: Vec<&str> = step.deviations().iter().map(|deviation| deviation.what).collect();
    let rows = predicted.fields().into_iter().zip(observed.fields());
    let mut out = String::new();
    for ((name, predicted), (_, observed)) in rows {
        let row = format!("    {name:<16}{predicted:<12}{observed:<12}");
        let row = row.trim_end();
        let _ = match (differing.contains(&name), predicted == observed) {
            (true, _) => writeln!(out, "{}  {}", row, (paint.bad)("differs")),
            (false, true) => writeln!(out, "{row}"),
            (false, false) => {
                writeln!(out, "{row}  {}", (paint.quiet)("given back by a driver that failed"))
            }
        };
    }
    out
}

fn tail(report: &Report, paint: Paint<'_>) -> String {
    let mut out = String::new();
    let answer = report.answer();
    let painted = if report.agrees() { (paint.good)(&answer) } else { (paint.bad)(&answer) };
    let _ = writeln!(out, "\n{}", painted);
    if !report.agrees() {
        let _ = writeln!(out, "predicted: {}", report.predicted);
    }
    let damage = &report.damage;
    let works = match damage.works {
        Some(true) => "the device works".to_owned(),
        Some(false) => "the device does not work".to_owned(),
        None if report.board.client.dma_translated => {
            "whether the device's DMA works cannot be told: no packet is sent".to_owned()
        }
        None => {
            "QEMU does not translate this device's DMA: whether it works says nothing".to_owned()
        }
    };
    let _ = writeln!(out, "afterwards: {works}; sysfs claims {}", damage.claims);
    if let Some(words) = damage.interrupts_in_words(report.interrupts_predicted) {
        let _ = writeln!(out, "            {words}");
    }
    for (name, counts) in [("reported", &damage.smmu_events), ("did", &damage.trace)] {
        if !counts.is_empty() {
            let all: Vec<String> =
                counts.iter().map(|(name, number)| format!("{name} {number}")).collect();
            let _ = writeln!(out, "            the SMMU {name}: {}", all.join(", "));
        }
    }
    for complaint in &damage.complaints {
        let _ = writeln!(out, "            log: {complaint}");
    }
    let (stops, parks, packets) = report.counts;
    let timing =
        format!("{:.1} s, {stops} stops, {parks} parks, {packets} packets", report.seconds.1);
    let _ = writeln!(out, "{}", (paint.quiet)(&timing));
    out
}
