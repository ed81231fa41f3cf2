//! The memory of a queue of commands of two words, and where in it a position stands.

use crate::memory::{HardwarePages, Running};
use core::fmt;
use portcullis_platform::{AllocError, DmaMemory};

/// The words of a command. Where commands are larger, the rest is 0.
pub type Words = [u64; 2];

/// Entries in memory. Positions are counted in 64 bits and never wrap; a position's index is what is left of it at the end of the ring.
pub struct Ring<M: DmaMemory> {
    pages: HardwarePages<M>,
    entries_log2: u8,
    width_log2: u8,
}

impl<M: DmaMemory> Ring<M> {
    /// An empty one of `2^entries_log2` entries, each of `2^width_log2` bytes, 16 at least. It takes up whole pages of 4 KiB, at addresses below `2^address_bits`.
    ///
    /// # Errors
    ///
    /// There is no such memory.
    pub fn new(
        memory: &alloc::sync::Arc<M>,
        running: &Running,
        entries_log2: u8,
        width_log2: u8,
        address_bits: u8,
    ) -> Result<Self, AllocError> {
        let bytes = (1 << (entries_log2 + width_log2)).max(4096);
        let pages = HardwarePages::new(memory, running, bytes, address_bits)?;
        Ok(Self { pages, entries_log2, width_log2 })
    }

    /// Where it begins.
    pub fn address(&self) -> portcullis_addr::PhysAddr {
        self.pages.address()
    }

    /// How many entries there are.
    #[inline]
    pub fn entries(&self) -> u64 {
        1 << self.entries_log2
    }

    /// The same, as log2.
    pub fn entries_log2(&self) -> u8 {
        self.entries_log2
    }

    /// How many commands it holds at once: one less than it has entries, so that a head and a tail that are equal mean that it is empty.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.entries() as usize - 1
    }

    /// The index of a position.
    #[inline]
    pub fn index(&self, position: u64) -> u32 {
        (position & (self.entries() - 1)) as u32
    }

    /// The position from `first` to `last`, both included, that an index stands for; `None` where it stands for none of them.
    pub fn position(&self, index: u64, first: u64, last: u64) -> Option<u64> {
        let behind = u64::from(self.index(last)).wrapping_sub(index) & (self.entries() - 1);
        last.checked_sub(behind).filter(|position| *position >= first)
    }

    /// Stores a command; hardware need not see it yet.
    #[inline]
    pub fn store(&self, position: u64, command: Words) {
        let slot = self.slot(position);
        let memory = self.pages.memory();
        memory.store64(self.pages.at(slot), command[0]);
        memory.store64(self.pages.at(slot + 8), command[1]);
    }

    /// Makes `count` commands from `first` on visible to hardware; they may go round the end.
    pub fn publish(&self, first: u64, count: usize) {
        let start = self.slot(first);
        let bytes = count << self.width_log2;
        let to_end = ((self.entries() << self.width_log2) - start) as usize;
        self.pages.publish(self.pages.at(start), bytes.min(to_end));
        if bytes > to_end {
            self.pages.publish(self.pages.at(0), bytes - to_end);
        }
    }

    fn slot(&self, position: u64) -> u64 {
        u64::from(self.index(position)) << self.width_log2
    }
}

impl<M: DmaMemory> fmt::Debug for Ring<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("entries", &self.entries()).finish_non_exhaustive()
    }
}
