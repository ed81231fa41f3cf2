//! The driver on the machine's virtio-iommu, sound and broken, and with each of its safeguards left out. What must not happen is the machine's business: its oracle knows nothing of the driver.

use portcullis::{
    AccessKind, AddressSpace, Blocking, Breakage, Fault, FaultReason, GlobalErrors, HardwareRegion,
    HardwareRegionKind, IommuOps, OpsError, SpaceError, SpaceRequest, SpaceTag, StreamSpec,
    StreamTarget,
};
use portcullis_addr::{Iova, IovaRange, PhysAddr, PhysRange, Prot, StreamId};
use portcullis_machine::{
    Careless, CommandError, Consumption, Device, DmaRequest, Expectation, Faults, IommuModel,
    Machine, Policy, RegisterBlock, TimeSource, VirtioIommu, VirtioProfile, without,
};
use portcullis_pgtable::{IotlbGather, MapError};
use portcullis_platform::host::HostThreads;
use portcullis_platform::{DmaPages, PageLayout};
use portcullis_spec::virtio::mmio::{CONFIG_GENERATION, QUEUE_SIZE_MAX, STATUS};
use portcullis_virtio_iommu::{BringUpCause, BringUpError, Iommu, Options, Safeguard, Transport};
use std::sync::Arc;

type Driver = Iommu<Careless<HostThreads>, RegisterBlock<VirtioIommu>>;

const ID: StreamId = StreamId::new(0x18);
const PAGE: u64 = 4096;
const IOVA: u64 = 0x12_3456_7000;

/// Everything below the driver.
struct Board {
    machine: Arc<Machine>,
    unit: Arc<VirtioIommu>,
    device: Arc<Device>,
}

type Frame = DmaPages<portcullis_machine::PhysicalMemory>;

impl Board {
    fn new(profile: VirtioProfile, policy: Policy) -> Self {
        Self::seeded(profile, policy, 7)
    }

    fn seeded(profile: VirtioProfile, policy: Policy, seed: u64) -> Self {
        let time = TimeSource::Virtual { step: 1_000_000 };
        let machine = Machine::builder().seed(seed).policy(policy).time(time).build();
        let unit = machine.add_virtio(profile);
        let device = machine.add_client("client", &unit, ID);
        Self { machine, unit, device }
    }

    fn bring_up(&self, options: Options) -> Result<Driver, BringUpError> {
        let platform = Arc::new(Careless::new(&self.machine));
        Iommu::bring_up(platform, self.unit.registers(), Transport::Mmio, options)
    }

    fn frame(&self) -> Frame {
        let layout = PageLayout::new(PAGE as usize, PAGE as usize).expect("a page");
        DmaPages::new(self.machine.memory(), layout).expect("memory for a page")
    }

    fn write(&self, iova: u64) -> bool {
        let request = DmaRequest::write(Iova::new(iova), b"written by the device");
        self.machine.dma_of(&self.device, request).is_completed()
    }
}

/// A board whose driver serves, with the device claimed and a space bound.
struct World {
    board: Board,
    driver: Driver,
    space: Arc<dyn AddressSpace>,
    tag: SpaceTag,
}

/// Few requests, so that every test meets the queue's end.
fn small() -> Options {
    Options { command_queue_log2: 2, event_queue_log2: 2, ..Options::default() }
}

impl World {
    fn new(profile: VirtioProfile, policy: Policy) -> Self {
        Self::on(Board::new(profile, policy))
    }

    fn on(board: Board) -> Self {
        let driver = board.bring_up(small()).expect("the device comes up");
        board.device.expect(Expectation::Blocked);
        let support = *driver.capabilities().formats.first().expect("a format");
        let request = SpaceRequest { support, coherent_walk: true };
        let space = driver.create_space(&request).expect("a space");
        let tag = driver.bind_space(&space).expect("a tag");
        driver.claim(&[StreamSpec::exact(ID)]).expect("the device is free");
        Self { board, driver, space, tag }
    }

    fn lead(&self, target: StreamTarget) -> Result<(), OpsError> {
        self.driver.attach(&[StreamSpec::exact(ID)], None, target)
    }

