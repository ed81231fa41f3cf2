//! The driver's safeguards left out one by one on the machine, which must notice each; with all of them in place it notices nothing. What [`Safeguard::BlockedBetween`] and [`Safeguard::PermitLast`] are for
//! shows only between two stores of one change: the tests of `entry` look there.

use portcullis::{
    AddressSpace, FormatSupport, IommuOps, SpaceRequest, SpaceTag, StreamSpec, StreamTarget,
};
use portcullis_addr::{Iova, PageSizes, Prot, StreamId};
use portcullis_amdvi::{Iommu, Options, Safeguard};
use portcullis_machine::{
    AmdVi, AmdViProfile, Careless, Device, DmaRequest, Expectation, Machine, Policy, RegisterBlock,
    TimeSource, without,
};
use portcullis_pgtable::IotlbGather;
use portcullis_platform::host::HostThreads;
use portcullis_platform::{DmaMemory, DmaPages, PageLayout, Registers};
use std::sync::Arc;

type Driver = Iommu<Careless<HostThreads>, RegisterBlock<AmdVi>>;

const SPEC: StreamSpec = StreamSpec::exact(StreamId::new(0x18));
const IOVA: u64 = 0x12_3456_7000;

struct World {
    machine: Arc<Machine>,
    device: Arc<Device>,
    driver: Driver,
}

impl World {
    fn new(profile: AmdViProfile, policy: Policy) -> Self {
        let time = TimeSource::Virtual { step: 1_000_000 };
        let machine = Machine::builder().seed(3).policy(policy).time(time).build();
        let unit = machine.add_amdvi(profile);
        let device = machine.add_client("client", &unit, SPEC.id);
        let platform = Arc::new(Careless::<HostThreads>::new(&machine));
        let options = Options { stream_id_bits: 7, ..Options::default() };
        let driver = Iommu::bring_up(platform, unit.registers(), options);
        let driver = driver.expect("the unit comes up");
        driver.claim(&[SPEC]).expect("free");
        Self { machine, device, driver }
    }

    fn space(&self) -> (Arc<dyn AddressSpace>, SpaceTag) {
        let support = *self.driver.capabilities().formats.first().expect("a format");
        let support = FormatSupport { page_sizes: PageSizes::from_bitmap(0x1000), ..support };
        let request = SpaceRequest { support, coherent_walk: true };
        let table = self.driver.create_space(&request).expect("a table");
        let tag = self.driver.bind_space(&table).expect("a tag");
        (table, tag)
    }

    fn attach(&self, target: StreamTarget) {
        self.driver.attach(&[SPEC], None, target).expect("confirmed");
    }

    fn write(&self, iova: u64) -> bool {
        let request = DmaRequest::write(Iova::new(iova), b"token");
        self.machine.dma_of(&self.device, request).is_completed()
    }

    fn page(&self) -> DmaPages<portcullis_machine::PhysicalMemory> {
        let layout = PageLayout::new(4096, 4096).expect("a page");
        DmaPages::new(self.machine.memory(), layout).expect("memory")
    }
}

/// A page mapped, used, unmapped; then a device blocked.
fn unmap_and_block() -> usize {
    let world = World::new(AmdViProfile::qemu10(), Policy::default());
    let ((table, tag), page) = (world.space(), world.page());
    let (mut gather, prot) = (IotlbGather::new(), Prot::READ | Prot::WRITE | Prot::CACHE);
    for iova in [IOVA, IOVA + 4096] {
        table.map(Iova::new(iova), page.address(), 4096, prot, &mut gather).expect("mapped");
    }
    world.attach(StreamTarget::Space(tag));
    assert!(world.write(IOVA) && world.write(IOVA + 4096));
    table.unmap(Iova::new(IOVA), 4096, &mut gather).expect("unmapped");
    world.driver.invalidate(tag, &gather).expect("said to be confirmed");
    table.retire(gather.confirm());
    world.device.forbid(Iova::new(IOVA), 4096);
    world.write(IOVA);
    world.attach(StreamTarget::Blocked);
    world.device.expect(Expectation::Blocked);
    world.write(IOVA + 4096);
    world.machine.violations().len()
}

/// A device with an address space; another one takes its place, and the same domain later another table.
fn change_spaces() -> usize {
    let world = World::new(AmdViProfile::qemu10(), Policy::default());
    let ((table, tag), (_other, next), page) = (world.space(), world.space(), world.page());
    let (mut gather, prot) = (IotlbGather::new(), Prot::READ | Prot::WRITE);
    table.map(Iova::new(IOVA), page.address(), 4096, prot, &mut gather).expect("mapped");
    world.attach(StreamTarget::Space(tag));
    assert!(world.write(IOVA));
    world.attach(StreamTarget::Space(next));
    world.device.forbid(Iova::new(IOVA), 4096);
    world.write(IOVA);
    world.machine.violations().len()
}

/// A device that nobody has attached, behind a unit that has just come up.
fn fresh() -> usize {
    let world = World::new(AmdViProfile::qemu10(), Policy::default());
    world.device.expect(Expectation::Blocked);
    world.write(world.page().address().raw());
    world.machine.violations().len()
}

/// The same behind a unit whose exclusion range firmware left on.
fn excluded() -> usize {
    let time = TimeSource::Virtual { step: 1_000_000 };
    let machine = Machine::builder().time(time).build();
    let unit = machine.add_amdvi(AmdViProfile::qemu10());
    let device = machine.add_client("client", &unit, SPEC.id);
    let page = machine.memory().allocate(PageLayout::new(4096, 4096).expect("a page"));
    let page = page.expect("memory").raw();
    unit.registers().write64(0x20, page | 3);
    unit.registers().write64(0x28, page);
    let platform = Arc::new(Careless::<HostThreads>::new(&machine));
    let options = Options { stream_id_bits: 7, ..Options::default() };
    let _driver = Iommu::bring_up(platform, unit.registers(), options).expect("up");
    device.expect(Expectation::Blocked);
    let _refused = machine.dma_of(&device, DmaRequest::write(Iova::new(page), b"token"));
    machine.violations().len()
}

/// A device that did not stop when its unit was.
fn stopped() -> usize {
    let world = World::new(AmdViProfile::qemu10(), Policy::default());
    let page = world.page();
    world.driver.shutdown().expect("confirmed");
    world.device.expect(Expectation::Blocked);
    world.write(page.address().raw());
    world.machine.violations().len()
}

#[test]
fn each_safeguard_is_missed_and_nothing_is_found_with_all_of_them() {
    let runs: [(Safeguard, fn() -> usize); 6] = [
        (Safeguard::WaitForCompletion, unmap_and_block),
        (Safeguard::ForgetEntry, unmap_and_block),
        (Safeguard::ForgetDomain, change_spaces),
        (Safeguard::BlockBeforeEnable, fresh),
        (Safeguard::NoExclusion, excluded),
        (Safeguard::StayOn, stopped),
    ];
    // The order of stores is watched in the driver's own tests; threads meet in the lab (`ours_planted`).
    let elsewhere = [Safeguard::BlockedBetween, Safeguard::PermitLast, Safeguard::GrowOneByOne];
    assert_eq!(runs.len() + elsewhere.len(), Safeguard::ALL.len());
    for (safeguard, run) in runs {
        assert_eq!(without(None, run), 0, "{safeguard}");
        assert!(without(Some(safeguard.name()), run) > 0, "{safeguard} is not missed");
    }
}
