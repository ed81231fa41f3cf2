//! The driver on the machine's register-level SMMUv2. What must not happen is the machine's business: its oracle knows nothing of the driver.

use portcullis::{
    AccessKind, AddressSpace, Blocking, Fault, FaultReason, FormatSupport, IommuOps, OpsError,
    Serviced, SpaceFormat, SpaceRequest, SpaceTag, Stage, StreamSpec, StreamTarget, Unsupported,
};
use portcullis_addr::{Iova, PageSizes, PhysAddr, Prot, StreamId};
use portcullis_machine::{
    Device, DmaRequest, Expectation, Faults, Machine, MachinePlatform, Policy, SmmuV2,
    SmmuV2Profile, SmmuV2Registers, TimeSource, Violation,
};
use portcullis_pgtable::{IotlbGather, TableFormat};
use portcullis_platform::host::HostThreads;
use portcullis_platform::{Clock, DmaPages, PageLayout, Registers};
use portcullis_smmuv2::{
    BringUpCause, BringUpError, Fate, Options, Quirks, Ran, SYNC_BOUND, Smmu, WhyBlocked,
};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

type Platform = MachinePlatform<HostThreads>;
type Driver = Smmu<Platform, Meddler>;

const ID: StreamId = StreamId::new(0x402);
const PAGE: u64 = 4096;

/// What a planted bug does to the driver's register accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    /// A group that streams have used is not led to "fault" before it matches the next one.
    NoFault,
    /// TLB syncs are not begun, and their status says "over".
    NoSync,
    /// Address spaces are not dropped from the TLB when their bank is given back.
    BankNotCleaned,
    /// Masks of match registers are dropped.
    NoMask,
}

/// The unit's registers with a bug in front.
struct Meddler {
    inner: SmmuV2Registers,
    bug: Option<Bug>,
    /// Group registers that the bug kept from the unit, as the driver believes them to be.
    believed: Mutex<BTreeMap<usize, u32>>,
    used: AtomicBool,
}

impl Meddler {
    fn new(inner: SmmuV2Registers, bug: Option<Bug>) -> Self {
        Self { inner, bug, believed: Mutex::default(), used: AtomicBool::new(false) }
    }

    /// Whether that is register `offset` of a bank.
    fn is_bank(&self, offset: usize, register: usize) -> bool {
        let shape = self.inner.smmu().profile().shape();
        offset >= shape.bank(0) && offset % shape.page() == register
    }
}

impl Registers for Meddler {
    fn read32(&self, offset: usize) -> u32 {
        let status = offset == 0x74 || self.is_bank(offset, 0x7f4);
        if self.bug == Some(Bug::NoSync) && status {
            return 0;
        }
        let believed = self.believed.lock().expect("test").get(&offset).copied();
        believed.unwrap_or_else(|| self.inner.read32(offset))
    }

    fn write32(&self, offset: usize, value: u32) {
        let matches = (0x800..0xa00).contains(&offset);
        let lost = match self.bug {
            Some(Bug::NoFault) => {
                let used = self.used.fetch_or(matches && value >> 31 == 1, Ordering::Relaxed);
                used && (0xc00..0xe00).contains(&offset) && value >> 16 & 3 == 2
            }
            Some(Bug::NoSync) => offset == 0x70 || self.is_bank(offset, 0x7f0),
            Some(Bug::BankNotCleaned) => self.is_bank(offset, 0x610) || self.is_bank(offset, 0x618),
            Some(Bug::NoMask) if matches => return self.inner.write32(offset, value & 0x8000_7fff),
            _ => false,
        };
        let mut believed = self.believed.lock().expect("test");
        if lost {
            believed.insert(offset, value);
        } else {
            believed.remove(&offset);
            self.inner.write32(offset, value);
        }
    }

    fn read64(&self, offset: usize) -> u64 {
        self.inner.read64(offset)
    }

    fn write64(&self, offset: usize, value: u64) {
        self.inner.write64(offset, value);
    }

    fn len(&self) -> usize {
        self.inner.len()
    }
}

