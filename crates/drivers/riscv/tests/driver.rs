//! The driver on the machine's register-level RISC-V IOMMU. What must not happen is the machine's business: its oracle knows nothing of the driver.

use portcullis::{
    AccessKind, AddressSpace, Blocking, Breakage, Fault, FaultReason, FormatSupport, GlobalErrors,
    IommuOps, OpsError, SpaceRequest, SpaceTag, Stage, StreamSpec, StreamTarget,
};
use portcullis_addr::{Iova, PageSizes, PhysAddr, Prot, StreamId};
use portcullis_machine::{
    CommandError, Device, DmaRequest, Expectation, Faults, Machine, MachinePlatform, Policy,
    RegisterBlock, RiscvInterrupts, RiscvIommu, RiscvProfile, TimeSource,
};
use portcullis_pgtable::IotlbGather;
use portcullis_platform::host::HostThreads;
use portcullis_platform::{DmaMemory, DmaPages, PageLayout, Registers};
use portcullis_riscv::{BringUpCause, BringUpError, Interrupts, Iommu, Message, Options};
use std::sync::{Arc, Mutex};

type Platform = MachinePlatform<HostThreads>;
type Driver = Iommu<Platform, RegisterBlock<RiscvIommu>>;

const ID: StreamId = StreamId::new(0x18);
const PAGE: u64 = 4096;
const IOVA: u64 = 0x12_3456_7000;

/// Everything below the driver.
struct Board {
    machine: Arc<Machine>,
    unit: Arc<RiscvIommu>,
    device: Arc<Device>,
}

impl Board {
    fn new(profile: RiscvProfile, policy: Policy) -> Self {
        let time = TimeSource::Virtual { step: 1_000_000 };
        let machine = Machine::builder().seed(7).policy(policy).time(time).build();
        let unit = machine.add_riscv(profile);
        let device = machine.add_client("client", &unit, ID);
        Self { machine, unit, device }
    }

    fn bring_up(&self, options: Options) -> Result<Driver, BringUpError> {
        let coherent = Some(self.unit.profile().coherent);
        let platform = Arc::new(Platform::new(&self.machine));
        Iommu::bring_up(platform, self.unit.registers(), Options { coherent, ..options })
    }

    fn frame(&self) -> DmaPages<portcullis_machine::PhysicalMemory> {
        let layout = PageLayout::new(PAGE as usize, PAGE as usize).expect("a page");
        DmaPages::new(self.machine.memory(), layout).expect("memory for a page")
    }

    fn write(&self, iova: u64) -> bool {
        let request = DmaRequest::write(Iova::new(iova), b"written by the device");
        self.machine.dma_of(&self.device, request).is_completed()
    }

