//! Tables that fit the screen: columns while there is room for them, wrapped at spaces and behind slashes; one paragraph a row where there is not.

use crate::screen::Screen;
use crate::style::{Style, Tone};
use std::cmp::Reverse;

/// Spaces between columns.
const GAP: usize = 2;

/// What stands before the second and further lines of a row that is a paragraph.
const INDENT: usize = 4;

/// What stands before the further lines of the first cell, so that none is taken for another row's.
const HANG: usize = 2;

/// A cell: text of one tone. A line break in it stays one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(crate) fn new(tone: Tone, text: impl Into<String>) -> Self {
        Self { text: text.into(), tone }
    }

    /// Not worth a word where rows are paragraphs.
    fn is_empty(&self) -> bool {
        self.text.is_empty() || self.text == "-"
    }

    fn lines(&self, width: usize) -> Vec<String> {
        self.text.lines().flat_map(|line| wrapped(line, width)).collect()
    }

    /// The same with further lines behind [`HANG`] spaces.
    fn hanging(&self, width: usize) -> Vec<String> {
        let lines = self.lines(width);
        if lines.len() < 2 {
            return lines;
        }
        let mut lines = self.lines(width.saturating_sub(HANG));
        lines.iter_mut().skip(1).for_each(|line| line.insert_str(0, &" ".repeat(HANG)));
        lines
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(Tone::Plain, text)
    }
}

/// Rows, under a row of headings or not; every row has as many cells as there are columns.
#[derive(Debug)]
pub(crate) struct Table {
    /// Empty for a table without headings.
    headings: Vec<String>,
    rows: Vec<Vec<Cell>>,
    indent: usize,
    /// Without room for columns, each cell has lines of its own.
    stacked: bool,
}

impl Table {
    pub(crate) fn new<T: Into<String>>(headings: impl IntoIterator<Item = T>) -> Self {
        let headings = headings.into_iter().map(Into::into).collect();
        Self { headings, rows: Vec::new(), indent: 0, stacked: false }
    }

    /// Without room for columns each cell has lines of its own, behind its heading: for a matrix, whose columns are looked for.
    pub(crate) fn stacked(self) -> Self {
        Self { stacked: true, ..self }
    }

    /// Without headings, each line behind `indent` spaces.
    pub(crate) fn bare(indent: usize) -> Self {
        Self { headings: Vec::new(), rows: Vec::new(), indent, stacked: false }
    }

    /// Each line behind `indent` spaces.
    pub(crate) fn indented(self, indent: usize) -> Self {
        Self { indent, ..self }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        let cells: Vec<Cell> = cells.into_iter().collect();
        debug_assert!(self.headings.is_empty() || cells.len() == self.headings.len());
        self.rows.push(cells);
    }

    /// Whether there is room for columns.
    pub(crate) fn fits(&self, screen: Screen) -> bool {
        self.fit(&self.used(), screen.table_width().saturating_sub(self.indent)).is_some()
    }

    /// The table as wide as `screen`; columns that are empty in every row are left out.
    pub(crate) fn render(&self, screen: Screen) -> String {
        let used = self.used();
        match self.fit(&used, screen.table_width().saturating_sub(self.indent)) {
            Some(widths) => self.columns(&used, &widths, screen.style),
            None => self.paragraphs(&used, screen),
        }
    }

    /// The columns with something in them.
    fn used(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let told = |cell: &Cell| !cell.text.is_empty();
        (0..columns)
            .filter(|at| self.rows.iter().any(|row| row.get(*at).is_some_and(told)))
            .collect()
    }

    /// Widths of the columns in `used` that sum up to at most `width`, if there are such.
    fn fit(&self, used: &[usize], width: usize) -> Option<Vec<usize>> {
        let wholes: Vec<Vec<usize>> = used.iter().map(|at| self.lengths(*at, length)).collect();
        let widest = |lengths: &Vec<usize>| lengths.last().copied().unwrap_or(0);
        let mut widths: Vec<usize> = wholes.iter().map(widest).collect();
        let least = used.iter().map(|at| widest(&self.lengths(*at, longest_piece)));
        let mut least: Vec<usize> = least.collect();
        if let (Some(least), Some(whole)) = (least.first_mut(), widths.first()) {
            *least = (*least + HANG).min(*whole);
        }
        let total =
            |widths: &[usize]| widths.iter().map(|it| it + GAP).sum::<usize>().saturating_sub(GAP);
        if total(&least) > width {
            return None;
        }
        while total(&widths) > width {
            // The column where the fewest more lines are broken, and of these the one with most room.
            let narrow = (0..widths.len()).filter(|at| widths[*at] > least[*at]);
            let cost = |at: &usize| {
                let broken = |width| wholes[*at].partition_point(|line| *line <= width);
                (broken(widths[*at]) - broken(widths[*at] - 1), Reverse(widths[*at] - least[*at]))
            };
            let best = narrow.min_by_key(cost)?;
            widths[best] -= 1;
        }
        Some(widths)
    }

