//! The core's DMA interface on a driver and a unit: what the device reaches, by its own accesses, and what that costs in commands.

use crate::keeper::Keeper;
use crate::meddler::Rule;
use crate::world::{Board, PAGE, Platform, STREAM};
use portcullis::{
    Both, BufferList, DeviceDescription, DmaError, DmaHandle, DmaMapping, DmaPath, FromDevice,
    FwNode, FwSpec, FwStream, Lendable, MapFailure, NotTurned, Segment, SegmentLimits, Subsystem,
    ToDevice,
};
use portcullis_addr::{Iova, PhysAddr, PhysRange};
use portcullis_machine::{DmaRequest, Expectation, PhysicalMemory, Policy, Profile};
use portcullis_platform::{DmaPages, PageLayout};
use portcullis_smmuv3::Options;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

const NODE: FwNode = FwNode(1);
/// Arm IHI 0070, 4.1.1: command opcodes.
const TLBI_NH_VA: u64 = 0x12;
const TLBI_NH_ASID: u64 = 0x11;
const SYNC: u64 = 0x46;
/// Changes nothing.
const PREFETCH_CONFIG: u64 = 0x01;

/// A part of pages that belong to it: not whole pages.
struct Part {
    pages: DmaPages<PhysicalMemory>,
    offset: u64,
    len: u64,
}

// SAFETY: a part of pages that are atomic words and belong to the value until its drop.
#[expect(unsafe_code, reason = "Lendable is an unsafe trait")]
unsafe impl Lendable for Part {
    fn range(&self) -> PhysRange {
        let start = PhysAddr::new(self.pages.address().raw() + self.offset);
        PhysRange::new(start, self.len).expect("inside")
    }
}

struct Path {
    board: Board,
    core: Subsystem<Platform>,
    device: Arc<portcullis::Device<Platform>>,
    dma: DmaHandle<Platform>,
    commands: Arc<Mutex<Vec<u64>>>,
    /// Whether invalidations are lost on the way: the planted bug.
    deaf: Arc<AtomicBool>,
}

impl Path {
    fn new(describe: impl FnOnce(&mut DeviceDescription)) -> Self {
        Self::with(portcullis::Policy::default(), describe)
    }

    fn with(policy: portcullis::Policy, describe: impl FnOnce(&mut DeviceDescription)) -> Self {
        let commands = Arc::<Mutex<Vec<u64>>>::default();
        let seen = Arc::clone(&commands);
        let deaf = Arc::<AtomicBool>::default();
        let loses = Arc::clone(&deaf);
        let rule: Rule = Arc::new(move |words| {
            let opcode = words[0] & 0xff;
            seen.lock().expect("test").push(opcode);
            if loses.load(Ordering::Relaxed) && opcode != SYNC {
                *words = [PREFETCH_CONFIG, 0];
            }
        });
        let mut board = Board::new(Profile::server(), Policy::default());
        board.rule = Some(rule);
        let smmu = board.bring_up(Options::default()).expect("the unit comes up");
        assert!(smmu.features().range_invalidation, "or the counts below are others");
        let platform = Arc::new(Platform::new(&board.machine));
        let core = Subsystem::new(platform, policy);
        let spec = FwSpec { streams: vec![FwStream::new(NODE, STREAM)] };
        let mut description = DeviceDescription::new("/client", DmaPath::Translated(spec));
        describe(&mut description);
        let device = core.add_device(description).expect("sound");
        core.register(NODE, Box::new(smmu)).expect("the first");
        let driver = Arc::new(Keeper::default());
        core.bind(&device, driver.clone()).expect("tried");
        board.device.expect(Expectation::Translated);
        let dma = driver.0.lock().expect("test").take().expect("bound");
        Self { board, core, device, dma, commands, deaf }
    }

    fn part(&self, pages: u64, offset: u64, len: u64) -> Part {
        let layout = PageLayout::new((pages * PAGE) as usize, PAGE as usize).expect("pages");
        let pages = DmaPages::new(self.board.machine.memory(), layout).expect("memory");
        assert!(offset + len <= pages.len() as u64);
        Part { pages, offset, len }
    }

