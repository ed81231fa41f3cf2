//! Memory that the unit reads or writes on its own: freed only when the unit has confirmed that it stopped.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};
use portcullis_addr::PhysAddr;
use portcullis_platform::{AllocError, Coherency, DmaMemory, DmaPages, PageLayout};

/// Whether the unit may access memory, and whether it snoops when it does; shared by everything that it was told of.
#[derive(Clone, Debug)]
pub struct Running {
    set: Arc<AtomicBool>,
    coherency: Coherency,
}

impl Running {
    /// A unit that does not run yet.
    pub fn new(coherency: Coherency) -> Self {
        Self { set: Arc::new(AtomicBool::new(false)), coherency }
    }

    /// The same unit, for memory that it accesses with this coherency.
    #[must_use]
    pub fn with(&self, coherency: Coherency) -> Self {
        Self { set: Arc::clone(&self.set), coherency }
    }

    /// Whether the unit runs.
    #[inline]
    pub fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }

    /// Notes that the unit runs, or that it has confirmed to have stopped.
    pub fn set(&self, running: bool) {
        self.set.store(running, Ordering::Release);
    }
}

/// Pages that the unit has been, or will be, told of. If they are dropped while the unit runs, they are leaked: that wastes memory, but the unit never reads memory of a new owner.
#[derive(Debug)]
pub struct HardwarePages<M: DmaMemory> {
    /// Always there until the drop.
    pages: Option<DmaPages<M>>,
    memory: Arc<M>,
    address: PhysAddr,
    running: Running,
}

impl<M: DmaMemory> HardwarePages<M> {
    /// `bytes` of zeroes on their natural boundary, at addresses below `2^address_bits`, visible to hardware.
    ///
    /// # Errors
    ///
    /// There is no such memory.
    ///
    /// # Panics
    ///
    /// For no bytes: a mistake in a driver.
    pub fn new(
        memory: &Arc<M>,
        running: &Running,
        bytes: usize,
        address_bits: u8,
    ) -> Result<Self, AllocError> {
        let layout = PageLayout::naturally_aligned(bytes).expect("no structure here is empty");
        let pages = DmaPages::new(memory, layout.within_bits(address_bits))?;
        let (memory, address) = (Arc::clone(memory), pages.address());
        let made = Self { pages: Some(pages), memory, address, running: running.clone() };
        made.publish(address, bytes);
        Ok(made)
    }

    /// Shows what was stored at `address` to the unit.
    #[inline]
    pub fn publish(&self, address: PhysAddr, bytes: usize) {
        self.memory.publish(address, bytes, self.running.coherency);
    }

    /// Shows what the unit stored at `address` to the CPU.
    pub fn refresh(&self, address: PhysAddr, bytes: usize) {
        self.memory.refresh(address, bytes, self.running.coherency);
    }

    /// The memory that the pages are of.
    #[inline]
    pub fn memory(&self) -> &Arc<M> {
        &self.memory
    }

    /// Where the pages begin.
    #[inline]
    pub fn address(&self) -> PhysAddr {
        self.address
    }

    /// The address of byte `offset`.
    #[inline]
    pub fn at(&self, offset: u64) -> PhysAddr {
        PhysAddr::new(self.address.raw() + offset)
    }

    /// Gives the pages back although the unit runs: for pages that it can no longer reach.
    pub fn release(mut self) {
        self.pages = None;
    }
}

impl<M: DmaMemory> Drop for HardwarePages<M> {
    fn drop(&mut self) {
        if self.running.is_set() {
            core::mem::forget(self.pages.take());
        }
    }
}
