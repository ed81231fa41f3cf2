//! `portcullis bench`: numbers, not verdicts.

pub mod null;
pub mod probe;

use crate::interrupt;
use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Standard output, which shows each row as soon as it is measured. Ctrl-C ends the table behind the row that is being measured.
struct Rows {
    stop: Arc<AtomicBool>,
    broken: Option<std::io::Error>,
}

impl fmt::Write for Rows {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.stop.load(Ordering::Relaxed) {
            return Err(fmt::Error);
        }
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| {
            self.broken = Some(error);
            fmt::Error
        })
    }
}

/// Prints what `measure` writes, row by row.
///
/// # Errors
///
/// Standard output cannot be written; a reader who has gone (a closed pipe) is no error.
pub fn run(measure: impl FnOnce(&mut dyn fmt::Write) -> fmt::Result) -> Result<(), String> {
    if std::io::stderr().is_terminal() {
        eprintln!("a row takes seconds; Ctrl-C ends the table behind the row under way");
    }
    let mut rows = Rows { stop: interrupt::flag(), broken: None };
    let whole = measure(&mut rows).is_ok();
    match rows.broken {
        Some(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.to_string()),
        None if !whole => {
            let text = "\ninterrupted: the rows above are whole, the others were not measured\n";
            // Nobody is left to be told where that cannot be written.
            let _gone = std::io::stdout().write_all(text.as_bytes());
            Ok(())
        }
        _ => Ok(()),
    }
}
