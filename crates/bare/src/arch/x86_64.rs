//! x86-64, in ring 0.

use core::arch::asm;

/// Interrupts as [`mask_interrupts`] found them.
#[derive(Clone, Copy, Debug)]
pub struct Interrupts {
    enabled: bool,
}

/// `RFLAGS.IF` (Intel SDM volume 1, 3.4.3).
const IF: u64 = 1 << 9;

/// The time stamp counter, after everything before it. No register says its frequency on every CPU: the kernel measures it.
#[must_use]
pub fn counter() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter; `lfence` keeps it from being read early (Intel SDM volume 2, RDTSC).
    unsafe { asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nostack, nomem)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Masks interrupts on this CPU; says how they were.
#[must_use]
pub fn mask_interrupts() -> Interrupts {
    let flags: u64;
    // SAFETY: masking interrupts breaks nobody's assumption. Not `nomem`: what follows must not be moved before it.
    unsafe { asm!("pushfq", "pop {}", "cli", out(reg) flags) };
    Interrupts { enabled: flags & IF != 0 }
}

/// Puts interrupts back to what [`mask_interrupts`] found.
pub fn restore_interrupts(before: Interrupts) {
    if before.enabled {
        // SAFETY: they were enabled before. Not `nomem`: what precedes must not be moved after it.
        unsafe { asm!("sti", options(nostack)) };
    }
}

/// Waits a moment.
pub fn wait_for_event() {
    core::hint::spin_loop();
}

/// Nothing: whoever waits looks again by itself.
pub fn send_event() {}

/// Returns once all earlier stores are visible to coherent observers, those that combine writes included.
#[inline]
pub fn complete_stores() {
    // SAFETY: a barrier.
    unsafe { asm!("sfence", options(nostack)) };
}

/// Nothing but for the compiler: loads are not reordered with loads (Intel SDM volume 3, 9.2.2).
#[inline]
pub fn order_loads() {
    core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::Acquire);
}

/// Bytes that `clflush` works on: CPUID.01H:EBX\[15:8\] times 8.
#[must_use]
pub fn cache_line() -> Option<usize> {
    #[expect(unused_unsafe, reason = "newer compilers call it safe")]
    // SAFETY: every x86-64 processor has CPUID.
    let ebx = unsafe { core::arch::x86_64::__cpuid(1) }.ebx;
    let line = (ebx >> 8 & 0xff) as usize * 8;
    (line > 0).then_some(line)
}

/// Writes the line at `address` back (and forgets it: there is no instruction of every CPU that keeps it).
///
/// # Safety
///
/// `address` is mapped.
pub unsafe fn clean_line(address: usize) {
    // SAFETY: the caller says that it is mapped; the line is written back before it is dropped.
    unsafe { asm!("clflush [{}]", in(reg) address, options(nostack)) };
}

/// Returns once what [`clean_line`] wrote is visible to every observer.
pub fn complete_cleaning() {
    complete_stores();
}

/// Writes the line at `address` back and forgets it.
///
/// # Safety
///
/// `address` is mapped.
pub unsafe fn clean_and_invalidate_line(address: usize) {
    // SAFETY: as the caller's.
    unsafe { clean_line(address) }
}

/// Later loads find what was in memory after [`clean_and_invalidate_line`].
pub fn complete_invalidation() {
    // SAFETY: a barrier.
    unsafe { asm!("mfence", options(nostack)) };
}

/// Nothing but for the compiler: an uncached store comes after the stores before it (Intel SDM volume 3, 9.2.2).
#[inline]
pub fn before_register_write() {
    core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::Release);
}

/// Nothing but for the compiler: loads come after an uncached load that precedes them.
#[inline]
pub fn after_register_read() {
    core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::Acquire);
}