    /// How long the lines of a column are by `measure`, its heading's included, in rising order.
    fn lengths(&self, column: usize, measure: fn(&str) -> usize) -> Vec<usize> {
        let cells = self.rows.iter().filter_map(|row| row.get(column));
        let lines = cells.flat_map(|cell| cell.text.lines()).map(measure);
        // A heading is not broken.
        let heading = self.headings.get(column).map(|heading| length(heading));
        let mut lengths: Vec<usize> = lines.chain(heading).collect();
        lengths.sort_unstable();
        lengths
    }

    fn columns(&self, used: &[usize], widths: &[usize], style: Style) -> String {
        let heads = self.headings.iter().map(|it| Cell::new(Tone::Head, it.as_str())).collect();
        let heads: Vec<Vec<Cell>> = if self.headings.is_empty() { Vec::new() } else { vec![heads] };
        let mut out = String::new();
        let none = Cell::default();
        for row in heads.iter().chain(&self.rows) {
            let cells: Vec<&Cell> = used.iter().map(|at| row.get(*at).unwrap_or(&none)).collect();
            let lines = cells.iter().zip(widths).enumerate();
            let lines = lines.map(|(at, (cell, width))| match at {
                0 => cell.hanging(*width),
                _ => cell.lines(*width),
            });
            let lines: Vec<Vec<String>> = lines.collect();
            for at in 0..lines.iter().map(Vec::len).max().unwrap_or(0) {
                let parts = cells.iter().zip(&lines).zip(widths);
                let mut line = " ".repeat(self.indent);
                let mut owed = 0;
                for ((cell, lines), width) in parts {
                    let text = lines.get(at).map_or("", String::as_str);
                    if !text.is_empty() {
                        line.extend(std::iter::repeat_n(' ', owed));
                        line += &style.paint(cell.tone, text);
                        owed = 0;
                    }
                    owed += width + GAP - length(text);
                }
                out += &line;
                out.push('\n');
            }
        }
        out
    }

    /// The first cell on a line of its own, the others below it with their headings, one behind the other.
    fn paragraphs(&self, used: &[usize], screen: Screen) -> String {
        let room = screen.table_width().saturating_sub(self.indent + INDENT);
        let (first, rest) = used.split_first().unwrap_or((&0, &[]));
        let mut out = String::new();
        for row in &self.rows {
            if let Some(lead) = row.get(*first) {
                let tone = if lead.tone == Tone::Plain { Tone::Strong } else { lead.tone };
                out += &" ".repeat(self.indent);
                out += &screen.style.paint(tone, &lead.text);
                out.push('\n');
            }
            let lines = match self.stacked {
                true => self.stack(row, rest, room, screen.style),
                false => self.flow(row, rest, room, screen.style),
            };
            for line in lines {
                out += &" ".repeat(self.indent + INDENT);
                out += &line;
                out.push('\n');
            }
        }
        out
    }

    /// The cells of these columns that say something, in lines of at most `room` characters.
    fn flow(&self, row: &[Cell], columns: &[usize], room: usize, style: Style) -> Vec<String> {
        const BETWEEN: &str = " \u{b7} ";
        let mut lines: Vec<String> = Vec::new();
        for at in columns {
            let Some(cell) = row.get(*at).filter(|cell| !cell.is_empty()) else { continue };
            let text = self.named(*at, cell);
            let last = lines.last_mut();
            let fits = |line: &&mut String| length(line) + length(BETWEEN) + length(&text) <= room;
            match last.filter(fits) {
                Some(line) => *line += &(BETWEEN.to_owned() + &style.paint(cell.tone, &text)),
                None => {
                    lines.extend(wrapped(&text, room).iter().map(|it| style.paint(cell.tone, it)))
                }
            }
        }
        lines
    }

    /// The cells of these columns, each behind its heading in lines of at most `room` characters; what is a line of a cell is not broken.
    fn stack(&self, row: &[Cell], columns: &[usize], room: usize, style: Style) -> Vec<String> {
        let heading = |at: usize| self.headings.get(at).map_or("", String::as_str);
        let lead = columns.iter().map(|at| length(heading(*at))).max().unwrap_or(0) + GAP;
        let mut lines = Vec::new();
        for at in columns {
            let Some(cell) = row.get(*at).filter(|cell| !cell.is_empty()) else { continue };
            let mut texts: Vec<String> = Vec::new();
            for item in cell.text.lines() {
                match texts.last_mut() {
                    Some(text) if lead + length(text) + 2 + length(item) < room => {
                        *text += &format!(", {item}");
                    }
                    Some(text) => {
                        text.push(',');
                        texts.push(item.to_owned());
                    }
                    None => texts.push(item.to_owned()),
                }
            }
            for (number, text) in texts.iter().enumerate() {
                let head = if number == 0 { heading(*at) } else { "" };
                lines.push(format!("{head:<lead$}{}", style.paint(cell.tone, text)));
            }
        }
        lines
    }

    /// A cell's text behind its column's heading, on one line.
    fn named(&self, column: usize, cell: &Cell) -> String {
        let text = cell.text.lines().collect::<Vec<_>>().join(", ");
        match self.headings.get(column).filter(|heading| !heading.is_empty()) {
            Some(heading) => format!("{heading} {text}"),
            None => text,
        }
    }
}

