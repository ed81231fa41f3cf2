//! What the CPU gives: counters, interrupt masking, barriers, cache maintenance. One module an architecture, the same functions in each.
//!
//! | | AArch64 | riscv64 | x86-64 |
//! | --- | --- | --- | --- |
//! | [`counter`] | `isb`, `cntvct_el0` | `rdtime` | `lfence`, `rdtsc` |
//! | [`mask_interrupts`], [`restore_interrupts`] | `DAIF.I` | `sstatus.SIE` | `RFLAGS.IF` |
//! | [`wait_for_event`], [`send_event`] | `wfe`; `dsb ishst`, `sev` | `pause` (Zihintpause); nothing | `pause`; nothing |
//! | [`complete_stores`] | `dsb ishst` | `fence w,ow` | `sfence` |
//! | [`order_loads`] | `dmb oshld` | `fence r,r` | nothing (the CPU does) |
//! | [`clean_line`], then [`complete_cleaning`] | `dc cvac`; `dsb osh` | `cbo.clean`; `fence w,ow` | `clflush`; `sfence` |
//! | [`clean_and_invalidate_line`], then [`complete_invalidation`] | `dc civac`; `dsb osh` | `cbo.flush`; `fence rw,rw` | `clflush`; `mfence` |
//! | [`before_register_write`] | `dmb oshst` | `fence w,o` | nothing (uncached stores come after earlier ones) |
//! | [`after_register_read`] | `dmb oshld` | `fence i,r` | nothing |
//!
//! Sources: Arm DDI 0487 (B2.3 barriers, D7.5 caches); The RISC-V Instruction Set Manual Volume I (FENCE, Zihintpause) and the Zicbom chapter of the CMO extensions;
//! Intel SDM volume 3, 9.2 (memory ordering) and volume 2 (CLFLUSH, SFENCE, MFENCE).
//!
//! `clflush` and not `clflushopt` on x86-64: every x86-64 CPU has it, and non-coherent observers are rare there.
#![expect(unsafe_code, reason = "each function is one or two instructions")]

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "aarch64")]
pub use aarch64::*;

#[cfg(target_arch = "riscv64")]
mod riscv64;
#[cfg(target_arch = "riscv64")]
pub use riscv64::*;

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;
