//! Device registers in the kernel's address space.
#![expect(unsafe_code, reason = "registers are reached by pointer")]

use crate::arch;
use core::ptr::NonNull;
use portcullis_platform::Registers;

/// A block of registers that the kernel has mapped, uncached.
#[derive(Clone, Copy, Debug)]
pub struct Mmio {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: registers belong to no thread; `new` demands that the mapping stays.
unsafe impl Send for Mmio {}
// SAFETY: each access is one volatile load or store.
unsafe impl Sync for Mmio {}

impl Mmio {
    /// The `len` bytes of registers at `base`.
    ///
    /// # Panics
    ///
    /// When `base` is not a multiple of 8.
    ///
    /// # Safety
    ///
    /// They are mapped as device memory (AArch64: Device-nGnRE; riscv64: I/O by PMA or Svpbmt; x86-64: uncacheable), readable and writable, as long as a copy of this value is
    /// used, and nobody accesses them otherwise in a way that their user cannot bear.
    #[must_use]
    #[doc(alias = "ioremap")]
    pub unsafe fn new(base: NonNull<u8>, len: usize) -> Self {
        assert!(
            base.addr().get().is_multiple_of(8),
            "registers at {base:?}: not aligned to 8 bytes"
        );
        Self { base, len }
    }

    /// Where register `offset` of type `T` is.
    ///
    /// # Panics
    ///
    /// When it lies outside or is not aligned: a driver's bug.
    fn at<T>(&self, offset: usize) -> *mut T {
        let fits = offset.checked_add(size_of::<T>()).is_some_and(|end| end <= self.len);
        assert!(
            fits && offset.is_multiple_of(size_of::<T>()),
            "register {offset:#x} of {:#x}",
            self.len
        );
        // SAFETY: inside of the block, by the assertion.
        unsafe { self.base.add(offset) }.cast().as_ptr()
    }

    fn read<T: Copy>(&self, offset: usize) -> T {
        // SAFETY: a register inside of the block, which is mapped by `new`'s contract.
        let value = unsafe { self.at::<T>(offset).read_volatile() };
        arch::after_register_read();
        value
    }

    fn write<T: Copy>(&self, offset: usize, value: T) {
        arch::before_register_write();
        // SAFETY: as in `read`.
        unsafe { self.at::<T>(offset).write_volatile(value) };
    }
}

impl Registers for Mmio {
    fn read32(&self, offset: usize) -> u32 {
        self.read(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        self.write(offset, value);
    }

    fn read64(&self, offset: usize) -> u64 {
        self.read(offset)
    }

    fn write64(&self, offset: usize, value: u64) {
        self.write(offset, value);
    }

    fn read16(&self, offset: usize) -> u16 {
        self.read(offset)
    }

    fn write16(&self, offset: usize, value: u16) {
        self.write(offset, value);
    }

    fn read8(&self, offset: usize) -> u8 {
        self.read(offset)
    }

    fn write8(&self, offset: usize, value: u8) {
        self.write(offset, value);
    }

    fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over(block: &mut [u64; 2]) -> Mmio {
        let base = NonNull::from(&mut *block).cast();
        // SAFETY: ordinary memory stands in for registers; the array outlives the value in each test.
        unsafe { Mmio::new(base, size_of_val(block)) }
    }

    #[test]
    fn accesses_have_the_width_and_place_that_was_asked_for() {
        let mut block = [0x1111_2222_3333_4444, 0];
        let registers = over(&mut block);
        assert_eq!(registers.read32(4), 0x1111_2222);
        registers.write32(12, 0xaaaa_bbbb);
        assert_eq!(registers.read64(8), 0xaaaa_bbbb_0000_0000);
        registers.write64(0, 7);
        registers.write8(9, 0xcc);
        registers.write16(10, 0xdddd);
        assert_eq!((registers.read8(13), registers.read16(14)), (0xbb, 0xaaaa));
        assert_eq!(block, [7, 0xaaaa_bbbb_dddd_cc00]);
    }

    #[test]
    #[should_panic(expected = "register 0x10")]
    fn what_lies_outside_is_refused() {
        over(&mut [0; 2]).read32(16);
    }

    #[test]
    #[should_panic(expected = "register 0x4")]
    fn what_is_not_aligned_is_refused() {
        over(&mut [0; 2]).read64(4);
    }
}
