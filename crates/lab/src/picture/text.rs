//! The ladder for a terminal.

use super::cell::{self, Span};
use super::locks::Locks;
use super::{Ladder, Weight};

/// What a piece of the picture is, so that the caller can colour it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A thread's name.
    Head,
    /// A step's number.
    Number,
    /// A function's name.
    Function,
    /// What a step does.
    Words,
    /// A changed field.
    Change,
    /// Letters of locks held.
    Lock,
    /// A line of the kernel's log.
    Log,
    /// What is wrong.
    Bad,
    /// Of little interest.
    Quiet,
}

/// Colours a piece, or leaves it as it is.
pub type Paint<'a> = &'a dyn Fn(Role, &str) -> String;

/// How to draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Columns of the terminal; less than 60 is taken as 60.
    pub width: usize,
    /// Every step, not only those that matter.
    pub full: bool,
}

/// One thread's column.
struct Column {
    thread: usize,
    /// The locks it ever holds, by place among all.
    locks: Vec<usize>,
    width: usize,
}

/// The ladder, its lines ended by line feeds.
#[must_use]
pub fn ladder(ladder: &Ladder, layout: Layout, paint: Paint<'_>) -> String {
    let locks = Locks::of(ladder);
    let shown = shown(ladder, layout.full);
    let named = cell::shows_function(ladder, &shown);
    let columns = columns(ladder, &locks, &shown, layout.width.max(60));
    let mut out = head(ladder, &columns, paint);
    for (&at, &named) in shown.iter().zip(&named) {
        out += &row(ladder, at, named, &columns, &locks, paint);
    }
    out += &tail(ladder, &locks, shown.len(), layout.width, paint);
    out
}

/// The steps that are drawn.
fn shown(ladder: &Ladder, full: bool) -> Vec<usize> {
    let matters = |at: &usize| {
        full || ladder.rungs[*at].weight > Weight::Plain || at + 1 == ladder.rungs.len()
    };
    (0..ladder.rungs.len()).filter(matters).collect()
}

const GUTTER: usize = 4;

fn columns(ladder: &Ladder, locks: &Locks, shown: &[usize], width: usize) -> Vec<Column> {
    let mut columns: Vec<Column> = ladder
        .active()
        .into_iter()
        .map(|thread| Column { thread, locks: locks.of_thread(ladder, thread), width: 0 })
        .collect();
    // Heights add up over all steps, so a thread that says four times as much gets twice the width.
    let said = |thread: usize| {
        let cells = shown.iter().map(|&at| &ladder.rungs[at]).filter(|rung| rung.thread == thread);
        let letters: usize =
            cells.flat_map(|rung| cell::spans(rung, true)).map(|(_, text)| text.len()).sum();
        (letters as f64).sqrt().max(8.0)
    };
    let lanes: usize = columns.iter().map(|column| column.locks.len() + 3).sum();
    let room = width.saturating_sub(GUTTER + lanes);
    let total: f64 = columns.iter().map(|column| said(column.thread)).sum();
    for column in &mut columns {
        column.width = ((room as f64 * said(column.thread) / total) as usize).max(16);
    }
    columns
}

fn head(ladder: &Ladder, columns: &[Column], paint: Paint<'_>) -> String {
    let names = columns.iter().map(|column| {
        let name = vec![(Role::Head, ladder.threads[column.thread].clone())];
        cell::wrap(&name, column.width + column.locks.len() + 1)
    });
    let names: Vec<Vec<Vec<Span>>> = names.collect();
    let height = names.iter().map(Vec::len).max().unwrap_or(0);
    let mut out = String::new();
    for line in 0..height {
        out += &" ".repeat(GUTTER);
        for (column, name) in columns.iter().zip(&names) {
            out += "\u{2502}";
            let width = column.width + column.locks.len() + 2;
            out += &padded(name.get(line).map_or(&[], Vec::as_slice), width, paint);
        }
        end_line(&mut out);
    }
    out += &"\u{2500}".repeat(GUTTER);
    for column in columns {
        out += "\u{253c}";
        out += &"\u{2500}".repeat(column.width + column.locks.len() + 2);
    }
    out.push('\n');
    out
}

