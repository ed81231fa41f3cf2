//! Workloads I1 to I6 on address allocators, in a 32-bit space of 4 KiB pages.

use crate::clock::{time, wall_time};
use crate::random::Random;
use portcullis_addr::{Iova, IovaRange, PageSize};
use portcullis_iova::{IovaAllocator, IovaRequest, IovaSlabs};
use portcullis_platform::host::{HostLock, HostPlatform, NoMemory};
use portcullis_platform::{LockLabel, Mutex as HostMutex};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

/// Pages of the space.
pub const PAGES: u64 = 1 << 20;

/// A contestant.
pub trait Space {
    /// What says which range is given back.
    type Handle: Copy;
    /// Takes `pages` pages.
    fn allocate(&mut self, pages: u64) -> Self::Handle;
    /// Gives them back.
    fn free(&mut self, handle: Self::Handle);
}

/// Ours without slabs and without a lock.
#[derive(Debug)]
pub struct Tree(IovaAllocator);

impl Tree {
    /// An empty space.
    ///
    /// # Panics
    ///
    /// Without memory.
    pub fn new() -> Self {
        let aperture = IovaRange::new(Iova::new(4096), (PAGES - 1) * 4096).expect("not empty");
        Self(IovaAllocator::new(PageSize::SIZE_4K, aperture).expect("memory"))
    }
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Space for Tree {
    type Handle = IovaRange;

    #[inline(never)]
    fn allocate(&mut self, pages: u64) -> IovaRange {
        self.0.allocate(IovaRequest::new(pages * 4096)).expect("room")
    }

    #[inline(never)]
    fn free(&mut self, handle: IovaRange) {
        self.0.free(handle).expect("live");
    }
}

type Host = HostPlatform<NoMemory>;

struct Shared {
    platform: Host,
    tree: HostMutex<IovaAllocator, HostLock>,
    slabs: IovaSlabs<Host>,
}

/// Ours as several threads use it: slabs in front of the tree in its lock.
#[derive(Clone)]
pub struct Slabs(Arc<Shared>);

impl Slabs {
    /// An empty space.
    ///
    /// # Panics
    ///
    /// Without memory.
    pub fn new() -> Self {
        let platform = Host::new(Arc::default());
        let Tree(tree) = Tree::new();
        let slabs = IovaSlabs::new(&platform, &tree).expect("memory");
        let tree = HostMutex::new(LockLabel::new("tree", 0), tree);
        Self(Arc::new(Shared { platform, tree, slabs }))
    }
}

impl Default for Slabs {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Slabs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.slabs.fmt(f)
    }
}

impl Space for Slabs {
    type Handle = IovaRange;

    #[inline(never)]
    fn allocate(&mut self, pages: u64) -> IovaRange {
        let Shared { platform, tree, slabs } = &*self.0;
        slabs.allocate(platform, tree, IovaRequest::new(pages * 4096)).expect("room")
    }

    #[inline(never)]
    fn free(&mut self, handle: IovaRange) {
        self.0.slabs.free(&self.0.tree, handle).expect("live");
    }
}

/// Any of them behind a lock, as a subsystem with several CPUs would have to use it.
#[derive(Debug)]
pub struct Locked<S>(pub HostMutex<S, HostLock>);

impl<S> Locked<S> {
    /// `space` behind the platform's lock.
    pub fn new(space: S) -> Self {
        Self(HostMutex::new(LockLabel::new("space", 0), space))
    }
}

impl<S: Space> Space for Locked<S> {
    type Handle = S::Handle;

    fn allocate(&mut self, pages: u64) -> S::Handle {
        self.0.lock().allocate(pages)
    }

    fn free(&mut self, handle: S::Handle) {
        self.0.lock().free(handle);
    }
}

