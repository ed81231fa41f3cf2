//! SMMUv2 (Arm IHI 0062, 2.4): streams are matched under masks, two entries must not match the same stream, and there are few entries.

use super::*;
use portcullis_addr::StreamId;

#[derive(Debug)]
struct SmmuV2 {
    entries: usize,
}

impl Family for SmmuV2 {
    fn claim(&self, held: &[StreamSpec], stream: StreamSpec) -> Result<(), OpsError> {
        if held.iter().any(|other| other.overlaps(&stream)) {
            return Err(OpsError::StreamInUse { stream });
        }
        if held.len() >= self.entries {
            return Err(OpsError::OutOfStreams);
        }
        Ok(())
    }
    fn create(&self, _: &SpaceRequest) -> Result<Arc<dyn AddressSpace>, OpsError> {
        Ok(Arc::new(TableSpace::new(BookTable::default())))
    }
}

fn masked(path: &str, id: u32, mask: u32) -> DeviceDescription {
    let stream = FwStream { iommu: A, id: StreamId::new(id), mask };
    DeviceDescription::new(path, DmaPath::Translated(FwSpec { streams: vec![stream] }))
}

#[test]
fn masks_reach_the_hardware_and_its_entries_can_run_out() {
    let stand = Stand::of(SmmuV2 { entries: 2 }, masked("/x", 0x400, 0xff));
    let mapping = stand.map();
    let address = iova(&mapping);
    for id in [0x400, 0x4ff] {
        let space = stand.unit.space_of(id).expect("matched");
        assert_eq!(space.translate(address).map(|(phys, _)| phys.raw()), Some(page().0));
    }
    assert!(stand.unit.space_of(0x500).is_none());
    stand.handle.unmap(mapping).expect("confirmed");
    let bind = |device: DeviceDescription| {
        let device = stand.sub.add_device(device).expect("added");
        stand.sub.bind(&device, Arc::new(Keeper::default())).expect("tried")
    };
    // Same specification, same group, same entry: claims count.
    assert_eq!(bind(masked("/y", 0x400, 0xff)), BindOutcome::Bound(Reach::Translated));
    assert_eq!(bind(masked("/z", 0x500, 0)), BindOutcome::Bound(Reach::Translated));
    let error = SetUpError::Ops(A, OpsError::OutOfStreams);
    let blocked = BindOutcome::Blocked(BlockedReason::SetUp(error));
    assert_eq!(bind(masked("/w", 0x600, 0)), blocked);
}
