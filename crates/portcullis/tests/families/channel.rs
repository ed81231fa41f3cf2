//! virtio-iommu (OASIS virtio v1.3, 5.13): no table; mappings are requests, which can stay unanswered and exist only while an endpoint is attached.

use super::*;
use portcullis_addr::{IovaRange, PhysAddr, Prot};
use portcullis_pgtable::{FlushRange, PageTable};
use portcullis_platform::Timeout;
use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};

type Ranges = BTreeMap<u64, (u64, u64)>;

/// A domain. The device keeps what was requested; the driver keeps what to request again.
#[derive(Debug, Default)]
struct Channel {
    wanted: Mutex<Ranges>,
    /// What the device translates by: nothing before an endpoint is attached.
    device: Mutex<Option<Ranges>>,
    /// UNMAP requests that were sent and not answered.
    pending: Mutex<Vec<u64>>,
    silent: Arc<AtomicBool>,
}

impl Channel {
    fn answer(&self) -> Result<(), SpaceError> {
        let timeout = Timeout { after: 1 };
        match self.silent.load(Ordering::Relaxed) {
            true => {
                Err(SpaceError::Request(OpsError::Timeout { awaited: Awaited::Answer, timeout }))
            }
            false => Ok(()),
        }
    }

    fn device_sees(&self, iova: Iova) -> Option<u64> {
        let device = self.device.lock().expect("test");
        let (start, (phys, len)) = device.as_ref()?.range(..=iova.raw()).next_back()?;
        (iova.raw() < start + len).then(|| phys + iova.raw() - start)
    }
}

impl AddressSpace for Channel {
    fn granule(&self) -> PageSize {
        PageSize::SIZE_4K
    }
    fn page_sizes(&self) -> PageSizes {
        PageSizes::of(&[PageSize::SIZE_4K])
    }
    fn input_range(&self) -> IovaRange {
        IovaRange::new(Iova::new(0), 1 << 48).expect("48 bits")
    }
    fn table(&self) -> Option<&dyn PageTable> {
        None
    }
    fn map(
        &self,
        iova: Iova,
        phys: PhysAddr,
        len: u64,
        _: Prot,
        _: &mut IotlbGather,
    ) -> Result<(), SpaceError> {
        self.wanted.lock().expect("test").insert(iova.raw(), (phys.raw(), len));
        if let Some(device) = &mut *self.device.lock().expect("test") {
            self.answer()?;
            device.insert(iova.raw(), (phys.raw(), len));
        }
        Ok(())
    }
    fn unmap(&self, iova: Iova, len: u64, gather: &mut IotlbGather) -> Result<(), SpaceError> {
        self.wanted.lock().expect("test").remove(&iova.raw());
        self.pending.lock().expect("test").push(iova.raw());
        let last = Iova::new(iova.raw() + len - 1);
        gather.add(FlushRange { start: iova, last, leaf: PageSize::SIZE_4K, tables_freed: false });
        Ok(())
    }
    fn translate(&self, iova: Iova) -> Option<(PhysAddr, Prot)> {
        self.device_sees(iova).map(|phys| (PhysAddr::new(phys), Prot::READ | Prot::WRITE))
    }
}

fn channel(space: &Arc<dyn AddressSpace>) -> &Channel {
    let any: &dyn Any = &**space;
    any.downcast_ref().expect("its own")
}

#[derive(Debug, Default)]
struct Virtio(Arc<AtomicBool>);

impl Family for Virtio {
    fn capabilities(&self) -> Capabilities {
        plain(SpaceFormat::Requests)
    }
    fn reserved(&self, add: &mut dyn FnMut(HardwareRegion)) -> Result<(), OpsError> {
        let range = IovaRange::new(Iova::new(0xfee0_0000), 0x10_0000).expect("a range");
        add(HardwareRegion { range, kind: HardwareRegionKind::Msi });
        Ok(())
    }
    fn create(&self, _: &SpaceRequest) -> Result<Arc<dyn AddressSpace>, OpsError> {
        Ok(Arc::new(Channel { silent: Arc::clone(&self.0), ..Channel::default() }))
    }
    /// ATTACH makes the domain; then everything that was mapped before is requested.
    fn attached(&self, space: &Arc<dyn AddressSpace>) -> Result<(), OpsError> {
        let channel = channel(space);
        let wanted = channel.wanted.lock().expect("test").clone();
        *channel.device.lock().expect("test") = Some(wanted);
        Ok(())
    }
    fn invalidated(&self, space: &Arc<dyn AddressSpace>, _: &IotlbGather) {
        let channel = channel(space);
        for iova in channel.pending.lock().expect("test").drain(..) {
            channel.device.lock().expect("test").as_mut().expect("attached").remove(&iova);
        }
    }
}

#[test]
fn a_channel_of_requests_maps_unmaps_and_replays_what_came_before_the_attach() {
    let mut device = behind("/x", &[(A, 1)]);
    let range = IovaRange::new(Iova::new(0x9000_0000), 0x2000).expect("a range");
    device.reserved.push(ReservedRegion { range, kind: ReservedKind::Direct });
    let stand = Stand::of(Virtio::default(), device);
    let space = stand.unit.space_of(1).expect("attached");
    assert_eq!(channel(&space).device_sees(Iova::new(0x9000_1000)), Some(0x9000_1000));
    let mapping = stand.map();
    let address = iova(&mapping);
    assert_eq!(channel(&space).device_sees(address), Some(page().0));
    stand.handle.unmap(mapping).expect("answered");
    assert_eq!(channel(&space).device_sees(address), None);
}

#[test]
fn a_map_that_is_not_answered_is_quarantined() {
    let silent = Arc::<AtomicBool>::default();
    let stand = Stand::new(Virtio(Arc::clone(&silent)));
    silent.store(true, Ordering::Relaxed);
    let failure = stand.handle.map(page(), Both).expect_err("no answer");
    assert!(matches!(failure, MapFailure::Quarantined(_)), "{failure:?}");
    assert_eq!(stand.sub.counts().quarantined, 0x1000);
}

#[test]
fn a_channel_cannot_be_shared_with_another_iommu() {
    let sub = subsystem();
    let x = sub.add_device(behind("/x", &[(A, 1), (B, 1)])).expect("added");
    for node in [A, B] {
        let unit = Unit(Shared::new(Virtio::default()));
        sub.register(node, Box::new(unit)).expect("free");
    }
    let outcome = sub.bind(&x, Arc::new(Keeper::default())).expect("tried");
    let error = SetUpError::NoCommonGround(NotShared::Format);
    assert_eq!(outcome, BindOutcome::Blocked(BlockedReason::SetUp(error)));
}
