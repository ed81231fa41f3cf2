//! The slabs in front of the tree: against a model, at their limits, with threads, and in every order of their atomic steps.

use portcullis_addr::{Iova, IovaRange, PageSize};
use portcullis_iova::{AllocateError, FreeError, IovaAllocator, IovaRequest, IovaSlabs, Placement};
use portcullis_platform::host::{HostLock, HostPlatform, NoMemory};
use portcullis_platform::{LockLabel, Mutex, Platform};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const CHUNK: u64 = 16 * MIB;

type Host = HostPlatform<NoMemory>;

struct Space {
    platform: Host,
    tree: Mutex<IovaAllocator, HostLock>,
    slabs: IovaSlabs<Host>,
    granule: PageSize,
}

impl Space {
    fn over(tree: IovaAllocator) -> Self {
        let platform = Host::new(Arc::new(NoMemory::default()));
        let slabs = IovaSlabs::new(&platform, &tree).expect("memory");
        let granule = tree.granule();
        Self { platform, tree: Mutex::new(LockLabel::new("tree", 0), tree), slabs, granule }
    }

    fn new(granule: PageSize, start: u64, len: u64) -> Self {
        Self::over(IovaAllocator::new(granule, range(start, len)).expect("memory"))
    }

    fn take(&self, request: IovaRequest) -> Result<IovaRange, AllocateError> {
        self.slabs.allocate(&self.platform, &self.tree, request)
    }

    fn pages(&self, count: u64) -> IovaRange {
        self.take(IovaRequest::new(count * self.granule.bytes())).expect("room")
    }

    fn give(&self, range: IovaRange) -> Result<(), FreeError> {
        self.slabs.free(&self.tree, range)
    }

    /// All live ranges, by slabs and tree together.
    fn live(&self) -> Vec<IovaRange> {
        let tree = self.tree.lock();
        let direct = tree.live().filter(|range| !self.slabs.holds(*range));
        let mut all: Vec<IovaRange> = self.slabs.live().chain(direct).collect();
        all.sort_by_key(IovaRange::start);
        all
    }
}

fn range(start: u64, len: u64) -> IovaRange {
    IovaRange::new(Iova::new(start), len).expect("test range")
}

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// Random ranges of all sizes against a map of what is out: none overlaps another, all are aligned to their size, and every wrong release is refused.
#[test]
fn against_a_map_of_what_is_out() {
    for granule in [PageSize::SIZE_4K, PageSize::SIZE_16K, PageSize::SIZE_64K] {
        let page = granule.bytes();
        let space = Space::new(granule, page, 16 * GIB - page);
        let (mut out, mut rng) = (BTreeMap::<u64, u64>::new(), Rng(granule.bytes()));
        let mut refused = 0;
        for step in 0..20_000 {
            let key = out.range(rng.below(4 * GIB)..).next().map(|(start, len)| (*start, *len));
            match (rng.below(8), key) {
                (0..4, _) => {
                    let most = [1, 4, 32, 512, 1500][rng.below(5) as usize];
                    let found = space.pages(1 + rng.below(most));
                    let (start, len) = (found.start().raw(), found.len());
                    assert_eq!(start % (len / page).next_power_of_two() % page, 0);
                    let aligned = start % len.next_power_of_two() == 0 || len >= GIB;
                    assert!(aligned, "{found} is not aligned to its size");
                    let before = out.range(..start + len).next_back();
                    assert!(before.is_none_or(|(s, l)| s + l <= start), "{found} is out twice");
                    out.insert(start, len);
                }
                (4..7, Some((start, len))) => {
                    assert_eq!(space.give(range(start, len)), Ok(()));
                    let again = Err(FreeError::NotAllocated { range: range(start, len) });
                    assert_eq!(space.give(range(start, len)), again, "given back twice");
                    out.remove(&start);
                }
                (_, Some((start, len))) => {
                    let live = range(start, len);
                    let longer = range(start, len + page);
                    let other = FreeError::OtherLength { range: longer, live };
                    assert_eq!(space.give(longer), Err(other));
                    let inside = range(start + page, page);
                    if len > page && !out.contains_key(&(start + page)) {
                        let unknown = FreeError::NotAllocated { range: inside };
                        assert_eq!(space.give(inside), Err(unknown));
                    }
                    let ragged = range(start + 1, len);
                    assert!(space.give(ragged).is_err());
                    refused += 1;
                }
                _ => {}
            }
            if step % 4000 == 0 {
                let expected: Vec<_> = out.iter().map(|(s, l)| range(*s, *l)).collect();
                assert_eq!(space.live(), expected);
            }
        }
        assert!(refused > 1000, "{refused}");
        for (start, len) in out {
            assert_eq!(space.give(range(start, len)), Ok(()));
        }
        assert_eq!(space.live(), []);
        space.slabs.shrink(&space.tree);
        assert_eq!(space.tree.lock().live_count(), 0, "every chunk went back");
    }
}

