//! The driver's safeguards left out one by one on the machine, which must notice each; with all of them in place it notices nothing. What [`Safeguard::InvalidBetween`] is for shows only between two stores of one change: the tests of
//! `entry` look there.

use portcullis::{
    AddressSpace, Blocking, FormatSupport, IommuOps, SpaceRequest, SpaceTag, StreamSpec,
    StreamTarget,
};
use portcullis_addr::{Iova, PageSizes, Prot, StreamId};
use portcullis_machine::{
    Careless, ChunkOrder, Device, DmaRequest, Expectation, Faults, Machine, Policy, ReadChunks,
    RegisterBlock, RiscvIommu, RiscvProfile, TimeSource, without,
};
use portcullis_pgtable::IotlbGather;
use portcullis_platform::host::HostThreads;
use portcullis_platform::{DmaPages, PageLayout};
use portcullis_riscv::{Iommu, Options, Safeguard};
use portcullis_spec::riscv::DDTP;
use std::sync::{Arc, Mutex};

type Driver = Iommu<Careless<HostThreads>, RegisterBlock<RiscvIommu>>;

const SPEC: StreamSpec = StreamSpec::exact(StreamId::new(0x18));
const IOVA: u64 = 0x12_3456_7000;

struct World {
    machine: Arc<Machine>,
    device: Arc<Device>,
    driver: Driver,
}

impl World {
    fn new(profile: RiscvProfile, policy: Policy) -> Self {
        let time = TimeSource::Virtual { step: 1_000_000 };
        let machine = Machine::builder().seed(3).policy(policy).time(time).build();
        let unit = machine.add_riscv(profile);
        let device = machine.add_client("client", &unit, SPEC.id);
        let platform = Arc::new(Careless::<HostThreads>::new(&machine));
        let driver = Iommu::bring_up(platform, unit.registers(), Options::default());
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
    let world = World::new(RiscvProfile::qemu10(), Policy::default());
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

/// A unit that lets everything pass and does not go off: whoever says that its devices are blocked is wrong.
fn stays_bare() -> usize {
    let profile = RiscvProfile { reset_bare: true, ..RiscvProfile::qemu10() };
    let time = TimeSource::Virtual { step: 1_000_000 };
    let machine = Machine::builder().time(time).build();
    let unit = machine.add_riscv(profile);
    unit.inject(Faults::none().stick(DDTP.offset));
    let platform = Arc::new(Careless::<HostThreads>::new(&machine));
    let error = Iommu::bring_up(platform, unit.registers(), Options::default());
    usize::from(error.expect_err("it does not go off").blocking == Blocking::Confirmed)
}

type Act = Box<dyn FnOnce() + Send>;

/// The blocked device is led to an empty space while hardware is in the middle of reading its context, word by word, the first one last. It must read the old context, the new one, or none: whatever lands is a mixture.
fn change_under_read() -> usize {
    let act: Arc<Mutex<Option<Act>>> = Arc::default();
    let due = Arc::clone(&act);
    let chunks = ReadChunks::of(8, ChunkOrder::Descending).between(move |point| {
        let act = (point.read + 1 == point.of).then(|| due.lock().expect("test").take());
        if let Some(Some(act)) = act {
            act();
        }
    });
    let world = Arc::new(World::new(RiscvProfile::qemu10(), Policy::default().chunks(chunks)));
    let ((_table, tag), page) = (world.space(), world.page());
    let inside = Arc::clone(&world);
    let change = move || inside.attach(StreamTarget::Space(tag));
    *act.lock().expect("test") = Some(Box::new(change));
    // By its physical address: only a context without a table lets it pass.
    let landed = world.write(page.address().raw());
    assert!(act.lock().expect("test").is_none(), "the context was read, and changed meanwhile");
    usize::from(landed)
}

#[test]
fn each_safeguard_is_missed_and_nothing_is_found_with_all_of_them() {
    let runs: [(Safeguard, fn() -> usize); 4] = [
        (Safeguard::WaitForFence, unmap_and_block),
        (Safeguard::ForgetContext, unmap_and_block),
        (Safeguard::WaitUntilOff, stays_bare),
        (Safeguard::ValidLast, change_under_read),
    ];
    let elsewhere = [Safeguard::InvalidBetween];
    assert_eq!(runs.len() + elsewhere.len(), Safeguard::ALL.len());
    for (safeguard, run) in runs {
        assert_eq!(without(None, run), 0, "{safeguard}");
        assert!(without(Some(safeguard.name()), run) > 0, "{safeguard} is not missed");
    }
}