/// Everything below the driver.
struct Board {
    machine: Arc<Machine>,
    unit: Arc<SmmuV2>,
    device: Arc<Device>,
    bug: Option<Bug>,
    quirks: Quirks,
}

impl Board {
    fn new(profile: SmmuV2Profile, policy: Policy) -> Self {
        let time = TimeSource::Virtual { step: 1_000_000 };
        let machine = Machine::builder().seed(7).policy(policy).time(time).build();
        let id = if profile.stream_matching { ID } else { StreamId::new(2) };
        let unit = machine.add_smmuv2(profile);
        let device = machine.add_client("client", &unit, id);
        Self { machine, unit, device, bug: None, quirks: Quirks::of(["arm,mmu-500"]) }
    }

    fn bring_up(&self) -> Result<Driver, BringUpError> {
        let registers = Meddler::new(self.unit.registers(), self.bug);
        let options = Options { quirks: self.quirks, ..Options::default() };
        Smmu::bring_up(Arc::new(Platform::new(&self.machine)), registers, options)
    }

    fn frame(&self) -> DmaPages<portcullis_machine::PhysicalMemory> {
        let layout = PageLayout::new(PAGE as usize, PAGE as usize).expect("a page");
        DmaPages::new(self.machine.memory(), layout).expect("memory for a page")
    }

    fn write_as(&self, device: &Arc<Device>, iova: u64) -> bool {
        let request = DmaRequest::write(Iova::new(iova), b"written by the device");
        self.machine.dma_of(device, request).is_completed()
    }

    fn write(&self, iova: u64) -> bool {
        self.write_as(&self.device, iova)
    }

    fn stream(&self) -> StreamSpec {
        StreamSpec::exact(self.device.ports()[0].id)
    }

    fn assert_clean(&self) {
        assert_eq!(self.machine.violations(), []);
    }
}

fn space(driver: &impl IommuOps, stage2: bool) -> Arc<dyn AddressSpace> {
    let formats = driver.capabilities().formats;
    let wanted = |support: &&FormatSupport| {
        let two = [TableFormat::ArmLpaeStage2, TableFormat::Aarch32LpaeStage2];
        two.map(SpaceFormat::Table).contains(&support.format) == stage2
    };
    let support = *formats.iter().find(wanted).expect("the stage");
    let support = FormatSupport { page_sizes: PageSizes::from_bitmap(u64::MAX), ..support };
    let coherent_walk = driver.capabilities().coherent_walk;
    driver.create_space(&SpaceRequest { support, coherent_walk }).expect("a table")
}

fn map(space: &Arc<dyn AddressSpace>, iova: u64, phys: PhysAddr) {
    let mut gather = IotlbGather::new();
    space.map(Iova::new(iova), phys, PAGE, Prot::READ | Prot::WRITE, &mut gather).expect("mapped");
    assert!(gather.is_empty(), "this hardware holds no absence");
}

fn unmap(
    driver: &Driver,
    space: &Arc<dyn AddressSpace>,
    tag: SpaceTag,
    iova: u64,
) -> Result<(), OpsError> {
    let mut gather = IotlbGather::new();
    space.unmap(Iova::new(iova), PAGE, &mut gather).expect("it was mapped");
    let paid = driver.invalidate(tag, &gather);
    match paid {
        Ok(()) => space.retire(gather.confirm()),
        Err(_) => space.quarantine(&mut gather),
    }
    paid
}

fn faults(driver: &Driver) -> (Vec<Fault>, Serviced) {
    let mut faults = Vec::new();
    let serviced = driver.service(16, &mut |fault| faults.push(fault));
    (faults, serviced)
}