    fn attach(&self) {
        self.lead(StreamTarget::Space(self.tag)).expect("attached");
        self.board.device.expect(Expectation::Translated);
    }

    fn block(&self) -> Result<(), OpsError> {
        let blocked = self.lead(StreamTarget::Blocked);
        if blocked.is_ok() {
            self.board.device.expect(Expectation::Blocked);
        }
        blocked
    }

    fn try_map(&self, iova: u64, phys: PhysAddr) -> Result<(), SpaceError> {
        self.board.device.permit(Iova::new(iova), PAGE);
        let prot = Prot::READ | Prot::WRITE | Prot::CACHE;
        self.space.map(Iova::new(iova), phys, PAGE, prot, &mut IotlbGather::new())
    }

    fn map(&self, iova: u64) -> Frame {
        let frame = self.board.frame();
        self.try_map(iova, frame.address()).expect("mapped");
        frame
    }

    /// A strict unmap, up to the confirmed answer.
    fn unmap(&self, iova: u64) -> Result<(), OpsError> {
        let mut gather = IotlbGather::new();
        match self.space.unmap(Iova::new(iova), PAGE, &mut gather) {
            Ok(()) => {}
            Err(SpaceError::Request(error)) => return Err(error),
            Err(error) => panic!("{error}"),
        }
        self.driver.invalidate(self.tag, &gather)?;
        drop(gather.confirm());
        self.board.device.forbid(Iova::new(iova), PAGE);
        Ok(())
    }

    fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let serviced = self.driver.service(usize::MAX, &mut |fault| faults.push(fault));
        assert!(serviced.errors.is_empty() && !serviced.more, "{serviced:?}");
        faults
    }

    fn assert_clean(&self) {
        assert_eq!(self.board.machine.violations(), []);
    }
}

fn policies() -> [Policy; 3] {
    let late = Policy::default().consumption(Consumption::Late { most: 3 });
    [Policy::like_qemu(), late, Policy::harshest()]
}

fn failed(code: u8) -> OpsError {
    OpsError::Hardware { breakage: Breakage::RequestFailed, status: code.into() }
}

#[test]
fn boot_bypass_is_closed_before_anything_else_and_stays_closed() {
    for policy in policies() {
        let board = Board::new(VirtioProfile::qemu10(), policy);
        assert!(board.write(board.frame().address().raw()), "out of power-on everything passes");
        let before = board.machine.usage();
        let driver = board.bring_up(small()).expect("the device comes up");
        board.device.expect(Expectation::Blocked);
        assert!(!board.write(board.frame().address().raw()));
        driver.shutdown().expect("it resets");
        assert!(
            !board.write(board.frame().address().raw()),
            "the bypass stays closed over a reset"
        );
        drop(driver);
        assert_eq!(board.machine.usage().live_bytes, before.live_bytes);
        assert_eq!(board.machine.violations(), []);
    }
}

#[test]
fn what_firmware_left_attached_is_not_after_bring_up() {
    let board = Board::new(VirtioProfile::qemu10(), Policy::default());
    board.unit.leave_attached(ID, 9);
    assert!(board.write(board.frame().address().raw()));
    let _driver = board.bring_up(small()).expect("the device comes up");
    board.device.expect(Expectation::Blocked);
    assert!(!board.write(board.frame().address().raw()));
    assert_eq!(board.unit.holds(), (0, 0));
}

#[test]
fn a_device_without_the_field_blocks_while_it_runs_and_confirms_no_end() {
    let board = Board::new(VirtioProfile::without_bypass_config(), Policy::default());
    let driver = board.bring_up(small()).expect("the device comes up");
    assert!(!driver.capabilities().identity, "no domain passes addresses unchanged");
    board.device.expect(Expectation::Blocked);
    assert!(!board.write(board.frame().address().raw()), "the driver did not accept F_BYPASS");
    board.device.expect(Expectation::Anything);
    let ended = driver.shutdown().expect_err("nobody says what endpoints reach now");
    assert!(ended.is_unconfirmed(), "{ended}");
    assert!(board.write(board.frame().address().raw()), "and here they reach everything");
}

