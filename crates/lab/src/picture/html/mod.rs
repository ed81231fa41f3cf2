//! Pages that stand alone: no other file, nothing from a network.
//!
//! A page is made of what the reports hold; everything that comes from them is escaped. The ladder is one SVG
//! per turn of a thread, in the rows of a table, so that a printed page breaks between turns and repeats
//! the threads' names. Hovering over a step, or choosing it by click or with the arrow keys, shows the state
//! after it: the locks, the fields. Without scripts, and on paper, the changes stand beside the steps.

mod compared;
mod escape;
mod matrix;
mod ours;
mod page;
mod svg;

pub use compared::{Table, compared};

use super::{Ladder, words};
use crate::linux::{Advice, Change, Closers, Matrix, Report, Verdict, ViolationReport, replay};
use escape::escaped;
use page::Page;

pub use ours::ours;
pub use page::signed;

/// The page of `lab check`: the verdict, a ladder for every violated property, and what closes them, with what [`advise`](crate::linux::advise) found out about that.
#[must_use]
pub fn report(report: &Report, closers: Option<(&Closers, &[Advice])>) -> String {
    let title = format!("{} in the lab", report.protocol);
    let mut page = Page::new(&title);
    page.add(&format!("<h1>{}</h1>\n", escaped(&report.protocol.to_string())));
    page.add(&format!("<p class=\"world\">{}</p>\n", escaped(&words::world(&report.world))));
    page.add(&verdict(report));
    if let Some((closers, advice)) = closers {
        page.add(&closing(closers, advice));
    }
    if report.violations.len() > 1 {
        page.add(&contents(&report.violations));
    }
    if report.verdict == Verdict::Clean {
        healthy(&mut page, report);
    }
    for (number, found) in report.violations.iter().enumerate() {
        page.add(&violation_head(number, found));
        page.ladder(&Ladder::of_trace(&found.trace, &report.world));
        page.add("</section>\n");
    }
    page.finish()
}

/// What tells a clean world from one in which nothing works: a schedule on which every client ends bound and healthy.
fn healthy(page: &mut Page, report: &Report) {
    let run = report.healthy.as_ref().map(|schedule| (schedule, replay(schedule)));
    let Some((schedule, Ok((_, world, trace)))) = run else {
        page.add("<p class=\"wrong\">On no schedule of this world does every client end bound and healthy.</p>\n");
        return;
    };
    page.add(&format!(
        "<section>\n<h2>Not vacuous</h2>\n<p>Every client can end bound and healthy, as on this schedule:</p>\n<dl><dt>replay</dt><dd>portcullis lab replay {}</dd></dl>\n",
        escaped(schedule)
    ));
    page.ladder(&Ladder::of_trace(&trace, &world));
    page.add("</section>\n");
}

/// The page of `lab replay`: one ladder. `wrong` says what is violated on it.
#[must_use]
pub fn run(title: &str, world: &str, ladder: &Ladder, wrong: &[String]) -> String {
    let mut page = Page::new(&format!("{title}: one schedule"));
    page.add(&format!("<h1>{}</h1>\n<p class=\"world\">{}</p>\n", escaped(title), escaped(world)));
    for wrong in wrong {
        page.add(&format!("<p class=\"wrong\">{}</p>\n", escaped(wrong)));
    }
    page.add("<section>\n");
    page.ladder(ladder);
    page.add("</section>\n");
    page.finish()
}

/// The page of `lab compare`.
#[must_use]
pub fn matrix(matrix: &Matrix) -> String {
    let mut page = Page::new("Every version in every small world");
    page.add("<h1>Every version in every small world</h1>\n");
    page.add(&matrix::table(matrix));
    page.add(&matrix::legend(matrix));
    matrix::details(&mut page, matrix);
    page.finish()
}

/// The word for a verdict, which is its class as well.
fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Clean => "clean",
        Verdict::Violated => "violated",
        Verdict::Bounded => "bounded",
    }
}

fn verdict(report: &Report) -> String {
    let explored = &report.explored;
    let word = word(report.verdict);
    format!(
        "<p class=\"verdict\"><strong class=\"{word}\">{word}</strong> {}{}; {} states, {} ends, {}</p>\n",
        escaped(&explored.mode.to_string()),
        if explored.exhaustive { "" } else { ", not all of them" },
        explored.states,
        explored.schedules,
        words::time(explored.seconds)
    )
}

fn closing(closers: &Closers, advice: &[Advice]) -> String {
    let summary = |change: &Change| {
        let (Change::Apply(commit) | Change::Revert(commit)) = change;
        format!("<b>{}</b>: {}", escaped(&change.to_string()), escaped(commit.info().summary))
    };
    let item = |set: &Vec<Change>| {
        let found = advice.iter().find(|advice| advice.changes == *set);
        let caveats = found.map(words::caveats).filter(|caveats| !caveats.is_empty());
        let caveats = caveats.map(|caveats| format!("<br>{}", escaped(&caveats)));
        let set: Vec<String> = set.iter().map(summary).collect();
        format!("<li>{}{}</li>\n", set.join("; and "), caveats.unwrap_or_default())
    };
    if closers.clean.is_empty() {
        return "<p>No set of known commits makes this world clean.</p>\n".to_owned();
    }
    let items: String = closers.clean.iter().map(item).collect();
    format!(
        "<h2>What closes it</h2>\n<p>Each makes this world clean; found by checking.</p>\n<ul>\n{items}</ul>\n"
    )
}

fn contents(violations: &[ViolationReport]) -> String {
    let item = |(number, found): (usize, &ViolationReport)| {
        format!(
            "<tr><td><a href=\"#violation-{number}\">{}</a></td><td>{}</td><td class=\"number\">{}</td><td>{}</td></tr>\n",
            escaped(&words::code(found)),
            escaped(found.name),
            found.trace.steps.len(),
            escaped(found.meaning)
        )
    };
    let items: String = violations.iter().enumerate().map(item).collect();
    format!(
        "<table class=\"contents\"><thead><tr><th>violated</th><th>name</th><th>steps</th><th>what is wrong</th></tr></thead>\n<tbody>{items}</tbody></table>\n"
    )
}

fn violation_head(number: usize, found: &ViolationReport) -> String {
    let mut out = format!(
        "<section id=\"violation-{number}\">\n<h2>{} {}</h2>\n<p class=\"wrong\">{}</p>\n<dl>",
        escaped(&words::code(found)),
        escaped(found.name),
        escaped(found.meaning)
    );
    let mut say = |term: &str, text: &str| {
        out += &format!("<dt>{term}</dt><dd>{}</dd>\n", escaped(text));
    };
    if let Some(message) = &found.message {
        say("log", message);
    }
    say("seen", &found.symptom);
    let fewest = if found.shortest { ", the fewest that show it" } else { "" };
    say("steps", &format!("{}{fewest}", found.trace.steps.len()));
    say("replay", &format!("portcullis lab replay {}", found.schedule));
    out + "</dl>\n"
}