/// One life of a device: blocked, translated, unmapped, blocked again, let go. `false` when something did not go as it should.
fn life(board: &Board, driver: &Driver, stage2: bool, iova: u64) -> bool {
    board.device.expect(Expectation::Blocked);
    let mut right = !board.write(iova);
    let stream = [board.stream()];
    driver.claim(&stream).expect("free");
    right &= !board.write(iova);
    let table = space(driver, stage2);
    let tag = driver.bind_space(&table).expect("a bank");
    board.device.expect(Expectation::Translated);
    driver.attach(&stream, None, StreamTarget::Space(tag)).expect("attached");
    let frame = board.frame();
    right &= !board.write(iova);
    map(&table, iova, frame.address());
    right &= board.write(iova + 0x10);
    let mut bytes = [0; 7];
    let at = PhysAddr::new(frame.address().raw() + 0x10);
    right &= board.machine.memory().read_bytes(at, &mut bytes) && &bytes == b"written";
    unmap(driver, &table, tag, iova).expect("confirmed");
    board.device.forbid(Iova::new(iova), PAGE);
    drop(frame);
    right &= !board.write(iova);
    board.device.permit(Iova::new(iova), PAGE);
    board.device.expect(Expectation::Blocked);
    driver.attach(&stream, None, StreamTarget::Blocked).expect("blocked");
    right &= !board.write(iova);
    driver.unbind_space(tag).expect("confirmed");
    driver.release(&stream).expect("confirmed");
    right && !board.write(iova)
}

#[test]
fn a_device_lives_on_every_kind_of_unit() {
    let mmu500 = SmmuV2Profile::mmu500;
    let narrow = Quirks::of(["marvell,ap806-smmu-500"]);
    let units = [
        (mmu500(), Quirks::of(["arm,mmu-500"])),
        (SmmuV2Profile { coherent: false, ..mmu500() }, Quirks::default()),
        (SmmuV2Profile::extended(), Quirks::default()),
        (SmmuV2Profile { ubs_bits: 36, ias_bits: 36, oas_bits: 36, ..mmu500() }, Quirks::default()),
        (SmmuV2Profile { wide_access: false, ..mmu500() }, narrow),
        (
            SmmuV2Profile { fakes_s2cr: true, kept_banks: 3, ..mmu500() },
            Quirks::of(["qcom,smmu-500"]),
        ),
        (SmmuV2Profile { stage2: false, ..mmu500() }, Quirks::default()),
        (SmmuV2Profile { stage1: false, ..mmu500() }, Quirks::default()),
        (SmmuV2Profile::minimal(), Quirks::default()),
    ];
    for (profile, quirks) in units {
        for policy in [Policy::default(), Policy::harshest(), Policy::like_qemu()] {
            let name = format!("{profile:?} {policy:?}");
            let board = Board { quirks, ..Board::new(profile.clone(), policy) };
            let driver = board.bring_up().unwrap_or_else(|error| panic!("{error}: {name}"));
            for (stage2, there) in [(false, profile.stage1), (true, profile.stage2)] {
                // Twice: the second life gets what the first one gave back.
                for _ in 0..if there { 2 } else { 0 } {
                    assert!(life(&board, &driver, stage2, 0x1234_5000), "{stage2} {name}");
                }
            }
            assert_eq!(driver.spaces(), 0);
            drop(driver);
            assert!(!board.write(0x4000_0000), "a unit that was stopped lets nothing pass");
            assert_eq!(board.machine.usage().live, 0, "{name}");
            board.assert_clean();
        }
    }
}

#[test]
fn what_firmware_left_running_is_blocked_before_anything_else() {
    let board = Board::new(SmmuV2Profile::mmu500(), Policy::default());
    let registers = board.unit.registers();
    assert!(board.write(0x4000_0000), "out of reset everything passes");
    registers.write32(0xc14, 1 << 16);
    registers.write32(0x814, 1 << 31 | ID.raw());
    registers.write32(0, 0);
    let driver = board.bring_up().expect("up");
    board.device.expect(Expectation::Blocked);
    assert!(!board.write(0x4000_0000));
    assert_eq!(registers.read32(0x814), 0, "it matches nothing any more");
    let [left] = driver.firmware_streams() else { panic!("{:?}", driver.firmware_streams()) };
    assert_eq!((left.stream, left.ran), (board.stream(), Ran::Passed), "and it is said");
    assert_eq!(left.fate, Fate::Blocked(WhyBlocked::Policy));
    assert_eq!(driver.features().kept_banks, 0);
    driver.claim(&[board.stream()]).expect("no conflict with what was there");
    assert!(!board.write(0x4000_0000));
    board.assert_clean();
}