/// What a request asks for beyond a length is honoured, also where slabs have ranges that are nearly right.
#[test]
fn limits_alignments_and_placement_are_honoured() {
    let space = Space::new(PageSize::SIZE_4K, PAGE, (1 << 40) - PAGE);
    let one = space.pages(1);
    assert!(one.last().raw() < 4 * GIB, "low first");
    let limit = Iova::new(64 * MIB - 1);
    let below = space.take(IovaRequest::new(PAGE).up_to(limit)).expect("room");
    assert!(below.last() <= limit);
    let at_32_bits = IovaRequest::new(PAGE).up_to(Iova::new(0xffff_ffff));
    let near = space.take(at_32_bits).expect("room");
    assert_eq!(near.start().raw() / CHUNK, one.start().raw() / CHUNK, "the same slab serves it");
    let wide = space.take(IovaRequest::new(PAGE).aligned_to(MIB)).expect("room");
    assert!(wide.start().is_aligned(MIB));
    let odd = space.take(IovaRequest::new(PAGE).aligned_to(3));
    assert_eq!(odd, Err(AllocateError::Align { align: 3 }));
    for len in [0, 1, PAGE + 1] {
        let refused = space.take(IovaRequest::new(len));
        assert_eq!(refused, Err(AllocateError::Length { len, granule: PageSize::SIZE_4K }));
    }
    for range in [one, below, near, wide] {
        assert_eq!(space.give(range), Ok(()));
    }
    // Whoever wants high addresses gets them.
    let tree = IovaAllocator::new(PageSize::SIZE_4K, range(0, 1 << 40)).expect("memory");
    let space = Space::over(tree.with_placement(Placement::Anywhere));
    assert!(space.pages(1).start().raw() > 1 << 39);
    // A small window has no room for slabs, and one far up has.
    let space = Space::new(PageSize::SIZE_4K, 4 * MIB, GIB - 4 * MIB);
    let small = space.pages(1);
    assert_eq!((space.slabs.live().count(), space.live()), (0, vec![small]));
    let space = Space::new(PageSize::SIZE_4K, 1 << 40, 1 << 40);
    let high = space.pages(1);
    assert_eq!(space.slabs.live().collect::<Vec<_>>(), [high]);
    assert_eq!(space.give(high), Ok(()));
}

/// Every page of a window can be handed out, and what stood empty in slabs serves any other request when the tree has no more.
#[test]
fn exhaustion_and_back() {
    let space = Space::new(PageSize::SIZE_64K, 0, 2 * GIB);
    let page = PageSize::SIZE_64K.bytes();
    let fill = |count: u64| {
        let taken = std::iter::from_fn(|| space.take(IovaRequest::new(count * page)).ok());
        taken.collect::<Vec<_>>()
    };
    for count in [1, 2, 3, 32] {
        let taken = fill(count);
        let whole = 2 * GIB / (count.next_power_of_two() * page);
        assert!(taken.len() as u64 >= whole, "{count}: {} of {whole}", taken.len());
        let refused = space.take(IovaRequest::new(count * page));
        assert!(matches!(refused, Err(AllocateError::NoSpace { .. })), "{refused:?}");
        taken.into_iter().for_each(|range| assert_eq!(space.give(range), Ok(())));
    }
    assert_eq!(space.live(), []);
    // One piece of everything: no chunk is left over.
    let all = space.take(IovaRequest::new(2 * GIB)).expect("empty chunks go back to the tree");
    assert_eq!(space.give(all), Ok(()));
    // The same addresses for slabs of another size.
    let taken = fill(4);
    assert_eq!(taken.len() as u64, 2 * GIB / (4 * page));
    taken.into_iter().for_each(|range| assert_eq!(space.give(range), Ok(())));
}