#[test]
fn mappings_of_before_are_requested_at_the_attach_and_again_at_the_next() {
    for policy in policies() {
        let world = World::new(VirtioProfile::small(), policy);
        let frames: Vec<_> = (0..9).map(|page| world.map(IOVA + page * PAGE)).collect();
        assert_eq!(world.board.unit.holds(), (0, 0), "a domain without an endpoint does not exist");
        for _ in 0..2 {
            world.attach();
            assert_eq!(world.board.unit.holds(), (1, 9), "more than the queue holds at a time");
            assert!((0..9).all(|page| world.board.write(IOVA + page * PAGE)));
            world.block().expect("detached");
            assert!(!world.board.write(IOVA));
            assert_eq!(world.board.unit.holds(), (0, 0));
        }
        world.assert_clean();
        drop(frames);
    }
}

#[test]
fn unmapped_pages_are_out_of_reach_when_the_unmap_returns() {
    for (seed, policy) in (0..).zip([policies(), policies(), policies(), policies()].concat()) {
        let board = Board::seeded(VirtioProfile::small(), policy, seed);
        let world = World::on(board);
        world.attach();
        let frames: Vec<_> = (0..7).map(|page| world.map(IOVA + 2 * page * PAGE)).collect();
        for page in [3, 0, 6, 1, 5, 2, 4] {
            let iova = IOVA + 2 * page * PAGE;
            assert!(world.board.write(iova));
            world.unmap(iova).expect("answered");
            assert!(!world.board.write(iova));
        }
        assert_eq!(world.board.unit.holds(), (1, 0));
        world.assert_clean();
        drop(frames);
    }
}

/// Any number of unmaps costs one notification; so does a list of ranges.
#[test]
fn a_run_of_requests_is_one_notification() {
    let world = World::new(VirtioProfile::qemu10(), Policy::like_qemu());
    world.attach();
    let notifications = || world.board.unit.counters().notifications;
    let frames: Vec<_> = (0..3).map(|_| world.board.frame()).collect();
    let segments: Vec<_> =
        frames.iter().map(|frame| PhysRange::new(frame.address(), PAGE).expect("a page")).collect();
    let before = notifications();
    let prot = Prot::READ | Prot::WRITE;
    let mapped =
        world.space.map_segments(Iova::new(IOVA), &segments, prot, &mut IotlbGather::new());
    mapped.expect("mapped");
    assert_eq!((notifications() - before, world.board.unit.holds()), (1, (1, 3)));
    let mut gather = IotlbGather::new();
    for page in 0..3 {
        let iova = Iova::new(IOVA + page * PAGE);
        world.space.unmap(iova, PAGE, &mut gather).expect("mapped");
    }
    assert_eq!(world.board.unit.holds(), (1, 3), "not told yet");
    world.driver.invalidate(world.tag, &gather).expect("answered");
    drop(gather.confirm());
    assert_eq!((notifications() - before, world.board.unit.holds()), (2, (1, 0)));
}

#[test]
fn faults_say_who_where_and_why() {
    let world = World::new(VirtioProfile::small(), Policy::default());
    assert!(!world.board.write(IOVA));
    world.attach();
    assert!(!world.board.write(IOVA + 8));
    let faults = world.faults();
    let told: Vec<_> = faults.iter().map(|it| (it.stream, it.reason, it.access, it.iova)).collect();
    let write = Some(AccessKind::Write);
    assert_eq!(
        told,
        [
            (ID, FaultReason::StreamBlocked, write, Some(Iova::new(IOVA))),
            (ID, FaultReason::Translation, write, Some(Iova::new(IOVA + 8))),
        ]
    );
    for round in 0..20 {
        assert!(!world.board.write(IOVA), "buffers go back to the device: round {round}");
        assert_eq!(world.faults().len(), 1);
    }
    assert_eq!(world.board.unit.counters().faults_lost, 0);
}

/// A device does not say that it lost records; that no buffer was left says that it may have.
#[test]
fn buffers_that_are_all_used_count_as_a_loss() {
    let world = World::new(VirtioProfile::small(), Policy::default());
    let mut faults = 0;
    let mut refuse = |count: usize| {
        (0..count).for_each(|_| assert!(!world.board.write(IOVA)));
        let serviced = world.driver.service(usize::MAX, &mut |_| faults += 1);
        serviced.overflows
    };
    assert_eq!(refuse(3), 0, "one of four buffers is left");
    assert_eq!(refuse(4), 1, "none is");
    assert_eq!(refuse(9), 1);
    assert_eq!(refuse(1), 0, "and all are given back");
    assert_eq!((faults, world.board.unit.counters().faults_lost), (12, 5));
}

