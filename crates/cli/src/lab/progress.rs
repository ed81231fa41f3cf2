//! A line on standard error for what takes longer than two seconds, on a terminal only.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Nothing is said before so much time has passed.
const PATIENCE: Duration = Duration::from_secs(2);

/// Characters of the line: it must not break on a narrow terminal, or it could not be wiped.
const LINE: usize = 79;

/// The line.
#[derive(Debug)]
pub(crate) struct Ticker {
    began: Instant,
    last: Option<Instant>,
    wanted: bool,
}

impl Ticker {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), last: None, wanted: std::io::stderr().is_terminal() }
    }

    /// Shows what `text` says, at most five times a second.
    pub(crate) fn say(&mut self, text: impl FnOnce() -> String) {
        let fresh = self.last.is_some_and(|last| last.elapsed() < Duration::from_millis(200));
        if self.wanted && self.began.elapsed() >= PATIENCE && !fresh {
            self.last = Some(Instant::now());
            let line: String = (text() + " (Ctrl-C: stop, report)").chars().take(LINE).collect();
            // Progress that cannot be shown is no reason to stop.
            let _ = write!(std::io::stderr(), "\r\x1b[2K{line}");
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        if self.last.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[2K");
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
    pub(crate) fn new(what: &'static str) -> Self {
        let (done, over) = channel();
        let thread = std::thread::spawn(move || {
            let mut ticker = Ticker::new();
            let began = Instant::now();
            while over.recv_timeout(Duration::from_millis(250)) == Err(RecvTimeoutError::Timeout) {
                ticker.say(|| format!("{what}: {} s", began.elapsed().as_secs()));
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
    use super::short;

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [short(0.0), short(9999.0), short(12_345.0), short(4.56e6), short(7e10)],
            ["0", "9999", "12.3 k", "4.56 M", "70.00 G"]
        );
    }
}
