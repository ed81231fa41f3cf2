//! `lab compare`.

use super::confirm::{Bench, Confirmation};
use super::render::View;
use super::{Answer, CompareArgs};
use crate::interrupt;
use crate::page;
use crate::progress::{Background, Ticker};
use crate::style::Tone;
use crate::table::{Cell, Table};
use portcullis_lab::linux::{
    Cell as MatrixCell, Matrix, PROPERTIES, Protocol, Verdict, compare, compared_bases,
    comparison_worlds,
};
use portcullis_lab::picture::text::paragraph;
use portcullis_lab::picture::{html, words};
use serde_json::{Value, json};
use std::sync::Mutex;

pub(crate) fn run(args: &CompareArgs) -> Result<Answer, String> {
    let stop = interrupt::flag();
    let bench = Bench::set_up(&args.confirm)?;
    let ticker = Mutex::new(Ticker::new());
    let began = std::time::Instant::now();
    let progress = |done: usize, total: usize| {
        if let Ok(mut ticker) = ticker.lock() {
            ticker.say(|passed| format!("{done} of {total} cells, {} s", passed.as_secs()));
        }
    };
    let matrix = compare(bench.as_ref().map(rows), comparison_worlds(), Some(&stop), &progress)
        .map_err(|error| error.to_string())?;
    drop(ticker);
    let confirmed = bench.as_ref().map(|bench| confirm(bench, &matrix));
    if let Some(path) = &args.html {
        page::write(path, &html::matrix(&matrix))?;
    }
    let view = View::of_stdout(false);
    let text = match args.json {
        true => format!("{:#}\n", as_json(&matrix, confirmed.as_ref())?),
        false => as_text(&matrix, confirmed.as_ref(), view, began.elapsed().as_secs_f64()),
    };
    Ok(Answer { text, held: true })
}

