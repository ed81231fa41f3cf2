//! Memory with an observer.
#![expect(unsafe_code, reason = "DmaMemory's obligations are passed through")]

use crate::{AllocError, Coherency, DmaMemory, PageLayout};
use alloc::sync::Arc;
use core::fmt;
use portcullis_addr::PhysAddr;

/// Told of each access to a [`WatchedMemory`] before it happens. Every method has a default that does nothing.
pub trait MemoryWatch: Send + Sync + 'static {
    /// Memory of `layout` is asked for; `false` makes it fail.
    fn allocates(&self, layout: PageLayout) -> bool {
        let _ = layout;
        true
    }
    /// Memory of `layout` at `address` is given back.
    fn frees(&self, address: PhysAddr, layout: PageLayout) {
        let _ = (address, layout);
    }
    /// `address` is read.
    fn loads(&self, address: PhysAddr) {
        let _ = address;
    }
    /// `value` is written to `address`.
    fn stores(&self, address: PhysAddr, value: u64) {
        let _ = (address, value);
    }
    /// `address` becomes `new` if it is `old`.
    fn exchanges(&self, address: PhysAddr, old: u64, new: u64) {
        let _ = (address, old, new);
    }
    /// A range is published; `false` leaves that out, a planted bug.
    fn publishes(&self, address: PhysAddr, len: usize, to: Coherency) -> bool {
        let _ = (address, len, to);
        true
    }
}

/// Memory `M`, watched by `W`: for explorers, which make each access a step, and for tests. Runs are watched word by word.
pub struct WatchedMemory<M, W> {
    memory: Arc<M>,
    watch: W,
}

impl<M, W> WatchedMemory<M, W> {
    /// `memory`, observed by `watch`.
    pub const fn new(memory: Arc<M>, watch: W) -> Self {
        Self { memory, watch }
    }

    /// The memory itself, without the observer.
    pub const fn inner(&self) -> &Arc<M> {
        &self.memory
    }

    /// The observer.
    pub const fn watch(&self) -> &W {
        &self.watch
    }
}

impl<M, W> fmt::Debug for WatchedMemory<M, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchedMemory").finish_non_exhaustive()
    }
}

// SAFETY: everything that is done is done by `M`, which keeps the promises; refusing to allocate or to publish breaks none of them.
unsafe impl<M: DmaMemory, W: MemoryWatch> DmaMemory for WatchedMemory<M, W> {
    fn allocate(&self, layout: PageLayout) -> Result<PhysAddr, AllocError> {
        if self.watch.allocates(layout) {
            self.memory.allocate(layout)
        } else {
            Err(AllocError { layout })
        }
    }

    fn free(&self, address: PhysAddr, layout: PageLayout) {
        self.watch.frees(address, layout);
        self.memory.free(address, layout);
    }

    fn load64(&self, address: PhysAddr) -> u64 {
        self.watch.loads(address);
        self.memory.load64(address)
    }

    fn store64(&self, address: PhysAddr, value: u64) {
        self.watch.stores(address, value);
        self.memory.store64(address, value);
    }

    fn compare_exchange64(&self, address: PhysAddr, old: u64, new: u64) -> Result<(), u64> {
        self.watch.exchanges(address, old, new);
        self.memory.compare_exchange64(address, old, new)
    }

    fn publish(&self, address: PhysAddr, len: usize, to: Coherency) {
        if self.watch.publishes(address, len, to) {
            self.memory.publish(address, len, to);
        }
    }

    fn refresh(&self, address: PhysAddr, len: usize, from: Coherency) {
        self.memory.refresh(address, len, from);
    }
}
