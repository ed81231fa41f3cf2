//! Lines on the serial port, and whether all checks passed.

use crate::chosen::port;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicUsize, Ordering};
use portcullis_iommu::bare::IrqSpinLock;
use portcullis_iommu::platform::IrqMutex;

static PORT: IrqMutex<Port, IrqSpinLock> = IrqMutex::from_raw(IrqSpinLock::unlabelled(), Port);
static FAILED: AtomicUsize = AtomicUsize::new(0);
static PASSED: AtomicUsize = AtomicUsize::new(0);

struct Port;

impl Write for Port {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        port::put(text);
        Ok(())
    }
}

pub fn line(text: fmt::Arguments<'_>) {
    PORT.with(|port| {
        let _never_fails = writeln!(port, "{text}");
    });
}

/// For the end: whoever holds the port may be what failed.
pub fn last_line(text: fmt::Arguments<'_>) {
    let _never_fails = writeln!(Port, "{text}");
}

#[macro_export]
macro_rules! say {
    ($($arg:tt)*) => { $crate::console::line(format_args!($($arg)*)) };
}

/// Says whether `what` holds, and counts it.
pub fn check(what: &str, holds: bool) {
    say!("{} {what}", if holds { "PASS" } else { "FAIL" });
    let count = if holds { &PASSED } else { &FAILED };
    count.fetch_add(1, Ordering::Relaxed);
}

pub fn passed_and_failed() -> (usize, usize) {
    (PASSED.load(Ordering::Relaxed), FAILED.load(Ordering::Relaxed))
}
