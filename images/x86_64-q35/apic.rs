//! The local APIC (Intel SDM volume 3, chapter 11): this CPU's number, its interrupts, messages to the other CPU.

use super::port::write8;
use core::ptr::NonNull;
use portcullis_iommu::bare::Mmio;
use portcullis_iommu::platform::Registers;

/// Vectors, in the order of entry.s.
pub const IOMMU: usize = 0x40;
pub const DEVICE: usize = 0x41;
pub const SPURIOUS: usize = 0xff;

/// Where messages for CPU 0 are written: physical destination, APIC id 0 (11.11.1). The CPU's registers have the same address.
pub const MESSAGES: u64 = 0xfee0_0000;

const ID: usize = 0x20;
const END_OF_INTERRUPT: usize = 0xb0;
const SPURIOUS_VECTOR: usize = 0xf0;
const ENABLE: u32 = 1 << 8;
const COMMAND: usize = 0x300;
/// To all CPUs but this one.
const OTHERS: u32 = 3 << 18;
const INIT: u32 = 5 << 8 | 1 << 14;
const STARTUP: u32 = 6 << 8 | 1 << 14;

fn registers() -> Mmio {
    let base = NonNull::without_provenance((MESSAGES as usize).try_into().expect("not 0"));
    // SAFETY: each CPU has its own registers there, mapped as device memory.
    unsafe { Mmio::new(base, 0x1000) }
}

/// This CPU's APIC id.
pub fn id() -> usize {
    (registers().read32(ID) >> 24) as usize
}

/// Takes interrupts on this CPU.
pub fn enable() {
    registers().write32(SPURIOUS_VECTOR, ENABLE | SPURIOUS as u32);
}

pub fn end_of_interrupt() {
    registers().write32(END_OF_INTERRUPT, 0);
}

/// The old interrupt controllers stay silent.
pub fn mask_8259() {
    write8(0x21, 0xff);
    write8(0xa1, 0xff);
}

/// Resets the other CPU, and starts it at page `page` of memory.
pub fn start_others(page: u32, wait: impl Fn(u64)) {
    registers().write32(COMMAND, OTHERS | INIT);
    wait(10_000);
    // Twice, as 9.4.4 has it: the first one may be lost.
    for _ in 0..2 {
        registers().write32(COMMAND, OTHERS | STARTUP | page);
        wait(200);
    }
}
