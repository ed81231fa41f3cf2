//! The allocator against a model with one state a page, and its edges.

use portcullis_addr::{Iova, IovaRange, PageSize};
use portcullis_iova::{
    AllocateError, FreeError, IovaAllocator, IovaRequest, NewError, Placement, ReserveError,
};
use std::collections::BTreeMap;

const PAGE: u64 = 4096;
const GIB: u64 = 1 << 30;

fn range(start: u64, len: u64) -> IovaRange {
    IovaRange::new(Iova::new(start), len).expect("test range")
}

fn pages(first: u64, count: u64) -> IovaRange {
    range(first * PAGE, count * PAGE)
}

/// Pages of 64 bits.
const END: u64 = 1 << 52;

fn allocator(start: u64, len: u64) -> IovaAllocator {
    IovaAllocator::new(PageSize::SIZE_4K, range(start, len)).expect("a page at least")
}

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Page {
    Free,
    Reserved,
    Live,
}

/// One state a page, and the rules of the crate's head read slowly.
struct Model {
    /// Page number of the first state.
    base: u64,
    pages: Vec<Page>,
    live: BTreeMap<u64, u64>,
}

impl Model {
    fn is(&self, first: u64, count: u64, state: Page) -> bool {
        (first..first + count).all(|page| {
            page.checked_sub(self.base)
                .and_then(|index| self.pages.get(usize::try_from(index).ok()?))
                .is_some_and(|found| *found == state)
        })
    }

    fn set(&mut self, first: u64, count: u64, state: Page) {
        let first = usize::try_from(first - self.base).expect("small");
        self.pages[first..first + usize::try_from(count).expect("small")].fill(state);
    }

    /// The highest multiple of `align` where `count` pages up to page `limit` are free.
    fn highest(&self, count: u64, align: u64, limit: u64) -> Option<u64> {
        let end = (self.base + self.pages.len() as u64).min(limit + 1);
        let mut start = end.checked_sub(count)? / align * align;
        loop {
            if start < self.base {
                return None;
            }
            if self.is(start, count, Page::Free) {
                return Some(start);
            }
            start = start.checked_sub(align)?;
        }
    }

    fn allocate(&self, count: u64, align: u64, limit: u64) -> Option<u64> {
        let natural = count.next_power_of_two().max(align);
        let ragged = (1 << count.trailing_zeros()).max(align);
        self.highest(natural, natural, limit).or_else(|| self.highest(count, ragged, limit))
    }
}

struct Run {
    allocator: IovaAllocator,
    model: Model,
    rng: Rng,
    /// Successes and refusals of each kind.
    counts: BTreeMap<&'static str, usize>,
}

