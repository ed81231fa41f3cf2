//! The driver on the machine's register-level AMD IOMMU. What must not happen is the machine's business: its oracle knows nothing of the driver.

use portcullis::{
    AccessKind, AddressSpace, Blocking, Breakage, Fault, FaultReason, FormatSupport, GlobalErrors,
    IommuOps, OpsError, SpaceRequest, SpaceTag, StreamSpec, StreamTarget,
};
use portcullis_addr::{Iova, PageSizes, PhysAddr, Prot, StreamId};
use portcullis_amdvi::{
    BringUpCause, BringUpError, Fate, FirmwareTable, FoundTable, Iommu, Options, WhyBlocked,
};
use portcullis_machine::{
    AmdVi, AmdViProfile, CommandError, Device, DmaRequest, Expectation, Faults, Machine,
    MachinePlatform, Policy, RegisterBlock, TimeSource,
};
use portcullis_pgtable::IotlbGather;
use portcullis_platform::host::HostThreads;
use portcullis_platform::{DmaMemory, DmaPages, PageLayout, Registers};
use std::sync::{Arc, Mutex};

type Platform = MachinePlatform<HostThreads>;
type Driver = Iommu<Platform, RegisterBlock<AmdVi>>;

const ID: StreamId = StreamId::new(0x18);
const PAGE: u64 = 4096;
const IOVA: u64 = 0x12_3456_7000;

/// Everything below the driver.
struct Board {
    machine: Arc<Machine>,
    unit: Arc<AmdVi>,
    device: Arc<Device>,
}

impl Board {
    fn new(profile: AmdViProfile, policy: Policy) -> Self {
        let time = TimeSource::Virtual { step: 1_000_000 };
        let machine = Machine::builder().seed(7).policy(policy).time(time).build();
        let unit = machine.add_amdvi(profile);
        let device = machine.add_client("client", &unit, ID);
        Self { machine, unit, device }
    }

    fn bring_up(&self, options: Options) -> Result<Driver, BringUpError> {
        let AmdViProfile { coherent, caches_absence, .. } = *self.unit.profile();
        let platform = Arc::new(Platform::new(&self.machine));
        let options = Options { coherent: Some(coherent), caches_absence, ..options };
        Iommu::bring_up(platform, self.unit.registers(), options)
    }

    fn frame(&self) -> DmaPages<portcullis_machine::PhysicalMemory> {
        let layout = PageLayout::new(PAGE as usize, PAGE as usize).expect("a page");
        DmaPages::new(self.machine.memory(), layout).expect("memory for a page")
    }

    fn write(&self, iova: u64) -> bool {
        let request = DmaRequest::write(Iova::new(iova), b"written by the device");
        self.machine.dma_of(&self.device, request).is_completed()
    }

    fn register(&self, offset: usize) -> u64 {
        self.unit.registers().read64(offset)
    }

    fn assert_clean(&self) {
        assert_eq!(self.machine.violations(), []);
    }
}

/// A board whose driver serves, with the device claimed and a space bound.
struct World {
    board: Board,
    driver: Driver,
    table: Arc<dyn AddressSpace>,
    tag: SpaceTag,
}

impl World {
    fn new(profile: AmdViProfile, policy: Policy) -> Self {
        Self::on(Board::new(profile, policy), small())
    }

    fn on(board: Board, options: Options) -> Self {
        let driver = board.bring_up(options).expect("the unit comes up");
        board.device.expect(Expectation::Blocked);
        let support = *driver.capabilities().formats.first().expect("a format");
        let support = FormatSupport { page_sizes: PageSizes::from_bitmap(u64::MAX), ..support };
        let coherent_walk = driver.capabilities().coherent_walk;
        let request = SpaceRequest { support, coherent_walk };
        let table = driver.create_space(&request).expect("a table");
        let tag = driver.bind_space(&table).expect("a tag");
        driver.claim(&[StreamSpec::exact(ID)]).expect("the device is free");
        Self { board, driver, table, tag }
    }

    fn lead(&self, target: StreamTarget) -> Result<(), OpsError> {
        self.driver.attach(&[StreamSpec::exact(ID)], None, target)
    }

    fn attach(&self) {
        self.lead(StreamTarget::Space(self.tag)).expect("attached");
        self.board.device.expect(Expectation::Translated);
    }

