//! Lines on the serial port, and whether all checks passed.

use core::fmt::{self, Write};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};
use portcullis_bare::{IrqSpinLock, Mmio};
use portcullis_platform::{IrqMutex, Registers};

/// QEMU's virt has its PL011 here.
const UART: usize = 0x0900_0000;
/// Arm DDI 0183, 3.3.1 and 3.3.3: data and flags, and "transmit FIFO full".
const DATA: usize = 0;
const FLAGS: usize = 0x18;
const FULL: u32 = 1 << 5;

static PORT: IrqMutex<Port, IrqSpinLock> = IrqMutex::from_raw(IrqSpinLock::unlabelled(), Port);
static FAILED: AtomicUsize = AtomicUsize::new(0);
static PASSED: AtomicUsize = AtomicUsize::new(0);

struct Port;

impl Write for Port {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // SAFETY: entry.s maps it as device memory; only this function uses it.
        let uart = unsafe {
            Mmio::new(NonNull::without_provenance(UART.try_into().expect("not 0")), 0x1000)
        };
        for byte in text.bytes() {
            while uart.read32(FLAGS) & FULL != 0 {}
            uart.write32(DATA, byte.into());
        }
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
