//! What can be lent to a device.
#![expect(unsafe_code, reason = "whoever says that memory may be lent vouches for it")]

use alloc::boxed::Box;
use portcullis_addr::PhysRange;
use portcullis_platform::{DmaMemory, DmaPages};

/// Memory that its owner can lend to a device: [`DmaHandle::map`](crate::DmaHandle::map) takes it and [`DmaHandle::unmap`](crate::DmaHandle::unmap) gives it back.
///
/// One buffer is one physically contiguous range. Several of them are mapped together as a [`BufferList`](crate::BufferList); a [`Bounce`](crate::Bounce) is a value that owns
/// the caller's bytes and pages of its own, and copies between them before and after; memory that CPU and device share is a [`DmaBuffer`](crate::DmaBuffer).
///
/// # Safety
///
/// From the call of `map` on, until the value comes back, or for ever if it does not:
///
/// - [`range`](Self::range), [`around`](Self::around) and [`kind`](Self::kind) are the same at each call, also after the value was moved.
/// - The memory is there, is what `kind` says, and belongs to the value: only the value's own drop ends that, and nothing else reads or writes it
///   as a Rust object. A value that is leaked keeps its memory. A borrow with a lifetime cannot promise that, hence `'static`.
/// - Any bytes that a device writes there are valid for whoever reads them through the value.
///
/// ```compile_fail,E0478
/// # use portcullis_addr::PhysRange;
/// struct Borrowed<'a>(&'a mut [u8]);
/// unsafe impl<'a> portcullis::Lendable for Borrowed<'a> {
///     fn range(&self) -> PhysRange {
///         unimplemented!()
///     }
/// }
/// ```
///
/// Memory that a device must not be lent does not have it: a stack, a heap, a kernel's text are no `Lendable`, whoever asks.
///
/// ```compile_fail,E0277
/// # use portcullis::*;
/// # fn f<P: portcullis_platform::Platform>(dma: DmaHandle<P>) {
/// let on_the_stack = [0u8; 64];
/// let mapping = dma.map(on_the_stack, FromDevice);
/// # }
/// ```
/// ```compile_fail,E0277
/// # use portcullis::*;
/// # fn f<P: portcullis_platform::Platform>(dma: DmaHandle<P>) {
/// let mapping = dma.map(vec![0u8; 4096], FromDevice); // not contiguous in physical memory
/// # }
/// ```
/// ```compile_fail,E0277
/// # use portcullis::*;
/// # fn f<P: portcullis_platform::Platform>(dma: DmaHandle<P>) {
/// let mapping = dma.map("read-only data", ToDevice);
/// # }
/// ```
pub unsafe trait Lendable: 'static {
    /// The memory's physical addresses. Pages that it shares with other memory are reachable for the device as a whole, see [`DmaHandle::granule`](crate::DmaHandle::granule).
    fn range(&self) -> PhysRange;

    /// The memory around it that belongs to the value too, itself included. A device that is not trusted is lent a buffer only where whole pages of the IOMMU do.
    #[inline]
    fn around(&self) -> PhysRange {
        self.range()
    }

    /// What stands at these addresses.
    #[inline]
    fn kind(&self) -> MemoryKind {
        MemoryKind::Ram
    }
}

/// What stands at a range of physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemoryKind {
    /// Memory that the CPUs' caches may hold.
    Ram,
    /// Registers or a FIFO of a device, which no cache holds (`dma_map_resource`).
    #[doc(alias = "dma_map_resource")]
    Registers,
    /// Memory of another PCI function. Whether a transfer between two functions passes through the IOMMU, or through a switch that knows nothing of it, depends on the switches between them and
    /// their access control; the core does not know these and refuses it.
    #[doc(alias = "P2PDMA")]
    Peer,
}

/// What [`DmaHandle::map`](crate::DmaHandle::map) and [`DmaHandle::map_list`](crate::DmaHandle::map_list) lend: one buffer, or a list of them.
pub trait Lent: 'static {
    /// Calls `act` with the memory of each buffer.
    #[doc(hidden)]
    fn each(&self, act: impl FnMut(Loan));
}

impl<B: Lendable> Lent for B {
    #[inline]
    fn each(&self, mut act: impl FnMut(Loan)) {
        act(Loan::of(self));
    }
}

/// A buffer's memory, as far as the core must know it.
#[derive(Clone, Copy, Debug)]
#[doc(hidden)]
pub struct Loan {
    pub(super) range: PhysRange,
    pub(super) around: PhysRange,
    pub(super) kind: MemoryKind,
}

impl Loan {
    #[inline]
    pub(super) fn of<B: Lendable>(buffer: &B) -> Self {
        Self { range: buffer.range(), around: buffer.around(), kind: buffer.kind() }
    }
}

// SAFETY: the pages belong to the value from `DmaMemory::allocate` to its drop, wherever it is moved; they are reached as atomic words, for which every content is valid.
unsafe impl<M: DmaMemory> Lendable for DmaPages<M> {
    #[inline]
    fn range(&self) -> PhysRange {
        PhysRange::new(self.address(), self.len() as u64).expect("memory does not wrap")
    }
}

// SAFETY: the box adds nothing to what the value in it promises.
unsafe impl<T: Lendable + ?Sized> Lendable for Box<T> {
    #[inline]
    fn range(&self) -> PhysRange {
        (**self).range()
    }

    #[inline]
    fn around(&self) -> PhysRange {
        (**self).around()
    }

    #[inline]
    fn kind(&self) -> MemoryKind {
        (**self).kind()
    }
}

/// Memory known by its physical address only.
///
/// A range of addresses alone is not enough to lend it, and making one of these takes a promise:
///
/// ```compile_fail,E0133
/// # use portcullis_addr::{PhysAddr, PhysRange};
/// let everything = PhysRange::new(PhysAddr::new(0), 1 << 48).unwrap();
/// let memory = portcullis::RawMemory::new(everything);
/// ```
#[derive(Debug)]
pub struct RawMemory {
    range: PhysRange,
    kind: MemoryKind,
}

impl RawMemory {
    /// The memory at `range`.
    ///
    /// # Safety
    ///
    /// From now until the value is dropped, or for ever if it is not (a mapping that is never unmapped, a quarantine that never ends), the memory at `range` must be what
    /// [`Lendable`] demands: present, no part of a Rust object, not freed, and not given to anybody who relies on its content while a device may change it.
    pub const unsafe fn new(range: PhysRange) -> Self {
        Self { range, kind: MemoryKind::Ram }
    }

    /// Registers of a device, such as a FIFO that a DMA engine fills, at `range`. They are mapped uncached, and no cache is cared for.
    ///
    /// # Safety
    ///
    /// As for [`new`](Self::new): whoever has the value may have another device read and write these registers. What shares a page with them becomes reachable as well.
    pub const unsafe fn registers(range: PhysRange) -> Self {
        Self { range, kind: MemoryKind::Registers }
    }
}

// SAFETY: the caller of the function that made it has promised it.
unsafe impl Lendable for RawMemory {
    #[inline]
    fn range(&self) -> PhysRange {
        self.range
    }

    #[inline]
    fn kind(&self) -> MemoryKind {
        self.kind
    }
}
