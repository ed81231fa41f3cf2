//! AMD-Vi (AMD 48882, 2.2.3): tables start small and grow a level at the top when an address does not fit, so a *map* can change the root that every device's
//! entry holds.

use super::*;
use portcullis_addr::{IovaRange, PhysAddr, Prot};
use portcullis_pgtable::PageTable;
use std::any::Any;
use std::sync::atomic::{AtomicU32, Ordering};

/// Bits that one level resolves.
const LEVEL: u32 = 9;

#[derive(Debug)]
struct Growing {
    inner: TableSpace<BookTable>,
    /// Levels of the table in memory.
    levels: AtomicU32,
}

impl AddressSpace for Growing {
    fn granule(&self) -> PageSize {
        PageSize::SIZE_4K
    }
    fn page_sizes(&self) -> PageSizes {
        PageSizes::of(&[PageSize::SIZE_4K])
    }
    fn input_range(&self) -> IovaRange {
        self.inner.input_range()
    }
    fn table(&self) -> Option<&dyn PageTable> {
        self.inner.table()
    }
    fn map(
        &self,
        iova: Iova,
        phys: PhysAddr,
        len: u64,
        prot: Prot,
        gather: &mut IotlbGather,
    ) -> Result<(), SpaceError> {
        let needed = (iova.raw() >> 12).checked_ilog2().unwrap_or(0) / LEVEL + 1;
        if self.levels.fetch_max(needed, Ordering::Relaxed) < needed {
            // The entries of the devices hold the old root until they are told.
            gather.add_everything();
        }
        self.inner.map(iova, phys, len, prot, gather)
    }
    fn unmap(&self, iova: Iova, len: u64, gather: &mut IotlbGather) -> Result<(), SpaceError> {
        self.inner.unmap(iova, len, gather)
    }
    fn translate(&self, iova: Iova) -> Option<(PhysAddr, Prot)> {
        self.inner.translate(iova)
    }
}

/// The one device table entry of the test: how many levels hardware walks.
#[derive(Debug, Default)]
struct AmdVi {
    entry: AtomicU32,
}

impl AmdVi {
    fn program(&self, space: &Arc<dyn AddressSpace>) {
        let any: &dyn Any = &**space;
        let growing: &Growing = any.downcast_ref().expect("its own");
        self.entry.store(growing.levels.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// What hardware makes of an address: what the entry's levels do not reach is not mapped.
    fn reaches(&self, space: &Arc<dyn AddressSpace>, iova: Iova) -> Option<u64> {
        let bits = 12 + LEVEL * self.entry.load(Ordering::Relaxed);
        let inside = iova.raw() >> bits == 0;
        space.translate(iova).filter(|_| inside).map(|(phys, _)| phys.raw())
    }
}

impl Family for AmdVi {
    fn create(&self, _: &SpaceRequest) -> Result<Arc<dyn AddressSpace>, OpsError> {
        let inner = TableSpace::new(BookTable::default());
        Ok(Arc::new(Growing { inner, levels: AtomicU32::new(1) }))
    }
    fn attached(&self, space: &Arc<dyn AddressSpace>) -> Result<(), OpsError> {
        self.program(space);
        Ok(())
    }
    fn invalidated(&self, space: &Arc<dyn AddressSpace>, _: &IotlbGather) {
        self.program(space);
    }
}

#[test]
fn a_table_that_grows_tells_the_hardware_before_the_mapping_is_used() {
    let stand = Stand::new(AmdVi::default());
    let space = stand.unit.space_of(1).expect("attached");
    let entry = || stand.unit.family.entry.load(Ordering::Relaxed);
    assert_eq!(entry(), 1);
    for (bits, levels) in [(20, 1), (29, 2), (36, 3)] {
        stand.handle.set_address_bits(bits).expect("a width");
        let mapping = stand.map();
        let address = iova(&mapping);
        assert_eq!(stand.unit.family.reaches(&space, address), Some(page().0), "{bits} bits");
        assert_eq!(entry(), levels);
        stand.handle.unmap(mapping).expect("confirmed");
    }
}