#[test]
fn masked_streams_share_a_group_and_overlaps_are_refused() {
    let board = Board::new(SmmuV2Profile::mmu500(), Policy::default());
    let driver = board.bring_up().expect("up");
    let masked = StreamSpec { id: StreamId::new(0x400), mask: 0x3 };
    driver.claim(&[masked]).expect("free");
    assert_eq!(
        driver.claim(&[board.stream()]),
        Err(OpsError::StreamInUse { stream: board.stream() }),
        "two groups that match one stream would be a fault"
    );
    // What the mask ignores does not count: sm8250's crypto engine names both 0x586 and 0x596 under 0x11.
    let again = StreamSpec { id: StreamId::new(0x401), ..masked };
    driver.claim(&[again]).expect("the same ids");
    driver.release(&[again]).expect("counted");
    let beside = StreamSpec::exact(StreamId::new(0x404));
    driver.claim(&[beside, masked]).expect("no overlap, and a second claim of the first");
    let table = space(&driver, false);
    let tag = driver.bind_space(&table).expect("a bank");
    driver.attach(&[masked], None, StreamTarget::Space(tag)).expect("attached");
    let frame = board.frame();
    map(&table, 0x5000, frame.address());
    board.device.expect(Expectation::Translated);
    assert!(board.write(0x5000), "id 0x402 is under the mask");
    driver.release(&[masked]).expect("one claim is left");
    assert!(board.write(0x5000));
    driver.attach(&[masked], None, StreamTarget::Blocked).expect("blocked");
    driver.release(&[masked]).expect("the last");
    driver.claim(&[board.stream()]).expect("free now");
    // What the unit does not have is refused, and a claim that fails takes nothing.
    let beyond = StreamSpec::exact(StreamId::new(0x8000));
    assert!(matches!(driver.claim(&[beyond]), Err(OpsError::StreamOutOfRange { bits: 15, .. })));
    let narrow = SmmuV2Profile { id_bits: 7, mask_bits: 0x3f, ..SmmuV2Profile::mmu500() };
    let board = Board::new(narrow, Policy::default());
    let driver = board.bring_up().expect("up");
    assert_eq!((driver.features().id_bits, driver.features().mask_bits), (7, 0x3f));
    let wide = StreamSpec { id: StreamId::new(0), mask: 0x40 };
    assert_eq!(driver.claim(&[wide]), Err(OpsError::Unsupported(Unsupported::StreamMask(wide))));
}

#[test]
fn groups_and_banks_run_out_and_come_back() {
    let board = Board::new(SmmuV2Profile::mmu500(), Policy::default());
    let driver = board.bring_up().expect("up");
    let streams: Vec<_> = (0..48).map(|id| StreamSpec::exact(StreamId::new(id))).collect();
    driver.claim(&streams).expect("48 groups");
    let more = StreamSpec::exact(StreamId::new(100));
    assert_eq!(driver.claim(&[more]), Err(OpsError::OutOfStreams));
    driver.release(&streams[3..4]).expect("confirmed");
    let two = [more, StreamSpec::exact(StreamId::new(101))];
    assert_eq!(driver.claim(&two), Err(OpsError::OutOfStreams), "and the first is not kept");
    driver.claim(&[more]).expect("one is free");
    let spaces: Vec<_> = (0..16).map(|_| space(&driver, false)).collect();
    let tags: Vec<_> = spaces.iter().map(|it| driver.bind_space(it).expect("16 banks")).collect();
    let last = space(&driver, false);
    assert_eq!(driver.bind_space(&last), Err(OpsError::OutOfTags));
    driver.unbind_space(tags[7]).expect("confirmed");
    assert_eq!(
        driver.unbind_space(tags[7]),
        Err(OpsError::UnknownSpace { tag: tags[7] }),
        "it is gone"
    );
    driver.bind_space(&last).expect("one is free");
    board.assert_clean();
    // The first banks do stage 2 only.
    let profile = SmmuV2Profile { banks: 3, stage2_banks: 2, ..SmmuV2Profile::mmu500() };
    let board = Board::new(profile, Policy::default());
    let driver = board.bring_up().expect("up");
    driver.bind_space(&space(&driver, false)).expect("the third");
    let other = space(&driver, false);
    assert_eq!(driver.bind_space(&other), Err(OpsError::OutOfTags));
    driver.bind_space(&space(&driver, true)).expect("the first");
}