/// Keeps `live` ranges and replaces one of them by another at each step; nanoseconds a step.
fn replace<S: Space>(
    mut space: S,
    live: usize,
    steps: usize,
    size: impl Fn(&mut Random) -> u64,
) -> f64 {
    let mut random = Random(5);
    let mut held: Vec<S::Handle> = (0..live).map(|_| space.allocate(size(&mut random))).collect();
    let plan: Vec<(usize, u64)> =
        (0..steps).map(|_| (random.below(live as u64) as usize, size(&mut random))).collect();
    time(steps, || {
        for (index, pages) in plan {
            space.free(held[index]);
            held[index] = space.allocate(pages);
        }
    })
}

/// I1: one page, freed at once; nanoseconds a pair.
pub fn one_page<S: Space>(mut space: S, pairs: usize) -> f64 {
    time(pairs, || {
        for _ in 0..pairs {
            let handle = space.allocate(1);
            space.free(handle);
        }
    })
}

/// Workload I1 to I5 by its number, `steps` steps, in nanoseconds a step: I2 256 live pages; I3 1024 live ranges of 1, 2, 4 to 32 pages; I4 1024 live of any length to 32; I5 256 live of
/// 64 to 512 pages.
///
/// # Panics
///
/// On other numbers.
pub fn mixed<S: Space>(number: u8, space: S, steps: usize) -> f64 {
    let sizes = [1, 2, 4, 8, 16, 32];
    match number {
        1 => one_page(space, steps),
        2 => replace(space, 256, steps, |_| 1),
        3 => replace(space, 1024, steps, |random| sizes[random.below(6) as usize]),
        4 => replace(space, 1024, steps, |random| 1 + random.below(32)),
        5 => replace(space, 256, steps, |random| 64 + random.below(449)),
        other => panic!("no workload I{other}: I1 to I5"),
    }
}

/// I6: 100,000 one-page holes; mean and worst wall time, in nanoseconds, of an allocation of two pages among them. Two looks at the clock are in it. All runs do the same, and of each
/// of the 2,000 allocations the best of `runs` counts: the worst of these is the allocator's own, not an interrupt's.
pub fn fragmented<S: Space>(make: impl Fn() -> S, runs: usize) -> (f64, f64) {
    let mut best = vec![f64::MAX; 2000];
    for _ in 0..runs {
        let times = one_fragmented(make(), best.len());
        best.iter_mut().zip(times).for_each(|(best, time)| *best = best.min(time));
    }
    (best.iter().sum::<f64>() / best.len() as f64, best.iter().copied().fold(0.0, f64::max))
}

fn one_fragmented<S: Space>(mut space: S, steps: usize) -> Vec<f64> {
    let mut held: Vec<S::Handle> = (0..200_000).map(|_| space.allocate(1)).collect();
    for index in (0..held.len()).step_by(2) {
        space.free(held[index]);
    }
    let mut random = Random(9);
    let step = |_| {
        let index = random.below(100_000) as usize * 2 + 1;
        space.free(held[index]);
        let start = Instant::now();
        let pair = space.allocate(2);
        let took = start.elapsed().as_nanos() as f64;
        space.free(pair);
        held[index] = space.allocate(1);
        took
    };
    (0..steps).map(step).collect()
}

/// One page taken and given back through slabs, by one thread and by two at the same time: wall nanoseconds a pair in total, best of `rounds`.
pub fn two_threads(rounds: usize) -> (f64, f64) {
    const PAIRS: usize = 200_000;
    let (mut alone, mut together) = (f64::MAX, f64::MAX);
    let (own, work) = (|space| space, |space: &mut Slabs| _ = one_page(space.clone(), PAIRS));
    for _ in 0..rounds {
        let space = Slabs::new();
        alone = alone.min(wall_time(vec![space.clone()], own, work) / PAIRS as f64);
        let both = wall_time(vec![space.clone(), space], own, work);
        together = together.min(both / (2 * PAIRS) as f64);
    }
    (alone, together)
}

/// The unit of cost: an uncontended lock and unlock of the platform's lock, in nanoseconds.
pub fn lock_pair() -> f64 {
    let (lock, pairs) = (HostMutex::<u64, HostLock>::new(LockLabel::new("floor", 0), 0), 1 << 18);
    time(pairs, || (0..pairs).for_each(|_| *lock.lock() += 1))
}
