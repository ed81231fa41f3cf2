//! A plain table that becomes a list of blocks where the terminal is too narrow for it.

use std::fmt::Write as _;

/// Spaces between columns.
const GAP: usize = 2;

/// Rows under a row of headings; every row has as many cells as there are headings.
pub(super) struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(headings: &[&'static str]) -> Self {
        Self { headings: headings.to_vec(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.headings.len());
        self.rows.push(cells);
    }

    /// The table in at most `width` columns; columns that are empty in every row are left out. Where it is too wide, cells are
    /// wrapped at spaces, the widest columns first; where that is not enough, each row becomes a block of lines.
    pub(super) fn render(&self, width: usize, bold: impl Fn(&str) -> String) -> String {
        let used: Vec<usize> = (0..self.headings.len())
            .filter(|at| self.rows.iter().any(|row| !row[*at].is_empty()))
            .collect();
        match self.fit(&used, width) {
            Some(widths) => self.columns(&used, &widths, bold),
            None => self.blocks(&used, width),
        }
    }

    /// Widths of the columns in `used` that sum up to at most `width`, if there are such.
    fn fit(&self, used: &[usize], width: usize) -> Option<Vec<usize>> {
        let mut widths: Vec<usize> =
            used.iter().map(|at| self.widest(*at, |cell| cell.chars().count())).collect();
        let least: Vec<usize> = used.iter().map(|at| self.widest(*at, longest_word)).collect();
        let total = |widths: &[usize]| {
            widths.iter().map(|width| width + GAP).sum::<usize>().saturating_sub(GAP)
        };
        if total(&least) > width {
            return None;
        }
        while total(&widths) > width {
            let spare = |at: &usize| widths[*at] - least[*at];
            let most = (0..widths.len()).max_by_key(spare)?;
            widths[most] -= 1;
        }
        Some(widths)
    }

    fn widest(&self, column: usize, measure: fn(&str) -> usize) -> usize {
        let cells = self.rows.iter().map(|row| measure(&row[column]));
        cells.chain([self.headings[column].len()]).max().unwrap_or(0)
    }

    fn columns(&self, used: &[usize], widths: &[usize], bold: impl Fn(&str) -> String) -> String {
        let headings: Vec<&str> = used.iter().map(|at| self.headings[*at]).collect();
        let mut out = bold(&line(&headings, widths));
        out.push('\n');
        for row in &self.rows {
            let cells: Vec<String> =
                used.iter().zip(widths).map(|(at, width)| wrap(&row[*at], *width, 0)).collect();
            let mut cells: Vec<_> = cells.iter().map(|cell| cell.lines()).collect();
            loop {
                let parts: Vec<Option<&str>> = cells.iter_mut().map(Iterator::next).collect();
                if parts.iter().all(Option::is_none) {
                    break;
                }
                let parts: Vec<&str> = parts.into_iter().map(Option::unwrap_or_default).collect();
                out.push_str(&line(&parts, widths));
                out.push('\n');
            }
        }
        out
    }

    /// The first column on a line of its own, the others below it, named and wrapped.
    fn blocks(&self, used: &[usize], width: usize) -> String {
        let indent = used.iter().map(|at| self.headings[*at].len()).max().unwrap_or(0) + 4;
        let mut out = String::new();
        for row in &self.rows {
            let Some((first, rest)) = used.split_first() else { break };
            let _ = writeln!(out, "{}", row[*first]);
            for at in rest.iter().filter(|at| !row[**at].is_empty()) {
                let head = format!("  {}:", self.headings[*at]);
                let _ = writeln!(out, "{head:<indent$}{}", wrap(&row[*at], width, indent));
            }
        }
        out
    }
}

fn longest_word(text: &str) -> usize {
    text.split_whitespace().map(|word| word.chars().count()).max().unwrap_or(0)
}

fn line(cells: &[&str], widths: &[usize]) -> String {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        let _ = write!(line, "{cell:<width$}", width = width + GAP);
    }
    line.truncate(line.trim_end().len());
    line
}

/// `text` broken at spaces so that it and an `indent` before each further line stay within `width`; a longer word stands alone.
pub(super) fn wrap(text: &str, width: usize, indent: usize) -> String {
    let room = width.saturating_sub(indent);
    let mut out = String::new();
    let mut used = 0;
    for word in text.split_whitespace() {
        let len = word.chars().count();
        if used > 0 && used + 1 + len > room {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent));
            used = 0;
        } else if used > 0 {
            out.push(' ');
            used += 1;
        }
        out.push_str(word);
        used += len;
    }
    out
}
