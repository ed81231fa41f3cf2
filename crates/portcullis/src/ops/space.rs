//! An address space as the core sees it, whatever stands behind it.

use super::SpaceError;
use core::any::Any;
use core::fmt;
use portcullis_addr::{Iova, IovaRange, PageSize, PageSizes, PhysAddr, PhysRange, Prot};
use portcullis_pgtable::{FlushRange, Flushed, IotlbGather, PageTable, ProtectError};

/// One I/O address space: a table that hardware walks, or a channel of requests to the instance that made it.
///
/// All methods may be called from several threads at once on disjoint ranges, also before the space was bound or attached anywhere: one that is a channel
/// keeps what was mapped until then and sends it when it is attached.
///
/// Only the core changes and reads the contents. An instance that was told of a space reads where its table is, and never maps, unmaps or looks up anything in it: the core frees tables
/// when it knows that none of its own threads is doing so.
///
/// What a call leaves owing goes into the gather: the core [submits](super::IommuOps::submit) it to every instance that translates by the space. Mapping owes
/// something only where hardware may hold "not present", or an older root.
pub trait AddressSpace: Any + Send + Sync + fmt::Debug {
    /// The smallest page.
    fn granule(&self) -> PageSize;

    /// The leaf sizes it can use.
    fn page_sizes(&self) -> PageSizes;

    /// The input addresses it covers.
    fn input_range(&self) -> IovaRange;

    /// The table that hardware walks; `None` where there is none.
    fn table(&self) -> Option<&dyn PageTable>;

    /// Maps `[iova, iova + len)` to `phys`. All three are multiples of the granule.
    ///
    /// # Errors
    ///
    /// [`SpaceError`].
    fn map(
        &self,
        iova: Iova,
        phys: PhysAddr,
        len: u64,
        prot: Prot,
        gather: &mut IotlbGather,
    ) -> Result<(), SpaceError>;

    /// As [`map`](Self::map) for several physical ranges one behind the other: all of them or none, except where undoing it is not confirmed.
    ///
    /// # Errors
    ///
    /// [`SpaceError`].
    fn map_segments(
        &self,
        iova: Iova,
        segments: &[PhysRange],
        prot: Prot,
        gather: &mut IotlbGather,
    ) -> Result<(), SpaceError> {
        let mut done = 0;
        for segment in segments {
            let at = Iova::new(iova.raw().wrapping_add(done));
            let mapped = self.map(at, segment.start(), segment.len(), prot, gather);
            if let Err(error) = mapped {
                if done != 0 {
                    self.unmap(iova, done, gather)?;
                }
                return Err(error);
            }
            done += segment.len();
        }
        Ok(())
    }

    /// Unmaps `[iova, iova + len)`. Hardware may use it until what `gather` owes was waited for.
    ///
    /// # Errors
    ///
    /// [`SpaceError`].
    fn unmap(&self, iova: Iova, len: u64, gather: &mut IotlbGather) -> Result<(), SpaceError>;

    /// As [`PageTable::protect`]: allows what `prot` says in a range that is mapped. Hardware may go by the old protection until what `gather` owes was waited for.
    ///
    /// # Errors
    ///
    /// [`SpaceError`]; nothing has changed. [`ProtectError::Unsupported`] by default.
    fn protect(
        &self,
        iova: Iova,
        len: u64,
        prot: Prot,
        gather: &mut IotlbGather,
    ) -> Result<(), SpaceError> {
        let _ = (iova, len, prot, gather);
        Err(SpaceError::Protect(ProtectError::Unsupported))
    }

    /// As [`PageTable::reclaim`]: makes room for large leaves in a range in which nothing is mapped. Returns how many tables wait in `gather`.
    ///
    /// # Errors
    ///
    /// [`SpaceError`]; nothing has changed.
    fn reclaim(&self, iova: Iova, len: u64, gather: &mut IotlbGather) -> Result<usize, SpaceError> {
        let _ = (iova, len, gather);
        Ok(0)
    }

    /// As [`PageTable::retire`]: the invalidation was confirmed.
    fn retire(&self, flushed: Flushed) {
        drop(flushed);
    }