    fn write(&self, address: u64, bytes: &[u8]) -> bool {
        let request = DmaRequest::write(Iova::new(address), bytes);
        self.board.machine.dma(self.board.device.id(), request).is_completed()
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> bool {
        let request = DmaRequest::read(Iova::new(address), bytes);
        self.board.machine.dma(self.board.device.id(), request).is_completed()
    }

    /// What the CPU finds in memory.
    fn contents(&self, range: PhysRange) -> Vec<u8> {
        let mut bytes = vec![0; range.len() as usize];
        assert!(self.board.machine.memory().read_bytes(range.start(), &mut bytes));
        bytes
    }

    fn sent(&self) -> Vec<u64> {
        std::mem::take(&mut self.commands.lock().expect("test"))
    }
}

/// Pages, offset and length of the buffers of a list: whole pages that follow each other, parts of pages, one that is longer than a table.
const LIST: [(u64, u64, u64); 8] = [
    (1, 0, PAGE),
    (2, 0, 2 * PAGE),
    (1, 0, 100),
    (1, 512, 1000),
    (3, 4000, 2 * PAGE),
    (1, 0, PAGE),
    (600, 0, 600 * PAGE),
    (1, 4095, 1),
];

fn map_list(path: &Path) -> DmaMapping<BufferList<Part>, Both> {
    let buffers = LIST.iter().map(|(pages, offset, len)| path.part(*pages, *offset, *len));
    let list = BufferList::new(buffers.collect()).expect("not empty");
    path.dma.map_list(list, Both).expect("mapped")
}

/// The device writes one byte after the other through the segments; each buffer must hold the next ones.
fn fill(path: &Path, segments: &[Segment]) {
    let mut next = 0u32;
    for segment in segments {
        let bytes: Vec<u8> = (0..segment.len)
            .map(|_| {
                next += 1;
                (next % 251) as u8
            })
            .collect();
        for (at, some) in bytes.chunks(2048).enumerate() {
            assert!(path.write(segment.address + at as u64 * 2048, some), "{segment:x?}");
        }
    }
}

#[test]
fn a_list_is_one_run_of_addresses_and_each_buffer_gets_its_bytes() {
    let limits = [
        SegmentLimits::NONE,
        SegmentLimits { most_bytes: 0x1_0000, boundary: 1 << 32 },
        SegmentLimits { most_bytes: 3000, boundary: PAGE },
        SegmentLimits { most_bytes: 1 << 20, boundary: 512 },
    ];
    for limits in limits {
        let path = Path::new(|_| ());
        path.dma.set_segment_limits(limits).expect("sound");
        let mapping = map_list(&path);
        let segments: Vec<Segment> = mapping.segments().collect();
        let wanted: u64 = LIST.iter().map(|(_, _, len)| len).sum();
        assert_eq!(segments.iter().map(|segment| segment.len).sum::<u64>(), wanted);
        for segment in &segments {
            let last = segment.address + segment.len - 1;
            assert!((1..=limits.most_bytes).contains(&segment.len), "{segment:x?}");
            assert_eq!(segment.address / limits.boundary, last / limits.boundary, "{segment:x?}");
        }
        if limits == SegmentLimits::NONE {
            // By hand: 1 + 2 pages and 100 bytes follow each other; then each of 1000 bytes, 2 pages at 4000, and 1 + 600 pages; the byte at 4095.
            let by_hand = [3 * PAGE + 100, 1000, 2 * PAGE, 601 * PAGE, 1];
            assert_eq!(segments.iter().map(|segment| segment.len).collect::<Vec<_>>(), by_hand);
        }
        fill(&path, &segments);
        path.sent();
        let list = path.dma.unmap(mapping).expect("confirmed");
        let mut next = 0u32;
        for part in list.buffers() {
            let bytes = path.contents(part.range());
            let right = (0..bytes.len()).map(|_| {
                next += 1;
                (next % 251) as u8
            });
            assert!(bytes.iter().copied().eq(right), "the buffer of {} bytes", bytes.len());
            // What shares its pages is not written.
            let around = PhysRange::new(part.pages.address(), part.pages.len() as u64);
            let outside = path.contents(around.expect("pages")).iter().filter(|b| **b != 0).count();
            assert!(outside <= bytes.len());
        }
        assert!(!path.write(segments[0].address, b"late"), "nothing is mapped any more");
        // 612 pages, one run: range commands for 612 = 0b1001100100 pages, at most one a five bits, and one sync.
        let sent = path.sent();
        assert_eq!(sent, [TLBI_NH_VA, TLBI_NH_VA, SYNC], "one invalidation for all of the list");
        path.board.assert_clean();
    }
}

#[test]
fn an_unmap_of_64_or_512_pages_is_one_range_command_and_a_sync() {
    let path = Path::new(|_| ());
    for pages in [1, 32, 64, 512] {
        let mapping = path.dma.map(path.part(pages, 0, pages * PAGE), Both).expect("mapped");
        let address = mapping.device_address();
        assert!(path.write(address + (pages - 1) * PAGE, b"last"), "so that it is cached");
        path.sent();
        path.dma.unmap(mapping).expect("confirmed");
        assert_eq!(path.sent(), [TLBI_NH_VA, SYNC], "{pages} pages");
        assert!(!path.write(address + (pages - 1) * PAGE, b"late"));
    }
    path.board.assert_clean();
}

#[test]
fn a_list_that_does_not_fit_is_refused_whole() {
    let path = Path::new(|_| ());
    assert_eq!(path.dma.set_address_bits(24), Ok(24));
    let buffers = (0..5).map(|_| path.part(1024, 0, 1024 * PAGE)).collect();
    let list = BufferList::new(buffers).expect("not empty");
    let refused = path.dma.map_list(list, Both).expect_err("20 MiB below 16 MiB");
    let MapFailure::Refused { buffer, error: DmaError::Iova(_) } = refused else {
        panic!("{refused}")
    };
    assert_eq!(buffer.into_buffers().len(), 5);
    assert_eq!(path.dma.live_mappings(), 0);
    // No memory for the second table of a list: the first pieces are taken out again, confirmed.
    assert_eq!(path.dma.set_address_bits(64), Ok(64));
    let buffers: Vec<_> = (0..80).map(|_| path.part(16, 0, 16 * PAGE)).collect();
    path.board.machine.memory().fail_allocation(4, true);
    let list = BufferList::new(buffers).expect("not empty");
    let refused = path.dma.map_list(list, Both).expect_err("no memory");
    path.board.machine.memory().stop_failing();
    assert!(refused.error().is_out_of_memory(), "{refused}");
    assert_eq!(path.dma.live_mappings(), 0);
    path.board.assert_clean();
}

#[test]
fn a_single_buffer_keeps_to_the_segment_limits_or_is_refused() {
    let path = Path::new(|_| ());
    let limits = SegmentLimits { most_bytes: 4 * PAGE, boundary: 4 * PAGE };
    path.dma.set_segment_limits(limits).expect("sound");
    for (pages, offset, len) in [(4, 0, 4 * PAGE), (3, 100, 2 * PAGE), (1, 7, 9)] {
        let mapping = path.dma.map(path.part(pages, offset, len), Both).expect("mapped");
        let first = mapping.device_address();
        assert_eq!(first / limits.boundary, (first + len - 1) / limits.boundary);
    }
    for (pages, offset, len) in [(5, 0, 4 * PAGE + 1), (5, 100, 4 * PAGE)] {
        let refused = path.dma.map(path.part(pages, offset, len), Both).map(drop);
        let error = refused.expect_err("no single segment").error();
        assert_eq!(error, DmaError::SegmentTooLong { len, limits });
    }
    let nonsense = SegmentLimits { most_bytes: 0, boundary: 3 };
    let refused = path.dma.set_segment_limits(nonsense);
    assert_eq!(refused, Err(DmaError::SegmentLimits(nonsense)));
}

#[test]
fn a_device_that_is_not_trusted_sees_no_more_than_it_is_lent() {
    let path = Path::new(|description| description.untrusted = true);
    for (pages, offset, len) in [(1, 0, 100), (1, 8, PAGE - 8), (2, 4000, 200)] {
        let refused = path.dma.map(path.part(pages, offset, len), ToDevice).map(drop);
        let error = refused.expect_err("its page holds more").error();
        assert!(matches!(error, DmaError::PartialPages(_, l) if l == len), "{error}");
    }
    drop(path.dma.map(path.part(2, 0, 2 * PAGE), ToDevice).expect("whole pages"));

    let secret = vec![0x5a; 100];
    let bounce = path.dma.bounce(secret.clone()).expect("memory");
    let mapping = path.dma.map(bounce, Both).expect("mapped");
    let mut seen = vec![0xff; PAGE as usize];
    assert!(path.read(mapping.device_address(), &mut seen));
    assert_eq!(seen[..100], secret);
    assert!(seen[100..].iter().all(|byte| *byte == 0), "the rest of the page is nobody's");
    assert!(path.write(mapping.device_address() + 3, &[1, 2, 3]));
    let bytes = path.dma.unmap(mapping).expect("confirmed").into_bytes();
    let mut right = secret.clone();
    right[3..6].copy_from_slice(&[1, 2, 3]);
    assert_eq!(bytes, right);
    path.board.assert_clean();
}

/// What the device does not write comes back as it was, not as whatever stood in the page (CVE-2022-0854).
#[test]
fn bytes_that_a_device_did_not_write_come_back_as_they_were() {
    let path = Path::new(|_| ());
    for len in [1usize, 7, 8, 9, 4095, 4096, 4097, 10_000] {
        let before: Vec<u8> = (0..len).map(|n| (n * 7 + 1) as u8).collect();
        let bounce = path.dma.bounce(before.clone()).expect("memory");
        let mapping = path.dma.map(bounce, FromDevice).expect("mapped");
        let last = len as u64 - 1;
        assert!(path.write(mapping.device_address() + last, &[0xee]));
        let bytes = path.dma.unmap(mapping).expect("confirmed").into_bytes();
        assert_eq!(bytes[..len - 1], before[..len - 1]);
        assert_eq!(bytes[len - 1], 0xee);
    }
    let bounce = path.dma.bounce(vec![0; 20]).expect("memory");
    bounce.store(5, &[1, 2, 3, 4, 5]);
    let mut back = [0; 7];
    bounce.load(4, &mut back);
    assert_eq!(back, [0, 1, 2, 3, 4, 5, 0]);
}

/// On a unit that never forgets by itself: a buffer comes back when its device reaches it no more, and sixty-four share one invalidation.
#[test]
fn lazily_unmapped_buffers_come_back_when_the_device_reaches_them_no_more() {
    let lazy = portcullis::Policy { default_domain: portcullis::DomainType::DmaLazy };
    let path = Path::with(lazy, |_| ());
    for _ in 0..3 {
        let mappings: Vec<_> =
            (0..64).map(|_| path.dma.map(path.part(1, 0, PAGE), Both).expect("mapped")).collect();
        let addresses: Vec<_> = mappings.iter().map(DmaMapping::device_address).collect();
        for address in &addresses {
            assert!(path.write(*address, b"before"), "so that it is cached");
        }
        path.sent();
        let parked: Vec<_> = mappings
            .into_iter()
            .map(|mapping| path.dma.unmap_later(mapping).expect("unmapped"))
            .collect();
        assert_eq!(path.sent(), [], "no command");
        let parts: Vec<Part> =
            parked.into_iter().map(|parked| path.dma.redeem(parked).expect("confirmed")).collect();
        assert_eq!(path.sent(), [TLBI_NH_ASID, SYNC]);
        for (address, part) in addresses.iter().zip(&parts) {
            assert!(!path.write(*address, b"after"));
            assert_eq!(path.contents(part.range())[..6], *b"before");
        }
    }
    path.board.assert_clean();
}

/// Reserve, link, sync: each buffer is reached where the link said, the rest of the run is not, and all of it ends by one invalidation.
#[test]
fn a_run_is_filled_piece_by_piece_and_ends_as_a_whole() {
    let path = Path::new(|_| ());
    for filled in [0usize, 1, 3, 5] {
        let mut run = path.dma.reserve(16 * PAGE, 8, Both).expect("room");
        let pieces = [(1, 0, PAGE), (2, 100, PAGE), (1, 4095, 1), (3, 0, 3 * PAGE), (1, 8, 8)];
        let mut addresses = Vec::new();
        for (pages, offset, len) in &pieces[..filled] {
            addresses.push(run.link(path.part(*pages, *offset, *len)).expect("room"));
        }
        run.sync().expect("nothing is owed");
        for (address, (_, offset, _)) in addresses.iter().zip(pieces) {
            assert_eq!(address % PAGE, offset);
            assert!(path.write(*address, b"x"));
        }
        let beyond = run.device_address() + run.linked();
        assert!(!path.write(beyond, b"x"), "what is only reserved leads nowhere");
        let too_long = path.part(17, 0, 17 * PAGE);
        let left = 16 * PAGE - run.linked();
        let full = run.link(too_long).expect_err("too long").error();
        assert_eq!(full, DmaError::RunIsFull { left });
        path.sent();
        let list = run.end().expect("confirmed");
        let parts = list.map_or_else(Vec::new, BufferList::into_buffers);
        assert_eq!(parts.len(), filled);
        for part in &parts {
            assert_eq!(path.contents(part.range())[0], b'x');
        }
        let syncs = path.sent().iter().filter(|opcode| **opcode == SYNC).count();
        assert_eq!(syncs, 1, "one invalidation");
        for address in addresses {
            assert!(!path.write(address, b"y"));
        }
    }
    assert_eq!(path.dma.live_mappings(), 0);
    path.board.assert_clean();
}

/// An unbind removes what was linked, though the rest of the run was never mapped.
#[test]
fn an_unbind_removes_a_run_that_was_not_filled() {
    let path = Path::new(|_| ());
    let mut run = path.dma.reserve(64 * PAGE, 2, Both).expect("room");
    let address = run.link(path.part(2, 0, 2 * PAGE)).expect("room");
    assert!(path.write(address, b"before"));
    path.core.unbind(&path.device).expect("confirmed");
    path.board.device.expect(Expectation::Blocked);
    assert!(!path.write(address, b"after"));
    let part = run.end().expect("confirmed by the unbind").expect("one buffer").into_buffers();
    assert_eq!(path.contents(part[0].range())[..6], *b"before");
    path.board.assert_clean();
}

/// Has the device write a buffer that it may read only from then on; whether it still can. On a unit that never forgets by itself.
fn writes_what_it_may_only_read(path: &Path, pages: u64) -> bool {
    let mapping = path.dma.map(path.part(pages, 0, pages * PAGE), Both).expect("mapped");
    let address = mapping.device_address();
    assert!(path.write(address, b"before"), "so that it is cached");
    path.sent();
    let mapping = path.dma.turn(mapping, ToDevice).expect("confirmed");
    assert_eq!(path.sent(), [TLBI_NH_VA, SYNC], "one invalidation");
    assert_eq!(mapping.device_address(), address);
    let wrote = path.write(address, b"after!");
    let mut bytes = [0; 6];
    assert!(path.read(address, &mut bytes), "reading is allowed as before");
    assert_eq!(bytes, if wrote { *b"after!" } else { *b"before" });
    let mapping = path.dma.turn(mapping, Both).expect("confirmed");
    assert!(wrote || path.write(address, b"again!"), "and writing is again");
    path.dma.unmap(mapping).expect("confirmed");
    wrote
}

#[test]
fn a_mapping_gets_another_direction_where_it_stands() {
    let path = Path::new(|_| ());
    for pages in [1, 3, 512] {
        assert!(!writes_what_it_may_only_read(&path, pages), "{pages} pages");
    }
    let list = map_list(&path);
    let first = list.segments().next().expect("not empty").address;
    let list = path.dma.turn(list, ToDevice).expect("confirmed");
    assert!(!path.write(first, b"no"), "nor the first buffer of a list");
    path.dma.unmap(list).expect("confirmed");
    path.board.assert_clean();
}

#[test]
fn a_direction_without_its_invalidation_is_noticed() {
    let path = Path::new(|_| ());
    path.deaf.store(true, Ordering::Relaxed);
    assert!(writes_what_it_may_only_read(&path, 1), "hardware goes by what it has cached");
}

#[test]
fn another_handles_mapping_is_not_turned() {
    let (path, other) = (Path::new(|_| ()), Path::new(|_| ()));
    let mapping = path.dma.map(path.part(1, 0, PAGE), Both).expect("mapped");
    let NotTurned { mapping, error } = other.dma.turn(mapping, ToDevice).expect_err("not its own");
    assert_eq!(error, DmaError::ForeignMapping);
    assert!(path.write(mapping.device_address(), b"as before"));
    path.dma.unmap(mapping).expect("confirmed");
}

/// Small and large leaves in turn at the same addresses: what large leaves have replaced is kept while a driver is bound, but never more than 64 tables of a space.
#[test]
fn a_driver_that_goes_on_for_long_holds_a_bounded_number_of_tables() {
    const LARGE: u64 = 2 << 20;
    let path = Path::new(|_| ());
    let blocks = || path.board.machine.memory().live_blocks().len();
    let aligned = PageLayout::new(LARGE as usize, LARGE as usize).expect("2 MiB");
    let (before, mut most) = (blocks(), 0);
    for round in 0..200 {
        // In pages that begin where no large leaf can.
        let small = path.dma.map(path.part(514, PAGE, LARGE), Both).expect("mapped");
        path.dma.unmap(small).expect("confirmed");
        let pages = DmaPages::new(path.board.machine.memory(), aligned).expect("memory");
        let large = path.dma.map(Part { pages, offset: 0, len: LARGE }, Both).expect("mapped");
        let there = large.device_address() + LARGE - 8;
        assert!(path.write(there, b"the end."), "{round}");
        path.dma.unmap(large).expect("confirmed");
        most = most.max(blocks() - before);
    }
    assert!((64..=64 + 32).contains(&most), "{most} pages of tables");
    path.core.unbind(&path.device).expect("bound");
    assert!(blocks() < before + 32, "they went with the last lease");
    path.board.assert_clean();
}

/// Bytes that are bounced have their page from those that were bounced before, and the device finds nothing of these.
#[test]
fn bounced_bytes_use_pages_again_in_which_nothing_is_left() {
    let path = Path::new(|description| description.untrusted = true);
    let blocks = || path.board.machine.memory().live_blocks().len();
    let bounce = |bytes: Vec<u8>| {
        path.dma.map(path.dma.bounce(bytes).expect("memory"), Both).expect("mapped")
    };
    let mut warm = None;
    for round in 0..40u8 {
        let secret = bounce(vec![0xa5; 1000 + usize::from(round)]);
        assert!(path.write(secret.device_address() + 3000, b"left by the device"));
        path.dma.unmap(secret).expect("confirmed").into_bytes();
        let short = bounce(vec![round; 4]);
        let mut page = vec![0xff; PAGE as usize];
        assert!(path.read(short.device_address(), &mut page));
        assert_eq!(page[..4], [round; 4]);
        assert!(page[4..].iter().all(|byte| *byte == 0), "nothing of the last one");
        path.dma.unmap(short).expect("confirmed").into_bytes();
        if round >= 20 {
            assert_eq!(*warm.get_or_insert(blocks()), blocks(), "no memory is asked for");
        }
    }
    let before = blocks();
    let many: Vec<_> = (0..100).map(|_| path.dma.bounce(vec![1; 8]).expect("memory")).collect();
    drop(many);
    assert_eq!(blocks(), before + 63, "64 pages are kept");
    path.core.unbind(&path.device).expect("bound");
    assert!(blocks() < before, "and none when the driver is gone");
}
