//! A report as a page that stands alone.

use super::{Report, StepReport};
use portcullis_lab::picture::{Ladder, html};

/// The page: the answer, the steps with predicted and observed side by side, the damage, and the lab's ladder of the same schedule.
#[must_use]
pub fn page(report: &Report) -> String {
    let ladder = Ladder::of_trace(&report.trace, &report.world);
    let title = format!("Linux {} under the schedule {}", report.kernel, report.schedule);
    let world = format!(
        "board {}: {}; predicted with {}",
        report.board.name, report.board.summary, report.protocol
    );
    let mut above = Vec::new();
    if let Some((commit, _)) = &report.ablated {
        above.push(format!("This is not the stock kernel: it ran without {commit}."));
    }
    above.push(report.answer());
    let tables: Vec<html::Table> = report.steps.iter().map(table).collect();
    html::compared(&title, &world, &above, &tables, &damage(report), &ladder)
}

fn table(step: &StepReport) -> html::Table {
    let rows = match (&step.predicted, &step.observed) {
        (Some(predicted), Some(observed)) => {
            let pairs = predicted.fields().into_iter().zip(observed.fields());
            pairs
                .map(|((name, predicted), (_, observed))| [name.to_owned(), predicted, observed])
                .collect()
        }
        _ => Vec::new(),
    };
    html::Table {
        title: format!("{}. {} to {}: {}", step.number, step.who.name(), step.site, step.words),
        below: format!("{} at {}: {}", step.thread, step.stop, step.arrival),
        head: ["field", "predicted", "observed"].map(str::to_owned),
        rows,
        lines: step.console.clone(),
    }
}

fn damage(report: &Report) -> Vec<String> {
    let damage = &report.damage;
    let mut lines = vec![format!("sysfs claims {}", damage.claims)];
    if let Some(works) = damage.works {
        lines.push(if works { "the device works" } else { "the device does not work" }.to_owned());
    }
    lines.extend(damage.interrupts_in_words(report.interrupts_predicted));
    lines.extend(
        damage.smmu_events.iter().map(|(event, number)| format!("SMMU event {event}: {number}")),
    );
    lines.extend(damage.complaints.iter().map(|line| format!("log: {line}")));
    lines
}
