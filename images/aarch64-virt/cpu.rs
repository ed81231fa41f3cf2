//! The CPU: who am I, the other one, the end.

use core::arch::asm;
use portcullis_iommu::bare::arch;
pub use portcullis_iommu::bare::arch::counter_frequency;
use smccc::{Hvc, psci};

/// The index of the CPU that runs this: the lowest affinity, which is what QEMU's virt counts.
pub fn number() -> usize {
    let mpidr: u64;
    // SAFETY: reads a register that is always there.
    unsafe { asm!("mrs {}, mpidr_el1", out(reg) mpidr, options(nomem, nostack)) };
    (mpidr & 0xff) as usize
}

/// Lets interrupts in.
pub fn unmask_interrupts() {
    // SAFETY: the vectors and the interrupt controller are set up.
    unsafe { asm!("msr daifclr, #2", options(nostack)) };
}

/// Starts CPU 1 in `secondary_start`.
pub fn start_second() -> Result<(), psci::Error> {
    unsafe extern "C" {
        static secondary_start: u8;
    }
    psci::cpu_on::<Hvc>(1, (&raw const secondary_start).addr() as u64, 0)
}

/// Ends this CPU.
pub fn off() -> ! {
    let _does_not_return = psci::cpu_off::<Hvc>();
    loop {
        arch::wait_for_event();
    }
}

/// Ends the machine; QEMU exits with 0.
pub fn power_off() -> ! {
    let _does_not_return = psci::system_off::<Hvc>();
    loop {
        arch::wait_for_event();
    }
}

/// Ends the machine; QEMU exits with `code`. By semihosting (Arm's "Semihosting for AArch32 and AArch64", SYS_EXIT with ADP_Stopped_ApplicationExit).
pub fn fail(code: u64) -> ! {
    let block = [0x20026_u64, code];
    // SAFETY: QEMU takes this instruction as a request and does not return; without semihosting it is undefined and ends in `rust_exception`'s loop.
    unsafe { asm!("hlt #0xf000", in("x0") 0x18_u64, in("x1") block.as_ptr(), options(nostack)) };
    loop {
        arch::wait_for_event();
    }
}
