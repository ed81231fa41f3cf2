//! `lab tree`: what a source tree has.

use super::render::View;
use super::{Answer, TreeArgs};
use crate::style::Tone;
use crate::table::{Cell, Table};
use portcullis_lab::picture::text::paragraph;
use portcullis_lab::tree::{self, Answer as Found, Finding, Findings, Reading};
use serde_json::{Value, json};
use std::path::Path;

pub(crate) fn run(args: &TreeArgs) -> Result<Answer, String> {
    let findings = tree::read(&args.path).map_err(|error| error.to_string())?;
    let readings = findings.protocols().map_err(|error| error.to_string())?;
    let told = findings.commits.iter().all(|finding| finding.answer != Found::CannotTell);
    let view = View::of_stdout(false);
    let text = match args.json {
        true => format!("{:#}\n", as_json(&findings, &readings)),
        false => summary(&args.path, &findings, &readings, view) + &details(&findings, view),
    };
    Ok(Answer { text, held: told && findings.unrecognised.is_empty() })
}

/// Which version the tree looks like, and what is not known about it.
pub(crate) fn summary(
    path: &Path,
    findings: &Findings,
    readings: &[Reading],
    view: View,
) -> String {
    let version = findings.version.as_deref().unwrap_or("no Makefile");
    let mut out = format!("{}\n", view.style.strong(&format!("{} ({version})", path.display())));
    for reading in readings {
        let assumed = match &reading.assumed[..] {
            [] => String::new(),
            assumed => format!(", {}", words(assumed)),
        };
        out += &paragraph("    read as ", &format!("{}{assumed}", reading.protocol), view.width());
    }
    for function in &findings.unrecognised {
        let text = format!(
            "{}:{}: {}() differs from every version known to the lab",
            function.file, function.line, function.function
        );
        out += &paragraph("    note    ", &text, view.width());
    }
    for file in &findings.missing {
        out += &format!("    note    {file} is not in the tree\n");
    }
    out
}

/// What is assumed for one reading, as a line of its own.
pub(crate) fn assumption(reading: &Reading, view: View) -> String {
    match &reading.assumed[..] {
        [] => String::new(),
        assumed => format!("{}\n", view.style.strong(&words(assumed))),
    }
}

fn words(assumed: &[(portcullis_lab::linux::Commit, bool)]) -> String {
    let one = |(commit, has): &(portcullis_lab::linux::Commit, bool)| match has {
        true => format!("if it has {commit}"),
        false => format!("if it lacks {commit}"),
    };
    assumed.iter().map(one).collect::<Vec<_>>().join(" and ")
}

fn details(findings: &Findings, view: View) -> String {
    let row = |finding: &Finding| {
        let tone = match finding.answer {
            Found::Has => Tone::Good,
            Found::Lacks => Tone::Quiet,
            Found::CannotTell => Tone::Warn,
        };
        let answer = Cell::new(tone, finding.answer.to_string());
        let place = match finding.line {
            Some(line) => format!("{}:{line}", finding.file),
            None => finding.file.to_owned(),
        };
        let why = match finding.why {
            "" => finding.commit.info().subject.to_owned(),
            why => why.to_owned(),
        };
        [finding.commit.to_string().into(), answer, place.into(), why.into()]
    };
    let mut table = Table::bare(2);
    findings.commits.iter().for_each(|finding| table.row(row(finding)));
    table.render(view.screen)
}

fn as_json(findings: &Findings, readings: &[Reading]) -> Value {
    let commits = findings.commits.iter().map(|finding| {
        json!({
            "id": finding.commit.id(),
            "answer": finding.answer.to_string(),
            "file": finding.file,
            "function": finding.function,
            "line": finding.line,
            "why": finding.why,
        })
    });
    let readings = readings.iter().map(|reading| {
        let assumed =
            reading.assumed.iter().map(|(commit, has)| json!({"id": commit.id(), "has": has}));
        json!({
            "protocol": reading.protocol.to_string(),
            "base": reading.protocol.base().name(),
            "applied": reading.protocol.applied().iter().map(|c| c.id()).collect::<Vec<_>>(),
            "reverted": reading.protocol.reverted().iter().map(|c| c.id()).collect::<Vec<_>>(),
            "assumed": assumed.collect::<Vec<_>>(),
        })
    });
    let unrecognised = findings.unrecognised.iter().map(|function| {
        json!({"file": function.file, "function": function.function, "line": function.line})
    });
    json!({
        "version": findings.version,
        "readings": readings.collect::<Vec<_>>(),
        "commits": commits.collect::<Vec<_>>(),
        "unrecognised": unrecognised.collect::<Vec<_>>(),
        "missing": findings.missing,
    })
}