/// Characters that are seen: without colour codes.
pub(crate) fn length(text: &str) -> usize {
    let mut parts = text.split('\x1b');
    let first = parts.next().map_or(0, |part| part.chars().count());
    let behind = |part: &str| part.split_once('m').map_or(0, |(_, seen)| seen.chars().count());
    first + parts.map(behind).sum::<usize>()
}

fn longest_piece(text: &str) -> usize {
    text.split_whitespace().flat_map(pieces).map(length).max().unwrap_or(0)
}

/// Where a word may be broken: behind the slashes of a path.
fn pieces(word: &str) -> impl Iterator<Item = &str> {
    let path = word.starts_with('/') && word.len() > 1;
    let mut rest = word;
    std::iter::from_fn(move || {
        let end = rest
            .get(1..)
            .and_then(|tail| tail.find('/'))
            .filter(|_| path)
            .map_or(rest.len(), |at| at + 1);
        let (piece, left) = rest.split_at(end);
        rest = left;
        (!piece.is_empty()).then_some(piece)
    })
}

/// `text` in lines of at most `width` characters, broken at spaces, or before the slashes of a path; a longer piece stands alone.
pub(crate) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split_whitespace() {
        let whole = length(word) <= width;
        for (at, piece) in pieces(word).enumerate() {
            let (gap, needed) = match (at, whole) {
                (0, true) => (usize::from(used > 0), length(word)),
                (0, false) => (usize::from(used > 0), length(piece)),
                (_, true) => (0, 0),
                (_, false) => (0, length(piece)),
            };
            if used > 0 && used + gap + needed > width {
                lines.push(String::new());
                used = 0;
            } else if gap > 0 {
                lines.last_mut().expect("there is one").push(' ');
                used += 1;
            }
            lines.last_mut().expect("there is one").push_str(piece);
            used += length(piece);
        }
    }
    lines
}

/// `text` broken at spaces so that it and an `indent` before each further line stay within `width`; a longer word stands alone.
pub(crate) fn wrap(text: &str, width: usize, indent: usize) -> String {
    wrapped(text, width.saturating_sub(indent)).join(&format!("\n{}", " ".repeat(indent)))
}

#[cfg(test)]
mod tests {
    use super::{Cell, Table, wrap};
    use crate::screen::Screen;
    use crate::style::Tone;

    fn table() -> Table {
        let mut table = Table::new(["device", "empty", "ids", "result"]);
        let cells = ["/soc/bus@1/usb@10000000", "", "0x10 0x11", "bound"];
        table.row(cells.map(Cell::from));
        let last = Cell::new(Tone::Good, "as it should be, and a word more");
        table.row(["/soc/x".into(), "".into(), "-".into(), last]);
        table
    }

    #[test]
    fn columns_line_up_with_and_without_colour_and_empty_ones_are_left_out() {
        let plain = "device                   ids        result\n\
             /soc/bus@1/usb@10000000  0x10 0x11  bound\n\
             /soc/x                   -          as it should be, and a word more\n";
        assert_eq!(table().render(Screen::plain(100)), plain);
        let colored = table().render(Screen::plain(100).colored());
        assert!(colored.contains("\x1b[32mas it should be, and a word more\x1b[0m\n"));
        assert!(colored.contains("-          \x1b[32m"));
    }

    #[test]
    fn what_does_not_fit_is_wrapped_and_then_told_in_paragraphs() {
        let page = table().render(Screen::plain(40));
        // The further line of a path does not look like another device.
        assert!(page.contains("\n/soc/bus@1 ") && page.contains("\n  /usb@10000000\n"), "{page}");
        assert!(page.lines().all(|line| line.chars().count() <= 40), "{page}");
        let page = table().render(Screen::plain(24));
        let lines: Vec<_> = page.lines().collect();
        assert_eq!(
            lines,
            [
                "/soc/bus@1/usb@10000000",
                "    ids 0x10 0x11",
                "    result bound",
                "/soc/x",
                "    result as it should",
                "    be, and a word more",
            ]
        );
    }

    #[test]
    fn a_matrix_without_room_for_columns_has_a_line_for_each_cell() {
        let mut table = Table::new(["version", "one", "two IOMMUs", "shared"]).stacked();
        table.row(["v6.6", "clean", "I1/B1 51\nI7 43\nI8/B4 31", "clean"].map(Cell::from));
        let page = table.render(Screen::plain(32));
        let lines: Vec<_> = page.lines().collect();
        assert_eq!(
            lines,
            [
                "v6.6",
                "    one         clean",
                "    two IOMMUs  I1/B1 51, I7 43,",
                "                I8/B4 31",
                "    shared      clean",
            ]
        );
    }

    #[test]
    fn lines_are_broken_at_spaces_and_only_a_long_path_before_its_slashes() {
        assert_eq!(wrap("a /b/c d", 6, 0), "a /b/c\nd");
        assert_eq!(wrap("see /soc/bus/device now", 9, 0), "see /soc\n/bus\n/device\nnow");
        assert_eq!(wrap("one two three", 9, 2), "one two\n  three");
    }
}
