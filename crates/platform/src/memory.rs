//! Memory that hardware reads and writes: queues, tables, buffers.
#![expect(unsafe_code, reason = "the obligations of DmaMemory are stated as an unsafe trait")]

use alloc::sync::Arc;
use core::fmt;
use portcullis_addr::PhysAddr;

/// How much memory, on which boundary, and how far up.
///
/// # Invariants
///
/// `size > 0`, `align` is a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageLayout {
    size: usize,
    align: usize,
    last: u64,
}

impl PageLayout {
    /// `size` bytes on a boundary of `align` bytes, anywhere; `None` for size 0 or an `align` that is no power of two.
    pub const fn new(size: usize, align: usize) -> Option<Self> {
        // INVARIANT: both conditions are checked here.
        if size > 0 && align.is_power_of_two() {
            Some(Self { size, align, last: u64::MAX })
        } else {
            None
        }
    }

    /// `size` bytes, aligned to the next power of two of `size` (what SMMU queues and tables want), at least 64 bytes.
    pub const fn naturally_aligned(size: usize) -> Option<Self> {
        Self::new(size, if size < 64 { 64 } else { size.next_power_of_two() })
    }

    /// The same, below 2^`bits`: for hardware whose addresses have so many bits.
    #[must_use]
    pub const fn within_bits(self, bits: u8) -> Self {
        let last = if bits >= 64 { u64::MAX } else { (1 << bits) - 1 };
        Self { last: if last < self.last { last } else { self.last }, ..self }
    }

    /// Bytes.
    pub const fn size(self) -> usize {
        self.size
    }

    /// Boundary in bytes.
    pub const fn align(self) -> usize {
        self.align
    }

    /// The highest address that the last byte may have; `u64::MAX` for no limit.
    pub const fn last(self) -> u64 {
        self.last
    }

    /// Whether memory of this size that begins at `address` is aligned and low enough.
    pub const fn fits(self, address: PhysAddr) -> bool {
        let start = address.raw();
        let aligned = start & (self.align as u64 - 1) == 0;
        match start.checked_add(self.size as u64 - 1) {
            Some(end) => aligned && end <= self.last,
            None => false,
        }
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
        let PageLayout { size, align, last } = self.layout;
        write!(f, "no DMA memory left for {size} bytes aligned to {align}")?;
        if last == u64::MAX { Ok(()) } else { write!(f, ", up to address {last:#x}") }
    }
}

impl core::error::Error for AllocError {}

/// Whether an observer of memory snoops the CPUs' caches. One IOMMU of a machine may and another may not; a device likewise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Coherency {
    /// It sees what the CPUs' loads would see: stores need an order only.
    Coherent,
    /// It reads and writes memory behind the caches: they must be cleaned for it, and invalidated after it.
    NonCoherent,
}

impl Coherency {
    /// [`Coherent`](Self::Coherent) if so.
    pub const fn of(coherent: bool) -> Self {
        if coherent { Self::Coherent } else { Self::NonCoherent }
    }

    /// The one that serves both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Coherent, Self::Coherent) => Self::Coherent,
            _ => Self::NonCoherent,
        }
    }
}