    fn map(&self, iova: u64, phys: PhysAddr) {
        self.board.device.permit(Iova::new(iova), PAGE);
        let (mut gather, prot) = (IotlbGather::new(), Prot::READ | Prot::WRITE | Prot::CACHE);
        self.table.map(Iova::new(iova), phys, PAGE, prot, &mut gather).expect("mapped");
        let owes = self.board.unit.profile().caches_absence || iova >> 39 != 0;
        assert!(owes || gather.is_empty());
        self.driver.invalidate(self.tag, &gather).expect("confirmed");
        drop(gather.confirm());
    }

    /// A strict unmap, up to the confirmed invalidation.
    fn unmap(&self, iova: u64) -> Result<(), OpsError> {
        let mut gather = IotlbGather::new();
        self.table.unmap(Iova::new(iova), PAGE, &mut gather).expect("was mapped");
        let flushed = self.driver.invalidate(self.tag, &gather);
        if flushed.is_ok() {
            self.table.retire(gather.confirm());
            self.board.device.forbid(Iova::new(iova), PAGE);
        } else {
            self.table.quarantine(&mut gather);
        }
        flushed
    }

    fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let serviced = self.driver.service(usize::MAX, &mut |fault| faults.push(fault));
        assert!(serviced.errors.is_empty() && !serviced.more, "{serviced:?}");
        faults
    }
}

/// A device table of one page, and the smallest queues that there are.
fn small() -> Options {
    Options { stream_id_bits: 7, ..Options::default() }
}

