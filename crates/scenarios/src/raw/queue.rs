//! A queue: a power of two of slots, an index with a wrap flag above it (§3.5).

use crate::bench::{Bench, Failure};
use crate::pattern::allocate;
use portcullis_addr::PhysAddr;

pub(super) struct Queue {
    base: PhysAddr,
    log2: u8,
    slot_bytes: u64,
    index: u32,
}

impl Queue {
    pub(super) fn new(bench: &dyn Bench, log2: u8, slot_bytes: u64) -> Result<Self, Failure> {
        // §6.3.26: aligned to the size of the queue.
        let base = allocate(bench, (slot_bytes as usize) << log2)?;
        Ok(Self { base, log2, slot_bytes, index: 0 })
    }

    /// Address and size as `*Q_BASE` wants them.
    pub(super) fn base_register(&self) -> u64 {
        self.base.raw() | u64::from(self.log2)
    }

    /// Index and wrap flag.
    pub(super) fn index(&self) -> u32 {
        self.index
    }

    /// The slot that the index points to.
    pub(super) fn slot(&self) -> PhysAddr {
        self.slot_at(self.index)
    }

    /// The slot of another index.
    pub(super) fn slot_at(&self, index: u32) -> PhysAddr {
        let slot = u64::from(index) & ((1 << self.log2) - 1);
        PhysAddr::new(self.base.raw() + self.slot_bytes * slot)
    }

    /// Moves on by one slot and returns the new index.
    pub(super) fn advance(&mut self) -> u32 {
        self.index = (self.index + 1) & ((2 << self.log2) - 1);
        self.index
    }
}
