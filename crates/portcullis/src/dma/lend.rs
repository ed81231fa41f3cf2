//! What can be lent to a device.
#![expect(unsafe_code, reason = "whoever says that memory may be lent vouches for it")]

use alloc::boxed::Box;
use portcullis_addr::PhysRange;
use portcullis_platform::{DmaMemory, DmaPages};

/// Memory that its owner can lend to a device: [`DmaHandle::map`](crate::DmaHandle::map) takes it and [`DmaHandle::unmap`](crate::DmaHandle::unmap) gives it back.
///
/// One buffer is one physically contiguous range. A list of them (scatter-gather) is several values that are mapped to one run of addresses; a bounce buffer is a value that owns
/// the caller's bytes and pages of its own, and copies between them before and after; memory that CPU and device share is a [`DmaBuffer`](crate::DmaBuffer).
///
/// # Safety
///
/// From the call of `map` on, until the value comes back, or for ever if it does not:
///
/// - [`range`](Self::range) is the same at each call, also after the value was moved.
/// - The memory is there, is RAM (or a device's memory that other devices may write), and belongs to the value: only the value's own drop ends that, and nothing else reads or writes it
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
pub unsafe trait Lendable: 'static {
    /// The memory's physical addresses. Pages that it shares with other memory are reachable for the device as a whole, see [`DmaHandle::granule`](crate::DmaHandle::granule).
    fn range(&self) -> PhysRange;
}

// SAFETY: the pages belong to the value from `DmaMemory::allocate` to its drop, wherever it is moved; they are reached as atomic words, for which every content is valid.
unsafe impl<M: DmaMemory> Lendable for DmaPages<M> {
    fn range(&self) -> PhysRange {
        PhysRange::new(self.address(), self.len() as u64).expect("memory does not wrap")
    }
}

// SAFETY: the box adds nothing to what the value in it promises.
unsafe impl<T: Lendable + ?Sized> Lendable for Box<T> {
    fn range(&self) -> PhysRange {
        (**self).range()
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
pub struct RawMemory(PhysRange);

impl RawMemory {
    /// The memory at `range`.
    ///
    /// # Safety
    ///
    /// From now until the value is dropped, or for ever if it is not (a mapping that is never unmapped, a quarantine that never ends), the memory at `range` must be what
    /// [`Lendable`] demands: present, no part of a Rust object, not freed, and not given to anybody who relies on its content while a device may change it.
    pub const unsafe fn new(range: PhysRange) -> Self {
        Self(range)
    }
}

// SAFETY: the caller of `RawMemory::new` has promised it.
unsafe impl Lendable for RawMemory {
    fn range(&self) -> PhysRange {
        self.0
    }
}