fn row(
    ladder: &Ladder,
    at: usize,
    named: bool,
    columns: &[Column],
    locks: &Locks,
    paint: Paint<'_>,
) -> String {
    let rung = &ladder.rungs[at];
    let width = columns
        .iter()
        .find(|column| column.thread == rung.thread)
        .map_or(40, |column| column.width);
    let lines = cell::lines(rung, named, width, false);
    let mut out = String::new();
    for (number, line) in lines.iter().enumerate() {
        match number {
            0 => out += &paint(Role::Number, &format!("{:>3} ", at + 1)),
            _ => out += &" ".repeat(GUTTER),
        }
        for column in columns {
            out += "\u{2502}";
            out += &lane(
                rung.held.get(column.thread).map_or(&[], Vec::as_slice),
                column,
                locks,
                paint,
            );
            out.push(' ');
            let text: &[Span] = if column.thread == rung.thread { line } else { &[] };
            out += &padded(text, column.width + 1, paint);
        }
        end_line(&mut out);
    }
    out
}

fn lane(held: &[String], column: &Column, locks: &Locks, paint: Paint<'_>) -> String {
    let letters = column.locks.iter().map(|&at| {
        let (letter, lock) = &locks.letters[at];
        if held.contains(lock) { *letter } else { ' ' }
    });
    let text: String = letters.collect();
    if text.trim().is_empty() { text } else { paint(Role::Lock, &text) }
}

fn tail(ladder: &Ladder, locks: &Locks, shown: usize, width: usize, paint: Paint<'_>) -> String {
    let mut out = String::new();
    for (thread, what) in &ladder.stuck {
        out += &paint(Role::Bad, &format!("    stuck: {} at: {what}", ladder.threads[*thread]));
        out.push('\n');
    }
    let mut legend = String::new();
    if !locks.letters.is_empty() {
        let names: Vec<String> = locks
            .letters
            .iter()
            .map(|(letter, lock)| format!("{letter}\u{a0}{}", lock.replace(' ', "\u{a0}")))
            .collect();
        legend = format!("locks held: {}", names.join(", "));
    }
    let hidden = ladder.rungs.len() - shown;
    if hidden > 0 {
        if !legend.is_empty() {
            legend += "; ";
        }
        legend += &format!("{hidden} of {} steps folded, --full shows them", ladder.rungs.len());
    }
    for line in cell::wrap(&[(Role::Quiet, legend)], width.saturating_sub(GUTTER)) {
        out += &" ".repeat(GUTTER);
        out += &line
            .iter()
            .map(|(role, text)| paint(*role, &text.replace('\u{a0}', " ")))
            .collect::<String>();
        out.push('\n');
    }
    out
}

fn padded(line: &[Span], width: usize, paint: Paint<'_>) -> String {
    let used: usize = line.iter().map(|(_, text)| text.chars().count()).sum();
    let text: String = line.iter().map(|(role, text)| paint(*role, text)).collect();
    text + &" ".repeat(width.saturating_sub(used))
}

fn end_line(out: &mut String) {
    out.truncate(out.trim_end_matches(' ').len());
    out.push('\n');
}

/// Wraps a paragraph to `width`, each line after the first indented like the first, which begins with `lead`.
#[must_use]
pub fn paragraph(lead: &str, text: &str, width: usize) -> String {
    let indent = lead.chars().count();
    let mut out = String::new();
    for (number, line) in
        cell::wrap(&[(Role::Words, text.to_owned())], width.saturating_sub(indent))
            .iter()
            .enumerate()
    {
        let words: String = line.iter().map(|(_, text)| text.as_str()).collect();
        match number {
            0 => out += lead,
            _ => out += &" ".repeat(indent),
        }
        out += words.trim_start();
        out.push('\n');
    }
    out
}
