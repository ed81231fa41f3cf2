//! The CPU: who am I, the other one, the end.

use super::apic;
use super::port::{read8, write8, write16};
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};
use portcullis_iommu::bare::arch;

/// Where the second CPU starts: a page below 1 MiB, as the startup message wants it.
const TRAMPOLINE: usize = 0x8000;
/// The timer's channel 2 (Intel 8254): 1.193182 MHz, here for 10 ms.
const TIMER_COUNT: u16 = 11_932;
const TIMER_DATA: u16 = 0x42;
const TIMER_COMMAND: u16 = 0x43;
const TIMER_GATE: u16 = 0x61;

static COUNTER_FREQUENCY: AtomicU64 = AtomicU64::new(0);

/// The index of the CPU that runs this: its APIC id, which QEMU counts from 0.
pub fn number() -> usize {
    apic::id()
}

/// Counts a second of the time stamp counter.
pub fn counter_frequency() -> u64 {
    COUNTER_FREQUENCY.load(Ordering::Relaxed)
}

/// Measures the time stamp counter by the timer: no register says its frequency everywhere.
pub fn measure_counter() {
    // Gate on, speaker off; counting down once.
    write8(TIMER_GATE, read8(TIMER_GATE) & !2 | 1);
    write8(TIMER_COMMAND, 0xb0);
    write8(TIMER_DATA, TIMER_COUNT as u8);
    write8(TIMER_DATA, (TIMER_COUNT >> 8) as u8);
    let started = arch::counter();
    while read8(TIMER_GATE) & 1 << 5 == 0 {}
    COUNTER_FREQUENCY.store((arch::counter() - started) * 100, Ordering::Relaxed);
}

/// Lets interrupts in.
pub fn unmask_interrupts() {
    // SAFETY: the descriptor table and the interrupt controller are set up.
    unsafe { asm!("sti", options(nostack)) };
}

/// Starts CPU 1 at `second64` of entry.s.
pub fn start_second() -> Result<(), ()> {
    unsafe extern "C" {
        static trampoline: u8;
        static trampoline_end: u8;
    }
    let code = &raw const trampoline;
    let len = (&raw const trampoline_end).addr() - code.addr();
    // SAFETY: the page is RAM that firmware has no use for any more, and not the image's.
    unsafe { code.copy_to(core::ptr::with_exposed_provenance_mut(TRAMPOLINE), len) };
    apic::start_others((TRAMPOLINE >> 12) as u32, |micros| {
        let end = arch::counter() + micros * counter_frequency() / 1_000_000;
        while arch::counter() < end {
            core::hint::spin_loop();
        }
    });
    Ok(())
}

/// Ends this CPU.
pub fn off() -> ! {
    loop {
        // SAFETY: nobody interrupts any more.
        unsafe { asm!("cli", "hlt", options(nostack, nomem)) };
    }
}

/// Ends the machine; QEMU exits with 0: "S5" in the power management's control register, where SeaBIOS puts it on q35.
pub fn power_off() -> ! {
    write16(0x604, 1 << 13);
    off()
}

/// Ends the machine by `isa-debug-exit`; QEMU exits with twice the code and 1.
pub fn fail(code: u64) -> ! {
    write8(0xf4, code as u8);
    off()
}
