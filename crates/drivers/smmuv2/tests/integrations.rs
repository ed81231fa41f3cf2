//! Units that do not stand alone: NVIDIA's, of several register blocks that must be programmed alike, and Cavium's, which share tags.

use portcullis::{
    AddressSpace, Fault, FormatSupport, IommuOps, SpaceFormat, SpaceRequest, StreamSpec,
    StreamTarget,
};
use portcullis_addr::{Iova, PageSize, PageSizes, PhysAddr, Prot, StreamId};
use portcullis_machine::{
    Careless, Device, DmaRequest, Expectation, Interleaved, Machine, PhysicalMemory, Policy, Port,
    SmmuV2, SmmuV2Profile, SmmuV2Registers, TimeSource, Violation, share_translations, without,
};
use portcullis_pgtable::{IotlbGather, TableFormat};
use portcullis_platform::host::HostThreads;
use portcullis_platform::{DmaPages, PageLayout, Registers as _};
use portcullis_smmuv2::{BringUpCause, Options, Quirks, Safeguard, Smmu};
use std::sync::Arc;

const CLIENT: StreamSpec = StreamSpec::exact(StreamId::new(0x33));
const PAGE: u64 = 4096;

type Driver = Smmu<Careless<HostThreads>, SmmuV2Registers>;

fn machine() -> Arc<Machine> {
    let time = TimeSource::Virtual { step: 1_000_000 };
    // A wait is over after a few looks at its status.
    let policy = Policy { update_delay: 3, ..Policy::default() };
    Machine::builder().seed(7).policy(policy).time(time).build()
}

fn bring_up(machine: &Arc<Machine>, units: &[Arc<SmmuV2>], options: Options) -> Driver {
    let platform = Arc::new(Careless::<HostThreads>::new(machine));
    let mirrors = units[1..].iter().map(SmmuV2::registers).collect();
    Smmu::bring_up_mirrored(platform, units[0].registers(), mirrors, options).expect("up")
}

fn page(machine: &Machine) -> DmaPages<PhysicalMemory> {
    let layout = PageLayout::new(PAGE as usize, PAGE as usize).expect("a page");
    DmaPages::new(machine.memory(), layout).expect("memory")
}

fn new_space(driver: &Driver, format: TableFormat) -> Arc<dyn AddressSpace> {
    let formats = driver.capabilities().formats;
    let wanted = |support: &&FormatSupport| support.format == SpaceFormat::Table(format);
    let support = *formats.iter().find(wanted).expect("the format");
    driver.create_space(&SpaceRequest { support, coherent_walk: true }).expect("a table")
}

fn map(space: &Arc<dyn AddressSpace>, iova: u64, phys: PhysAddr) {
    let mut gather = IotlbGather::new();
    space.map(Iova::new(iova), phys, PAGE, Prot::READ | Prot::WRITE, &mut gather).expect("mapped");
}

fn writes(machine: &Machine, device: &Arc<Device>, iova: u64) -> bool {
    machine.dma_of(device, DmaRequest::write(Iova::new(iova), b"here")).is_completed()
}