impl Run {
    fn new(base: u64, count: u64, seed: u64) -> Self {
        let allocator = allocator(base * PAGE, count * PAGE).with_placement(Placement::Anywhere);
        let states = vec![Page::Free; usize::try_from(count).expect("small")];
        let model = Model { base, pages: states, live: BTreeMap::new() };
        Self { allocator, model, rng: Rng(seed), counts: BTreeMap::new() }
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn length(&mut self) -> u64 {
        let whole = self.model.pages.len() as u64;
        match self.rng.below(10) {
            0 => 1 + self.rng.below(whole),
            1 => 1 << self.rng.below(u64::from(whole.ilog2()) + 1),
            2 | 3 => 1 + self.rng.below(200),
            4..7 => 1 + self.rng.below(12),
            _ => 1,
        }
    }

    fn allocate(&mut self) {
        let count = self.length();
        let align = if self.rng.below(6) == 0 { 1 << self.rng.below(9) } else { 1 };
        let end = self.model.base + self.model.pages.len() as u64;
        let limit = match self.rng.below(4) {
            0 => self.model.base + self.rng.below(self.model.pages.len() as u64),
            _ => end + self.rng.below(5),
        };
        // Any last byte before the next page's end means the same.
        let limit_byte =
            if limit + 1 >= END { u64::MAX } else { (limit + 1) * PAGE - 1 + self.rng.below(PAGE) };
        let request =
            IovaRequest::new(count * PAGE).up_to(Iova::new(limit_byte)).aligned_to(align * PAGE);
        let expected = self.model.allocate(count, align, limit);
        let result = self.allocator.allocate(request);
        match (expected, result) {
            (Some(first), Ok(found)) => {
                assert_eq!(found, pages(first, count), "{count} pages, align {align}, to {limit}");
                self.model.set(first, count, Page::Live);
                self.model.live.insert(first, count);
                self.count("allocated");
            }
            (None, Err(AllocateError::NoSpace { len, .. })) => {
                assert_eq!(len, count * PAGE);
                self.count("no space");
            }
            (expected, result) => panic!("{count} pages: {expected:x?} but {result:?}"),
        }
    }

    fn allocate_at(&mut self) {
        let count = self.length();
        let reach = self.model.pages.len() as u64 + 20;
        let first = (self.model.base + self.rng.below(reach)).saturating_sub(10);
        if first + count > END {
            return;
        }
        let free = self.model.is(first, count, Page::Free);
        let result = self.allocator.allocate_at(pages(first, count));
        if free {
            assert_eq!(result, Ok(()));
            self.model.set(first, count, Page::Live);
            self.model.live.insert(first, count);
            self.count("placed");
        } else {
            let Err(AllocateError::InUse { first: used, .. }) = result else {
                panic!("{result:?}")
            };
            let used = used.raw() / PAGE;
            assert!(used >= first && used < first + count);
            assert!(
                !self.model.is(used, 1, Page::Free)
                    && self.model.is(first, used - first, Page::Free)
            );
            self.count("occupied");
        }
    }

    fn some_live(&mut self) -> Option<(u64, u64)> {
        let from = self.model.base + self.rng.below(self.model.pages.len() as u64);
        let live = &self.model.live;
        live.range(from..).next().or_else(|| live.iter().next()).map(|(a, b)| (*a, *b))
    }

    fn free(&mut self) {
        let Some((first, count)) = self.some_live() else { return };
        assert_eq!(self.allocator.free(pages(first, count)), Ok(()));
        self.model.set(first, count, Page::Free);
        self.model.live.remove(&first);
        let again = pages(first, count);
        assert_eq!(self.allocator.free(again), Err(FreeError::NotAllocated { range: again }));
        self.count("freed");
    }

    /// A free that must be refused, whatever is there.
    fn free_wrongly(&mut self) {
        let Some((first, count)) = self.some_live() else { return };
        let live = pages(first, count);
        for other in [count + 1, count + 64, count.max(2) - 1, count.div_ceil(2)] {
            if first + other > END {
                continue;
            }
            let range = pages(first, other);
            let expected = Err(FreeError::OtherLength { range, live });
            if other != count {
                assert_eq!(self.allocator.free(range), expected);
                self.count("other length");
            }
        }
        let start = first + 1 + self.rng.below(count + 3);
        if start < END && !self.model.live.contains_key(&start) {
            let range = pages(start, 1);
            assert_eq!(self.allocator.free(range), Err(FreeError::NotAllocated { range }));
            self.count("not allocated");
        }
    }

    fn reserve(&mut self) {
        let count = 1 + self.rng.below(6);
        let reach = self.model.pages.len() as u64 + 20;
        let first = (self.model.base + self.rng.below(reach)).saturating_sub(10);
        if first + count >= END {
            return;
        }
        // Not whole pages: all touched ones are reserved.
        let asked = range(first * PAGE + self.rng.below(PAGE), (count - 1) * PAGE + 1);
        let last = asked.last().raw() / PAGE;
        let meets = |(start, count): (&u64, &u64)| *start <= last && first < start + count;
        let in_the_way = self.model.live.iter().find(|range| meets(*range));
        let result = self.allocator.reserve(asked);
        if let Some((start, count)) = in_the_way {
            let live = pages(*start, *count);
            assert_eq!(result, Err(ReserveError::InUse { range: asked, live }));
            self.count("reservation refused");
        } else {
            assert_eq!(result, Ok(()));
            let end = self.model.base + self.model.pages.len() as u64;
            let (from, to) = (first.max(self.model.base), (last + 1).min(end));
            if from < to {
                self.model.set(from, to - from, Page::Reserved);
            }
            self.count("reserved");
        }
    }

    /// Everything that can be listed equals the model.
    fn audit(&self) {
        let live: Vec<_> = self.allocator.live().collect();
        let expected: Vec<_> = self.model.live.iter().map(|(a, b)| pages(*a, *b)).collect();
        assert_eq!(live, expected);
        assert_eq!(self.allocator.live_count(), expected.len());
        let bytes: u64 = expected.iter().map(IovaRange::len).sum();
        assert_eq!(self.allocator.live_bytes(), bytes);
        let mut free = Vec::new();
        let mut page = 0;
        while page < self.model.pages.len() {
            let run = self.model.pages[page..].iter().take_while(|p| **p == Page::Free).count();
            if run > 0 {
                free.push(pages(self.model.base + page as u64, run as u64));
            }
            page += run + 1;
        }
        assert_eq!(self.allocator.free_ranges().collect::<Vec<_>>(), free);
    }

    fn drive(&mut self, steps: usize, reservations: bool) {
        for step in 0..steps {
            match self.rng.below(100) {
                0..46 => self.allocate(),
                46..50 => self.allocate_at(),
                50..53 => self.free_wrongly(),
                53 if reservations && step % 2 == 0 => self.reserve(),
                _ => self.free(),
            }
            if step % 1000 == 0 {
                self.audit();
            }
        }
        self.audit();
    }
}

#[test]
fn random_sequences_equal_the_slow_reading() {
    let mut totals: BTreeMap<&str, usize> = BTreeMap::new();
    // Bases and sizes around the ends of leaves and of inner nodes, low, high and at the very top of 64 bits.
    let apertures = [
        (0, 1),
        (0, 64),
        (1, 63),
        (5, 300),
        (0, 4096),
        (63, 4098),
        (4000, 5000),
        ((1 << 20) - 2000, 4000),
        ((1 << 36) - 777, 777),
        ((1 << 52) - 4500, 4500),
    ];
    for (index, (base, count)) in apertures.into_iter().enumerate() {
        for reservations in [false, true] {
            let seed = 0x10_a110c + index as u64;
            println!("aperture {base:#x}+{count} seed {seed:#x} reservations {reservations}");
            let mut run = Run::new(base, count, seed);
            run.drive(15_000, reservations);
            for (what, times) in &run.counts {
                *totals.entry(what).or_default() += times;
            }
        }
    }
    println!("{totals:?}");
    assert_eq!(totals.len(), 9, "every outcome occurred");
    assert!(totals.values().all(|times| *times > 20));
}

#[test]
fn fragmented_space_is_not_scanned() {
    let mut space = allocator(PAGE, 4 * GIB - PAGE);
    let one = IovaRequest::new(PAGE);
    let live: Vec<_> = (0..200_000).map(|_| space.allocate(one).expect("room")).collect();
    for range in live.iter().step_by(2) {
        space.free(*range).expect("live");
    }
    // 100,000 holes of one page. Each of the longer requests goes below them, at its own alignment.
    for count in [2, 3, 4, 5, 7, 16] {
        let found = space.allocate(IovaRequest::new(count * PAGE)).expect("room below");
        assert!(found.start().is_aligned(count.next_power_of_two() * PAGE));
        assert!(found.last() < live.last().expect("many").start());
        space.free(found).expect("live");
    }
    // The holes are used again from above.
    let first = live.iter().step_by(2).next().expect("many");
    assert_eq!(space.allocate(one), Ok(*first));
}

#[test]
fn low_addresses_first_unless_asked_otherwise() {
    let whole = range(0x10_0000, (1 << 48) - 0x10_0000);
    let request = IovaRequest::new(GIB);
    let mut low = IovaAllocator::new(PageSize::SIZE_4K, whole).expect("room");
    let starts: Vec<u64> =
        (0..5).map(|_| low.allocate(request).expect("room").start().raw() / GIB).collect();
    assert_eq!(starts, [3, 2, 1, (1 << 18) - 1, (1 << 18) - 2], "the first GiB is not whole");
    let high = IovaAllocator::new(PageSize::SIZE_4K, whole).expect("room");
    let mut high = high.with_placement(Placement::Anywhere);
    assert_eq!(high.allocate(request), Ok(range((1 << 48) - GIB, GIB)));
    let masked = request.up_to(Iova::new((1 << 36) - 1));
    assert_eq!(high.allocate(masked), Ok(range((1 << 36) - GIB, GIB)));
    // A mask that ends inside a page does not reach that page.
    let odd = IovaRequest::new(PAGE).up_to(Iova::new(0x20_0fff - 1));
    assert_eq!(high.allocate(odd), Ok(range(0x1f_f000, PAGE)));
    let below = IovaRequest::new(PAGE).up_to(Iova::new(0xffff));
    let refused = AllocateError::NoSpace { len: PAGE, limit: Iova::new(0xffff) };
    assert_eq!(high.allocate(below), Err(refused));
}

/// The rules that iommufd's automatic addresses keep: aligned to the largest power of two that divides the length, never in a reserved range,
/// always in an allowed one; and its clashes between the two.
#[test]
fn automatic_addresses() {
    let mut space = allocator(0, GIB);
    let doorbell = range(0x0800_0000, 0x10_0000);
    space.reserve(doorbell).expect("free");
    let mut live = Vec::new();
    for count in (1..=66).chain([96, 200, 511, 512, 513, 0x4000]) {
        let found = space.allocate(IovaRequest::new(count * PAGE)).expect("room");
        assert!(found.start().is_aligned(PAGE << count.trailing_zeros()), "{count}: {found}");
        assert!(!found.overlaps(&doorbell) && range(0, GIB).covers(&found));
        assert!(live.iter().all(|other: &IovaRange| !other.overlaps(&found)));
        live.push(found);
    }
    let clash = space.reserve(range(live[3].start().raw(), 1));
    assert_eq!(
        clash,
        Err(ReserveError::InUse { range: range(live[3].start().raw(), 1), live: live[3] })
    );
    let placed = space.allocate_at(range(0x07ff_f000, 0x2000));
    assert!(matches!(placed, Err(AllocateError::InUse { first, .. }) if first == doorbell.start()));
    live.into_iter().for_each(|range| space.free(range).expect("live"));
    // The list of free ranges splits in two around a reservation.
    let free: Vec<_> = space.free_ranges().collect();
    let behind = doorbell.last().raw() + 1;
    assert_eq!(free, [range(0, 0x0800_0000), range(behind, GIB - behind)]);
    // Freeing a reserved range, and reserving twice.
    assert_eq!(space.free(doorbell), Err(FreeError::NotAllocated { range: doorbell }));
    assert_eq!(space.reserve(range(0x07f0_0000, 0x20_0000)), Ok(()));
    assert_eq!(space.free_ranges().next(), Some(range(0, 0x07f0_0000)));
}

#[test]
fn the_edges_of_64_bits() {
    let top = u64::MAX - PAGE + 1;
    let mut space = allocator(PAGE, u64::MAX - PAGE + 1).with_placement(Placement::Anywhere);
    assert_eq!(space.allocate(IovaRequest::new(PAGE)), Ok(range(top, PAGE)), "the last page");
    assert_eq!(space.live().collect::<Vec<_>>(), [range(top, PAGE)]);
    let half = space.allocate(IovaRequest::new(1 << 62)).expect("room");
    assert!(half.start().is_aligned(1 << 62));
    // Larger than any aligned hole, so at the highest place where it fits; and larger than what is left.
    let most = IovaRequest::new((1 << 62) + (1 << 61)).aligned_to(PAGE);
    let most = space.allocate(most).expect("ragged");
    assert_eq!(most.last().raw(), half.start().raw() - 1);
    let more = space.allocate(IovaRequest::new(u64::MAX - PAGE + 1));
    assert!(matches!(more, Err(AllocateError::NoSpace { .. })));
    let aligned = space.allocate(IovaRequest::new(PAGE).aligned_to(1 << 63));
    assert!(matches!(aligned, Err(AllocateError::NoSpace { .. })), "{aligned:?}");
    for live in [range(top, PAGE), half, most] {
        space.free(live).expect("live");
    }
    assert_eq!(space.free_ranges().collect::<Vec<_>>(), [range(PAGE, u64::MAX - PAGE + 1)]);
    assert_eq!((space.live_count(), space.live_bytes()), (0, 0));
}

#[test]
fn what_is_no_request_is_refused() {
    let mut space = allocator(0, GIB);
    let granule = PageSize::SIZE_4K;
    for len in [0, 1, PAGE - 1, PAGE + 1, u64::MAX] {
        let refused = space.allocate(IovaRequest::new(len));
        assert_eq!(refused, Err(AllocateError::Length { len, granule }));
    }
    for align in [0, 3, PAGE + 1] {
        let refused = space.allocate(IovaRequest::new(PAGE).aligned_to(align));
        assert_eq!(refused, Err(AllocateError::Align { align }));
    }
    for shift in [31, 40, 63] {
        let request = IovaRequest::new(PAGE).aligned_to(1 << shift);
        let found = space.allocate(request);
        assert_eq!(found.is_ok(), shift == 31, "page 0 has every alignment");
    }
    let unaligned = space.allocate_at(range(1, PAGE));
    assert_eq!(unaligned, Err(AllocateError::Length { len: PAGE, granule }));
    let inside = range(PAGE + 1, PAGE);
    assert_eq!(space.free(inside), Err(FreeError::NotAllocated { range: inside }));
    let tiny = range(1, PAGE);
    let refused = IovaAllocator::new(granule, tiny).expect_err("no whole page");
    assert_eq!(refused, NewError::EmptyAperture { aperture: tiny, granule });
    assert!(IovaAllocator::new(PageSize::SIZE_64K, range(0, u64::MAX)).is_ok());
    // An aperture that begins and ends inside pages holds the whole ones.
    assert_eq!(allocator(1, 3 * PAGE).aperture(), range(PAGE, 2 * PAGE));
    assert!(format!("{:?}", space).contains("live"));
}

#[test]
fn other_granules() {
    for granule in [PageSize::SIZE_16K, PageSize::SIZE_64K] {
        let mut space = IovaAllocator::new(granule, range(0, GIB)).expect("room");
        let unit = granule.bytes();
        let found = space.allocate(IovaRequest::new(3 * unit)).expect("room");
        assert_eq!(found, range(GIB - 4 * unit, 3 * unit));
        assert_eq!(space.granule(), granule);
        // A reservation of one byte takes the whole page.
        space.reserve(range(GIB - unit, 1)).expect("free");
        let next = space.allocate(IovaRequest::new(unit)).expect("room");
        assert_eq!(next, range(GIB - 5 * unit, unit));
    }
}

/// One range that comes and goes takes no memory, and neither does any pattern that was met before.
#[test]
fn the_steady_path_takes_no_memory() {
    let mut space = allocator(PAGE, (1 << 48) - PAGE);
    let mut rng = Rng(7);
    let mut live = Vec::new();
    let mut round = |space: &mut IovaAllocator| {
        for _ in 0..256 {
            let count = 1 + rng.below(64);
            live.push(space.allocate(IovaRequest::new(count * PAGE)).expect("room"));
        }
        for _ in 0..256 {
            let index = usize::try_from(rng.below(live.len() as u64)).expect("small");
            space.free(live.swap_remove(index)).expect("live");
        }
    };
    (0..64).for_each(|_| round(&mut space));
    let before = space.heap_bytes();
    (0..512).for_each(|_| round(&mut space));
    assert_eq!(space.heap_bytes(), before);
    assert_eq!(space.live_count(), 0);
    assert!(before < 256 << 10, "{before} bytes");
}

/// One range that wanders through all of the space leaves no trail of nodes.
#[test]
fn a_wandering_range_leaves_nothing_behind() {
    let mut space = allocator(PAGE, (1 << 48) - PAGE);
    for step in 1..100_000 {
        let place = range((step * 0x9e_3779 % (1 << 30)) << 17, PAGE);
        space.allocate_at(place).expect("free");
        space.free(place).expect("live");
    }
    assert!(space.heap_bytes() < 64 << 10, "{} bytes", space.heap_bytes());
}