#[test]
fn faults_say_who_where_and_why() {
    let board = Board::new(SmmuV2Profile::mmu500(), Policy::default());
    let driver = board.bring_up().expect("up");
    assert_eq!(faults(&driver), (Vec::new(), Serviced::default()));
    assert!(!board.write(0x7000) && !board.write(0x8000));
    let (found, serviced) = faults(&driver);
    let [fault] = found[..] else { panic!("{found:?}") };
    assert_eq!((fault.stream, fault.reason), (ID, FaultReason::StreamBlocked), "matches nothing");
    assert_eq!((fault.iova, fault.access), (Some(Iova::new(0x7000)), Some(AccessKind::Write)));
    assert_eq!((serviced.faults, serviced.overflows, serviced.more), (1, 1, false));
    driver.claim(&[board.stream()]).expect("free");
    let table = space(&driver, false);
    let tag = driver.bind_space(&table).expect("a bank");
    driver.attach(&[board.stream()], None, StreamTarget::Space(tag)).expect("attached");
    assert!(!board.write(0x9000));
    assert!(driver.service(0, &mut |_| panic!("no budget")).more);
    let (found, _) = faults(&driver);
    let [fault] = found[..] else { panic!("{found:?}") };
    assert_eq!((fault.stream, fault.reason), (ID, FaultReason::Translation));
    assert_eq!((fault.iova, fault.stage), (Some(Iova::new(0x9000)), Some(Stage::One)));
    assert_eq!(faults(&driver), (Vec::new(), Serviced::default()), "each is told once");
    board.assert_clean();
}

#[test]
fn a_sync_that_never_ends_is_told_and_what_it_leaves_is_made_good() {
    let board = Board::new(SmmuV2Profile::mmu500(), Policy::default());
    let driver = board.bring_up().expect("up");
    let stream = [board.stream()];
    driver.claim(&stream).expect("free");
    let table = space(&driver, false);
    let tag = driver.bind_space(&table).expect("a bank");
    driver.attach(&stream, None, StreamTarget::Space(tag)).expect("attached");
    let frame = board.frame();
    map(&table, 0x5000, frame.address());
    assert!(board.write(0x5000));
    board.unit.inject(Faults::none().hang_sync(1));
    let before = board.machine.clock().now();
    let late = unmap(&driver, &table, tag, 0x5000).expect_err("nothing is confirmed");
    assert!(matches!(late, OpsError::Timeout { .. }) && late.is_unconfirmed(), "{late}");
    assert!(board.machine.clock().now() - before < 2 * SYNC_BOUND);
    // A unit that was waited for in vain answers at once.
    board.unit.registers().write32(0x70, 0);
    let before = board.machine.clock().now();
    for _ in 0..10 {
        assert_eq!(driver.unbind_space(tag), Err(OpsError::Dead));
        assert!(driver.release(&stream).expect_err("unconfirmed").is_unconfirmed());
        assert!(driver.claim(&stream).expect_err("its blocking is not confirmed").is_unconfirmed());
    }
    assert!(board.machine.clock().now() - before < SYNC_BOUND / 10);
    assert_eq!(driver.spaces(), 1, "in quarantine");
    assert!(driver.forget_all().is_err());
    board.unit.inject(Faults::none());
    driver.forget_all().expect("confirmed at last");
    assert_eq!(driver.spaces(), 0);
    assert!(!board.write(0x5000));
    board.machine.oracle().take_violations();
    assert!(life(&board, &driver, false, 0x5000), "as new");
    board.assert_clean();
}

