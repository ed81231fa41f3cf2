//! The hart: who am I, the other one, the end.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use sbi_rt::{NoReason, Shutdown, SystemFailure};

static COUNTER_FREQUENCY: AtomicU64 = AtomicU64::new(0);
static SECOND: AtomicUsize = AtomicUsize::new(0);

/// The index of the hart that runs this. entry.s keeps it in `tp`, which nothing else uses: the one that SBI has started is 0, whatever its number.
pub fn number() -> usize {
    let tp: usize;
    // SAFETY: reads a register.
    unsafe { asm!("mv {}, tp", out(reg) tp, options(nomem, nostack)) };
    tp
}

/// Counts a second of the `time` register.
pub fn counter_frequency() -> u64 {
    COUNTER_FREQUENCY.load(Ordering::Relaxed)
}

pub fn set_counter_frequency(hertz: u64) {
    COUNTER_FREQUENCY.store(hertz, Ordering::Relaxed);
}

/// Which hart [`start_second`] starts.
pub fn set_second(hart: usize) {
    SECOND.store(hart, Ordering::Relaxed);
}

/// Lets external interrupts in: `sie.SEIE` and `sstatus.SIE`.
pub fn unmask_interrupts() {
    // SAFETY: the trap vector and the interrupt file are set up.
    unsafe { asm!("csrs sie, {}", "csrsi sstatus, 2", in(reg) 1 << 9, options(nostack)) };
}

/// Starts the other hart in `secondary_start`.
pub fn start_second() -> Result<(), isize> {
    unsafe extern "C" {
        static secondary_start: u8;
    }
    let hart = SECOND.load(Ordering::Relaxed);
    let answer = sbi_rt::hart_start(hart, (&raw const secondary_start).addr(), 0);
    if answer.is_ok() { Ok(()) } else { Err(answer.error as isize) }
}

/// Ends this hart.
pub fn off() -> ! {
    let _does_not_return = sbi_rt::hart_stop();
    rest()
}

/// Ends the machine; QEMU exits with 0.
pub fn power_off() -> ! {
    let _does_not_return = sbi_rt::system_reset(Shutdown, NoReason);
    rest()
}

/// Ends the machine; QEMU exits with another number: its test device (at 0x100000) knows one for failures, and the code goes to the console.
pub fn fail(code: u64) -> ! {
    crate::console::last_line(format_args!("failed: {code}"));
    let _does_not_return = sbi_rt::system_reset(Shutdown, SystemFailure);
    rest()
}

fn rest() -> ! {
    loop {
        core::hint::spin_loop();
    }
}