fn profiles() -> [(&'static str, AmdViProfile); 5] {
    let apart = AmdViProfile { coherent: false, ..AmdViProfile::epyc() };
    let absence = AmdViProfile { caches_absence: true, ..AmdViProfile::qemu10() };
    [
        ("qemu", AmdViProfile::qemu10()),
        ("epyc", AmdViProfile::epyc()),
        ("old", AmdViProfile::old()),
        ("does not snoop", apart),
        ("caches absence", absence),
    ]
}

fn policies() -> [(&'static str, Policy); 3] {
    [
        ("as QEMU", Policy::like_qemu()),
        ("default", Policy::default()),
        ("harshest", Policy::harshest()),
    ]
}

#[test]
fn a_device_reaches_what_is_mapped_while_it_is_mapped_and_nothing_else() {
    for (shape, profile) in profiles() {
        for (mood, policy) in policies() {
            let world = World::new(profile.clone(), policy);
            let (board, frame) = (&world.board, world.board.frame());
            assert!(!board.write(IOVA), "{shape}, {mood}: before it is attached");
            world.map(IOVA, frame.address());
            world.attach();
            assert!(board.write(IOVA), "{shape}, {mood}");
            let word = board.machine.memory().load64(frame.address());
            assert_eq!(word.to_le_bytes(), *b"written ", "{shape}, {mood}");
            world.unmap(IOVA).expect("confirmed");
            assert!(!board.write(IOVA), "{shape}, {mood}: after the unmap");
            let faults = world.faults();
            let last = faults.last().expect("recorded");
            assert_eq!((last.stream, last.access), (ID, Some(AccessKind::Write)));
            assert_eq!((last.reason, last.iova), (FaultReason::Translation, Some(Iova::new(IOVA))));
            // Attached again with other frames under the same addresses.
            world.lead(StreamTarget::Blocked).expect("confirmed");
            board.device.expect(Expectation::Blocked);
            assert!(!board.write(IOVA), "{shape}, {mood}: blocked");
            assert_eq!(world.faults().last().map(|it| it.reason), Some(FaultReason::StreamBlocked));
            world.attach();
            let other = board.frame();
            world.map(IOVA, other.address());
            assert!(board.write(IOVA), "{shape}, {mood}: again");
            world.lead(StreamTarget::Blocked).expect("confirmed");
            world.driver.release(&[StreamSpec::exact(ID)]).expect("confirmed");
            world.driver.unbind_space(world.tag).expect("confirmed");
            board.device.expect(Expectation::Blocked);
            assert!(!board.write(IOVA), "{shape}, {mood}: released");
            board.assert_clean();
            let World { board, driver, table, .. } = world;
            drop((driver, table, frame, other));
            // The device table alone.
            assert_eq!(board.machine.usage().live, 1, "{shape}, {mood}");
            assert!(!board.write(IOVA), "{shape}, {mood}: stopped");
            board.assert_clean();
        }
    }
}

#[test]
fn identity_passes_addresses_unchanged_and_only_while_it_lasts() {
    let world = World::new(AmdViProfile::epyc(), Policy::harshest());
    let frame = world.board.frame();
    world.lead(StreamTarget::Identity).expect("confirmed");
    world.board.device.expect(Expectation::Anything);
    assert!(world.board.write(frame.address().raw()));
    // Translated to nothing, without being blocked in between.
    world.attach();
    assert!(!world.board.write(frame.address().raw()));
    world.board.assert_clean();
}

/// Whoever had the unit before left it on: a device passes, or is translated, with the queues on and the caches full.
#[test]
fn a_unit_that_is_on_is_taken_over() {
    for (kind, entry) in [("not valid", 0), ("passes", 3 | 3 << 61), ("excluded", 3)] {
        for (mood, policy) in policies() {
            let board = Board::new(AmdViProfile::qemu10(), policy.verify(false));
            let (registers, frame) = (board.unit.registers(), board.frame());
            let table = firmware_table(&board, [entry, 9, 0, 0]);
            registers.write64(0x0, table.address().raw());
            registers.write64(0x8, board.frame().address().raw() | 8 << 56);
            registers.write64(0x10, board.frame().address().raw() | 8 << 56);
            for index in [0x2000, 0x2008, 0x2010, 0x2018] {
                registers.write64(index, 0);
            }
            if kind == "excluded" {
                registers.write64(0x20, frame.address().raw() | 3);
                registers.write64(0x28, frame.address().raw());
            }
            registers.write64(0x18, 1 | 1 << 2 | 1 << 12);
            let on = (0..9).any(|_| registers.read64(0x2020) & 0x18 == 0x18);
            assert!(on, "{kind}, {mood}");
            assert!(board.write(frame.address().raw()), "{kind}, {mood}: it passes");
            let driver = board.bring_up(small()).expect("taken over");
            board.device.expect(Expectation::Blocked);
            assert!(!board.write(frame.address().raw()), "{kind}, {mood}: blocked");
            driver.claim(&[StreamSpec::exact(ID)]).expect("free");
            assert!(!board.write(frame.address().raw()), "{kind}, {mood}: claimed");
            board.assert_clean();
        }
    }
}

/// One page of entries, all of them valid and empty but for the device's.
fn firmware_table(board: &Board, entry: [u64; 4]) -> DmaPages<portcullis_machine::PhysicalMemory> {
    let (page, memory) = (board.frame(), board.machine.memory());
    let base = page.address().raw();
    for at in (0..PAGE).step_by(8) {
        memory.store64(PhysAddr::new(base + at), if at % 32 == 0 { 3 } else { 0 });
    }
    for (word, value) in (0..).zip(entry) {
        memory.store64(PhysAddr::new(base + 32 * u64::from(ID.raw()) + 8 * word), value);
    }
    page
}

/// The display goes on through firmware's tables until its driver attaches it; everybody else is blocked.
#[test]
fn a_device_that_firmware_left_translated_goes_on_if_that_is_asked_for() {
    for keep in [false, true] {
        let board = Board::new(AmdViProfile::qemu10(), Policy::default().verify(false));
        let (registers, frame) = (board.unit.registers(), board.frame());
        let memory = board.machine.memory();
        // One level: eight bytes lead to a page.
        let pages = board.frame();
        (0..PAGE)
            .step_by(8)
            .for_each(|at| memory.store64(PhysAddr::new(pages.address().raw() + at), 0));
        memory.store64(
            PhysAddr::new(pages.address().raw() + 8 * 5),
            frame.address().raw() | 1 | 3 << 61,
        );
        let entry = [pages.address().raw() | 3 | 1 << 9 | 3 << 61, 9, 0, 0];
        let table = firmware_table(&board, entry);
        registers.write64(0x0, table.address().raw());
        assert_eq!(FoundTable::of(&registers), None, "the unit is off");
        registers.write64(0x18, 1);
        assert!(board.write(5 * PAGE) && !board.write(6 * PAGE));
        let found = FoundTable::of(&registers).expect("it is on");
        assert_eq!(found.entry(StreamId::new(128)), None);
        let read = |id: StreamId| {
            let at = found.entry(id).expect("in the table").raw();
            [0, 8, 16, 24].map(|word| memory.load64(PhysAddr::new(at + word)))
        };
        assert_eq!(read(ID), entry);
        let other = StreamId::new(0x20);
        let entries = [(ID, read(ID)), (other, read(other)), (StreamId::new(500), entry)];
        let firmware_table =
            if keep { FirmwareTable::Keep(entries.to_vec()) } else { FirmwareTable::Block };
        let driver = board.bring_up(Options { firmware_table, ..small() }).expect("taken over");
        assert_eq!(board.write(5 * PAGE), keep);
        assert!(!board.write(6 * PAGE));
        if !keep {
            assert!(driver.firmware_streams().is_empty());
            continue;
        }
        let fates: Vec<_> = driver.firmware_streams().iter().map(|it| it.fate).collect();
        let beyond = Fate::Blocked(WhyBlocked::OutOfRange);
        let nothing = Fate::Blocked(WhyBlocked::NothingPermitted);
        assert_eq!(fates, [Fate::Kept, nothing, beyond]);
        assert!(driver.firmware_streams()[0].to_string().contains("until it is attached"));
        driver.claim(&[StreamSpec::exact(ID)]).expect("free");
        assert!(board.write(5 * PAGE), "claimed, not attached");
        driver.attach(&[StreamSpec::exact(ID)], None, StreamTarget::Blocked).expect("confirmed");
        board.device.expect(Expectation::Blocked);
        assert!(!board.write(5 * PAGE));
        board.assert_clean();
    }
}

/// Domain 9 is firmware's as long as the unit serves: no space of ours gets it.
#[test]
fn a_domain_that_firmware_uses_is_nobody_elses() {
    let board = Board::new(AmdViProfile::qemu10(), Policy::default());
    let entry = [3 | 1 << 9 | 0x5000 | 3 << 61, 2, 0, 0];
    let zero = [entry[0], 0, 0, 0];
    let firmware_table = FirmwareTable::Keep(vec![(ID, entry), (StreamId::new(1), zero)]);
    let world = World::on(board, Options { firmware_table, ..small() });
    assert_eq!(world.tag, SpaceTag(3));
    let fates: Vec<_> = world.driver.firmware_streams().iter().map(|it| it.fate).collect();
    assert_eq!(fates, [Fate::Kept, Fate::Blocked(WhyBlocked::Domain)]);
}

#[test]
fn the_device_table_covers_the_ids_in_as_many_segments_as_the_unit_has() {
    for (segments_log2, bits, expected) in
        [(0, 16, 16), (3, 16, 16), (1, 16, 16), (3, 9, 9), (0, 1, 7)]
    {
        let profile = AmdViProfile { segments_log2, ..AmdViProfile::qemu10() };
        let board = Board::new(profile, Policy::default());
        let driver = board.bring_up(Options { stream_id_bits: bits, ..small() }).expect("up");
        assert_eq!(driver.capabilities().id_bits, expected, "{segments_log2} {bits}");
        let segments = board.register(0x18) >> 34 & 7;
        assert_eq!(segments, if bits == 16 { u64::from(segments_log2) } else { 0 });
        let beyond = StreamSpec::exact(StreamId::new(1 << expected));
        let refused = driver.claim(&[beyond]).expect_err("beyond the table");
        assert_eq!(refused, OpsError::StreamOutOfRange { stream: beyond, bits: expected });
        let last = StreamSpec::exact(StreamId::new((1 << expected) - 1));
        driver.claim(&[last]).expect("the last id");
        // Each segment is one: the device at its end passes, and only it.
        let device = board.machine.add_client("last", &board.unit, last.id);
        driver.attach(&[last], None, StreamTarget::Identity).expect("confirmed");
        let frame = board.frame();
        let request = DmaRequest::write(Iova::new(frame.address().raw()), b"passes");
        assert!(board.machine.dma_of(&device, request).is_completed());
        board.device.expect(Expectation::Blocked);
        assert!(!board.write(frame.address().raw()));
        board.assert_clean();
    }
}

#[test]
fn what_cannot_be_driven_is_refused_by_name() {
    let board = Board::new(AmdViProfile::qemu10(), Policy::default());
    board.unit.inject(Faults::none().stick_at(0x30, 3 << 10));
    let error = board.bring_up(small()).expect_err("refused");
    let BringUpCause::Refused { field, value, .. } = error.cause else { panic!("{error}") };
    assert_eq!((field, value, error.blocking), ("HATS", 3, Blocking::Unknown));
    assert_eq!(board.machine.usage().live, 0);
}

/// Queues that firmware left on and that do not go off. Those of ours that do not say that they are on: where commands are carried out all the same, blocking is confirmed.
#[test]
fn a_unit_whose_queues_do_not_obey_is_not_said_to_block() {
    for (status, blocking, live) in [(0x8, Blocking::Unknown, 0), (0, Blocking::Confirmed, 1)] {
        let board = Board::new(AmdViProfile::qemu10(), Policy::default());
        board.unit.inject(Faults::none().stick_at(0x2020, status));
        let error = board.bring_up(small()).expect_err("stuck");
        let BringUpCause::Stuck { register, .. } = error.cause else { panic!("{error}") };
        assert_eq!((register, error.blocking), ("IOMMU Status", blocking));
        assert_eq!(error.to_string().contains("bus mastering"), live == 0, "{error}");
        assert_eq!(board.machine.usage().live, live, "the device table");
    }
}

/// A table begins with 39 bits; a map beyond takes effect for every attached device before it returns, and what was mapped stays.
#[test]
fn a_table_that_grows_is_known_to_hardware_when_the_map_returns() {
    for (mood, policy) in policies() {
        let world = World::new(AmdViProfile::qemu10(), policy);
        let frames: Vec<_> = (0..3).map(|_| world.board.frame()).collect();
        world.map(IOVA, frames[0].address());
        world.attach();
        assert!(world.board.write(IOVA), "{mood}");
        let high = [1 << 40, 1 << 50, (1 << 40) + PAGE];
        for (iova, frame) in high.into_iter().zip(&frames) {
            world.map(iova, frame.address());
            assert!(world.board.write(iova), "{mood}: {iova:#x}");
            assert!(world.board.write(IOVA), "{mood}: what was there before {iova:#x}");
        }
        for iova in high {
            world.unmap(iova).expect("confirmed");
            assert!(!world.board.write(iova), "{mood}: {iova:#x} is unmapped");
        }
        world.board.assert_clean();
    }
}

/// Only the first map beyond the reach owes anything; once every unit walks from the new root, none does.
#[test]
fn a_table_that_has_grown_owes_nothing_more() {
    let world = World::new(AmdViProfile::qemu10(), Policy::default());
    let (frame, prot) = (world.board.frame(), Prot::READ | Prot::WRITE);
    world.attach();
    let mut gather = IotlbGather::new();
    let owes = |iova: u64, gather: &mut IotlbGather| {
        world.table.map(Iova::new(iova), frame.address(), PAGE, prot, gather).expect("mapped");
        gather.is_everything()
    };
    assert!(owes(1 << 40, &mut gather));
    let mut another = IotlbGather::new();
    assert!(owes((1 << 40) + PAGE, &mut another), "hardware was not told yet");
    world.driver.invalidate(world.tag, &gather).expect("confirmed");
    drop(gather.confirm());
    assert!(!owes((1 << 40) + 2 * PAGE, &mut gather), "hardware walks from there");
    assert!(owes(1 << 50, &mut gather), "two levels more");
    drop((gather.confirm(), another.confirm()));
}

/// The queue stands still at each of its places; nothing is confirmed, nothing hangs, and what is healed is made good.
#[test]
fn a_queue_frozen_at_each_index_is_noticed_and_recovers() {
    let entries: u64 = 1 << small().command_queue_log2;
    for at in 0..entries + 4 {
        let world = World::new(AmdViProfile::qemu10(), Policy::default());
        let pages = at / 2 + 2;
        let frames: Vec<_> = (0..pages).map(|_| world.board.frame()).collect();
        for (page, frame) in (0..).zip(&frames) {
            world.map(IOVA + page * PAGE, frame.address());
        }
        world.attach();
        world.board.unit.inject(Faults::none().freeze_after(at));
        let mut confirmed = 0;
        let failed = (0..pages).find_map(|page| {
            assert!(world.board.write(IOVA + page * PAGE));
            world.board.device.expect(Expectation::Anything);
            match world.unmap(IOVA + page * PAGE) {
                Ok(()) => {
                    confirmed += 1;
                    None
                }
                Err(error) => Some(error),
            }
        });
        let error = failed.expect("it stands still");
        assert!(error.is_unconfirmed(), "{at}: {error}");
        // Two commands for each unmap.
        assert_eq!(confirmed, at / 2, "{at}");
        // From now on nobody waits again.
        let blocked = world.lead(StreamTarget::Blocked).expect_err("dead");
        assert!(blocked.is_unconfirmed(), "{at}: {blocked}");
        world.board.unit.inject(Faults::none());
        world.driver.forget_all().expect("healed");
        world.lead(StreamTarget::Blocked).expect("confirmed");
        world.board.device.expect(Expectation::Blocked);
        assert!(!world.board.write(IOVA + (pages - 1) * PAGE), "{at}");
        world.board.assert_clean();
    }
}

/// Each command of a batch refused in each way: one caller is told, the next is served.
#[test]
fn a_refused_command_fails_its_own_call_and_no_other() {
    let all = [CommandError::Illegal, CommandError::FetchAbort, CommandError::AtcInvalidation];
    for error in all {
        for nth in 1..=2 {
            let world = World::new(AmdViProfile::qemu10(), Policy::default());
            let frames = [world.board.frame(), world.board.frame()];
            world.map(IOVA, frames[0].address());
            world.map(IOVA + PAGE, frames[1].address());
            world.attach();
            world.board.unit.inject(Faults::none().fail_command(nth, error));
            let refused = world.unmap(IOVA).expect_err("refused");
            let hardware = OpsError::Hardware { breakage: Breakage::CommandRefused, status: 0 };
            assert_eq!(refused, hardware, "{error:?} {nth}");
            world.unmap(IOVA + PAGE).expect("the next one is served");
            assert_eq!(world.driver.statistics().refused_commands, 1);
            assert_eq!(world.board.register(0x2020) & 0x10, 0x10, "the queue runs");
            let serviced = world.driver.service(usize::MAX, &mut |fault| panic!("{fault:?}"));
            assert_eq!(serviced.errors, GlobalErrors::COMMAND, "the event says so too");
            world.board.assert_clean();
        }
    }
}

#[test]
fn a_queue_that_stops_again_and_again_is_given_up() {
    let world = World::new(AmdViProfile::qemu10(), Policy::default());
    let frame = world.board.frame();
    world.map(IOVA, frame.address());
    world.attach();
    let faults = (1..=40)
        .fold(Faults::none(), |faults, nth| faults.fail_command(nth, CommandError::FetchAbort));
    world.board.unit.inject(faults);
    let given_up = world.unmap(IOVA).expect_err("it stops at the same place");
    assert!(matches!(given_up, OpsError::Hardware { breakage: Breakage::QueueStopped, .. }));
    assert!(world.lead(StreamTarget::Blocked).expect_err("broken").is_unconfirmed());
    world.board.unit.inject(Faults::none());
    world.driver.forget_all().expect("restarted");
    world.lead(StreamTarget::Blocked).expect("confirmed");
    world.board.assert_clean();
}

#[test]
fn a_completion_that_hangs_is_ended_by_a_restart() {
    let world = World::new(AmdViProfile::qemu10(), Policy::default());
    let frame = world.board.frame();
    world.map(IOVA, frame.address());
    world.attach();
    assert!(world.board.write(IOVA));
    world.board.unit.inject(Faults::none().hang_sync_until_restart(1));
    world.board.device.expect(Expectation::Anything);
    let error = world.unmap(IOVA).expect_err("it hangs");
    assert!(error.is_unconfirmed(), "{error}");
    world.driver.forget_all().expect("restarted");
    world.board.device.expect(Expectation::Translated);
    assert!(!world.board.write(IOVA), "the unit forgot it");
    world.map(IOVA, frame.address());
    assert!(world.board.write(IOVA), "and serves on with the same tables");
    world.unmap(IOVA).expect("confirmed");
    world.board.assert_clean();
}

#[test]
fn a_full_event_log_is_drained_and_goes_on() {
    let world = World::new(AmdViProfile::qemu10(), Policy::default());
    world.attach();
    for page in 0..300 {
        assert!(!world.board.write(IOVA + page * PAGE));
    }
    let mut faults = 0;
    let serviced = world.driver.service(3, &mut |_| faults += 1);
    assert_eq!((serviced.faults, serviced.more, serviced.overflows, faults), (3, true, 1, 3));
    let serviced = world.driver.service(usize::MAX, &mut |_| faults += 1);
    // 255 fit into 256 entries.
    assert_eq!((faults, serviced.more), (255, false));
    assert!(!world.board.write(IOVA));
    assert_eq!(world.faults().len(), 1, "it records again");
    assert_eq!(world.board.unit.counters().events_lost, 45);
    world.board.assert_clean();
}

#[test]
fn a_record_that_cannot_be_stored_is_reported() {
    let world = World::new(AmdViProfile::qemu10(), Policy::default());
    world.board.unit.inject(Faults::none().abort_event_writes());
    assert!(!world.board.write(IOVA));
    let serviced = world.driver.service(usize::MAX, &mut |_| panic!("nothing was recorded"));
    assert_eq!(serviced.errors, GlobalErrors::FAULT_RECORD);
    world.board.unit.inject(Faults::none());
    assert_eq!(world.faults().len(), 0, "it starts again");
    assert!(!world.board.write(IOVA));
    assert_eq!(world.faults().len(), 1);
}

/// Each fault raises an interrupt, and after it was served the next one does.
#[test]
fn an_event_raises_an_interrupt_until_it_is_served() {
    let board = Board::new(AmdViProfile::qemu10(), Policy::default());
    let count = Arc::new(Mutex::new(0));
    let sink = Arc::clone(&count);
    board.unit.on_interrupt(move || *sink.lock().expect("test") += 1);
    let world = World::on(board, small());
    for nth in 1..=3 {
        assert!(!world.board.write(IOVA) && !world.board.write(IOVA));
        assert_eq!(*count.lock().expect("test"), nth, "one for both");
        assert_eq!(world.faults().len(), 2);
        assert_eq!(world.board.register(0x2020) & 7, 0, "nothing is pending");
    }
    world.board.assert_clean();
}

/// What an entry of the table says of a device's access arrives as the reason that the core knows.
#[test]
fn events_say_why() {
    let world = World::new(AmdViProfile::qemu10(), Policy::default());
    let frame = world.board.frame();
    let (mut gather, prot) = (IotlbGather::new(), Prot::READ);
    world.table.map(Iova::new(IOVA), frame.address(), PAGE, prot, &mut gather).expect("mapped");
    assert!(!world.board.write(IOVA));
    world.attach();
    assert!(!world.board.write(IOVA) && !world.board.write(IOVA + PAGE));
    let reasons: Vec<_> = world.faults().iter().map(|fault| fault.reason).collect();
    let denied = [FaultReason::StreamBlocked, FaultReason::Permission, FaultReason::Translation];
    assert_eq!(reasons, denied);
    drop(gather.confirm());
}

/// The unit vanishes at each of its register accesses.
#[test]
fn a_unit_that_vanishes_ends_every_call() {
    for nth in 1..60 {
        let board = Board::new(AmdViProfile::qemu10(), Policy::default());
        board.unit.inject(Faults::none().gone_at(nth));
        match board.bring_up(small()) {
            Err(error) => {
                assert!(
                    matches!(error.cause, BringUpCause::Gone { .. } | BringUpCause::Commands(_)),
                    "{nth}: {error}"
                );
                assert_eq!(error.blocking, Blocking::Unknown, "{nth}");
            }
            Ok(driver) => {
                board.unit.inject(Faults::none().gone_at(1));
                let gone = OpsError::Hardware { breakage: Breakage::Gone, status: u32::MAX.into() };
                let spec = [StreamSpec::exact(ID)];
                driver.claim(&spec).expect("needs no hardware");
                assert_eq!(driver.attach(&spec, None, StreamTarget::Blocked), Err(gone));
                let serviced = driver.service(usize::MAX, &mut |_| {});
                assert_eq!(serviced.errors, GlobalErrors::GONE);
                assert!(driver.shutdown().is_err());
            }
        }
    }
}

#[test]
fn a_bring_up_without_memory_gives_everything_back() {
    for nth in 1.. {
        let board = Board::new(AmdViProfile::qemu10(), Policy::default());
        board.machine.memory().fail_allocation(nth, false);
        match board.bring_up(small()) {
            Ok(_) => {
                assert!(nth > 4, "the allocations were failed one by one");
                return;
            }
            Err(error) => {
                assert!(matches!(error.cause, BringUpCause::NoMemory { .. }), "{error}");
                // Nothing was written yet.
                assert_eq!(error.blocking, Blocking::Unknown);
            }
        }
        assert_eq!(board.machine.usage().live, 0);
    }
}
