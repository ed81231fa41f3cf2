//! The incoming message interrupts of a hart (The RISC-V Advanced Interrupt Architecture 1.0, chapter 3, "Incoming MSI Controller"): a device writes an identity to the page of a hart.

use core::arch::asm;

/// Identities, as this kernel chooses them.
pub const IOMMU: u32 = 1;
pub const DEVICE: u32 = 2;

/// Registers of the supervisor's interrupt file, reached through `siselect` and `sireg`.
const EIDELIVERY: usize = 0x70;
const EITHRESHOLD: usize = 0x72;
const EIE0: usize = 0xc0;

/// Takes both identities on this hart.
pub fn init_cpu() {
    write(EIDELIVERY, 1);
    // 0: no identity is too weak.
    write(EITHRESHOLD, 0);
    write(EIE0, 1 << IOMMU | 1 << DEVICE);
}

/// Takes the pending identities of this hart one by one.
pub fn handle(mut act: impl FnMut(u32)) {
    loop {
        let top: usize;
        // SAFETY: `stopei` (0x15c): reads the strongest pending identity and, by writing, claims it.
        unsafe { asm!("csrrw {}, 0x15c, x0", out(reg) top, options(nostack)) };
        let identity = (top >> 16) as u32;
        if identity == 0 {
            return;
        }
        act(identity);
    }
}

fn write(register: usize, value: usize) {
    // SAFETY: `siselect` (0x150) and `sireg` (0x151) are there on a hart with an IMSIC; interrupts are masked while a hart starts, so nobody comes between.
    unsafe {
        asm!("csrw 0x150, {}", "csrw 0x151, {}", in(reg) register, in(reg) value, options(nostack));
    }
}