#[test]
fn reserved_ranges_and_windows_of_messages_come_from_the_device() {
    let reserved = vec![(1, 0xfee0_0000, 0xfeef_ffff), (0, 0x1000, 0x1fff)];
    let profile = VirtioProfile { reserved, absent: vec![9], ..VirtioProfile::small() };
    let world = World::new(profile, Policy::harshest());
    let mut regions: Vec<HardwareRegion> = Vec::new();
    let mut ask = |id: u32| {
        let stream = StreamSpec::exact(StreamId::new(id));
        world.driver.reserved_regions(&[stream], &mut |region| regions.push(region))
    };
    ask(ID.raw()).expect("answered");
    assert_eq!(ask(9), Err(failed(6)), "no such endpoint");
    ask(ID.raw()).expect("answered");
    let range = |first, len| IovaRange::new(Iova::new(first), len).expect("a range");
    let msi =
        HardwareRegion { range: range(0xfee0_0000, 0x10_0000), kind: HardwareRegionKind::Msi };
    let kept = HardwareRegion { range: range(0x1000, 0x1000), kind: HardwareRegionKind::Reserved };
    assert_eq!(regions, [msi, kept, msi, kept]);
}

#[test]
fn a_map_that_the_device_refuses_changes_nothing() {
    let profile = VirtioProfile { most_mappings: 1, ..VirtioProfile::small() };
    let world = World::new(profile, Policy::default());
    world.attach();
    let first = world.map(IOVA);
    let frame = world.board.frame();
    let refused = world.try_map(IOVA + PAGE, frame.address()).expect_err("one mapping is all");
    assert!(matches!(refused, SpaceError::Map(MapError::NoMemory(_))), "{refused}");
    assert_eq!(world.space.translate(Iova::new(IOVA + PAGE)), None);
    world.unmap(IOVA).expect("answered");
    world.try_map(IOVA + PAGE, frame.address()).expect("there is room now");
    world.assert_clean();
    drop(first);
}

#[test]
fn any_other_refusal_is_unconfirmed() {
    let world = World::new(VirtioProfile::small(), Policy::default());
    world.attach();
    world.board.unit.inject(Faults::none().fail_command(1, CommandError::AtcInvalidation));
    let frame = world.board.frame();
    let refused = world.try_map(IOVA, frame.address()).expect_err("DEVERR");
    assert_eq!(refused, SpaceError::Request(failed(3)));
    // What may be mapped can be unmapped.
    world.unmap(IOVA).expect("answered");
    assert!(!world.board.write(IOVA));
    world.assert_clean();
}

#[test]
fn an_unmap_that_is_refused_is_believed_only_after_a_reset() {
    let world = World::new(VirtioProfile::small(), Policy::default());
    world.attach();
    let (first, second) = (world.map(IOVA), world.map(IOVA + PAGE));
    world.board.unit.inject(Faults::none().fail_command(1, CommandError::Illegal));
    let error = world.unmap(IOVA).expect_err("UNSUPP");
    assert!(error.is_unconfirmed(), "{error}");
    assert!(world.board.write(IOVA), "it is mapped still");
    assert!(world.unmap(IOVA + PAGE).is_err(), "and nothing else is believed");
    let resets = world.board.unit.counters().resets;
    world.driver.forget_all().expect("reset, and all requested again");
    assert_eq!(world.board.unit.counters().resets, resets + 1);
    assert!(!world.board.write(IOVA) && !world.board.write(IOVA + PAGE));
    let third = world.map(IOVA + 4 * PAGE);
    assert!(world.board.write(IOVA + 4 * PAGE), "attached again");
    world.unmap(IOVA + 4 * PAGE).expect("believed again");
    world.assert_clean();
    drop((first, second, third));
}

