//! Colour where a person watches, and columns that line up.

use std::io::IsTerminal;

/// Whether to colour. Plain when output is no terminal or `NO_COLOR` is set (<https://no-color.org>).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    color: bool,
}

impl Style {
    /// No colour.
    pub const PLAIN: Self = Self { color: false };

    /// What standard output can show.
    pub fn of_stdout() -> Self {
        let forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { color: !forbidden && std::io::stdout().is_terminal() }
    }

    /// Whether colours are used.
    pub fn is_colored(self) -> bool {
        self.color
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    /// As it should be.
    pub fn good(self, text: &str) -> String {
        self.wrap("32", text)
    }

    /// Broken.
    pub fn bad(self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    /// Worth a look.
    pub fn warn(self, text: &str) -> String {
        self.wrap("33", text)
    }

    /// Of little interest.
    pub fn quiet(self, text: &str) -> String {
        self.wrap("2", text)
    }

    /// A column's head.
    pub fn head(self, text: &str) -> String {
        self.wrap("1;4", text)
    }

    /// A title.
    pub fn strong(self, text: &str) -> String {
        self.wrap("1", text)
    }
}

/// `rows` with columns lined up; the last one is not padded.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| visible(cell)).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            out += cell;
            if column + 1 < row.len() {
                let padding = widths[column] - visible(cell) + 2;
                out.extend(std::iter::repeat_n(' ', padding));
            }
        }
        out.push('\n');
    }
    out
}

/// Characters that are seen: without colour codes.
fn visible(cell: &str) -> usize {
    let mut count = 0;
    let mut in_code = false;
    for character in cell.chars() {
        match (in_code, character) {
            (false, '\x1b') => in_code = true,
            (true, 'm') => in_code = false,
            (false, _) => count += 1,
            (true, _) => {}
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_with_and_without_colour() {
        let color = Style { color: true };
        let rows =
            vec![vec!["a".to_string(), "b".to_string()], vec![color.good("long"), "c".to_string()]];
        assert_eq!(table(&rows), "a     b\n\x1b[32mlong\x1b[0m  c\n");
    }
}
