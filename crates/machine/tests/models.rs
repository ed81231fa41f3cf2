//! The bus takes any model: here one that has no registers and no tables, as a virtio-iommu, next to an SMMUv3.

use portcullis_addr::{Iova, PhysAddr, StreamId};
use portcullis_machine::{
    Aborted, Access, AccessKind, DmaRequest, Expectation, Grant, IommuModel, Land, Machine,
    Passage, Port, Profile, Violation, Wiring,
};
use portcullis_platform::Clock;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

/// Pages of endpoints, as requests made them known.
#[derive(Debug)]
struct Requests {
    index: u32,
    pages: Mutex<BTreeMap<(u32, u64), (u64, AccessKind)>>,
    /// Lets everything through: what some devices do before they are set up.
    open: bool,
    looks: AtomicU32,
}

impl Requests {
    fn new(wiring: &Wiring, open: bool) -> Self {
        assert!(wiring.memory().contains(PhysAddr::new(0x4000_0000), 4096));
        let looks = AtomicU32::new(0);
        Self { index: wiring.index(), pages: Mutex::default(), open, looks }
    }

    fn map(&self, endpoint: u32, page: u64, physical: u64, kind: AccessKind) {
        self.pages.lock().expect("test").insert((endpoint, page), (physical, kind));
    }
}

impl IommuModel for Requests {
    fn index(&self) -> u32 {
        self.index
    }

    fn translate(&self, id: StreamId, access: &Access, land: Land<'_>) -> Result<(), Aborted> {
        let (page, offset) = (access.address & !0xfff, access.address & 0xfff);
        // Held while the access lands: whoever removes the page afterwards finds it made.
        let pages = self.pages.lock().expect("test");
        let (physical, passage) = match pages.get(&(id.raw(), page)) {
            Some((physical, kind)) if *kind == access.kind => {
                (*physical, Passage::Translated { asid: None, vmid: 0, cached: false })
            }
            _ if self.open => (page, Passage::GlobalBypass),
            _ => return Err(Aborted),
        };
        let grant = Grant { physical: physical | offset, passage, stale: false, reused: false };
        land(grant).map_err(|_| Aborted)
    }

    fn progress(&self) {
        self.looks.fetch_add(1, Ordering::Relaxed);
    }

    fn reset(&self) {
        self.pages.lock().expect("test").clear();
    }
}

#[test]
fn a_model_of_another_kind_translates_next_to_an_smmuv3() {
    let machine = Machine::builder().build();
    let smmu = machine.add_smmuv3(Profile { reset_abort: true, ..Profile::qemu10() });
    let requests = machine.add_iommu(true, |wiring| Requests::new(&wiring, false));
    assert_eq!((smmu.index(), requests.index(), machine.iommus().len()), (0, 1, 2));
    let ports = [Port::new(&smmu, StreamId::new(1)), Port::new(&requests, StreamId::new(7))];
    let device = machine.add_device("both", &ports);
    let write = |port| {
        let request = DmaRequest::write(Iova::new(0x5010), b"hello").through(port);
        machine.dma_of(&device, request).is_completed()
    };
    assert!(!write(0) && !write(1), "both refuse");
    device.expect(Expectation::Translated);
    requests.map(7, 0x5000, 0x4000_3000, AccessKind::Write);
    assert!(!write(0) && write(1));
    let mut bytes = [0; 5];
    assert!(machine.memory().read_bytes(PhysAddr::new(0x4000_3010), &mut bytes));
    assert_eq!(&bytes, b"hello");
    let record = machine.oracle().accesses()[0];
    assert_eq!(record.stream, Some((1, StreamId::new(7))), "the oracle knows which unit it was");
    let read = DmaRequest::read(Iova::new(0x5010), &mut bytes).through(1);
    assert!(!machine.dma_of(&device, read).is_completed(), "for writing only");
    machine.clock().relax();
    assert_eq!(requests.looks.load(Ordering::Relaxed), 1, "time passes for it too");
    machine.iommus().iter().for_each(|iommu| iommu.reset());
    assert!(!write(1));
    assert_eq!(machine.violations(), []);
}

#[test]
fn the_oracle_judges_what_any_model_lets_through() {
    let machine = Machine::builder().build();
    let requests = machine.add_iommu(true, |wiring| Requests::new(&wiring, true));
    let device = machine.add_client("c", &requests, StreamId::new(1));
    let request = || DmaRequest::write(Iova::new(0x4000_0000), b"x");
    assert!(machine.dma_of(&device, request()).is_completed());
    assert_eq!(machine.violations(), []);
    device.expect(Expectation::Translated);
    assert!(machine.dma_of(&device, request()).is_completed());
    assert!(matches!(machine.violations()[..], [Violation::Untranslated(_)]));
}