/// Memory that both the CPUs and hardware reach, addressed by [`PhysAddr`] so that no driver needs a pointer.
///
/// 64-bit accesses are single-copy atomic for CPU and hardware alike, so the CPU needs them: x86-64, AArch64, riscv64, and of the 32-bit ones i686 (`cmpxchg8b`) and Armv7 with
/// LPAE (`ldrd`/`strd`). Words are little endian in memory, values native.
///
/// An address that is not inside memory which [`allocate`](Self::allocate) returned and that was not given back is a driver's bug, never hardware's or firmware's doing; an
/// implementation may panic there.
///
/// # What the barriers are
///
/// | | AArch64 | x86-64 | riscv64 |
/// | --- | --- | --- | --- |
/// | `load64`, `store64` | `ldar`, `stlr` | `mov` | `ld` + `fence r,rw`, `fence rw,w` + `sd` |
/// | `publish` to a coherent observer | `dsb ishst` | `sfence` | `fence w,ow` |
/// | `publish` to another | `dc cvac` each line, `dsb osh` | `clflushopt` each line, `sfence` | `cbo.clean` each line (Zicbom), `fence w,ow` |
/// | `refresh` from a coherent observer | `dmb oshld` | nothing | `fence r,r` |
/// | `refresh` from another | `dc civac` each line, `dsb osh` | `clflushopt` each line, `mfence` | `cbo.flush` each line, `fence rw,rw` |
///
/// The release order of `store64` is enough between two stores of which a coherent observer must see the first before the second (Linux's `dma_wmb`): the shareability
/// domain of normal memory includes it. `publish` waits for completion, as Linux's `wmb` at the end of a map does, because what makes hardware look next need not be a
/// register write of this CPU.
///
/// # Safety
///
/// Safe code hands any address to these methods. An implementation promises, whatever the arguments:
///
/// - **Exclusive**: what `allocate` returns satisfies [`PageLayout::fits`], holds zeroes, and shares no byte with another allocation that was not given back, nor with any
///   Rust object. It stays so until it is given back.
/// - **Confined**: loads and stores touch nothing but memory that is set apart for this trait, and touch it atomically. Other addresses panic, or read as all ones and ignore stores.
///   (A kernel whose frame allocator also serves its heap needs a check for each access, or a pool of its own.)
/// - **`free` is checked**: what is not allocated, or has another layout, is refused without effect on other memory.
/// - **`publish` and `refresh` change no byte** outside of the range, other than to what the CPUs or hardware stored there last: a line that the range covers in part is cleaned before it is
///   invalidated.
///
/// What *hardware* does to memory is not promised here: mapping memory for a device is the act that needs care.
pub unsafe trait DmaMemory: Send + Sync + 'static {
    /// Zeroed memory. It may be called with a [`Mutex`](crate::Mutex) held, not from an interrupt handler.
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
    /// Replaces `old` by `new` at a multiple of 8 in one piece, acquire and release ordering.
    ///
    /// # Errors
    ///
    /// The value found, when it is not `old`.
    fn compare_exchange64(&self, address: PhysAddr, old: u64, new: u64) -> Result<(), u64>;
    /// Makes all earlier stores to `[address, address + len)` visible to an observer of kind `to`, before anything that follows.
    fn publish(&self, address: PhysAddr, len: usize, to: Coherency);
    /// Makes what an observer of kind `from` has written to `[address, address + len)` visible to the loads that follow.
    fn refresh(&self, address: PhysAddr, len: usize, from: Coherency);

    /// Whether the `words` 64-bit words from `address` on, a multiple of 8, are all 0. As if by [`load64`](Self::load64) of each, in any order; may stop early.
    fn is_zero(&self, address: PhysAddr, words: usize) -> bool {
        (0..words).all(|word| self.load64(nth(address, word)) == 0)
    }
    /// Whether each of the `words` words from `address` on has all bits of `mask` set. As [`is_zero`](Self::is_zero).
    fn all_set(&self, address: PhysAddr, words: usize, mask: u64) -> bool {
        (0..words).all(|word| self.load64(nth(address, word)) & mask == mask)
    }
    /// Writes `first`, `first + step`, `first + 2 * step`, … (modulo 2^64) to the `words` words from `address` on. Each as if by [`store64`](Self::store64), in any order: hardware never sees
    /// half a word. An implementation may use wider stores where each half is still written in one piece.
    fn fill(&self, address: PhysAddr, words: usize, first: u64, step: u64) {
        let mut value = first;
        for word in 0..words {
            self.store64(nth(address, word), value);
            value = value.wrapping_add(step);
        }
    }
    /// Writes 0 to the `words` words from `address` on, as [`fill`](Self::fill) does.
    fn clear(&self, address: PhysAddr, words: usize) {
        self.fill(address, words, 0, 0);
    }
}

const fn nth(address: PhysAddr, word: usize) -> PhysAddr {
    PhysAddr::new(address.raw() + 8 * word as u64)
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
        debug_assert!(layout.fits(address), "{address} is not what {layout:?} asks for");
        Ok(Self { memory: Arc::clone(memory), address, layout })
    }

    /// Where it begins.
    #[inline]
    pub fn address(&self) -> PhysAddr {
        self.address
    }

    /// Its length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a layout is never empty")]
    #[inline]
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
    pub fn publish(&self, offset: usize, len: usize, to: Coherency) {
        self.memory.publish(self.at(offset), len, to);
    }

    /// [`DmaMemory::refresh`] for `len` bytes from `offset`.
    ///
    /// # Panics
    ///
    /// When `offset` lies outside.
    pub fn refresh(&self, offset: usize, len: usize, from: Coherency) {
        self.memory.refresh(self.at(offset), len, from);
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
