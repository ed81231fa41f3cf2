//! Streams that firmware left running: a display goes on showing its picture, and reaches nothing else, whatever the driver does; or it is blocked, as the policy says.
//!
//! The display is asked for a line of its picture before and after each register access of the driver, so there is no gap that these tests do not see.

use portcullis::{
    AddressSpace, IommuOps, ReservedKind, ReservedRegion, SpaceRequest, StreamSpec, StreamTarget,
};
use portcullis_addr::{Iova, IovaRange, PhysAddr, Prot, StreamId};
use portcullis_machine::{
    Careless, Device, DmaRequest, Expectation, Faults, FirmwareGroup, Machine, PhysicalMemory,
    Policy, SmmuV2, SmmuV2Profile, SmmuV2Registers, TimeSource, Violation, without,
};
use portcullis_pgtable::IotlbGather;
use portcullis_platform::host::HostThreads;
use portcullis_platform::{DmaPages, PageLayout, Registers};
use portcullis_smmuv2::{
    Adoptable, Fate, FirmwareStreams, Options, Quirks, Ran, Safeguard, Smmu, WhyBlocked,
};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const DISPLAY: StreamSpec = StreamSpec { id: StreamId::new(0x800), mask: 0x2 };
const OTHER: StreamSpec = StreamSpec { id: StreamId::new(0x40), mask: 0 };
const PAGE: u64 = 4096;

/// A display that reads its picture, from the first page at `at`.
struct Display {
    machine: Arc<Machine>,
    device: Arc<Device>,
    at: u64,
    /// Whether a line that does not come counts.
    must_go_on: AtomicBool,
    lines: AtomicUsize,
    lost: AtomicUsize,
}

impl Display {
    fn reads(&self, address: u64) -> bool {
        let mut line = [0; 16];
        let request = DmaRequest::read(Iova::new(address), &mut line);
        self.machine.dma_of(&self.device, request).is_completed()
    }

    fn show(&self) -> bool {
        let shown = self.reads(self.at + 0x20);
        self.lines.fetch_add(1, Ordering::Relaxed);
        let lost = !shown && self.must_go_on.load(Ordering::Relaxed);
        self.lost.fetch_add(lost.into(), Ordering::Relaxed);
        shown
    }
}

/// The unit's registers; around each access the display shows a line.
struct Watched {
    inner: SmmuV2Registers,
    display: Arc<Display>,
}

impl Watched {
    fn around<T>(&self, access: impl FnOnce(&SmmuV2Registers) -> T) -> T {
        self.display.show();
        let done = access(&self.inner);
        self.display.show();
        done
    }
}

impl Registers for Watched {
    fn read32(&self, offset: usize) -> u32 {
        self.around(|inner| inner.read32(offset))
    }
    fn write32(&self, offset: usize, value: u32) {
        self.around(|inner| inner.write32(offset, value));
    }
    fn read64(&self, offset: usize) -> u64 {
        self.around(|inner| inner.read64(offset))
    }
    fn write64(&self, offset: usize, value: u64) {
        self.around(|inner| inner.write64(offset, value));
    }
    fn len(&self) -> usize {
        self.inner.len()
    }
}

type Driver = Smmu<Careless<HostThreads>, Watched>;

/// A machine whose display shows a picture that firmware put there.
struct Board {
    machine: Arc<Machine>,
    unit: Arc<SmmuV2>,
    display: Arc<Display>,
    other: Arc<Device>,
    picture: DmaPages<PhysicalMemory>,
    /// Memory that is not the picture.
    secret: DmaPages<PhysicalMemory>,
    /// Firmware's table, where it has one.
    tables: Mutex<Vec<Arc<dyn AddressSpace>>>,
}

fn page(machine: &Machine) -> DmaPages<PhysicalMemory> {
    let layout = PageLayout::new(PAGE as usize, PAGE as usize).expect("a page");
    DmaPages::new(machine.memory(), layout).expect("memory")
}

