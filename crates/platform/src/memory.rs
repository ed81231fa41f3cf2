//! Memory that hardware reads and writes: queues, tables, buffers.

use alloc::sync::Arc;
use core::fmt;
use portcullis_addr::PhysAddr;

/// How much memory, and on which boundary. Both in bytes, both powers of two times 4 KiB for `align`.
///
/// # Invariants
///
/// `size > 0`, `align` is a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageLayout {
    size: usize,
    align: usize,
}

impl PageLayout {
    /// `size` bytes on a boundary of `align` bytes; `None` for size 0 or an `align` that is no power of two.
    pub const fn new(size: usize, align: usize) -> Option<Self> {
        // INVARIANT: both conditions are checked here.
        if size > 0 && align.is_power_of_two() { Some(Self { size, align }) } else { None }
    }

    /// `size` bytes, aligned to the next power of two of `size` (what SMMU queues and tables want), at least 64 bytes.
    pub const fn naturally_aligned(size: usize) -> Option<Self> {
        Self::new(size, if size < 64 { 64 } else { size.next_power_of_two() })
    }

    /// Bytes.
    pub const fn size(self) -> usize {
        self.size
    }

    /// Boundary in bytes.
    pub const fn align(self) -> usize {
        self.align
    }
}

/// No memory of that layout is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocError {
    /// What was asked for.
    pub layout: PageLayout,
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "no DMA memory left for {} bytes aligned to {}",
            self.layout.size, self.layout.align
        )
    }
}

impl core::error::Error for AllocError {}

/// Memory that both the CPUs and hardware reach, addressed by [`PhysAddr`] so that no driver needs a pointer.
///
/// 64-bit accesses are single-copy atomic for CPU and hardware alike. Addresses must lie inside memory that [`allocate`](Self::allocate) returned
/// and that was not yet given back (or in memory of the machine, for buffers); an implementation may panic otherwise, which is a driver bug, never hardware's or firmware's doing.
pub trait DmaMemory: Send + Sync + 'static {
    /// Zeroed memory.
    ///
    /// # Errors
    ///
    /// [`AllocError`] where none is left; nothing has changed then.
    fn allocate(&self, layout: PageLayout) -> Result<PhysAddr, AllocError>;
    /// Gives back what [`allocate`](Self::allocate) returned for the same layout. Nothing in hardware may still point there.
    fn free(&self, address: PhysAddr, layout: PageLayout);
    /// Reads 64 bits at a multiple of 8, acquire ordering.
    fn load64(&self, address: PhysAddr) -> u64;
    /// Writes 64 bits at a multiple of 8 in one piece, release ordering.
    fn store64(&self, address: PhysAddr, value: u64);
    /// Replaces `old` by `new` at a multiple of 8 in one piece.
    ///
    /// # Errors
    ///
    /// The value found, when it is not `old`.
    fn compare_exchange64(&self, address: PhysAddr, old: u64, new: u64) -> Result<(), u64>;
    /// Makes the last stores to `[address, address + len)` visible to hardware that does not snoop the caches, and orders them before everything
    /// that follows (a clean to the point of coherency, or just a write barrier where hardware snoops: Linux's `dma_wmb`).
    fn publish(&self, address: PhysAddr, len: usize);
    /// Makes what hardware wrote to `[address, address + len)` visible to the loads that follow.
    fn refresh(&self, address: PhysAddr, len: usize);
}

/// An owned piece of [`DmaMemory`]; freed on drop.
pub struct DmaPages<M: DmaMemory> {
    memory: Arc<M>,
    address: PhysAddr,
    layout: PageLayout,
}

impl<M: DmaMemory> DmaPages<M> {
    /// Zeroed memory of `layout`.
    ///
    /// # Errors
    ///
    /// [`AllocError`] where none is left.
    pub fn new(memory: &Arc<M>, layout: PageLayout) -> Result<Self, AllocError> {
        let address = memory.allocate(layout)?;
        Ok(Self { memory: Arc::clone(memory), address, layout })
    }

    /// Where it begins.
    pub fn address(&self) -> PhysAddr {
        self.address
    }

    /// Its length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a layout is never empty")]
    pub fn len(&self) -> usize {
        self.layout.size
    }

    /// The memory it came from.
    pub fn memory(&self) -> &Arc<M> {
        &self.memory
    }

    /// Reads the 64-bit word at byte `offset`.
    ///
    /// # Panics
    ///
    /// When the word lies outside.
    pub fn load64(&self, offset: usize) -> u64 {
        self.memory.load64(self.at(offset))
    }

    /// Writes the 64-bit word at byte `offset`.
    ///
    /// # Panics
    ///
    /// When the word lies outside.
    pub fn store64(&self, offset: usize, value: u64) {
        self.memory.store64(self.at(offset), value);
    }

    /// [`DmaMemory::publish`] for `len` bytes from `offset`.
    ///
    /// # Panics
    ///
    /// When `offset` lies outside.
    pub fn publish(&self, offset: usize, len: usize) {
        self.memory.publish(self.at(offset), len);
    }

    /// [`DmaMemory::refresh`] for `len` bytes from `offset`.
    ///
    /// # Panics
    ///
    /// When `offset` lies outside.
    pub fn refresh(&self, offset: usize, len: usize) {
        self.memory.refresh(self.at(offset), len);
    }

    fn at(&self, offset: usize) -> PhysAddr {
        assert!(
            offset + 8 <= self.layout.size,
            "offset {offset:#x} outside {:#x} bytes",
            self.layout.size
        );
        PhysAddr::new(self.address.raw() + offset as u64)
    }
}

impl<M: DmaMemory> Drop for DmaPages<M> {
    fn drop(&mut self) {
        self.memory.free(self.address, self.layout);
    }
}

impl<M: DmaMemory> fmt::Debug for DmaPages<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DmaPages({} + {:#x})", self.address, self.layout.size)
    }
}
