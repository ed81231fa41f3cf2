//! Ctrl-C: what was covered until then is reported.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// A flag that becomes true at the first Ctrl-C. At the second one the program ends at once.
pub fn flag() -> Arc<AtomicBool> {
    let install = || {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        // Where no handler can be had, Ctrl-C ends the program as it always does.
        let _ = ctrlc::set_handler(move || {
            if seen.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
            acknowledge();
        });
        stop
    };
    Arc::clone(STOP.get_or_init(install))
}

/// What is under way may take seconds to end. On a line of its own: the terminal shows `^C`.
fn acknowledge() {
    if std::io::stderr().is_terminal() {
        let text = b"\nstopping after the step under way; Ctrl-C again to end at once\n";
        // Whoever cannot read it sees the report.
        let _ = std::io::stderr().write_all(text);
    }
}