impl Board {
    fn new(profile: SmmuV2Profile) -> Self {
        let time = TimeSource::Virtual { step: 1_000_000 };
        let machine = Machine::builder().seed(7).policy(Policy::default()).time(time).build();
        let unit = machine.add_smmuv2(profile);
        let device = machine.add_client("display", &unit, DISPLAY.id);
        let other = machine.add_client("other", &unit, OTHER.id);
        let (picture, secret) = (page(&machine), page(&machine));
        let display = Arc::new(Display {
            machine: Arc::clone(&machine),
            device,
            at: picture.address().raw(),
            must_go_on: AtomicBool::new(true),
            lines: AtomicUsize::new(0),
            lost: AtomicUsize::new(0),
        });
        let tables = Mutex::default();
        Self { machine, unit, display, other, picture, secret, tables }
    }

    fn adoptable(&self) -> Adoptable {
        // Neither begins nor ends with a page, as boot framebuffers do.
        let range = IovaRange::new(Iova::new(self.picture.address().raw() + 0x10), 0x7f0);
        let region = ReservedRegion { range: range.expect("a range"), kind: ReservedKind::Direct };
        Adoptable { streams: vec![DISPLAY], reserved: vec![region, region], coherent: true }
    }

    fn adopting(&self) -> FirmwareStreams {
        FirmwareStreams::Adopt(vec![self.adoptable()])
    }

    fn bring_up(&self, firmware_streams: FirmwareStreams) -> Driver {
        let inner = self.unit.registers();
        let registers = Watched { inner, display: Arc::clone(&self.display) };
        let quirks = Quirks::of(["arm,mmu-500"]);
        let options = Options { quirks, firmware_streams, ..Options::default() };
        let platform = Careless::new(&self.machine);
        Smmu::bring_up(Arc::new(platform), registers, options).expect("up")
    }

    /// What a core does for a client: claim, its own address space with the region in it, attach.
    fn bind(&self, driver: &Driver) {
        let table = new_space(driver);
        map(&table, self.picture.address());
        let tag = driver.bind_space(&table).expect("a bank");
        driver.claim(&[DISPLAY]).expect("free");
        driver.attach(&[DISPLAY], None, StreamTarget::Space(tag)).expect("attached");
    }

    /// The display shows its picture and reaches nothing else.
    fn assert_kept(&self, when: &str) {
        self.display.device.expect(Expectation::Translated);
        assert!(self.display.show(), "{when}");
        assert!(!self.display.reads(self.secret.address().raw()), "{when}");
        self.display.device.expect(Expectation::Anything);
    }

    fn assert_no_line_lost(&self) {
        let [lines, lost] =
            [&self.display.lines, &self.display.lost].map(|it| it.load(Ordering::Relaxed));
        assert!(lines > 100, "it was asked: {lines}");
        assert_eq!(lost, 0, "of {lines} lines");
        assert_eq!(self.machine.violations(), []);
    }
}

fn new_space(driver: &Driver) -> Arc<dyn AddressSpace> {
    let support = *driver.capabilities().formats.iter().next().expect("a format");
    driver.create_space(&SpaceRequest { support, coherent_walk: true }).expect("a table")
}

fn map(space: &Arc<dyn AddressSpace>, page: PhysAddr) {
    let mut gather = IotlbGather::new();
    let prot = Prot::READ | Prot::WRITE;
    space.map(Iova::new(page.raw()), page, PAGE, prot, &mut gather).expect("mapped");
}

fn passing(stream: StreamSpec) -> FirmwareGroup {
    FirmwareGroup { id: stream.id, mask: stream.mask as u16, bank: None }
}