/// The device stops at each index of a small queue, at each kind of request: bounded, said, and made good.
#[test]
fn a_device_that_stops_anywhere_is_reset_and_told_everything_again() {
    for after in 0..12 {
        for policy in policies() {
            let world = World::new(VirtioProfile::small(), policy);
            let kept = world.map(IOVA + 64 * PAGE);
            world.board.unit.inject(Faults::none().freeze_after(after));
            let attached = world.lead(StreamTarget::Space(world.tag));
            let mut frames = Vec::new();
            for page in 0..4 {
                let frame = world.board.frame();
                let mapped = world.try_map(IOVA + page * PAGE, frame.address());
                let silent = matches!(&mapped, Err(SpaceError::Request(it)) if it.is_unconfirmed());
                assert!(mapped.is_ok() || silent, "stopped after {after}: {mapped:?}");
                frames.push(frame);
            }
            let unmapped: Vec<_> = (0..4).map(|page| world.unmap(IOVA + page * PAGE)).collect();
            let stopped = attached.is_err() || unmapped.iter().any(Result::is_err);
            assert_eq!(stopped, after < 10, "attach, one of before, four maps, four unmaps");
            world.board.device.expect(Expectation::Anything);
            world.board.unit.inject(Faults::none());
            world.driver.forget_all().expect("it answers again");
            for page in 0..4 {
                // What was never confirmed is asked for once more.
                if world.space.translate(Iova::new(IOVA + page * PAGE)).is_some() {
                    world.unmap(IOVA + page * PAGE).expect("answered");
                }
                assert!(!world.board.write(IOVA + page * PAGE), "stopped after {after}");
            }
            world.attach();
            assert!(world.board.write(IOVA + 64 * PAGE), "what stays mapped is");
            world.block().expect("detached");
            assert!(!world.board.write(IOVA + 64 * PAGE));
            world.assert_clean();
            drop((kept, frames));
        }
    }
}

#[test]
fn a_detach_that_is_not_answered_leaves_the_endpoint_in_doubt_until_a_reset() {
    let world = World::new(VirtioProfile::small(), Policy::default());
    let frame = world.map(IOVA);
    world.attach();
    world.board.unit.inject(Faults::none().hang_sync_until_restart(1));
    let error = world.block().expect_err("no answer");
    assert!(matches!(error, OpsError::Timeout { .. }), "{error}");
    assert_eq!(world.block(), Err(OpsError::Dead), "nobody waits twice");
    assert!(world.driver.release(&[StreamSpec::exact(ID)]).is_err());
    assert!(world.driver.unbind_space(world.tag).is_err(), "the domain may live");
    world.board.device.expect(Expectation::Anything);
    world.board.unit.inject(Faults::none());
    world.driver.forget_all().expect("reset");
    world.board.device.expect(Expectation::Blocked);
    assert!(!world.board.write(IOVA));
    assert_eq!(world.driver.statistics().spaces, 0, "the quarantined space was let go");
    world.assert_clean();
    drop(frame);
}

#[test]
fn a_device_that_asks_for_a_reset_says_so_and_gets_it() {
    let world = World::new(VirtioProfile::small(), Policy::default());
    let frame = world.map(IOVA);
    world.attach();
    world.board.unit.inject(Faults::none().fail_service());
    let serviced = world.driver.service(16, &mut |_| {});
    assert_eq!(serviced.errors, GlobalErrors::SERVICE_FAILURE);
    assert!(world.unmap(IOVA).is_err());
    world.board.unit.inject(Faults::none());
    world.driver.forget_all().expect("reset, and all requested again");
    assert_eq!(world.driver.service(16, &mut |_| {}).errors, GlobalErrors::empty());
    let other = world.map(IOVA + PAGE);
    assert!(world.board.write(IOVA + PAGE) && !world.board.write(IOVA));
    world.assert_clean();
    drop((frame, other));
}