/// A client of `count` interleaved units lives: blocked, translated at every page, unmapped, blocked.
fn life_of_mirrors(count: usize) -> Vec<Violation> {
    let machine = machine();
    let profile = SmmuV2Profile::mmu500();
    let units: Vec<_> = (0..count).map(|_| machine.add_smmuv2(profile.clone())).collect();
    let port = Port::new(&Interleaved::new(&units), CLIENT.id);
    let device = machine.add_device("client", &[port]);
    let quirks = Quirks::of(["nvidia,tegra194-smmu", "nvidia,smmu-500"]);
    let driver = bring_up(&machine, &units, Options { quirks, ..Options::default() });
    device.expect(Expectation::Blocked);
    let pages: Vec<_> = (0..4).map(|page| 0x10_0000 + page * PAGE).collect();
    let mut right = pages.iter().all(|iova| !writes(&machine, &device, *iova));
    let table = new_space(&driver, TableFormat::ArmLpaeStage1);
    let tag = driver.bind_space(&table).expect("a bank");
    driver.claim(&[CLIENT]).expect("free");
    device.expect(Expectation::Translated);
    driver.attach(&[CLIENT], None, StreamTarget::Space(tag)).expect("attached");
    for iova in &pages {
        let frame = page(&machine);
        map(&table, *iova, frame.address());
        right &= writes(&machine, &device, *iova);
        let mut gather = IotlbGather::new();
        table.unmap(Iova::new(*iova), PAGE, &mut gather).expect("it was mapped");
        driver.invalidate(tag, &gather).expect("confirmed");
        table.retire(gather.confirm());
        device.forbid(Iova::new(*iova), PAGE);
        drop(frame);
        right &= !writes(&machine, &device, *iova);
        device.permit(Iova::new(*iova), PAGE);
    }
    // Each block records the fault that it saw.
    let mut faults: Vec<Fault> = Vec::new();
    while driver.service(16, &mut |fault| faults.push(fault)).faults > 0 {}
    let pages_of: Vec<_> =
        faults.iter().filter_map(|it| it.iova).map(|it| it.raw() >> 12).collect();
    let seen = |unit: usize| pages_of.iter().any(|page| *page as usize % count == unit);
    right &= (0..count).all(seen);
    driver.attach(&[CLIENT], None, StreamTarget::Blocked).expect("blocked");
    device.expect(Expectation::Blocked);
    right &= pages.iter().all(|iova| !writes(&machine, &device, *iova));
    driver.unbind_space(tag).expect("confirmed");
    driver.release(&[CLIENT]).expect("confirmed");
    let found = machine.violations();
    assert!(right || !found.is_empty(), "what goes wrong has a name");
    found
}

#[test]
fn register_blocks_that_must_be_programmed_alike_are_one_unit() {
    for count in 1..=3 {
        assert_eq!(life_of_mirrors(count), [], "{count}");
    }
}

#[test]
fn a_mirror_that_is_forgotten_is_found() {
    let mirrors = |left_out: Safeguard| {
        without(Some(left_out.name()), || std::panic::catch_unwind(|| life_of_mirrors(2)))
    };
    // Left as it was found, out of reset, it lets everything pass.
    let found = mirrors(Safeguard::ProgramMirrors);
    let passed = |it: &Violation| matches!(it, Violation::BlockedPassed(_));
    // Reading back notices it already at the bring-up.
    assert!(found.is_err() || found.is_ok_and(|found| found.iter().any(passed)));
    let found = mirrors(Safeguard::WaitForMirrors).expect("it goes on");
    let stale =
        |it: &Violation| matches!(it, Violation::StaleHit(_) | Violation::ForbiddenRange(_));
    assert!(found.iter().any(stale), "{found:?}");
}

#[test]
fn register_blocks_that_are_not_alike_are_refused() {
    let machine = machine();
    let one = machine.add_smmuv2(SmmuV2Profile::mmu500());
    let other = machine.add_smmuv2(SmmuV2Profile { banks: 8, ..SmmuV2Profile::mmu500() });
    let platform = Arc::new(Careless::<HostThreads>::new(&machine));
    let mirrors = vec![other.registers()];
    let refused = Smmu::bring_up_mirrored(platform, one.registers(), mirrors, Options::default());
    let cause = refused.expect_err("they differ").cause;
    assert!(matches!(cause, BringUpCause::Unlike { register: "IDR1", .. }), "{cause}");
}

/// Linux's `nvidia_smmu_init_context` limits Tegra194 and Tegra234 to pages.
#[test]
fn where_the_walk_cache_cannot_be_trusted_only_pages_are_mapped() {
    let machine = machine();
    let unit = [machine.add_smmuv2(SmmuV2Profile::mmu500())];
    let sizes = |name| {
        let quirks = Quirks::of([name]);
        let driver = bring_up(&machine, &unit, Options { quirks, ..Options::default() });
        new_space(&driver, TableFormat::ArmLpaeStage1).page_sizes()
    };
    let page = PageSizes::from_bitmap(PageSize::SIZE_4K.bytes());
    assert_eq!(sizes("nvidia,tegra194-smmu"), page);
    assert_eq!(sizes("nvidia,tegra234-smmu"), page);
    assert!(sizes("nvidia,smmu-500").contains(PageSize::SIZE_2M), "nobody else is");
}

