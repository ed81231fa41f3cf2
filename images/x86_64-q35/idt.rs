//! The interrupt descriptor table (Intel SDM volume 3, 6.14.1), the same for both CPUs.

use super::apic;
use core::arch::asm;
use portcullis_iommu::bare::IrqSpinLock;
use portcullis_iommu::platform::IrqMutex;

const EXCEPTIONS: usize = 32;
/// A stub of entry.s.
const STUB_BYTES: usize = 16;
/// Present, interrupt gate, code segment 8.
const GATE: u64 = 0x8e00 << 32 | 8 << 16;

type Gates = [[u64; 2]; 256];

static TABLE: IrqMutex<Gates, IrqSpinLock> =
    IrqMutex::from_raw(IrqSpinLock::unlabelled(), [[0; 2]; 256]);

#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

/// Fills the table in and gives it to this CPU.
pub fn load() {
    unsafe extern "C" {
        static exception_stubs: u8;
        static interrupt_stubs: u8;
    }
    let base = TABLE.with(|table| {
        for (vector, gate) in table.iter_mut().take(EXCEPTIONS).enumerate() {
            *gate = gate_to((&raw const exception_stubs).addr() + vector * STUB_BYTES);
        }
        for (place, vector) in [apic::IOMMU, apic::DEVICE, apic::SPURIOUS].into_iter().enumerate() {
            table[vector] = gate_to((&raw const interrupt_stubs).addr() + place * STUB_BYTES);
        }
        (&raw const *table).addr() as u64
    });
    let pointer = Pointer { limit: (size_of::<Gates>() - 1) as u16, base };
    // SAFETY: the table is in a static, and what it holds does not change any more.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(nostack)) };
}

fn gate_to(stub: usize) -> [u64; 2] {
    let stub = stub as u64;
    [stub & 0xffff | GATE | (stub >> 16 & 0xffff) << 48, stub >> 32]
}
