//! Memory that CPU and device share.

use super::{Both, DmaHandle, DmaMapping};
use crate::error::DmaError;
use core::fmt;
use portcullis_platform::{AllocError, DmaPages, PageLayout, Platform};

type Shared<P> = DmaMapping<DmaPages<<P as Platform>::Memory>, Both>;

/// Memory that CPU and device share. Unmapped and freed on drop, also after its driver was unbound. Where hardware has not confirmed the unmap by then, the memory is leaked for good.
///
/// Dropping it is the only way to free it, so that no other function and no other address can be named:
///
/// ```compile_fail,E0308
/// # use portcullis::*;
/// # fn f<P: portcullis_platform::Platform>(dma: DmaHandle<P>, shared: DmaBuffer<P>) {
/// dma.unmap(shared); // what ends streaming mappings
/// # }
/// ```
/// ```compile_fail,E0507
/// # use portcullis::*;
/// # fn f<P: portcullis_platform::Platform>(shared: DmaBuffer<P>) {
/// drop(*shared.pages()); // the memory without the mapping
/// # }
/// ```
pub struct DmaBuffer<P: Platform> {
    handle: DmaHandle<P>,
    /// `None` only while it is dropped.
    mapping: Option<Shared<P>>,
}

impl<P: Platform> DmaBuffer<P> {
    pub(super) fn new(handle: &DmaHandle<P>, size: usize) -> Result<Self, DmaError> {
        let granule = usize::try_from(handle.granule().max(4096)).unwrap_or(usize::MAX);
        let layout = |size| PageLayout::new(size, granule).expect("a power of two, and not 0");
        let whole = size.max(1).checked_next_multiple_of(granule);
        let too_much = DmaError::NoMemory(AllocError { layout: layout(size.max(1)) });
        let whole = whole.ok_or(too_much)?;
        let pages = DmaPages::new(handle.platform().memory(), layout(whole))?;
        let mapping = handle.map(pages, Both)?;
        Ok(Self { handle: handle.clone(), mapping: Some(mapping) })
    }

    fn mapping(&self) -> &Shared<P> {
        self.mapping.as_ref().expect("present until drop")
    }

    /// What the driver writes into its device.
    pub fn device_address(&self) -> u64 {
        self.mapping().device_address()
    }

    /// The memory itself. A device that does not snoop the CPU's caches sees what was written after [`DmaPages::publish`], and the CPU what the device wrote after
    /// [`DmaPages::refresh`].
    pub fn pages(&self) -> &DmaPages<P::Memory> {
        self.mapping().buffer()
    }
}

impl<P: Platform> Drop for DmaBuffer<P> {
    fn drop(&mut self) {
        if let Some(mapping) = self.mapping.take() {
            // What is not confirmed stays in quarantine, where the address space counts it; dropping it leaks the pages.
            drop(self.handle.unmap(mapping));
        }
    }
}

impl<P: Platform> fmt::Debug for DmaBuffer<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaBuffer").field("mapping", &self.mapping).finish_non_exhaustive()
    }
}
