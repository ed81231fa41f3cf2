//! What output goes to: how wide it is, and whether it shows colour.

use crate::style::Style;

/// Columns of a paragraph where nothing says how wide the reader's window is.
const USUAL: usize = 120;

/// Standard output, or what a test takes for it.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    /// Whether to colour.
    pub style: Style,
    /// Columns; `None` where lines may be as long as they like, because a program reads them.
    columns: Option<usize>,
}

impl Screen {
    /// Without colour, this wide.
    pub fn plain(columns: usize) -> Self {
        Self { style: Style::PLAIN, columns: Some(columns) }
    }

    /// The same with colour.
    #[must_use]
    pub fn colored(self) -> Self {
        Self { style: Style::COLORED, ..self }
    }

    /// For standard output as it is. `COLUMNS` goes before what the terminal says; where there is neither, a row of a table is one line.
    pub fn of_stdout() -> Self {
        let asked = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
        let terminal = || terminal_size::terminal_size().map(|(columns, _)| usize::from(columns.0));
        Self { style: Style::of_stdout(), columns: asked.or_else(terminal) }
    }

    /// How wide a table may be.
    pub fn table_width(self) -> usize {
        self.columns.unwrap_or(usize::MAX).max(20)
    }

    /// How wide a paragraph is: readers do not follow longer lines than 160 characters.
    pub fn prose_width(self) -> usize {
        self.columns.unwrap_or(USUAL).clamp(40, 160)
    }
}

/// "1 device", "2 devices".
pub fn count(number: usize, word: &str) -> String {
    format!("{number} {word}{}", if number == 1 { "" } else { "s" })
}
