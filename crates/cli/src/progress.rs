//! Progress on standard error, where that is a terminal, of what takes longer than two seconds.
//!
//! One line that is overwritten, by a carriage return and spaces: no escape sequence is needed for that, whatever `TERM` and `NO_COLOR` say. A `dumb` terminal keeps what it
//! was sent, so it gets a line of its own every ten seconds.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Nothing is said before so much time has passed.
const PATIENCE: Duration = Duration::from_secs(2);

/// Characters of a line at most, however wide the terminal is.
const LINE: usize = 79;

/// What Ctrl-C does meanwhile.
const HINT: &str = " (Ctrl-C: stop, report)";

/// What progress is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// No terminal.
    Nowhere,
    /// One line of at most so many characters, overwritten each time. A full line would move the cursor on, and could not be wiped.
    Line(usize),
    /// A line each time.
    Lines,
}

impl Place {
    fn of_stderr() -> Self {
        let columns = terminal_size::terminal_size_of(std::io::stderr())
            .map_or(LINE + 1, |(columns, _)| usize::from(columns.0));
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self::decided(std::io::stderr().is_terminal(), dumb, columns)
    }

    fn decided(terminal: bool, dumb: bool, columns: usize) -> Self {
        match (terminal, dumb) {
            (false, _) => Self::Nowhere,
            (true, true) => Self::Lines,
            (true, false) => Self::Line(columns.saturating_sub(1).min(LINE)),
        }
    }

    fn pause(self) -> Duration {
        match self {
            Self::Lines => Duration::from_secs(10),
            Self::Nowhere | Self::Line(_) => Duration::from_millis(200),
        }
    }

    /// What to write so that `text` is seen. A long text is cut, the hint is not, unless there is hardly room for it.
    fn shown(self, text: &str, hint: &str) -> String {
        match self {
            Self::Nowhere => String::new(),
            Self::Lines => format!("{text}{hint}\n"),
            Self::Line(room) => {
                let hint = if room >= 2 * hint.len() { hint } else { "" };
                let text: String = text.chars().take(room - hint.len()).collect();
                format!("\r{:<room$}", text + hint)
            }
        }
    }

    /// What to write so that nothing is left.
    fn wiped(self) -> String {
        match self {
            Self::Nowhere | Self::Lines => String::new(),
            Self::Line(room) => format!("\r{:<room$}\r", ""),
        }
    }
}

/// The line, of work that calls back.
#[derive(Debug)]
pub struct Ticker {
    began: Instant,
    last: Option<Instant>,
    place: Place,
    hint: &'static str,
}

impl Default for Ticker {
    fn default() -> Self {
        Self::new()
    }
}

impl Ticker {
    /// For work that Ctrl-C ends early, with a report.
    pub fn new() -> Self {
        Self { began: Instant::now(), last: None, place: Place::of_stderr(), hint: HINT }
    }

    /// Shows what `text` says of the time that has passed, if it is time to say something.
    pub fn say(&mut self, text: impl FnOnce(Duration) -> String) {
        let passed = self.began.elapsed();
        let fresh = self.last.is_some_and(|last| last.elapsed() < self.place.pause());
        if self.place != Place::Nowhere && passed >= PATIENCE && !fresh {
            self.last = Some(Instant::now());
            // Progress that cannot be shown is no reason to stop.
            let _ = write!(std::io::stderr(), "{}", self.place.shown(&text(passed), self.hint));
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        if self.last.is_some() {
            let _ = write!(std::io::stderr(), "{}", self.place.wiped());
        }
    }
}

/// A [`Ticker`] that runs by itself, for work that does not call back.
#[derive(Debug)]
pub(crate) struct Background {
    done: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// For work that Ctrl-C ends early, with a report.
    pub(crate) fn new(what: &str) -> Self {
        Self::run(what.to_owned(), HINT)
    }

    /// For what is waited for, and not worked on: Ctrl-C ends the program.
    pub(crate) fn waiting(what: String) -> Self {
        Self::run(what, "")
    }

    fn run(what: String, hint: &'static str) -> Self {
        let (done, over) = channel();
        let thread = std::thread::spawn(move || {
            let mut ticker = Ticker { hint, ..Ticker::new() };
            while over.recv_timeout(Duration::from_millis(250)) == Err(RecvTimeoutError::Timeout) {
                ticker.say(|passed| format!("{what}: {} s", passed.as_secs()));
            }
        });
        Self { done: Some(done), thread: Some(thread) }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.done.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A number that can be read from afar: 950, 12.3 k, 4.56 M.
pub(crate) fn short(number: f64) -> String {
    if number < 1e4 {
        format!("{number:.0}")
    } else if number < 1e6 {
        format!("{:.1} k", number / 1e3)
    } else if number < 1e9 {
        format!("{:.2} M", number / 1e6)
    } else {
        format!("{:.2} G", number / 1e9)
    }
}

#[cfg(test)]
mod tests {
    use super::{HINT, Place, short};

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [short(0.0), short(9999.0), short(12_345.0), short(4.56e6), short(7e10)],
            ["0", "9999", "12.3 k", "4.56 M", "70.00 G"]
        );
    }

    #[test]
    fn progress_is_for_terminals_and_overwrites_itself_where_that_works() {
        assert_eq!(Place::decided(false, false, 80), Place::Nowhere);
        assert_eq!(Place::decided(true, true, 80), Place::Lines);
        assert_eq!(Place::decided(true, false, 200), Place::Line(79));
        assert_eq!(Place::decided(true, false, 60), Place::Line(59));
    }

    /// Narrower than the terminal, without escape sequences, and with the hint that a long text must not push out.
    #[test]
    fn a_line_fits_and_leaves_nothing_behind() {
        let long = "x".repeat(200);
        for columns in [0, 1, 20, 47, 60, 80, 200] {
            let place = Place::decided(true, false, columns);
            let (line, wiped) = (place.shown(&long, HINT), place.wiped());
            assert!(line.chars().count() <= columns.max(1) && !line.contains('\x1b'), "{line:?}");
            assert_eq!(line.ends_with(HINT), columns >= 47, "{columns}: {line:?}");
            assert_eq!(wiped.trim_matches('\r').len(), line.trim_start_matches('\r').len());
        }
        let shorter = Place::Line(79).shown("3 of 5", HINT);
        assert_eq!(shorter.chars().count(), 80, "what was there before is overwritten");
        assert_eq!(Place::Lines.shown("3 of 5", ""), "3 of 5\n");
    }
}
