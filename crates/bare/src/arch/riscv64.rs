//! riscv64, in supervisor mode.

use core::arch::asm;

/// Interrupts as [`mask_interrupts`] found them.
#[derive(Clone, Copy, Debug)]
pub struct Interrupts(usize);

/// `sstatus.SIE` (The RISC-V Instruction Set Manual Volume II, supervisor status register).
const SIE: usize = 1 << 1;

/// The `time` counter. Its frequency is the devicetree's `/cpus/timebase-frequency`.
#[must_use]
pub fn counter() -> u64 {
    let value: u64;
    // SAFETY: reads a counter that supervisor mode may read.
    unsafe { asm!("rdtime {}", out(reg) value, options(nostack, nomem)) };
    value
}

/// Masks interrupts on this hart; says how they were.
#[must_use]
pub fn mask_interrupts() -> Interrupts {
    let before: usize;
    // SAFETY: masking interrupts breaks nobody's assumption. Not `nomem`: what follows must not be moved before it.
    unsafe { asm!("csrrci {}, sstatus, 2", out(reg) before, options(nostack)) };
    Interrupts(before & SIE)
}

/// Puts interrupts back to what [`mask_interrupts`] found.
pub fn restore_interrupts(before: Interrupts) {
    // SAFETY: sets a bit that was set before. Not `nomem`: what precedes must not be moved after it.
    unsafe { asm!("csrs sstatus, {}", in(reg) before.0, options(nostack)) };
}

/// Waits a moment. There is no event that another hart could send short of an interrupt.
pub fn wait_for_event() {
    core::hint::spin_loop();
}

/// Nothing: whoever waits looks again by itself.
pub fn send_event() {}

/// Returns once all earlier stores are visible to coherent observers, devices' registers included.
#[inline]
pub fn complete_stores() {
    // SAFETY: a barrier.
    unsafe { asm!("fence w,ow", options(nostack)) };
}

/// Earlier loads come before later ones.
#[inline]
pub fn order_loads() {
    // SAFETY: a barrier.
    unsafe { asm!("fence r,r", options(nostack)) };
}

/// Unknown: no register says whether there is Zicbom, nor its block. The devicetree does: `riscv,cbom-block-size`.
#[must_use]
pub fn cache_line() -> Option<usize> {
    None
}

/// Writes the block at `address` back (Zicbom).
///
/// # Safety
///
/// `address` is mapped, and the hart has Zicbom, enabled for supervisor mode (`menvcfg.CBCFE`).
pub unsafe fn clean_line(address: usize) {
    // SAFETY: the caller says so; cleaning changes no byte.
    unsafe {
        asm!(".option push", ".option arch, +zicbom", "cbo.clean ({})", ".option pop", in(reg) address, options(nostack));
    }
}

/// Returns once what [`clean_line`] wrote is visible to every observer.
pub fn complete_cleaning() {
    complete_stores();
}

/// Writes the block at `address` back and forgets it (Zicbom).
///
/// # Safety
///
/// As [`clean_line`].
pub unsafe fn clean_and_invalidate_line(address: usize) {
    // SAFETY: the caller says so; the block is cleaned before it is dropped.
    unsafe {
        asm!(".option push", ".option arch, +zicbom", "cbo.flush ({})", ".option pop", in(reg) address, options(nostack));
    }
}

/// Later loads find what was in memory after [`clean_and_invalidate_line`].
pub fn complete_invalidation() {
    // SAFETY: a barrier.
    unsafe { asm!("fence rw,rw", options(nostack)) };
}

/// Earlier stores to memory come before the register write that follows.
#[inline]
pub fn before_register_write() {
    // SAFETY: a barrier.
    unsafe { asm!("fence w,o", options(nostack)) };
}

/// Later loads come after the register read that precedes.
#[inline]
pub fn after_register_read() {
    // SAFETY: a barrier.
    unsafe { asm!("fence i,r", options(nostack)) };
}
