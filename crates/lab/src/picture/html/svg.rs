//! The ladder as SVG: one drawing per turn of a thread, stacked without a gap.

use std::fmt::Write;

use super::escape::escaped;
use crate::picture::cell::{self, Span};
use crate::picture::locks::Locks;
use crate::picture::text::Role;
use crate::picture::{Ladder, Weight};

/// Colours for locks; with more locks they come round again.
pub(crate) const LOCK_COLORS: usize = 8;

/// Width of a character of the 12 px monospace font, with a little to spare.
const CHARACTER: f64 = 7.3;
const LINE: usize = 15;
const LANE: usize = 6;
/// Steps after which a long turn is cut: a drawing is not divided, and what does not fit at the end of a printed page
/// leaves it empty.
const TURN: usize = 3;

/// Pixels that a ladder may take beside the panel with the state (page.css).
const BESIDE: usize = 1126;

/// Pixels of a column at most: a screen of 400 shows one whole, one of 800 two.
const COLUMN: usize = 378;

/// Where things are.
struct Plan<'a> {
    ladder: &'a Ladder,
    number: usize,
    locks: Locks,
    columns: Vec<Column>,
    width: usize,
}

struct Column {
    thread: usize,
    left: usize,
    locks: Vec<usize>,
    /// Where the thread's line is.
    line: usize,
    /// Where its text begins.
    text: usize,
    /// Characters of a line of text.
    characters: usize,
}

/// Whether a ladder is too wide to have the state beside it: its text must not be made smaller.
pub(crate) fn is_wide(ladder: &Ladder) -> bool {
    Plan::new(ladder, 0).width > BESIDE
}

/// Whether a ladder has room beside the state on a screen of usual width: two columns.
pub(crate) fn is_slim(ladder: &Ladder) -> bool {
    Plan::new(ladder, 0).width <= 2 * COLUMN
}

/// The table that holds the ladder. `number` tells it from others of the page.
pub(crate) fn ladder(ladder: &Ladder, number: usize) -> String {
    let plan = Plan::new(ladder, number);
    let mut out =
        format!("<table class=\"ladder\" style=\"width:{}px\"><thead><tr><td>", plan.width);
    out += &plan.head();
    out += "</td></tr></thead>\n<tbody>\n";
    let all: Vec<usize> = (0..ladder.rungs.len()).collect();
    let named = cell::shows_function(ladder, &all);
    let mut before = None;
    for turn in all.chunk_by(|a, b| ladder.rungs[*a].thread == ladder.rungs[*b].thread) {
        for part in turn.chunks(TURN) {
            let _ = writeln!(out, "<tr><td>{}</td></tr>", plan.turn(part, &named, before));
            before = Some(ladder.rungs[turn[0]].thread);
        }
    }
    out + "</tbody></table>\n"
}

impl<'a> Plan<'a> {
    fn new(ladder: &'a Ladder, number: usize) -> Self {
        let locks = Locks::of(ladder);
        let active = ladder.active();
        let each = (1060 / active.len().max(1)).clamp(300, COLUMN);
        let column = |(place, thread): (usize, usize)| {
            let (left, own) = (place * each, locks.of_thread(ladder, thread));
            let line = left + 10 + own.len() * LANE + 16;
            let text = line + 20;
            let characters = ((left + each - text - 6) as f64 / CHARACTER) as usize;
            Column { thread, left, locks: own, line, text, characters }
        };
        let columns: Vec<Column> = active.into_iter().enumerate().map(column).collect();
        let width = columns.len() * each;
        Self { ladder, number, locks, columns, width }
    }

    fn column(&self, thread: usize) -> &Column {
        let found = self.columns.iter().find(|column| column.thread == thread);
        found.expect("every thread that takes a step has a column")
    }

    fn open(&self, class: &str, height: usize) -> String {
        format!(
            "<svg class=\"{class}\" xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" width=\"{}\" height=\"{height}\">",
            self.width, self.width
        )
    }

    /// The threads' names.
    fn head(&self) -> String {
        let names: Vec<Vec<Vec<Span>>> = self
            .columns
            .iter()
            .map(|column| {
                cell::wrap(
                    &[(Role::Head, self.ladder.threads[column.thread].clone())],
                    column.characters,
                )
            })
            .collect();
        let height = names.iter().map(Vec::len).max().unwrap_or(1) * LINE + 8;
        let mut out = self.open("threads", height);
        for (column, name) in self.columns.iter().zip(&names) {
            for (number, line) in name.iter().enumerate() {
                out += &text_line(line, column.line - 6, (number + 1) * LINE);
            }
        }
        out + "</svg>"
    }