#[test]
fn a_device_that_is_gone_or_never_was_one_is_told_apart() {
    let board = Board::new(VirtioProfile::small(), Policy::default());
    board.unit.inject(Faults::none().gone_at(1));
    let error = board.bring_up(small()).expect_err("gone");
    assert_eq!((error.cause, error.blocking), (BringUpCause::Gone, Blocking::Unknown));
    for (offset, value, cause) in [
        (0, 0x1234, "MagicValue"),
        (8, 2, "DeviceID"),
        (STATUS, 0x0b, "does not reset"),
        (QUEUE_SIZE_MAX, 0, "request queue"),
        (0x10, 0, "VIRTIO_F_VERSION_1"),
        (0x11c, 0, "domain_range.end"),
        (0x124, 1, "`bypass`"),
    ] {
        let board = Board::new(VirtioProfile::small(), Policy::default());
        board.unit.inject(Faults::none().stick_at(offset, value));
        let error = board.bring_up(small()).expect_err("it cannot be driven").to_string();
        assert!(error.contains(cause), "{error}");
        assert_eq!(board.machine.usage().live_bytes, 0, "{error}");
    }
    let board = Board::new(VirtioProfile::small(), Policy::default());
    board.unit.inject(Faults::none().stick_at(CONFIG_GENERATION, 5));
    board.bring_up(small()).expect("a generation that stays is a configuration that does");
}

/// Gone at any register access of the life of an instance: bounded, said, no panic.
#[test]
fn a_device_that_vanishes_at_any_access_is_noticed() {
    for nth in 1..90 {
        let board = Board::new(VirtioProfile::small(), Policy::default());
        board.unit.inject(Faults::none().gone_at(nth));
        let Ok(driver) = board.bring_up(small()) else { continue };
        let support = *driver.capabilities().formats.first().expect("a format");
        let space = driver.create_space(&SpaceRequest { support, coherent_walk: true });
        let space = space.expect("a space");
        let tag = driver.bind_space(&space).expect("a tag");
        driver.claim(&[StreamSpec::exact(ID)]).expect("free");
        let attached = driver.attach(&[StreamSpec::exact(ID)], None, StreamTarget::Space(tag));
        let ended = driver.shutdown();
        let noticed = attached.is_err() || ended.is_err();
        assert!(noticed || nth > 50, "access {nth}");
        board.device.expect(Expectation::Blocked);
        assert!(!board.write(board.frame().address().raw()), "gone aborts everything");
    }
}

/// Each safeguard left out is noticed by the machine, and nothing is while all are in place.
#[test]
fn each_safeguard_is_missed() {
    let bypass = || {
        let board = Board::new(VirtioProfile::qemu10(), Policy::default());
        let _driver = board.bring_up(small()).expect("the device comes up");
        board.device.expect(Expectation::Blocked);
        board.write(board.frame().address().raw());
        board.machine.violations().len()
    };
    let waits = || {
        let late = Policy::default().consumption(Consumption::Late { most: 1 });
        let world = World::new(VirtioProfile::small(), late);
        world.attach();
        let frame = world.map(IOVA);
        // Without the wait the map is not there yet, and the unmap's page is reached when it returns.
        while !world.board.write(IOVA) {
            IommuModel::progress(&*world.board.unit);
        }
        world.unmap(IOVA).expect("answered, or not waited for");
        world.board.write(IOVA);
        drop(frame);
        world.board.machine.violations().len()
    };
    let detach = || {
        let world = World::new(VirtioProfile::small(), Policy::default());
        let frame = world.map(IOVA);
        world.attach();
        world.block().expect("detached");
        world.board.write(IOVA);
        drop(frame);
        world.board.machine.violations().len()
    };
    let replay = || {
        let world = World::new(VirtioProfile::small(), Policy::default());
        let frame = world.map(IOVA);
        world.attach();
        let reached = world.board.write(IOVA);
        drop(frame);
        usize::from(!reached)
    };
    let stories: [(Safeguard, &dyn Fn() -> usize); 4] = [
        (Safeguard::CloseBypass, &bypass),
        (Safeguard::WaitForAnswers, &waits),
        (Safeguard::DetachBlocked, &detach),
        (Safeguard::ReplayMappings, &replay),
    ];
    assert_eq!(stories.map(|(safeguard, _)| safeguard), Safeguard::ALL);
    for (safeguard, story) in stories {
        assert_eq!(story(), 0, "{safeguard}: nothing is left out");
        let noticed = without(Some(safeguard.name()), story);
        assert!(noticed > 0, "{safeguard} is not missed");
    }
}
