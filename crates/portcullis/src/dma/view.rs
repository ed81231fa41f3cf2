//! The CPU's look at a buffer that is lent.

use super::{DmaHandle, Lent};
use core::fmt;
use core::ops::Deref;
use portcullis_platform::Platform;

/// A buffer that stays mapped while the CPU uses it: the device must not. Dropping it hands the buffer to the device again.
///
/// ```compile_fail,E0505
/// # use portcullis::*;
/// # fn f<B: Lendable, P: portcullis_platform::Platform>(dma: DmaHandle<P>, mut mapping: DmaMapping<B, Both>) {
/// let view = dma.sync_for_cpu(&mut mapping);
/// let buffer = dma.unmap(mapping); // while the CPU uses it
/// drop(view);
/// # }
/// ```
#[must_use = "the device gets the buffer back when the view is dropped"]
pub struct CpuView<'a, B: Lent, P: Platform> {
    buffer: &'a B,
    handle: &'a DmaHandle<P>,
}

impl<'a, B: Lent, P: Platform> CpuView<'a, B, P> {
    pub(super) fn new(buffer: &'a B, handle: &'a DmaHandle<P>) -> Self {
        Self { buffer, handle }
    }
}

impl<B: Lent, P: Platform> Deref for CpuView<'_, B, P> {
    type Target = B;

    fn deref(&self) -> &B {
        self.buffer
    }
}

impl<B: Lent, P: Platform> Drop for CpuView<'_, B, P> {
    fn drop(&mut self) {
        self.handle.publish(self.buffer);
    }
}

impl<B: Lent, P: Platform> fmt::Debug for CpuView<'_, B, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CpuView").finish_non_exhaustive()
    }
}
