//! Colour where a person watches.

use std::ffi::OsString;
use std::io::IsTerminal;

/// How a piece of text is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// Nothing special.
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// Broken.
    Bad,
    /// Worth a look.
    Warn,
    /// Worth knowing.
    Note,
    /// Of little interest.
    Quiet,
    /// A title.
    Strong,
    /// A column's head.
    Head,
}

impl Tone {
    /// The parameters of the escape sequence, ECMA-48 8.3.117.
    fn code(self) -> Option<&'static str> {
        Some(match self {
            Self::Plain => return None,
            Self::Good => "32",
            Self::Bad => "1;31",
            Self::Warn => "33",
            Self::Note => "36",
            Self::Quiet => "2",
            Self::Strong => "1",
            Self::Head => "1;4",
        })
    }
}

/// Whether to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    color: bool,
}

impl Style {
    /// No colour.
    pub const PLAIN: Self = Self { color: false };
    /// Colour, whatever the terminal.
    pub const COLORED: Self = Self { color: true };

    /// What standard output can show: plain when it is no terminal, when `TERM` is `dumb`, or when `NO_COLOR` is set (<https://no-color.org>).
    pub fn of_stdout() -> Self {
        Self::decided(std::io::stdout().is_terminal(), &|name| std::env::var_os(name))
    }

    fn decided(terminal: bool, variable: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let forbidden = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = variable("TERM").is_some_and(|term| term == "dumb");
        Self { color: terminal && !forbidden && !dumb }
    }

    /// `text`, painted as it is meant.
    pub fn paint(self, tone: Tone, text: &str) -> String {
        match tone.code() {
            Some(code) if self.color && !text.is_empty() => format!("\x1b[{code}m{text}\x1b[0m"),
            _ => text.to_owned(),
        }
    }

    /// As it should be.
    pub fn good(self, text: &str) -> String {
        self.paint(Tone::Good, text)
    }

    /// Broken.
    pub fn bad(self, text: &str) -> String {
        self.paint(Tone::Bad, text)
    }

    /// Worth a look.
    pub fn warn(self, text: &str) -> String {
        self.paint(Tone::Warn, text)
    }

    /// Of little interest.
    pub fn quiet(self, text: &str) -> String {
        self.paint(Tone::Quiet, text)
    }

    /// A title.
    pub fn strong(self, text: &str) -> String {
        self.paint(Tone::Strong, text)
    }
}

#[cfg(test)]
mod tests {
    use super::Style;

    #[test]
    fn colour_is_for_terminals_that_show_it_and_readers_who_want_it() {
        let decided = |terminal, set: &[(&str, &str)]| {
            let find =
                |name: &str| set.iter().find(|(it, _)| *it == name).map(|(_, value)| value.into());
            Style::decided(terminal, &find) == Style::COLORED
        };
        assert!(decided(true, &[("TERM", "xterm")]) && decided(true, &[("NO_COLOR", "")]));
        assert!(!decided(false, &[("TERM", "xterm")]));
        assert!(!decided(true, &[("TERM", "dumb")]) && !decided(true, &[("NO_COLOR", "1")]));
    }
}