/// Firmware's display as a test of the kind of unit and of how firmware left it needs it.
fn boots(board: &Board, ran: Ran) {
    let driver = board.bring_up(board.adopting());
    let [told] = driver.firmware_streams() else { panic!("{:?}", driver.firmware_streams()) };
    assert_eq!((told.stream, told.ran, told.fate), (DISPLAY, ran, Fate::Narrowed), "{told}");
    assert_eq!(driver.spaces(), 1);
    board.assert_kept("before the driver comes");
    board.other.expect(Expectation::Blocked);
    let mut bytes = [0; 4];
    let request = DmaRequest::read(Iova::new(board.display.at), &mut bytes);
    let refused = !board.machine.dma_of(&board.other, request).is_completed();
    assert!(refused, "what is not adopted is blocked");
    board.bind(&driver);
    board.assert_kept("with its driver");
    assert_eq!(driver.spaces(), 1, "the one that it went on through is gone");
    board.assert_no_line_lost();
    board.display.must_go_on.store(false, Ordering::Relaxed);
    driver.release(&[DISPLAY]).expect("confirmed");
    assert!(!board.display.show(), "a stream that was let go is blocked");
    assert_eq!(board.machine.violations(), []);
}

#[test]
fn a_display_that_firmware_let_pass_loses_no_line_and_reaches_only_its_picture() {
    let mmu500 = SmmuV2Profile::mmu500;
    for profile in [mmu500(), SmmuV2Profile { coherent: false, ..mmu500() }] {
        for group in [
            passing(DISPLAY),
            // Fewer ids, more ids, and a bank that is off.
            FirmwareGroup { mask: 0, ..passing(DISPLAY) },
            FirmwareGroup { mask: 0x1f, ..passing(DISPLAY) },
            FirmwareGroup { bank: Some(3), ..passing(DISPLAY) },
        ] {
            let board = Board::new(profile.clone());
            // Bank 3 does stage 1 alone.
            board.unit.registers().write32(0x1000 + 4 * 3, 1 << 16);
            board.unit.leave_running(&[group]);
            assert!(board.display.reads(board.secret.address().raw()), "it passes");
            boots(&board, Ran::Passed);
        }
    }
}

#[test]
fn a_display_behind_a_unit_that_firmware_had_off_loses_no_line_either() {
    for profile in [SmmuV2Profile::mmu500(), SmmuV2Profile::extended()] {
        boots(&Board::new(profile), Ran::UnitOff);
    }
}

/// Firmware's own table: written by a driver that stands for firmware, and left in place.
fn left_translating(asid: u64) -> Board {
    const BANK: u8 = 5;
    let board = Board::new(SmmuV2Profile::mmu500());
    board.display.must_go_on.store(false, Ordering::Relaxed);
    let firmware = board.bring_up(FirmwareStreams::Block);
    let table = new_space(&firmware);
    map(&table, board.picture.address());
    let config = table.table().expect("hardware walks it").config();
    board.tables.lock().expect("test").push(table);
    std::mem::forget(firmware);
    let registers = board.unit.registers();
    let bank = board.unit.profile().shape().bank(usize::from(BANK));
    registers.write32(0x1800 + 4 * usize::from(BANK), 1);
    registers.write32(0x1000 + 4 * usize::from(BANK), 1 << 16 | 0xf << 12 | 3 << 8);
    registers.write32(bank + 0x10, 5 | 1 << 4);
    registers.write32(
        bank + 0x30,
        (64 - u32::from(config.input_bits)) | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23,
    );
    registers.write64(bank + 0x20, config.root.address().raw() | asid << 48);
    registers.write32(bank + 0x38, 0xff44_0400u32);
    registers.write32(bank, 1);
    board.unit.leave_running(&[FirmwareGroup { bank: Some(BANK), ..passing(DISPLAY) }]);
    assert!(board.display.show(), "firmware's table works");
    board.display.must_go_on.store(true, Ordering::Relaxed);
    board
}