/// The stated memory a live range, where a size has a few hundred.
#[test]
fn memory_a_live_range() {
    for (pages, live) in [(1, 4096), (2, 2048), (5, 512), (32, 512), (300, 256)] {
        let space = Space::new(PageSize::SIZE_4K, PAGE, (1 << 36) - PAGE);
        let idle = space.slabs.heap_bytes();
        assert!(idle <= 2048 + 128 * 16, "{idle} bytes before the first range");
        let ranges: Vec<_> = (0..live).map(|_| space.pages(pages)).collect();
        let bytes = space.slabs.heap_bytes() - idle;
        println!("{pages} pages: {} bytes a live range", bytes as f64 / live as f64);
        let bound = if pages <= 2 { 2 * live } else { 16 * live };
        assert!(bytes <= bound, "{pages} pages: {bytes} bytes for {live} ranges");
        drop(ranges);
    }
}

/// Slabs that were left are found again when ranges come back to them: with many ranges replaced at random, chunks hold few more addresses than are out.
#[test]
fn addresses_held_beyond_what_is_out() {
    for (pages, live) in [(1, 40_000), (8, 6000), (512, 200)] {
        let space = Space::new(PageSize::SIZE_4K, PAGE, (1 << 36) - PAGE);
        let mut rng = Rng(pages);
        let mut out: Vec<_> = (0..live).map(|_| space.pages(pages)).collect();
        for _ in 0..4 * live {
            let index = rng.below(live) as usize;
            assert_eq!(space.give(out[index]), Ok(()));
            out[index] = space.pages(pages);
        }
        let held = space.tree.lock().live_bytes();
        let needed = live * pages * PAGE;
        println!("{pages} pages: {:.2} times what is out", held as f64 / needed as f64);
        // A slab is worth taking from when a quarter of it is free, half of a small one.
        let bound = if pages == 512 { needed * 2 } else { needed * 4 / 3 + 2 * CHUNK };
        assert!(held <= bound, "{pages} pages: {held} bytes held for {needed}");
    }
}

/// Threads that take, pass on and give back: nobody ever holds what another holds.
#[test]
fn threads_share_nothing_that_is_out() {
    let space = Space::new(PageSize::SIZE_4K, PAGE, (1 << 36) - PAGE);
    let owners: Vec<AtomicU64> = (0..4 * GIB / PAGE).map(|_| AtomicU64::new(0)).collect();
    let pages = |range: IovaRange| {
        let first = (range.start().raw() / PAGE) as usize;
        &owners[first..first + (range.len() / PAGE) as usize]
    };
    let (sender, receiver) = std::sync::mpsc::channel::<IovaRange>();
    let receiver = std::sync::Mutex::new(receiver);
    std::thread::scope(|scope| {
        for thread in 1..=3 {
            let (space, pages, receiver, sender) = (&space, &pages, &receiver, sender.clone());
            scope.spawn(move || {
                let (mut rng, mut held) = (Rng(thread), Vec::new());
                let give = |range: IovaRange| {
                    pages(range).iter().for_each(|owner| owner.store(0, Ordering::SeqCst));
                    assert_eq!(space.give(range), Ok(()));
                };
                for _ in 0..20_000 {
                    if held.len() < 40 {
                        let range = space.pages([1, 1, 2, 7, 64][rng.below(5) as usize]);
                        for owner in pages(range) {
                            let before = owner.swap(thread, Ordering::SeqCst);
                            assert_eq!(before, 0, "{range} was out already");
                        }
                        held.push(range);
                    } else {
                        let range = held.swap_remove(rng.below(40) as usize);
                        if rng.below(4) == 0 {
                            sender.send(range).expect("the receiver stays");
                        } else {
                            give(range);
                        }
                    }
                    let passed = receiver.lock().expect("no panic").try_recv();
                    passed.into_iter().for_each(give);
                }
                held.into_iter().for_each(give);
            });
        }
    });
    let rest: Vec<_> = receiver.lock().expect("no panic").try_iter().collect();
    rest.into_iter().for_each(|range| assert_eq!(space.give(range), Ok(())));
    assert_eq!(space.live(), []);
}

/// Every order of the atomic steps.
mod explored {
    use super::*;
    use portcullis_platform::Threads as _;
    use portcullis_platform::host::{HostClock, HostMemory};
    use portcullis_threads::{
        Budget, Explorer, LabAtomic, LabEvent, LabIrqLock, LabLock, LabThreads, Report, World,
    };

    /// A platform of the explorer; `BREAK` leaves the one instruction that takes a range in two.
    #[derive(Debug)]
    struct Lab<const BREAK: bool> {
        memory: Arc<HostMemory>,
        clock: HostClock,
    }

