//! AArch64, at EL1 (or at EL2 with VHE, where the same names are redirected).

use core::arch::asm;

/// Interrupts as [`mask_interrupts`] found them.
#[derive(Clone, Copy, Debug)]
pub struct Interrupts(u64);

/// The virtual counter, after everything before it.
#[must_use]
pub fn counter() -> u64 {
    let value: u64;
    // SAFETY: reads a counter that EL1 may always read; `isb` keeps it from being read early.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) value, options(nostack, nomem)) };
    value
}

/// How often [`counter`] counts, in Hz, as firmware has said in `CNTFRQ_EL0`.
#[doc(alias = "cntfrq_el0")]
#[must_use]
pub fn counter_frequency() -> u64 {
    let value: u64;
    // SAFETY: reads a register that EL1 may always read.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) value, options(nostack, nomem)) };
    value
}

/// Masks interrupts (IRQ, not FIQ) on this CPU; says how they were.
#[must_use]
pub fn mask_interrupts() -> Interrupts {
    let before: u64;
    // SAFETY: masking interrupts breaks nobody's assumption. Not `nomem`: what follows must not be moved before it.
    unsafe { asm!("mrs {}, daif", "msr daifset, #2", out(reg) before, options(nostack)) };
    Interrupts(before)
}

/// Puts interrupts back to what [`mask_interrupts`] found.
pub fn restore_interrupts(before: Interrupts) {
    // SAFETY: restores what was there. Not `nomem`: what precedes must not be moved after it.
    unsafe { asm!("msr daif, {}", in(reg) before.0, options(nostack)) };
}

/// Sleeps until [`send_event`] on any CPU, an interrupt, or nothing at all.
pub fn wait_for_event() {
    // SAFETY: a hint.
    unsafe { asm!("wfe", options(nostack)) };
}

/// Wakes every CPU in [`wait_for_event`], after this CPU's stores.
pub fn send_event() {
    // SAFETY: a barrier and a hint.
    unsafe { asm!("dsb ishst", "sev", options(nostack)) };
}

/// Returns once all earlier stores are visible to coherent observers.
#[inline]
pub fn complete_stores() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb ishst", options(nostack)) };
}

/// Earlier loads come before later accesses.
#[inline]
pub fn order_loads() {
    // SAFETY: a barrier.
    unsafe { asm!("dmb oshld", options(nostack)) };
}

/// Bytes of the smallest cache line of any level, from `CTR_EL0.DminLine`.
#[must_use]
pub fn cache_line() -> Option<usize> {
    let ctr: u64;
    // SAFETY: reads a register that EL1 may always read.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) ctr, options(nostack, nomem)) };
    Some(4 << (ctr >> 16 & 0xf))
}

/// Writes the line at `address` back to the point of coherency.
///
/// # Safety
///
/// `address` is mapped.
pub unsafe fn clean_line(address: usize) {
    // SAFETY: the caller says that it is mapped; cleaning changes no byte.
    unsafe { asm!("dc cvac, {}", in(reg) address, options(nostack)) };
}

/// Returns once what [`clean_line`] wrote is visible to every observer.
pub fn complete_cleaning() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb osh", options(nostack)) };
}

/// Writes the line at `address` back and forgets it.
///
/// # Safety
///
/// `address` is mapped.
pub unsafe fn clean_and_invalidate_line(address: usize) {
    // SAFETY: the caller says that it is mapped; the line is cleaned before it is dropped.
    unsafe { asm!("dc civac, {}", in(reg) address, options(nostack)) };
}

/// Later loads find what was in memory after [`clean_and_invalidate_line`].
pub fn complete_invalidation() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb osh", options(nostack)) };
}

/// Earlier stores to memory come before the register write that follows.
#[inline]
pub fn before_register_write() {
    // SAFETY: a barrier.
    unsafe { asm!("dmb oshst", options(nostack)) };
}

/// Later loads come after the register read that precedes.
#[inline]
pub fn after_register_read() {
    // SAFETY: a barrier.
    unsafe { asm!("dmb oshld", options(nostack)) };
}
