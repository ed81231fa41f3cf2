//! Interrupts that devices write: the GICv3's interrupt translation service, for one device and CPU 0.
//!
//! Registers and commands: Arm IHI 0069, chapters 5 ("Locality-specific Peripheral Interrupts and the ITS") and 12 ("Programmers' Model").

use crate::heap::POOL;
use crate::time;
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use portcullis_iommu::bare::{Mmio, arch};
use portcullis_iommu::platform::Registers;

/// The first LPI.
pub const FIRST_LPI: u32 = 8192;

const GICR_CTLR: usize = 0x0;
const GICR_PROPBASER: usize = 0x70;
const GICR_PENDBASER: usize = 0x78;
const ENABLE_LPIS: u32 = 1;
const GITS_CTLR: usize = 0x0;
const GITS_CBASER: usize = 0x80;
const GITS_CWRITER: usize = 0x88;
const GITS_CREADR: usize = 0x90;
const GITS_BASER: usize = 0x100;
const VALID: u64 = 1 << 63;
/// Inner shareable, inner write-back: the same fields in all base registers but for their places.
const SHAREABLE: u64 = 1 << 10;
const WRITE_BACK: u64 = 7 << 59;
const COMMAND_BYTES: usize = 32;
/// 14 bits of interrupt ids: LPIs 8192 to 16383.
const ID_BITS: u64 = 13;

/// What reaches memory of the ITS and of the redistributor is never freed: they may write it until the next reset.
pub struct Its {
    registers: Mmio,
    commands: NonNull<u64>,
    next: usize,
}

/// `size` zeroed bytes on a boundary of 64 KiB, for ever.
fn table(size: usize) -> NonNull<u8> {
    let layout = Layout::from_size_align(size, 0x1_0000).expect("a layout");
    // SAFETY: not empty.
    NonNull::new(unsafe { POOL.alloc_zeroed(layout) }).expect("memory for the ITS")
}

impl Its {
    /// Sets up the redistributor of CPU 0 for LPIs and the service for one collection, CPU 0.
    ///
    /// # Safety
    ///
    /// Addresses of the GITS and of CPU 0's GICR registers, mapped as device memory; called once, by CPU 0.
    pub unsafe fn new(its: usize, redistributor: usize) -> Self {
        let block = |base: usize, len| {
            // SAFETY: the caller's.
            unsafe { Mmio::new(NonNull::new(base as *mut u8).expect("not at 0"), len) }
        };
        let cpu0 = block(redistributor, 0x1_0000);
        // One byte an LPI: priority 0x80, enabled (5.1.1).
        let configuration = table(1 << 13);
        // SAFETY: allocated above, `1 << 13` bytes.
        unsafe { configuration.write_bytes(0x80 | 1, 1 << 13) };
        arch::complete_stores();
        let at = |table: NonNull<u8>| table.addr().get() as u64;
        cpu0.write64(GICR_PROPBASER, at(configuration) | 7 << 7 | SHAREABLE | ID_BITS);
        cpu0.write64(GICR_PENDBASER, at(table(0x1_0000)) | 1 << 62 | 7 << 7 | SHAREABLE);
        cpu0.write32(GICR_CTLR, cpu0.read32(GICR_CTLR) | ENABLE_LPIS);
        let registers = block(its, 0x1_0000);
        Self::give_tables(&registers);
        let commands = table(0x1_0000);
        registers.write64(GITS_CBASER, VALID | WRITE_BACK | at(commands) | SHAREABLE | 15);
        registers.write64(GITS_CWRITER, 0);
        registers.write32(GITS_CTLR, 1);
        let mut its = Self { registers, commands: commands.cast(), next: 0 };
        // MAPC: collection 0 is CPU 0, by processor number (GITS_TYPER.PTA is 0 on QEMU).
        its.command([0x09, 0, VALID, 0]);
        its
    }

    /// A flat table for each kind that the service asks for: devices (1), collections (4).
    fn give_tables(registers: &Mmio) {
        for index in 0..8 {
            let offset = GITS_BASER + 8 * index;
            let kind = registers.read64(offset) >> 56 & 7;
            if kind == 0 {
                continue;
            }
            let pages = 16;
            let memory = table(pages * 0x1_0000).addr().get() as u64;
            let size = 2 << 8 | (pages as u64 - 1);
            registers.write64(offset, VALID | WRITE_BACK | memory | SHAREABLE | size);
        }
    }

    /// Has event 0 of `device` raise LPI [`FIRST_LPI`] on CPU 0.
    pub fn map(&mut self, device: u32) {
        let device = u64::from(device) << 32;
        let translations = table(0x1_0000).addr().get() as u64;
        // MAPD with one bit of event ids, MAPTI to collection 0, INV, SYNC with CPU 0 (5.3).
        self.command([0x08 | device, 0, VALID | translations, 0]);
        self.command([0x0a | device, u64::from(FIRST_LPI) << 32, 0, 0]);
        self.command([0x0c | device, 0, 0, 0]);
        self.command([0x05, 0, 0, 0]);
        crate::console::check("the ITS has taken its commands", self.is_idle());
    }

    fn command(&mut self, words: [u64; 4]) {
        for (index, word) in words.into_iter().enumerate() {
            // SAFETY: the queue has 64 KiB, and `next` stays below the handful of commands that are ever sent.
            unsafe {
                self.commands.add(self.next * COMMAND_BYTES / 8 + index).write_volatile(word)
            };
        }
        self.next += 1;
        arch::complete_stores();
        self.registers.write64(GITS_CWRITER, (self.next * COMMAND_BYTES) as u64);
    }

    fn is_idle(&self) -> bool {
        time::wait_until(|| {
            self.registers.read64(GITS_CREADR) == self.registers.read64(GITS_CWRITER)
        })
    }
}
