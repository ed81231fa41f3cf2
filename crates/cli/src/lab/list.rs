//! `lab list`.

use super::render::View;
use super::{Answer, ListArgs};
use crate::style::Tone;
use crate::table::{Cell, Table};
use portcullis_lab::linux::{BASES, BaseInfo, COMMITS, CommitInfo};
use portcullis_lab::picture::text::paragraph;
use portcullis_lab::picture::words;
use serde_json::{Value, json};

pub(crate) fn run(args: &ListArgs) -> Answer {
    let text = match args.json {
        true => format!("{:#}\n", as_json()),
        false => as_text(View::of_stdout(false)),
    };
    Answer { text, held: true }
}

fn as_json() -> Value {
    let names = |bases: &[portcullis_lab::linux::BaseId]| -> Vec<&str> {
        bases.iter().map(|base| base.name()).collect()
    };
    let bases = BASES.iter().map(|base| {
        json!({
            "name": base.name,
            "aliases": base.aliases,
            "summary": base.summary,
            "like": base.kin.map(|kin| kin.name()),
        })
    });
    let commits = COMMITS.iter().map(|commit| {
        json!({
            "id": commit.id,
            "hash": commit.hash,
            "since": commit.since,
            "subject": commit.subject,
            "summary": commit.summary,
            "carried_by": names(commit.carried_by),
            "applies_to": names(commit.applies_to),
            "reverts_from": names(commit.reverts_from),
            "needs": commit.needs.iter().map(|commit| commit.id()).collect::<Vec<_>>(),
        })
    });
    json!({"bases": bases.collect::<Vec<_>>(), "commits": commits.collect::<Vec<_>>()})
}

fn as_text(view: View) -> String {
    let (style, width) = (view.style, view.width());
    let mut out = format!("{}\n", style.strong("Versions"));
    let mut table = Table::bare(2);
    for base in BASES {
        let aliases = match base.aliases {
            [] => String::new(),
            aliases => format!("({})", aliases.join(", ")),
        };
        table.row([base.name.into(), Cell::new(Tone::Quiet, aliases), base.summary.into()]);
    }
    out += &table.render(view.screen);
    out += &format!("\n{}\n", style.strong("Commits"));
    let matrix = matrix();
    let wide = matrix.fits(view.screen);
    if wide {
        out += "  * carried   - carried, can be reverted   + can be applied   . neither\n\n";
        out += &matrix.render(view.screen);
        out.push('\n');
    }
    for commit in COMMITS {
        let needs: Vec<&str> = commit.needs.iter().map(|commit| commit.id()).collect();
        let needs =
            if needs.is_empty() { String::new() } else { format!(" (needs {})", needs.join(", ")) };
        let carriers = words::carriers(commit);
        let marks = if wide { String::new() } else { in_words(commit) };
        let text = format!("\"{}\", {carriers}. {}{needs}.{marks}", commit.subject, commit.summary);
        out += &paragraph(&format!("  {:<20}", commit.id), &text, width);
    }
    out
}

/// Which commit is in which version, and where it can be changed.
fn matrix() -> Table {
    let bases = BASES.iter().map(|base| base.name.trim_start_matches('v'));
    let mut table = Table::new(["id", "since"].into_iter().chain(bases)).indented(2);
    for commit in COMMITS {
        let first = [commit.id, commit.since.split(',').next().unwrap_or("")];
        let marks = BASES.iter().map(|base| mark(commit, base));
        let marks = marks.map(|(mark, tone)| Cell::new(tone, mark));
        table.row(first.map(Cell::from).into_iter().chain(marks));
    }
    table
}

/// A commit's row of the matrix as sentences.
fn in_words(commit: &CommitInfo) -> String {
    let with = |wanted: &str| {
        let bases = BASES.iter().filter(|base| mark(commit, base).0 == wanted);
        bases.map(|base| base.name).collect::<Vec<_>>().join(", ")
    };
    let told = [("Carried by", "*"), ("Can be reverted from", "-"), ("Can be applied to", "+")];
    let told = told.map(|(what, mark)| (what, with(mark)));
    told.iter()
        .filter(|(_, bases)| !bases.is_empty())
        .map(|(what, bases)| format!(" {what} {bases}."))
        .collect()
}

fn mark(commit: &CommitInfo, base: &BaseInfo) -> (&'static str, Tone) {
    if commit.carried_by.contains(&base.id) {
        if commit.reverts_from.contains(&base.id) { ("-", Tone::Warn) } else { ("*", Tone::Strong) }
    } else if base.kin.map_or(base.id, |kin| kin) == base.id && commit.applies_to.contains(&base.id)
        || base.kin.is_some_and(|kin| commit.applies_to.contains(&kin))
    {
        ("+", Tone::Good)
    } else {
        (".", Tone::Quiet)
    }
}
