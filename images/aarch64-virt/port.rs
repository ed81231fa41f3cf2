//! The serial port.

use core::ptr::NonNull;
use portcullis_iommu::bare::Mmio;
use portcullis_iommu::platform::Registers;

/// QEMU's virt has its PL011 here.
const UART: usize = 0x0900_0000;
/// Arm DDI 0183, 3.3.1 and 3.3.3: data and flags, and "transmit FIFO full".
const DATA: usize = 0;
const FLAGS: usize = 0x18;
const FULL: u32 = 1 << 5;

pub fn put(text: &str) {
    // SAFETY: entry.s maps it as device memory; only this function uses it.
    let uart =
        unsafe { Mmio::new(NonNull::without_provenance(UART.try_into().expect("not 0")), 0x1000) };
    for byte in text.bytes() {
        while uart.read32(FLAGS) & FULL != 0 {}
        uart.write32(DATA, byte.into());
    }
}
