//! A block of device registers.

use alloc::sync::Arc;

/// Access to one block of memory-mapped registers, by byte offset. All accesses are little endian and happen in program order.
///
/// Every write to DMA memory before a register write is visible to the device when it sees that write (a driver calls
/// [`DmaMemory::publish`](crate::DmaMemory::publish) where its platform needs more than that).
pub trait Registers: Send + Sync + 'static {
    /// Reads 32 bits at `offset`, a multiple of 4 inside the block.
    fn read32(&self, offset: usize) -> u32;
    /// Writes 32 bits at `offset`, a multiple of 4 inside the block.
    fn write32(&self, offset: usize, value: u32);
    /// Reads 64 bits at `offset`, a multiple of 8 inside the block. A platform without 64-bit accesses reads the low half first.
    fn read64(&self, offset: usize) -> u64 {
        u64::from(self.read32(offset)) | u64::from(self.read32(offset + 4)) << 32
    }
    /// Writes 64 bits at `offset`, a multiple of 8 inside the block. A platform without 64-bit accesses writes the low half first.
    fn write64(&self, offset: usize, value: u64) {
        self.write32(offset, value as u32);
        self.write32(offset + 4, (value >> 32) as u32);
    }
    /// Reads 16 bits at `offset`, a multiple of 2 inside the block. A block without registers of that width reads as all ones, as if nothing were there.
    fn read16(&self, offset: usize) -> u16 {
        let _ = offset;
        u16::MAX
    }
    /// Writes 16 bits at `offset`, a multiple of 2 inside the block. A block without registers of that width ignores it.
    fn write16(&self, offset: usize, value: u16) {
        let _ = (offset, value);
    }
    /// Reads 8 bits at `offset` inside the block. A block without registers of that width reads as all ones.
    fn read8(&self, offset: usize) -> u8 {
        let _ = offset;
        u8::MAX
    }
    /// Writes 8 bits at `offset` inside the block. A block without registers of that width ignores it.
    fn write8(&self, offset: usize, value: u8) {
        let _ = (offset, value);
    }
    /// Size of the block in bytes.
    fn len(&self) -> usize;
    /// Whether the block has no register.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Registers of whatever kind, for a driver that is given them behind a pointer.
impl<R: Registers + ?Sized> Registers for Arc<R> {
    fn read32(&self, offset: usize) -> u32 {
        (**self).read32(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        (**self).write32(offset, value);
    }

    fn read64(&self, offset: usize) -> u64 {
        (**self).read64(offset)
    }

    fn write64(&self, offset: usize, value: u64) {
        (**self).write64(offset, value);
    }

    fn read16(&self, offset: usize) -> u16 {
        (**self).read16(offset)
    }

    fn write16(&self, offset: usize, value: u16) {
        (**self).write16(offset, value);
    }

    fn read8(&self, offset: usize) -> u8 {
        (**self).read8(offset)
    }

    fn write8(&self, offset: usize, value: u8) {
        (**self).write8(offset, value);
    }

    fn len(&self) -> usize {
        (**self).len()
    }
}