/// Firmware's ASID is what the driver would give its first space, and its bank is one that the driver would come to.
fn keeps_firmwares_bank() -> Board {
    let board = left_translating(1);
    let driver = board.bring_up(board.adopting());
    let [told] = driver.firmware_streams() else { panic!("{:?}", driver.firmware_streams()) };
    assert_eq!((told.ran, told.fate), (Ran::Translated(5), Fate::Kept));
    assert_eq!(driver.spaces(), 0);
    board.assert_kept("through firmware's bank");
    // Another client at the same address, with another page behind it.
    let table = new_space(&driver);
    let mut gather = IotlbGather::new();
    let at = Iova::new(board.picture.address().raw());
    table.map(at, board.secret.address(), PAGE, Prot::READ, &mut gather).expect("mapped");
    let tag = driver.bind_space(&table).expect("a bank");
    driver.claim(&[OTHER]).expect("free");
    driver.attach(&[OTHER], None, StreamTarget::Space(tag)).expect("attached");
    assert!(board.machine.memory().write_bytes(board.secret.address(), b"secret"));
    let mut bytes = [0; 6];
    assert!(board.machine.dma_of(&board.other, DmaRequest::read(at, &mut bytes)).is_completed());
    assert_eq!(&bytes, b"secret", "it finds its own page there");
    let spaces: Vec<_> = (0..15).map(|_| new_space(&driver)).collect();
    let bound: Vec<_> = spaces.iter().map_while(|it| driver.bind_space(it).ok()).collect();
    assert_eq!(
        bound.len(),
        13,
        "16 banks, but firmware's, the one whose tag is firmware's, and one in use"
    );
    bound.iter().for_each(|tag| driver.unbind_space(*tag).expect("confirmed"));
    board.bind(&driver);
    board.assert_kept("with its driver");
    let bound: Vec<_> = spaces.iter().map_while(|it| driver.bind_space(it).ok()).collect();
    assert_eq!(bound.len(), 14, "both are free again");
    board.assert_no_line_lost();
    drop(driver);
    board
}

#[test]
fn a_display_that_firmware_translates_goes_on_through_firmwares_bank() {
    keeps_firmwares_bank();
}

#[test]
fn what_the_policy_does_not_name_is_blocked_and_said() {
    let fate = |policy: fn(&Board) -> FirmwareStreams, left: &[FirmwareGroup], profile| {
        let board = Board::new(profile);
        board.unit.leave_running(left);
        board.display.must_go_on.store(false, Ordering::Relaxed);
        let driver = board.bring_up(policy(&board));
        board.display.device.expect(Expectation::Blocked);
        assert!(!board.display.show());
        assert_eq!(board.machine.violations(), []);
        let told: Vec<_> = driver.firmware_streams().iter().map(|it| it.fate).collect();
        told
    };
    let mmu500 = SmmuV2Profile::mmu500;
    let blocked = |why, count| vec![Fate::Blocked(why); count];
    let display = passing(DISPLAY);
    assert_eq!(
        fate(|_| FirmwareStreams::Block, &[display], mmu500()),
        blocked(WhyBlocked::Policy, 1)
    );
    let other = |board: &Board| {
        FirmwareStreams::Adopt(vec![Adoptable { streams: vec![OTHER], ..board.adoptable() }])
    };
    assert_eq!(fate(other, &[display], mmu500()), blocked(WhyBlocked::NotDescribed, 1));
    let stranger = FirmwareGroup { id: StreamId::new(0x10), mask: 0, bank: Some(200) };
    assert_eq!(fate(Board::adopting, &[stranger], mmu500()), blocked(WhyBlocked::NotDescribed, 1));
    let exact = FirmwareGroup { mask: 0, ..display };
    let two = [exact, FirmwareGroup { id: StreamId::new(0x802), ..exact }];
    assert_eq!(fate(Board::adopting, &two, mmu500()), blocked(WhyBlocked::SeveralGroups, 2));
    assert_eq!(
        fate(Board::adopting, &[display], SmmuV2Profile::extended()),
        blocked(WhyBlocked::ExtendedIds, 1)
    );
    let absent = FirmwareGroup { bank: Some(77), ..display };
    assert_eq!(fate(Board::adopting, &[absent], mmu500()), blocked(WhyBlocked::Unclear, 1));
    // A region beyond what the unit translates.
    let far = |board: &Board| {
        let range = IovaRange::new(Iova::new(1 << 60), PAGE).expect("a range");
        let region = ReservedRegion { range, kind: ReservedKind::Direct };
        FirmwareStreams::Adopt(vec![Adoptable { reserved: vec![region], ..board.adoptable() }])
    };
    assert!(matches!(fate(far, &[display], mmu500())[..], [Fate::Blocked(WhyBlocked::NoSpace(_))]));
}

