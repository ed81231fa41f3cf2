//! The page of `lab ours`.

use super::escape::escaped;
use super::page::Page;
use super::word;
use crate::ours::{Report, ViolationReport};
use crate::picture::{Ladder, words};

/// The page of `lab ours`: the worlds and their verdicts, and a ladder for every violated property.
#[must_use]
pub fn ours(reports: &[Report]) -> String {
    let mut page = Page::new("Our own core in the lab");
    page.add("<h1>Our own core in the lab</h1>\n");
    let rows: String = reports.iter().map(row).collect();
    page.add(&format!(
        "<table class=\"contents\"><thead><tr><th>world</th><th>verdict</th><th>how</th><th>runs</th><th>seconds</th></tr></thead>\n<tbody>{rows}</tbody></table>\n"
    ));
    for report in reports {
        for found in &report.violations {
            page.add(&head(report, found));
            let wrong = format!("{}: {}", found.property, found.message);
            page.ladder(&Ladder::of_run(&found.ladder, &[wrong]));
            page.add("</section>\n");
        }
    }
    page.finish()
}

fn row(report: &Report) -> String {
    let verdict = word(report.verdict);
    let explored = &report.explored;
    format!(
        "<tr><td>{}</td><td><strong class=\"{verdict}\">{verdict}</strong></td><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td></tr>\n",
        escaped(&report.world.title()),
        escaped(&explored.strategy),
        explored.executions,
        words::time(explored.time.as_secs_f64())
    )
}

fn head(report: &Report, found: &ViolationReport) -> String {
    let fewest = if found.shortest { ", as short as it can be" } else { "" };
    format!(
        "<section>\n<h2>{}: {}</h2>\n<p class=\"wrong\">{}</p>\n<dl><dt>steps</dt><dd>{}{fewest}</dd>\n<dt>replay</dt><dd>portcullis lab replay {}</dd>\n</dl>\n",
        escaped(&report.world.title()),
        escaped(&found.property),
        escaped(&found.message),
        found.ladder.len(),
        escaped(&found.schedule)
    )
}
