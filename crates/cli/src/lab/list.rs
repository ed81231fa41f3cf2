//! `lab list`.

use super::render::View;
use super::{Answer, ListArgs};
use crate::style::{Style, table};
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
    let rows: Vec<Vec<String>> = BASES
        .iter()
        .map(|base| {
            let aliases = match base.aliases {
                [] => String::new(),
                aliases => format!("({})", aliases.join(", ")),
            };
            vec![format!("  {}", base.name), style.quiet(&aliases), base.summary.to_owned()]
        })
        .collect();
    out += &table(&rows);
    out += &format!("\n{}\n", style.strong("Commits"));
    out += "  * carried   - carried, can be reverted   + can be applied   . neither\n\n";
    let mut rows = vec![vec!["  id".to_owned(), "since".to_owned()]];
    rows[0].extend(BASES.iter().map(|base| base.name.trim_start_matches('v').to_owned()));
    for commit in COMMITS {
        let mut row = vec![
            format!("  {}", commit.id),
            commit.since.split(',').next().unwrap_or("").to_owned(),
        ];
        row.extend(BASES.iter().map(|base| mark(commit, base, style)));
        rows.push(row);
    }
    out += &table(&rows);
    out.push('\n');
    for commit in COMMITS {
        let needs: Vec<&str> = commit.needs.iter().map(|commit| commit.id()).collect();
        let needs =
            if needs.is_empty() { String::new() } else { format!(" (needs {})", needs.join(", ")) };
        let carriers = words::carriers(commit);
        let text = format!("\"{}\", {carriers}. {}{needs}", commit.subject, commit.summary);
        out += &paragraph(&format!("  {:<20}", commit.id), &text, width);
    }
    out
}

fn mark(commit: &CommitInfo, base: &BaseInfo, style: Style) -> String {
    if commit.carried_by.contains(&base.id) {
        if commit.reverts_from.contains(&base.id) { style.warn("-") } else { style.strong("*") }
    } else if base.kin.map_or(base.id, |kin| kin) == base.id && commit.applies_to.contains(&base.id)
        || base.kin.is_some_and(|kin| commit.applies_to.contains(&kin))
    {
        style.good("+")
    } else {
        style.quiet(".")
    }
}