    /// As [`PageTable::quarantine`]: the invalidation was not confirmed.
    fn quarantine(&self, gather: &mut IotlbGather) {
        drop(gather.confirm());
    }

    /// As [`PageTable::free_retired`].
    ///
    /// # Safety
    ///
    /// As there: no other call on this space is under way on any thread.
    #[expect(unsafe_code, reason = "as PageTable::free_retired, whose contract it passes on")]
    unsafe fn free_retired(&self) -> usize {
        0
    }

    /// Where `iova` leads now and what is allowed there.
    #[doc(alias = "iova_to_phys")]
    fn translate(&self, iova: Iova) -> Option<(PhysAddr, Prot)>;
}

/// An address space that is a table.
#[derive(Debug)]
pub struct TableSpace<T> {
    table: T,
    map_needs_sync: bool,
}

impl<T: PageTable> TableSpace<T> {
    /// `table`, for hardware that never caches "not present".
    pub fn new(table: T) -> Self {
        Self { table, map_needs_sync: false }
    }

    /// `table`, for hardware that may hold "not present" ([`Capabilities::map_needs_sync`](super::Capabilities::map_needs_sync)): each map owes an
    /// invalidation.
    pub fn caching_absence(table: T) -> Self {
        Self { table, map_needs_sync: true }
    }
}

impl<T: PageTable> TableSpace<T> {
    /// Notes that hardware may hold "not present" for what was mapped.
    #[cold]
    fn owe(&self, iova: Iova, len: u64, gather: &mut IotlbGather) {
        if let Some(last) = iova.checked_add(len.saturating_sub(1)) {
            let leaf = self.table.config().granule;
            gather.add(FlushRange { start: iova, last, leaf, tables_freed: false });
        }
    }
}

impl<T: PageTable + 'static> AddressSpace for TableSpace<T> {
    #[inline]
    fn granule(&self) -> PageSize {
        self.table.config().granule
    }

    fn page_sizes(&self) -> PageSizes {
        self.table.page_sizes()
    }

    fn input_range(&self) -> IovaRange {
        self.table.input_range()
    }

    fn table(&self) -> Option<&dyn PageTable> {
        Some(&self.table)
    }

    #[inline]
    fn map(
        &self,
        iova: Iova,
        phys: PhysAddr,
        len: u64,
        prot: Prot,
        gather: &mut IotlbGather,
    ) -> Result<(), SpaceError> {
        self.table.map(iova, phys, len, prot)?;
        if self.map_needs_sync {
            self.owe(iova, len, gather);
        }
        Ok(())
    }

    fn map_segments(
        &self,
        iova: Iova,
        segments: &[PhysRange],
        prot: Prot,
        gather: &mut IotlbGather,
    ) -> Result<(), SpaceError> {
        self.table.map_segments(iova, segments, prot)?;
        if self.map_needs_sync {
            self.owe(iova, segments.iter().map(PhysRange::len).sum(), gather);
        }
        Ok(())
    }

    #[inline]
    fn unmap(&self, iova: Iova, len: u64, gather: &mut IotlbGather) -> Result<(), SpaceError> {
        Ok(self.table.unmap(iova, len, gather)?)
    }

    fn protect(
        &self,
        iova: Iova,
        len: u64,
        prot: Prot,
        gather: &mut IotlbGather,
    ) -> Result<(), SpaceError> {
        Ok(self.table.protect(iova, len, prot, gather)?)
    }

    fn reclaim(&self, iova: Iova, len: u64, gather: &mut IotlbGather) -> Result<usize, SpaceError> {
        Ok(self.table.reclaim(iova, len, gather)?)
    }

    fn retire(&self, flushed: Flushed) {
        self.table.retire(flushed);
    }

    fn quarantine(&self, gather: &mut IotlbGather) {
        self.table.quarantine(gather);
    }

    #[expect(unsafe_code, reason = "as PageTable::free_retired, whose contract it passes on")]
    unsafe fn free_retired(&self) -> usize {
        // SAFETY: the caller's promise is the one that the table asks for.
        unsafe { self.table.free_retired() }
    }

    fn translate(&self, iova: Iova) -> Option<(PhysAddr, Prot)> {
        self.table.translate(iova)
    }
}