/// Two units that share translations, each with a client at the same address and a page of its own.
fn two_that_share(tags: [u16; 2], format: TableFormat) -> Vec<Violation> {
    let machine = machine();
    // As on a CN88xx: VMIDs of 16 bits, 128 banks.
    let profile = SmmuV2Profile { banks: 128, ..SmmuV2Profile::extended() };
    let units = [0, 1].map(|_| machine.add_smmuv2(profile.clone()));
    share_translations(&units);
    let devices = units.each_ref().map(|unit| machine.add_client("client", unit, CLIENT.id));
    let drivers: Vec<_> = units
        .iter()
        .zip(tags)
        .map(|(unit, first_tag)| {
            let quirks = Quirks::of(["cavium,smmu-v2"]);
            let options = Options { quirks, first_tag, ..Options::default() };
            bring_up(&machine, std::slice::from_ref(unit), options)
        })
        .collect();
    let mut kept = Vec::new();
    for (driver, device) in drivers.iter().zip(&devices) {
        let table = new_space(driver, format);
        let tag = driver.bind_space(&table).expect("a bank");
        driver.claim(&[CLIENT]).expect("free");
        driver.attach(&[CLIENT], None, StreamTarget::Space(tag)).expect("attached");
        let frame = page(&machine);
        map(&table, 0x5000, frame.address());
        device.expect(Expectation::Translated);
        assert!(writes(&machine, device, 0x5000));
        kept.push((table, frame));
    }
    machine.violations()
}

#[test]
fn units_that_share_tags_have_tags_of_their_own() {
    for format in [TableFormat::ArmLpaeStage1, TableFormat::ArmLpaeStage2] {
        assert_eq!(two_that_share([0, 128], format), [], "{format:?}");
        let found = two_that_share([0, 0], format);
        assert!(
            found.iter().any(|it| matches!(it, Violation::StaleHit(_))),
            "{format:?}: {found:?}"
        );
    }
}

/// Tags beyond 8 bits: no AArch32 tables, and stage 2 only where VMIDs have 16 bits.
#[test]
fn tags_that_do_not_fit_are_not_used() {
    let formats = |profile: SmmuV2Profile, first_tag| {
        let machine = machine();
        let unit = [machine.add_smmuv2(profile)];
        let driver = bring_up(&machine, &unit, Options { first_tag, ..Options::default() });
        let formats = driver.capabilities().formats;
        formats.iter().map(|support| support.format).collect::<Vec<_>>()
    };
    let [one, two] =
        [TableFormat::ArmLpaeStage1, TableFormat::ArmLpaeStage2].map(SpaceFormat::Table);
    assert_eq!(formats(SmmuV2Profile::mmu500(), 0), [one, two]);
    assert_eq!(formats(SmmuV2Profile::mmu500(), 128), [one, two]);
    assert_eq!(formats(SmmuV2Profile::mmu500(), 256), [one], "VMIDs of 8 bits");
    assert_eq!(formats(SmmuV2Profile::extended(), 256), [one, two]);
    let machine = machine();
    let unit = machine.add_smmuv2(SmmuV2Profile { stage2_banks: 0, ..SmmuV2Profile::minimal() });
    let platform = Arc::new(Careless::<HostThreads>::new(&machine));
    let options = Options { first_tag: 256, ..Options::default() };
    let refused = Smmu::bring_up(platform, unit.registers(), options).map(drop);
    assert!(matches!(refused.expect_err("AArch32 alone").cause, BringUpCause::Refused { .. }));
    assert!(unit.registers().read32(0) & 1 == 1, "and nothing was written");
}