    fn register(&self, offset: usize) -> u32 {
        self.unit.registers().read32(offset)
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
    fn new(profile: RiscvProfile, policy: Policy) -> Self {
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
        assert!(gather.is_empty());
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

/// Small queues, so that every test meets their ends.
fn small() -> Options {
    Options { command_queue_log2: 3, event_queue_log2: 3, ..Options::default() }
}

fn profiles() -> [(&'static str, RiscvProfile); 5] {
    let second = RiscvProfile { first_stage: 0, ..RiscvProfile::qemu10() };
    let apart = RiscvProfile { coherent: false, ..RiscvProfile::small() };
    [
        ("platform", RiscvProfile::qemu10()),
        ("function", RiscvProfile::qemu10_function()),
        ("small", RiscvProfile::small()),
        ("second stage only", second),
        ("does not snoop", apart),
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
            let second = profile.first_stage == 0;
            assert_eq!(last.stage, Some(if second { Stage::Two } else { Stage::One }));
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
            assert_eq!(board.machine.usage().live, 0, "{shape}, {mood}");
            assert!(!board.write(IOVA), "{shape}, {mood}: stopped");
            board.assert_clean();
        }
    }
}

#[test]
fn identity_passes_addresses_unchanged_and_only_while_it_lasts() {
    let world = World::new(RiscvProfile::qemu10(), Policy::harshest());
    let frame = world.board.frame();
    world.lead(StreamTarget::Identity).expect("confirmed");
    world.board.device.expect(Expectation::Anything);
    assert!(world.board.write(frame.address().raw()));
    // Translated to nothing, without being blocked in between.
    world.attach();
    assert!(!world.board.write(frame.address().raw()));
    world.board.assert_clean();
}

/// Whoever had the unit before left it letting everything through, or translating, with its queues on and its caches full.
#[test]
fn a_unit_that_runs_is_taken_over() {
    for (mode, levels) in [("bare", None), ("one level", Some(2)), ("three levels", Some(4))] {
        for (mood, policy) in policies() {
            let profile = RiscvProfile { reset_bare: mode == "bare", ..RiscvProfile::qemu10() };
            let board = Board::new(profile, policy.verify(false));
            let (registers, frame) = (board.unit.registers(), board.frame());
            let memory = board.machine.memory();
            let pages: Vec<_> = (0..4).map(|_| board.frame()).collect();
            for at in (0..PAGE)
                .step_by(8)
                .flat_map(|at| pages.iter().map(move |p| p.address().raw() + at))
            {
                memory.store64(PhysAddr::new(at), 0);
            }
            if let Some(mode) = levels {
                // A directory in which the device passes unchanged, at whatever depth.
                let ppn = |page: usize| pages[page].address().raw() >> 12;
                let depth = mode - 2;
                for (level, page) in pages.iter().enumerate().take(depth as usize) {
                    memory.store64(page.address(), ppn(level + 1) << 10 | 1);
                }
                let context = pages[depth as usize].address().raw() + 64 * u64::from(ID.raw());
                memory.store64(PhysAddr::new(context), 1);
                registers.write64(0x18, ppn(3) << 10 | 7);
                registers.write32(0x48, 3);
                registers.write64(0x10, ppn(0) << 10 | mode);
                while registers.read32(0x10) & 0x10 != 0 || registers.read32(0x48) & 0x2_0000 != 0 {
                }
            }
            assert!(board.write(frame.address().raw()), "{mode}, {mood}: it passes");
            let driver = board.bring_up(small()).expect("taken over");
            board.device.expect(Expectation::Blocked);
            assert!(!board.write(frame.address().raw()), "{mode}, {mood}: blocked");
            driver.claim(&[StreamSpec::exact(ID)]).expect("free");
            assert!(!board.write(frame.address().raw()), "{mode}, {mood}: claimed");
            board.assert_clean();
        }
    }
}

#[test]
fn the_directory_is_as_deep_as_the_ids_and_the_unit_want_it() {
    for (extended, levels, bits, expected) in [
        (true, [true; 3], 24, 24),
        (true, [true; 3], 15, 15),
        (true, [true; 3], 6, 6),
        (false, [true; 3], 16, 16),
        (true, [true, false, false], 24, 6),
        (false, [true, true, false], 24, 16),
        (true, [false, false, true], 6, 24),
    ] {
        let profile = RiscvProfile { extended, levels, ..RiscvProfile::qemu10() };
        let board = Board::new(profile, Policy::default());
        let driver = board.bring_up(Options { stream_id_bits: bits, ..small() }).expect("up");
        assert_eq!(driver.capabilities().id_bits, expected, "{extended} {levels:?} {bits}");
        let beyond = StreamSpec::exact(StreamId::new(1 << expected));
        let refused = driver.claim(&[beyond]).expect_err("beyond the directory");
        assert_eq!(refused, OpsError::StreamOutOfRange { stream: beyond, bits: expected });
        let last = StreamSpec::exact(StreamId::new((1 << expected) - 1));
        driver.claim(&[last]).expect("the last id");
        board.assert_clean();
    }
    let none = RiscvProfile { levels: [false; 3], ..RiscvProfile::qemu10() };
    let error = Board::new(none, Policy::default()).bring_up(small()).expect_err("no directory");
    assert_eq!((error.cause, error.blocking), (BringUpCause::NoDirectory, Blocking::Confirmed));
}

#[test]
fn what_cannot_be_driven_is_refused_by_name() {
    let nothing = RiscvProfile { first_stage: 0, second_stage: 0, ..RiscvProfile::qemu10() };
    let narrow = RiscvProfile { pas_bits: 20, ..RiscvProfile::qemu10() };
    for (profile, field) in [(nothing, "Sv39"), (narrow, "PAS")] {
        let error = Board::new(profile, Policy::default()).bring_up(small()).expect_err("refused");
        let BringUpCause::Refused { field: found, .. } = error.cause else { panic!("{error}") };
        assert_eq!((found, error.blocking), (field, Blocking::Unknown));
    }
}

/// `ddtp` that stays "bare", and one that never stops being busy.
#[test]
fn a_unit_that_does_not_go_off_is_not_said_to_block() {
    for value in [None, Some(0x11)] {
        let profile = RiscvProfile { reset_bare: true, ..RiscvProfile::qemu10() };
        let board = Board::new(profile, Policy::default());
        board.unit.inject(match value {
            None => Faults::none().stick(0x10),
            Some(value) => Faults::none().stick_at(0x10, value),
        });
        let error = board.bring_up(small()).expect_err("stuck");
        let BringUpCause::Stuck { register, .. } = error.cause else { panic!("{error}") };
        assert_eq!((register, error.blocking), ("ddtp", Blocking::Unknown));
        assert!(error.to_string().contains("bus mastering"), "{error}");
        assert_eq!(board.machine.usage().live, 0);
    }
}

/// The queue stands still at each of its places; nothing is confirmed, nothing hangs, and what is healed is made good.
#[test]
fn a_queue_frozen_at_each_index_is_noticed_and_recovers() {
    let entries = 1 << small().command_queue_log2;
    for at in 0..2 * entries {
        let world = World::new(RiscvProfile::qemu10(), Policy::default());
        let frames: Vec<_> = (0..2 * entries).map(|_| world.board.frame()).collect();
        for (page, frame) in (0..).zip(&frames) {
            world.map(IOVA + page * PAGE, frame.address());
        }
        world.attach();
        world.board.unit.inject(Faults::none().freeze_after(at));
        let mut confirmed = 0;
        let failed = (0..2 * entries).find_map(|page| {
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
        assert!(!world.board.write(IOVA + (2 * entries - 1) * PAGE), "{at}");
        world.board.assert_clean();
    }
}

/// Each command of a batch refused in each way: one caller is told, the next is served.
#[test]
fn a_refused_command_fails_its_own_call_and_no_other() {
    for (error, bit) in [(CommandError::Illegal, 10), (CommandError::AtcInvalidation, 9)] {
        for nth in 1..=2 {
            let world = World::new(RiscvProfile::qemu10(), Policy::default());
            let frames = [world.board.frame(), world.board.frame()];
            world.map(IOVA, frames[0].address());
            world.map(IOVA + PAGE, frames[1].address());
            world.attach();
            world.board.unit.inject(Faults::none().fail_command(nth, error));
            let refused = world.unmap(IOVA).expect_err("refused");
            let hardware =
                OpsError::Hardware { breakage: Breakage::CommandRefused, status: 1 << bit };
            assert_eq!(refused, hardware, "{error:?} {nth}");
            world.unmap(IOVA + PAGE).expect("the next one is served");
            assert_eq!(world.driver.statistics().refused_commands, 1);
            assert_eq!(world.board.register(0x48) & 0xf00, 0, "cqcsr: no error is left");
            world.board.assert_clean();
        }
    }
}

#[test]
fn an_aborted_fetch_is_tried_again_and_a_lasting_one_is_given_up() {
    let aborted = |times: u64| {
        let world = World::new(RiscvProfile::qemu10(), Policy::default());
        let frame = world.board.frame();
        world.map(IOVA, frame.address());
        world.attach();
        let faults = (1..=times)
            .fold(Faults::none(), |faults, nth| faults.fail_command(nth, CommandError::FetchAbort));
        world.board.unit.inject(faults);
        let result = world.unmap(IOVA);
        world.board.assert_clean();
        result
    };
    assert_eq!(aborted(3), Ok(()));
    assert!(matches!(
        aborted(4),
        Err(OpsError::Hardware { breakage: Breakage::CommandRefused, .. })
    ));
    assert!(matches!(
        aborted(40),
        Err(OpsError::Hardware { breakage: Breakage::QueueStopped, .. })
    ));
}

#[test]
fn a_fence_that_hangs_is_ended_by_a_restart() {
    let world = World::new(RiscvProfile::qemu10(), Policy::default());
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
fn a_full_fault_queue_is_drained_and_goes_on() {
    let world = World::new(RiscvProfile::qemu10(), Policy::default());
    world.attach();
    for page in 0..20 {
        assert!(!world.board.write(IOVA + page * PAGE));
    }
    let mut faults = 0;
    let serviced = world.driver.service(3, &mut |_| faults += 1);
    assert_eq!((serviced.faults, serviced.more, faults), (3, true, 3));
    let serviced = world.driver.service(usize::MAX, &mut |_| faults += 1);
    // Seven fit into eight entries.
    assert_eq!((faults, serviced.more), (7, false));
    assert!(!world.board.write(IOVA));
    assert_eq!(world.faults().len(), 1, "it records again");
    assert!(world.board.unit.counters().faults_lost >= 13);
    world.board.assert_clean();
}

#[test]
fn a_record_that_cannot_be_stored_is_reported() {
    let world = World::new(RiscvProfile::qemu10(), Policy::default());
    world.board.unit.inject(Faults::none().abort_event_writes());
    assert!(!world.board.write(IOVA));
    let serviced = world.driver.service(usize::MAX, &mut |_| panic!("nothing was recorded"));
    assert_eq!(serviced.errors, GlobalErrors::FAULT_RECORD);
    world.board.unit.inject(Faults::none());
    assert!(!world.board.write(IOVA));
    assert_eq!(world.faults().len(), 1);
}

/// By wire, as a message, and not at all; each fault raises one, and after it was served the next one does.
#[test]
fn interrupts_come_as_the_unit_and_the_kernel_have_them() {
    let messages = RiscvInterrupts::Messages;
    for (interrupts, message, expected) in [
        (RiscvInterrupts::Both, false, Interrupts::Wire),
        (RiscvInterrupts::Both, true, Interrupts::Message),
        (RiscvInterrupts::Wires, true, Interrupts::Wire),
        (messages, true, Interrupts::Message),
        (messages, false, Interrupts::Polled),
    ] {
        let profile = RiscvProfile { interrupts, ..RiscvProfile::qemu10() };
        let board = Board::new(profile, Policy::default());
        let (inbox, wires) = (board.frame(), Arc::new(Mutex::new(Vec::new())));
        let sink = Arc::clone(&wires);
        board.unit.on_interrupt(move |wire| sink.lock().expect("test").push(wire));
        let address = inbox.address();
        let there = Message { address: address.raw(), data: 0xcafe };
        let message = message.then_some(there);
        let world = World::on(board, Options { message, ..small() });
        assert_eq!(world.driver.interrupts(), expected);
        let memory = world.board.machine.memory();
        for _ in 0..2 {
            memory.store64(address, 0);
            wires.lock().expect("test").clear();
            assert!(!world.board.write(IOVA));
            let by_wire = wires.lock().expect("test").clone();
            let came = (by_wire, memory.load64(address));
            assert_eq!(
                came,
                match expected {
                    Interrupts::Wire => (vec![0], 0),
                    Interrupts::Message => (vec![], 0xcafe),
                    Interrupts::Polled => (vec![], 0),
                }
            );
            assert_eq!(world.faults().len(), 1);
            assert_eq!(world.board.register(0x54), 0, "nothing is pending");
        }
        world.board.assert_clean();
    }
}

/// The unit vanishes at each of its register accesses.
#[test]
fn a_unit_that_vanishes_ends_every_call() {
    for nth in 1..120 {
        let board = Board::new(RiscvProfile::qemu10(), Policy::default());
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
        let board = Board::new(RiscvProfile::qemu10(), Policy::default());
        board.machine.memory().fail_allocation(nth, false);
        match board.bring_up(small()) {
            Ok(_) => {
                assert!(nth > 3, "the allocations were failed one by one");
                return;
            }
            Err(error) => {
                assert!(matches!(error.cause, BringUpCause::NoMemory { .. }), "{error}");
                assert_eq!(error.blocking, Blocking::Confirmed);
            }
        }
        assert_eq!(board.machine.usage().live, 0);
    }
}

/// A claim that needs directories and finds no memory changes nothing.
#[test]
fn a_claim_without_memory_changes_nothing() {
    for nth in 1..=2 {
        let board = Board::new(RiscvProfile::qemu10(), Policy::default());
        let driver = board.bring_up(small()).expect("up");
        let before = board.machine.usage().live;
        let far = StreamSpec::exact(StreamId::new(0x12_3456));
        board.machine.memory().fail_allocation(nth, false);
        assert!(matches!(driver.claim(&[far]), Err(OpsError::NoMemory(_))), "{nth}");
        assert_eq!(board.machine.usage().live, before, "{nth}");
        driver.claim(&[far]).expect("now there is memory");
        assert_eq!(board.machine.usage().live, before + 2, "two directories below the root");
        board.assert_clean();
    }
}