    impl<const BREAK: bool> Platform for Lab<BREAK> {
        type Lock = LabLock;
        type IrqLock = LabIrqLock;
        type Event = LabEvent;
        type Atomic = LabAtomic;
        type Memory = HostMemory;
        type Clock = HostClock;
        fn memory(&self) -> &Arc<HostMemory> {
            &self.memory
        }
        fn clock(&self) -> &HostClock {
            &self.clock
        }
        fn thread(&self) -> usize {
            LabThreads::thread()
        }
        fn omits(safeguard: &'static str) -> bool {
            BREAK && safeguard == "take-in-one-step"
        }
    }

    struct Stand<const BREAK: bool> {
        platform: Lab<BREAK>,
        tree: Mutex<IovaAllocator, LabLock>,
        slabs: IovaSlabs<Lab<BREAK>>,
    }

    impl<const BREAK: bool> Stand<BREAK> {
        fn new() -> Arc<Self> {
            let platform = Lab { memory: Arc::default(), clock: HostClock::start() };
            // The largest ranges: a slab of 64 KiB pages has 8 of 32 pages.
            let tree = IovaAllocator::new(PageSize::SIZE_64K, range(0, 2 * GIB)).expect("memory");
            let slabs = IovaSlabs::new(&platform, &tree).expect("memory");
            let tree = Mutex::new(LockLabel::new("tree", 0), tree);
            let stand = Arc::new(Self { platform, tree, slabs });
            // Warm: the chunk is there.
            let first = stand.take();
            stand.give(first).expect("just taken");
            stand
        }

        fn take(&self) -> IovaRange {
            let request = IovaRequest::new(32 << 16);
            self.slabs.allocate(&self.platform, &self.tree, request).expect("room")
        }

        fn give(&self, range: IovaRange) -> Result<(), FreeError> {
            self.slabs.free(&self.tree, range)
        }
    }

    fn run(world: impl Fn(&mut World) + Sync) -> Report {
        Explorer::new(Budget::default()).run(world)
    }

    /// Two threads take at the same time: never the same range.
    fn two_take<const BREAK: bool>() -> Report {
        run(|w| {
            let stand = Stand::<BREAK>::new();
            let out = Arc::new(std::sync::Mutex::new(Vec::new()));
            for name in ["P1", "P2"] {
                let (stand, out) = (Arc::clone(&stand), Arc::clone(&out));
                w.thread(name, move || {
                    let range = stand.take();
                    let mut out = out.lock().expect("no panic");
                    assert!(!out.contains(&range), "one range handed out twice");
                    out.push(range);
                    drop(out);
                });
            }
        })
    }

    #[test]
    fn no_range_is_handed_out_twice() {
        let report = two_take::<false>();
        assert!(report.exhaustive && report.is_clean(), "{report}");
    }

    #[test]
    fn a_take_in_two_instructions_is_found() {
        let report = two_take::<true>();
        assert!(!report.is_clean(), "{report}");
        assert!(report.to_string().contains("handed out twice"), "{report}");
    }

    /// Two threads give the same range back: exactly one is told that it was its own.
    #[test]
    fn a_double_release_is_told_to_one() {
        let report = run(|w| {
            let stand = Stand::<false>::new();
            let range = stand.take();
            let answers = Arc::new(std::sync::Mutex::new(Vec::new()));
            for name in ["P1", "P2"] {
                let (stand, answers) = (Arc::clone(&stand), Arc::clone(&answers));
                w.thread(name, move || {
                    let answer = stand.give(range).is_ok();
                    let mut answers = answers.lock().expect("no panic");
                    answers.push(answer);
                    assert!(answers.len() < 2 || answers[0] != answers[1], "both or none");
                    drop(answers);
                });
            }
        });
        assert!(report.exhaustive && report.is_clean(), "{report}");
    }

    /// The chunk goes back to the tree while a thread takes from it: it has the range or gets another, never one that the tree has too.
    #[test]
    fn a_chunk_does_not_go_under_a_taker() {
        let report = run(|w| {
            let stand = Stand::<false>::new();
            let (taker, shrinker) = (Arc::clone(&stand), stand);
            w.thread("P1", move || {
                let range = taker.take();
                assert_eq!(taker.slabs.live().filter(|live| *live == range).count(), 1);
                assert_eq!(taker.give(range), Ok(()));
            });
            w.thread("P2", move || {
                shrinker.slabs.shrink(&shrinker.tree);
            });
        });
        assert!(report.exhaustive && report.is_clean(), "{report}");
    }
}