/// What became of each violated cell, by row and column.
type Confirmed = Vec<Vec<Option<(&'static str, Confirmation)>>>;

/// The versions that are always compared, and those of the kernels at hand.
fn rows(bench: &Bench) -> Vec<Protocol> {
    let mut rows: Vec<Protocol> = compared_bases().map(|base| Protocol::of(base.id)).collect();
    for protocol in bench.protocols() {
        if !rows.iter().any(|row| row.has_the_commits_of(&protocol)) {
            rows.push(protocol);
        }
    }
    rows
}

fn confirm(bench: &Bench, matrix: &Matrix) -> Confirmed {
    let _ticker = Background::new("forcing what was found on the kernels at hand");
    let cell = |cell: &MatrixCell| bench.confirm(&cell.report, false).pop();
    matrix.rows.iter().map(|row| row.iter().map(cell).collect()).collect()
}

fn as_json(matrix: &Matrix, confirmed: Option<&Confirmed>) -> Result<Value, String> {
    let cell = |(row, column, cell): (usize, usize, &MatrixCell)| -> Result<Value, String> {
        let name = &matrix.worlds[column].0;
        let mut value: Value =
            serde_json::from_str(&cell.report.to_json()).map_err(|error| error.to_string())?;
        value["column"] = json!(name);
        if let Some((property, found)) = confirmed.and_then(|all| all[row][column].as_ref()) {
            value["confirmed"] = found.as_json(property);
        }
        Ok(value)
    };
    let rows = matrix.protocols.iter().zip(&matrix.rows).enumerate();
    let rows = rows.map(|(row, (protocol, cells))| {
        let cells = cells.iter().enumerate().map(|(column, found)| cell((row, column, found)));
        let cells: Result<Vec<Value>, String> = cells.collect();
        Ok(json!({"protocol": protocol.to_string(), "cells": cells?}))
    });
    let rows: Result<Vec<Value>, String> = rows.collect();
    let columns: Vec<&String> = matrix.worlds.iter().map(|(name, _)| name).collect();
    Ok(json!({"columns": columns, "rows": rows?}))
}

fn as_text(matrix: &Matrix, confirmed: Option<&Confirmed>, view: View, seconds: f64) -> String {
    let worlds = matrix.worlds.iter().map(|(name, _)| name.clone());
    let mut table = Table::new(["version".to_owned()].into_iter().chain(worlds)).stacked();
    for (row, (protocol, cells)) in matrix.protocols.iter().zip(&matrix.rows).enumerate() {
        let cells = cells.iter().enumerate().map(|(column, cell)| {
            let confirmed = confirmed.and_then(|all| all[row][column].as_ref());
            shown(cell, confirmed.map(|(_, found)| found.word()))
        });
        table.row([Cell::from(protocol.to_string())].into_iter().chain(cells));
    }
    let mut out = table.render(view.screen);
    out += &legend(matrix, view);
    if let Some(confirmed) = confirmed {
        out += &runs(matrix, confirmed, view);
    }
    let cells = matrix.rows.iter().flatten();
    let (total, exhaustive) =
        (cells.clone().count(), cells.filter(|cell| cell.report.explored.exhaustive).count());
    let covered = match exhaustive == total {
        true => "each explored in full".to_owned(),
        false => format!("{exhaustive} of them explored in full"),
    };
    out += &format!("\n{total} cells, {covered}, {seconds:.1} s\n");
    out
}

/// A cell's lines: `clean`, `bounded`, or a line for each way in which it is violated, with the fewest steps; then what a kernel at hand did.
fn shown(cell: &MatrixCell, confirmed: Option<&str>) -> Cell {
    let (tone, lines) = match cell.report.verdict {
        Verdict::Clean => (Tone::Good, vec!["clean".to_owned()]),
        Verdict::Bounded => (Tone::Warn, vec!["bounded".to_owned()]),
        Verdict::Violated => {
            let ways = words::fewest(&cell.report).into_iter();
            (Tone::Bad, ways.map(|(code, steps)| format!("{code} {steps}")).collect())
        }
    };
    let lines: Vec<String> = lines.into_iter().chain(confirmed.map(str::to_owned)).collect();
    Cell::new(tone, lines.join("\n"))
}

/// The runs that were made, and why others were not.
fn runs(matrix: &Matrix, confirmed: &Confirmed, view: View) -> String {
    let line = |lead: &str, text: &str| paragraph(&format!("  {lead:<17}"), text, view.width());
    let mut out = format!("\n{}\n", view.style.strong("On kernels at hand"));
    let mut not_tried = Vec::new();
    for (protocol, row) in matrix.protocols.iter().zip(confirmed) {
        for (found, (world, _)) in row.iter().zip(&matrix.worlds) {
            match found {
                Some((_, Confirmation::NotTried { words })) => not_tried.push(words.clone()),
                Some((property, found)) => {
                    let words = format!("{protocol}, {world}, {property}: {}", found.words());
                    out += &line(found.word(), &words);
                }
                None => {}
            }
        }
    }
    not_tried.sort();
    not_tried.dedup();
    not_tried.iter().for_each(|words| out += &line("not tried", words));
    out
}

fn legend(matrix: &Matrix, view: View) -> String {
    let line = |lead: &str, text: &str| paragraph(&format!("  {lead:<17}"), text, view.width());
    let mut out = format!("\n{}\n", view.style.strong("Worlds"));
    for (name, world) in &matrix.worlds {
        out += &line(name, &words::world(world));
    }
    out += &format!("\n{}\n", view.style.strong("Cells"));
    out += &line("clean", "every schedule of this world was explored, none violates a property");
    out += &line("bounded", "cut short: nothing was found in what was covered");
    out += &line(
        "I1/B1 50",
        "the invariant and the bad end, and the steps of the shortest schedule that shows it:",
    );
    let seen = matrix.rows.iter().flatten().flat_map(|cell| &cell.report.violations);
    let mut seen: Vec<(String, &str)> =
        seen.map(|found| (words::code(found), found.name)).collect();
    seen.sort();
    seen.dedup();
    for (code, name) in seen {
        let info = PROPERTIES.iter().find(|info| info.name == name);
        out += &line(&code, &format!("{name}: {}", info.map_or("", |info| info.meaning)));
    }
    out
}