#[test]
fn units_that_cannot_be_driven_are_refused_with_what_is_known() {
    let board = Board::new(SmmuV2Profile::mmu500(), Policy::default());
    board.unit.inject(Faults::none().gone_at(1));
    let error = board.bring_up().expect_err("gone");
    assert!(matches!(error.cause, BringUpCause::Gone { .. }));
    assert_eq!(error.blocking, Blocking::Unknown);
    assert!(error.to_string().contains("bus mastering"), "{error}");
    board.unit.inject(Faults::none().stick(0));
    let error = board.bring_up().expect_err("it goes on letting everything pass");
    assert!(matches!(error.cause, BringUpCause::Stuck { register: "sCR0", .. }), "{error}");
    board.unit.inject(Faults::none().stick(0xc08));
    let error = board.bring_up().expect_err("group 2 goes on bypassing");
    assert!(matches!(error.cause, BringUpCause::Stuck { register: "S2CR0", .. }), "{error}");
    board.unit.inject(Faults::none().hang_sync(1));
    let error = board.bring_up().expect_err("not confirmed");
    assert!(matches!(error.cause, BringUpCause::Sync(_)) && error.blocking == Blocking::Unknown);
    board.unit.inject(Faults::none());
    board.bring_up().expect("repaired");
    // Firmware keeps every bank: blocking is confirmed, but nothing can be translated.
    let profile = SmmuV2Profile { kept_banks: 16, ..SmmuV2Profile::mmu500() };
    let board = Board::new(profile, Policy::default());
    let error = board.bring_up().expect_err("no bank");
    assert_eq!(error.blocking, Blocking::Confirmed);
    board.device.expect(Expectation::Blocked);
    assert!(!board.write(0x4000_0000));
}

#[test]
fn identity_is_refused_where_firmware_rewrites_it() {
    let identity = |profile, quirks| {
        let board = Board { quirks, ..Board::new(profile, Policy::default()) };
        let driver = board.bring_up().expect("up");
        driver.claim(&[board.stream()]).expect("free");
        let attached = driver.attach(&[board.stream()], None, StreamTarget::Identity);
        let passes = board.write(0x4000_0000);
        driver.attach(&[board.stream()], None, StreamTarget::Blocked).expect("blocked");
        board.device.expect(Expectation::Blocked);
        assert!(!board.write(0x4000_0000));
        board.assert_clean();
        (attached, passes, driver.capabilities().identity)
    };
    let mmu500 = SmmuV2Profile::mmu500();
    assert_eq!(identity(mmu500.clone(), Quirks::of(["arm,mmu-500"])), (Ok(()), true, true));
    let trapped = SmmuV2Profile { fakes_s2cr: true, ..mmu500.clone() };
    let refused = Err(OpsError::Unsupported(Unsupported::Identity));
    let board = Board::new(SmmuV2Profile { kept_banks: 3, ..trapped.clone() }, Policy::default());
    let board = Board { quirks: Quirks::of(["qcom,smmu-500"]), ..board };
    let driver = board.bring_up().expect("up");
    let features = *driver.features();
    assert!(features.s2cr_is_trapped && (features.kept_banks, features.banks) == (3, 13));
    let told: Vec<_> = driver.notices().map(|notice| (notice.word(), notice.to_string())).collect();
    assert_eq!([told[0].0, told[1].0], ["banks-kept", "s2cr-faked"]);
    assert!(
        told[0].1.contains("keeps 3 of 16") && told[0].1.contains("13 address spaces"),
        "{told:?}"
    );
    drop(driver);
    let qualcomm = Quirks::of(["qcom,smmu-500"]);
    assert_eq!(identity(trapped.clone(), qualcomm), (refused, false, false));
    assert_eq!(identity(mmu500, qualcomm), (Ok(()), true, true), "firmware that does not");
    // Without the name nobody looks for it, and the unit does not take what is written.
    let board = Board { quirks: Quirks::default(), ..Board::new(trapped, Policy::default()) };
    assert!(matches!(board.bring_up().expect_err("stuck").cause, BringUpCause::Stuck { .. }));
}