#[test]
fn two_clients_that_share_a_stream_keep_both_their_regions() {
    let board = Board::new(SmmuV2Profile::mmu500());
    board.unit.leave_running(&[passing(DISPLAY)]);
    let second = page(&board.machine);
    let range = IovaRange::new(Iova::new(second.address().raw()), PAGE).expect("a range");
    let region = ReservedRegion { range, kind: ReservedKind::Direct };
    let other = Adoptable { reserved: vec![region], ..board.adoptable() };
    let _driver = board.bring_up(FirmwareStreams::Adopt(vec![board.adoptable(), other]));
    board.assert_kept("the first");
    assert!(board.display.reads(second.address().raw()), "the second");
    board.assert_no_line_lost();
}

/// Nobody comes: the display goes on until the unit is stopped, and nothing is left of it.
#[test]
fn what_nobody_claims_ends_with_the_unit() {
    let board = Board::new(SmmuV2Profile::mmu500());
    board.unit.leave_running(&[passing(DISPLAY)]);
    let before = board.machine.usage().live;
    let driver = board.bring_up(board.adopting());
    board.assert_kept("adopted");
    // A claim that fails takes nothing away from it.
    let beyond = StreamSpec::exact(StreamId::new(0x8000));
    assert!(driver.claim(&[DISPLAY, beyond]).is_err());
    board.assert_kept("still");
    board.display.must_go_on.store(false, Ordering::Relaxed);
    drop(driver);
    board.display.device.expect(Expectation::Blocked);
    assert!(!board.display.show());
    assert_eq!(board.machine.usage().live, before);
    board.assert_no_line_lost();
}

/// The unit stops answering while the display is led to its own space: it is said, and nothing is given back before the unit has answered.
#[test]
fn an_unconfirmed_replacement_keeps_what_the_stream_went_on_through() {
    let board = Board::new(SmmuV2Profile::mmu500());
    board.unit.leave_running(&[passing(DISPLAY)]);
    let driver = board.bring_up(board.adopting());
    let table = new_space(&driver);
    map(&table, board.picture.address());
    let tag = driver.bind_space(&table).expect("a bank");
    driver.claim(&[DISPLAY]).expect("free");
    board.unit.inject(Faults::none().hang_sync(1));
    board.display.must_go_on.store(false, Ordering::Relaxed);
    let attached = driver.attach(&[DISPLAY], None, StreamTarget::Space(tag));
    assert!(attached.expect_err("no answer").is_unconfirmed());
    assert_eq!(driver.spaces(), 2, "the table may still be walked");
    board.unit.inject(Faults::none());
    driver.forget_all().expect("it answers");
    assert_eq!(driver.spaces(), 1);
}

fn passing_board() -> Board {
    let board = Board::new(SmmuV2Profile::mmu500());
    board.unit.leave_running(&[passing(DISPLAY)]);
    board
}

#[test]
fn each_safeguard_that_is_left_out_is_noticed() {
    let cases: [(Safeguard, fn()); 3] = [
        (Safeguard::GoOnUntilReplaced, || {
            let board = passing_board();
            let driver = board.bring_up(board.adopting());
            board.bind(&driver);
            board.assert_no_line_lost();
        }),
        (Safeguard::OnlyItsRegions, || {
            let board = passing_board();
            let _driver = board.bring_up(board.adopting());
            board.display.device.expect(Expectation::Translated);
            board.display.reads(board.secret.address().raw());
            let found = board.machine.violations();
            assert!(!found.iter().any(|it| matches!(it, Violation::Untranslated(_))), "{found:?}");
        }),
        (Safeguard::AvoidFirmwareTags, || drop(keeps_firmwares_bank())),
    ];
    for (safeguard, test) in cases {
        test();
        let noticed = without(Some(safeguard.name()), || std::panic::catch_unwind(test).is_err());
        assert!(noticed, "{safeguard}");
    }
}
