//! Ports of the PC, and its serial one.

use core::arch::asm;

/// COM1; its line status register says "transmitter empty" by bit 5 (National Semiconductor PC16550D).
const COM1: u16 = 0x3f8;
const LINE_STATUS: u16 = COM1 + 5;
const EMPTY: u8 = 1 << 5;

pub fn put(text: &str) {
    for byte in text.bytes() {
        while read8(LINE_STATUS) & EMPTY == 0 {}
        write8(COM1, byte);
    }
}

pub fn read8(port: u16) -> u8 {
    let value: u8;
    // SAFETY: this kernel reads ports of the serial line, the timer and the interrupt controllers, none of which reaches memory.
    unsafe { asm!("in al, dx", out("al") value, in("dx") port, options(nostack, nomem)) };
    value
}

pub fn write8(port: u16, value: u8) {
    // SAFETY: as above.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, nomem)) };
}

pub fn write16(port: u16, value: u16) {
    // SAFETY: as above; and the port that turns the machine off.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nostack, nomem)) };
}
