//! Tables that grow at the top (§2.2.3).
//!
//! A table begins with three levels, which reach 39 bits. A map beyond makes it deeper, and owes: hardware still walks from the old root. Paying that (`submit` of a gather that owes everything) leads the entries of all devices to the new
//! root, each by one store, and has hardware forget the old ones. Until every unit that was told of the space has confirmed that, every map up there owes the same.

use alloc::sync::Arc;
use core::any::Any;
use core::fmt;
use core::sync::atomic::Ordering;
use portcullis::{AddressSpace, SpaceError, TableSpace};
use portcullis_addr::{Iova, IovaRange, PageSize, PageSizes, PhysAddr, PhysRange, Prot};
use portcullis_pgtable::{
    AmdV1, Flushed, IoPageTable, IotlbGather, MapError, PageTable, TableConfig, TableError,
    TableParams,
};
use portcullis_platform::{LockLabel, Platform, RawAtomic};

/// Bits of address that a table of `levels` levels reaches.
const fn reach(levels: u8) -> u32 {
    12 + 9 * levels as u32
}

/// Levels that every table has from the beginning.
const FIRST_LEVELS: u8 = 3;
const MOST_LEVELS: usize = 6;

/// An address space whose table grows.
pub(crate) struct GrowingSpace<P: Platform> {
    table: TableSpace<IoPageTable<AmdV1, P::Memory>>,
    /// How many units were told of it.
    units: P::Atomic,
    /// How many of them walk from a root of so many levels or more.
    walkers: [P::Atomic; MOST_LEVELS + 1],
}

impl<P: Platform> GrowingSpace<P> {
    /// An empty one. `caches_absence`: hardware may hold "not present".
    pub(crate) fn create(
        memory: &Arc<P::Memory>,
        params: TableParams,
        caches_absence: bool,
    ) -> Result<Self, TableError> {
        let table = IoPageTable::new(memory, params)?;
        let table = if caches_absence {
            TableSpace::caching_absence(table)
        } else {
            TableSpace::new(table)
        };
        let word = |class| P::Atomic::new(LockLabel::new(class, 0), 0);
        let walkers = core::array::from_fn(|_| word("amdvi.walkers"));
        Ok(Self { table, units: word("amdvi.units"), walkers })
    }

    /// The space, where it is one of these.
    pub(crate) fn of(space: &dyn AddressSpace) -> Option<&Self> {
        (space as &dyn Any).downcast_ref()
    }

    /// A unit was told of the space, and walks from a root of `levels` levels.
    pub(crate) fn bound(&self, levels: u8) {
        self.units.fetch_add(1, Ordering::AcqRel);
        self.walked(0, levels);
    }

    /// A unit that walked from a root of `before` levels walks from one of `levels`.
    pub(crate) fn walked(&self, before: u8, levels: u8) {
        for more in before + 1..=levels {
            self.walkers[usize::from(more)].fetch_add(1, Ordering::AcqRel);
        }
    }

    /// A unit that walked from a root of `levels` levels has forgotten the space.
    pub(crate) fn unbound(&self, levels: u8) {
        for level in 1..=levels {
            self.walkers[usize::from(level)].fetch_sub(1, Ordering::AcqRel);
        }
        self.units.fetch_sub(1, Ordering::AcqRel);
    }

    fn page_table(&self) -> &dyn PageTable {
        self.table.table().expect("a space that is a table has one")
    }

    /// Maps by `map`, in a table that is made deep enough for `[iova, iova + len)`.
    #[inline]
    fn map_in_reach(
        &self,
        iova: Iova,
        len: u64,
        gather: &mut IotlbGather,
        map: impl Fn(&mut IotlbGather) -> Result<(), SpaceError>,
    ) -> Result<(), SpaceError> {
        let last = iova.raw().saturating_add(len.saturating_sub(1));
        let low = last >> reach(FIRST_LEVELS) == 0;
        if !low {
            self.deepen(Iova::new(last))?;
        }
        map(gather)?;
        if !low && !self.is_walked(last) {
            gather.add_everything();
        }
        Ok(())
    }

    #[cold]
    fn deepen(&self, last: Iova) -> Result<(), MapError> {
        let table = self.page_table();
        loop {
            let config: TableConfig = table.grow(last)?;
            // What hardware does not walk yet is owed by the map, so the table may take it already.
            if table.grown(&config) {
                return Ok(());
            }
        }
    }

    /// Whether every unit walks from a root that reaches `last`.
    fn is_walked(&self, last: u64) -> bool {
        let needed =
            (FIRST_LEVELS..).find(|levels| last.checked_shr(reach(*levels)).unwrap_or(0) == 0);
        let needed = usize::from(needed.unwrap_or(FIRST_LEVELS)).min(MOST_LEVELS);
        let units = self.units.load(Ordering::Acquire);
        self.walkers[needed].load(Ordering::Acquire) >= units
    }
}

impl<P: Platform> fmt::Debug for GrowingSpace<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrowingSpace")
            .field("table", &self.page_table().config())
            .finish_non_exhaustive()
    }
}

impl<P: Platform> AddressSpace for GrowingSpace<P> {
    #[inline]
    fn granule(&self) -> PageSize {
        self.table.granule()
    }

    fn page_sizes(&self) -> PageSizes {
        self.table.page_sizes()
    }

    /// All that the table can grow to.
    fn input_range(&self) -> IovaRange {
        self.table.input_range()
    }

    fn table(&self) -> Option<&dyn PageTable> {
        self.table.table()
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
        self.map_in_reach(iova, len, gather, |gather| self.table.map(iova, phys, len, prot, gather))
    }

    fn map_segments(
        &self,
        iova: Iova,
        segments: &[PhysRange],
        prot: Prot,
        gather: &mut IotlbGather,
    ) -> Result<(), SpaceError> {
        let len = segments.iter().map(PhysRange::len).sum();
        self.map_in_reach(iova, len, gather, |gather| {
            self.table.map_segments(iova, segments, prot, gather)
        })
    }

    #[inline]
    fn unmap(&self, iova: Iova, len: u64, gather: &mut IotlbGather) -> Result<(), SpaceError> {
        self.table.unmap(iova, len, gather)
    }

    fn protect(
        &self,
        iova: Iova,
        len: u64,
        prot: Prot,
        gather: &mut IotlbGather,
    ) -> Result<(), SpaceError> {
        self.table.protect(iova, len, prot, gather)
    }

    fn reclaim(&self, iova: Iova, len: u64, gather: &mut IotlbGather) -> Result<usize, SpaceError> {
        self.table.reclaim(iova, len, gather)
    }

    fn retire(&self, flushed: Flushed) {
        self.table.retire(flushed);
    }

    fn quarantine(&self, gather: &mut IotlbGather) {
        self.table.quarantine(gather);
    }

    fn translate(&self, iova: Iova) -> Option<(PhysAddr, Prot)> {
        self.table.translate(iova)
    }
}