fn with(bug: Bug) -> Board {
    Board { bug: Some(bug), ..Board::new(SmmuV2Profile::mmu500(), Policy::default()) }
}

/// What the machine objects to in two lives on one board.
fn two_lives(bug: Bug) -> Vec<Violation> {
    let board = with(bug);
    let driver = board.bring_up().expect("up");
    let right = [1, 2].map(|_| life(&board, &driver, false, 0x4000_5000));
    let found = board.machine.violations();
    assert!(right == [true; 2] || !found.is_empty(), "what goes wrong has a name");
    found
}

#[test]
fn a_match_before_its_destination_is_found() {
    let found = two_lives(Bug::NoFault);
    assert!(found.iter().any(|it| matches!(it, Violation::BlockedPassed(_))), "{found:?}");
}

#[test]
fn a_missing_sync_is_found() {
    let found = two_lives(Bug::NoSync);
    assert!(
        found.iter().any(|it| matches!(it, Violation::StaleHit(_) | Violation::ForbiddenRange(_))),
        "{found:?}"
    );
}

#[test]
fn a_bank_that_is_not_cleaned_is_found() {
    let board = with(Bug::BankNotCleaned);
    let driver = board.bring_up().expect("up");
    let stream = [board.stream()];
    driver.claim(&stream).expect("free");
    for _ in 0..2 {
        let table = space(&driver, false);
        let tag = driver.bind_space(&table).expect("a bank");
        driver.attach(&stream, None, StreamTarget::Space(tag)).expect("attached");
        let frame = board.frame();
        map(&table, 0x5000, frame.address());
        assert!(board.write(0x5000));
        driver.attach(&stream, None, StreamTarget::Blocked).expect("blocked");
        driver.unbind_space(tag).expect("said to be clean");
    }
    let found = board.machine.violations();
    assert!(
        found.iter().any(|it| matches!(it, Violation::StaleHit(_) | Violation::ReusedFrame(_))),
        "{found:?}"
    );
}

#[test]
fn a_dropped_mask_is_found() {
    let board = with(Bug::NoMask);
    let driver = board.bring_up().expect("up");
    assert_eq!(driver.features().mask_bits, 0, "such a unit is found out at bring-up");
    let masked = StreamSpec { id: StreamId::new(0x400), mask: 0x3 };
    assert_eq!(
        driver.claim(&[masked]),
        Err(OpsError::Unsupported(Unsupported::StreamMask(masked)))
    );
}

/// Whatever the access at which it vanishes: it is never said to block its devices, since it cannot have confirmed that.
#[test]
fn a_unit_that_vanishes_at_any_register_access_confirms_nothing() {
    for nth in 1..5000 {
        let board = Board::new(SmmuV2Profile::mmu500(), Policy::default());
        board.unit.inject(Faults::none().gone_at(nth));
        match board.bring_up() {
            Err(error) => assert_eq!(error.blocking, Blocking::Unknown, "access {nth}: {error}"),
            Ok(driver) => {
                std::mem::forget(driver);
                return;
            }
        }
    }
    panic!("no bring-up takes so many accesses");
}

/// `CBn_ACTLR` is at 4 of each bank's page, `sACR` at 0x10 (Arm DDI 0517).
#[test]
fn an_mmu500_does_not_prefetch() {
    let after = |quirks| {
        let mut board = Board::new(SmmuV2Profile::mmu500(), Policy::default());
        board.quirks = quirks;
        let registers = board.unit.registers();
        let actlr = |bank| board.unit.profile().shape().bank(bank) + 4;
        registers.write32(0x10, 1 << 26);
        (0..16).for_each(|bank| registers.write32(actlr(bank), 0x3));
        let _driver = board.bring_up().expect("comes up");
        let banks = (0..16).map(|bank| registers.read32(actlr(bank)));
        (registers.read32(0x10), banks.collect::<Vec<_>>())
    };
    assert_eq!(after(Quirks::of(["arm,mmu-500"])), (0, vec![0x1; 16]), "and the lock is off");
    assert_eq!(after(Quirks::default()), (1 << 26, vec![0x3; 16]), "it is not ours to know");
}