    /// Some steps of one thread in a row.
    fn turn(&self, steps: &[usize], named: &[bool], before: Option<usize>) -> String {
        let mut rows = String::new();
        let thread = self.ladder.rungs[steps[0]].thread;
        let mut top = if before == Some(thread) { 0 } else { 14 };
        let start = top;
        let mut bars = self.bars(steps[0].checked_sub(1), 0, top);
        for &at in steps {
            let (row, height) = self.row(at, named[at], top);
            rows += &row;
            bars += &self.bars(Some(at), top, height);
            top += height;
        }
        let mut out = self.open("turn", top);
        for column in &self.columns {
            let x = column.line;
            let _ =
                write!(out, "<line class=\"life\" x1=\"{x}\" y1=\"0\" x2=\"{x}\" y2=\"{top}\"/>");
        }
        if let Some(before) = before.filter(|before| *before != thread) {
            let (from, to) = (self.column(before).line, self.column(thread).line);
            let _ = write!(out, "<path class=\"switch\" d=\"M{from} 0 V6 H{to} V{start}\"/>");
        }
        out + &bars + &rows + "</svg>"
    }

    /// The locks that are held after step `at`, beside each thread's line.
    fn bars(&self, at: Option<usize>, top: usize, height: usize) -> String {
        let mut out = String::new();
        let Some(rung) = at.map(|at| &self.ladder.rungs[at]).filter(|_| height > 0) else {
            return out;
        };
        for column in &self.columns {
            let held = rung.held.get(column.thread).map_or(&[][..], Vec::as_slice);
            for (lane, &lock) in column.locks.iter().enumerate() {
                if held.contains(&self.locks.letters[lock].1) {
                    let x = column.left + 6 + lane * LANE;
                    let _ = write!(
                        out,
                        "<rect class=\"lock{}\" x=\"{x}\" y=\"{top}\" width=\"4\" height=\"{height}\"/>",
                        lock % LOCK_COLORS
                    );
                }
            }
        }
        out
    }

    fn row(&self, at: usize, named: bool, top: usize) -> (String, usize) {
        let rung = &self.ladder.rungs[at];
        let column = self.column(rung.thread);
        let lines = cell::lines(rung, named, column.characters, true);
        let height = lines.len() * LINE + 5;
        let mut class = match rung.weight {
            Weight::Key => "step key",
            Weight::Change => "step change",
            Weight::Plain => "step plain",
        }
        .to_owned();
        if !rung.violated.is_empty() {
            class += " bad";
        }
        let (label, step, ladder) = (escaped(&rung.label), at + 1, self.number);
        let mut out = format!(
            "<g class=\"{class}\" id=\"step-{ladder}-{step}\" data-ladder=\"{ladder}\" data-step=\"{step}\" data-label=\"{label}\" tabindex=\"0\" role=\"button\" aria-label=\"step {step}: {label}\">"
        );
        let (x, width) = (column.line - 14, self.columns_width(column));
        let _ = write!(
            out,
            "<rect class=\"hit\" x=\"{x}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" rx=\"3\"/>"
        );
        let (x, y) = (column.line, top + 10);
        // Three digits of 12 px do not fit the circle as they are.
        let squeezed =
            if step > 99 { " textLength=\"17\" lengthAdjust=\"spacingAndGlyphs\"" } else { "" };
        let _ = write!(
            out,
            "<circle cx=\"{x}\" cy=\"{y}\" r=\"9.5\"/><text class=\"number\" x=\"{x}\" y=\"{}\"{squeezed}>{step}</text>",
            y + 4
        );
        for (number, line) in lines.iter().enumerate() {
            out += &text_line(line, column.text, top + 14 + number * LINE);
        }
        (out + "</g>", height)
    }

    /// The room from left of a column's line to its end.
    fn columns_width(&self, column: &Column) -> usize {
        self.width / self.columns.len() - (column.line - 14 - column.left) - 4
    }
}

fn text_line(line: &[Span], x: usize, y: usize) -> String {
    let mut out = format!("<text x=\"{x}\" y=\"{y}\">");
    for (role, text) in line {
        let class = match role {
            Role::Head => "head",
            Role::Function => "function",
            Role::Change => "changed",
            Role::Log => "log",
            Role::Bad => "wrong",
            Role::Quiet => "quiet",
            Role::Words | Role::Number | Role::Lock => {
                out += &escaped(text);
                continue;
            }
        };
        let _ = write!(out, "<tspan class=\"{class}\">{}</tspan>", escaped(text));
    }
    out + "</text>"
}
