//! VT-d in caching mode (Intel VT-d specification 4.1, 6.1: `CAP.CM`): hardware may remember that nothing was mapped, so a map is finished only by an invalidation.

use super::*;
use std::collections::BTreeSet;

#[derive(Debug, Default)]
struct VtD {
    /// Whether the driver says what its hardware needs.
    honest: bool,
    absent: Mutex<BTreeSet<u64>>,
}

impl VtD {
    /// A device access.
    fn access(&self, space: &Arc<dyn AddressSpace>, iova: Iova) -> Option<u64> {
        let mut absent = self.absent.lock().expect("test");
        if absent.contains(&iova.raw()) {
            return None;
        }
        let found = space.translate(iova).map(|(phys, _)| phys.raw());
        if found.is_none() {
            absent.insert(iova.raw());
        }
        found
    }
}

impl Family for VtD {
    fn capabilities(&self) -> Capabilities {
        let format = SpaceFormat::Table(TableFormat::ArmLpaeStage1);
        Capabilities { map_needs_sync: self.honest, ..plain(format) }
    }
    fn create(&self, _: &SpaceRequest) -> Result<Arc<dyn AddressSpace>, OpsError> {
        let table = BookTable::default();
        Ok(match self.honest {
            true => Arc::new(TableSpace::caching_absence(table)),
            false => Arc::new(TableSpace::new(table)),
        })
    }
    fn invalidated(&self, _: &Arc<dyn AddressSpace>, gather: &IotlbGather) {
        let mut absent = self.absent.lock().expect("test");
        match gather.range() {
            Some(range) => {
                absent.retain(|iova| !(range.start.raw()..=range.last.raw()).contains(iova))
            }
            None => absent.clear(),
        }
    }
}

/// Maps where the device has just met nothing; what it meets then.
fn after_a_miss(honest: bool) -> Option<u64> {
    let stand = Stand::new(VtD { honest, ..VtD::default() });
    let space = stand.unit.space_of(1).expect("attached");
    let mapping = stand.map();
    let address = iova(&mapping);
    stand.handle.unmap(mapping).expect("confirmed");
    assert_eq!(stand.unit.family.access(&space, address), None);
    let again = stand.map();
    assert_eq!(iova(&again), address, "the same address, which hardware remembers as empty");
    let found = stand.unit.family.access(&space, address);
    stand.handle.unmap(again).expect("confirmed");
    found
}

#[test]
fn what_hardware_remembers_as_empty_is_invalidated_by_the_map() {
    assert_eq!(after_a_miss(true), Some(page().0));
    assert_eq!(after_a_miss(false), None, "the stand-in punishes a map without invalidation");
}
