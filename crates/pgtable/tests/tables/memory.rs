//! Memory that punishes: it fails allocations on request, poisons freed pages, keeps apart what CPUs see from what a walker without snooping sees,
//! and watches every store for a change that hardware could read as a mixture.
#![expect(
    unsafe_code,
    reason = "DmaMemory's obligations are promised here; no line needs more than the word"
)]

use portcullis_addr::PhysAddr;
use portcullis_pgtable::Format;
use portcullis_platform::{AllocError, Coherency, DmaMemory, PageLayout};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// Low enough for 32 output bits, and not 0.
const BASE: u64 = 0x100_0000;
const BYTES: usize = 16 << 20;
/// What a page holds before it was published and after it was freed: valid entries that lead nowhere.
const POISON: u64 = u64::MAX;

type LoadWatcher = Box<dyn Fn(&TestMemory, PhysAddr, u64) + Send + Sync>;
type Watcher = Box<dyn Fn(&TestMemory, PhysAddr, u64, u64) + Send + Sync>;

pub(crate) struct TestMemory {
    base: u64,
    words: Box<[AtomicU64]>,
    published: Box<[AtomicU64]>,
    live: Box<[AtomicBool]>,
    /// Pages of tables to which only an entry leads that is not present: hardware cannot reach them.
    hidden: Box<[AtomicBool]>,
    pool: Mutex<Pool>,
    /// Allocations that still succeed.
    allowed: AtomicUsize,
    pub(crate) allocations: AtomicUsize,
    pub(crate) publishes: AtomicUsize,
    watcher: OnceLock<Watcher>,
    load_watcher: OnceLock<LoadWatcher>,
    /// The bit that the engine may flip in a valid entry: hardware ignores it.
    software: AtomicU64,
    /// Whether a valid entry that becomes another valid one is a failure.
    strict: AtomicBool,
    /// Whether a publication of more than one line loses its last one.
    loses_lines: AtomicBool,
    /// Whether runs are left as they are that should be cleared.
    loses_clears: AtomicBool,
}

#[derive(Default)]
struct Pool {
    next: usize,
    free: BTreeMap<(usize, usize), Vec<PhysAddr>>,
    live: usize,
    /// Bytes of what is allocated, by address.
    sizes: BTreeMap<u64, usize>,
}

/// The table to which `entry` leads the engine and not hardware: not present in any format, and marked by one of two bits (`engine/idle.rs`).
fn hidden_table(entry: u64) -> Option<u64> {
    (entry & 0b111 == 0 && matches!(entry & 0xfff, 0x400 | 0x800)).then_some(entry & !0xfff)
}

impl TestMemory {
    pub(crate) fn new() -> Arc<Self> {
        Self::at(BASE)
    }

    /// A memory that does not mind a valid entry that becomes another valid one: for threads that keep no rules.
    pub(crate) fn unwatched() -> Arc<Self> {
        Self::made(BASE, false)
    }

    /// A memory that begins at physical address `base`.
    pub(crate) fn at(base: u64) -> Arc<Self> {
        Self::made(base, true)
    }

    fn made(base: u64, strict: bool) -> Arc<Self> {
        let words = |value| (0..BYTES / 8).map(|_| AtomicU64::new(value)).collect();
        let flags = || (0..BYTES / 4096).map(|_| AtomicBool::new(false)).collect();
        Arc::new(Self {
            base,
            words: words(0),
            published: words(POISON),
            live: flags(),
            hidden: flags(),
            pool: Mutex::new(Pool::default()),
            allowed: AtomicUsize::new(usize::MAX),
            allocations: AtomicUsize::new(0),
            publishes: AtomicUsize::new(0),
            watcher: OnceLock::new(),
            load_watcher: OnceLock::new(),
            software: AtomicU64::new(portcullis_pgtable::ArmLpaeStage1::SOFTWARE_BIT),
            strict: AtomicBool::new(strict),
            loses_lines: AtomicBool::new(false),
            loses_clears: AtomicBool::new(false),
        })
    }

    /// For tables of another format than Arm's.
    pub(crate) fn set_software_bit(&self, bit: u64) {
        self.software.store(bit, Ordering::Relaxed);
    }

    /// Allows a valid entry to become another valid one.
    pub(crate) fn allow_rewrites(&self, allow: bool) {
        self.strict.store(!allow, Ordering::Relaxed);
    }

    /// The planted bug of cache maintenance: the last line of a longer range is forgotten.
    pub(crate) fn lose_lines(&self) {
        self.loses_lines.store(true, Ordering::Relaxed);
    }

    /// The planted bug of emptying: runs stay as they are.
    pub(crate) fn lose_clears(&self, lose: bool) {
        self.loses_clears.store(lose, Ordering::Relaxed);
    }

    /// Lets `count` more allocations succeed.
    pub(crate) fn allow(&self, count: usize) {
        self.allowed.store(count, Ordering::SeqCst);
    }

    /// Allocations that were not freed.
    pub(crate) fn live(&self) -> usize {
        self.pool.lock().expect("pool").live
    }

    /// Calls `watcher` with address, old and new value after every store.
    pub(crate) fn watch(
        &self,
        watcher: impl Fn(&TestMemory, PhysAddr, u64, u64) + Send + Sync + 'static,
    ) {
        assert!(self.watcher.set(Box::new(watcher)).is_ok(), "one watcher a memory");
    }

    /// Calls `watcher` with address and value after every load.
    pub(crate) fn watch_loads(
        &self,
        watcher: impl Fn(&TestMemory, PhysAddr, u64) + Send + Sync + 'static,
    ) {
        assert!(self.load_watcher.set(Box::new(watcher)).is_ok(), "one watcher a memory");
    }

    /// The word as a CPU (or a walker that snoops) reads it, also in freed pages.
    pub(crate) fn snooped(&self, address: u64) -> u64 {
        self.words[self.index(PhysAddr::new(address))].load(Ordering::SeqCst)
    }

    /// The word as a walker reads it that sees published stores only.
    pub(crate) fn published(&self, address: u64) -> u64 {
        self.published[self.index(PhysAddr::new(address))].load(Ordering::SeqCst)
    }

    fn index(&self, address: PhysAddr) -> usize {
        assert!(address.is_aligned(8), "{address} is not a multiple of 8");
        let offset = address.checked_sub(self.base).expect("below the memory").raw() as usize;
        assert!(offset < BYTES, "{address} is above the memory");
        offset / 8
    }

    fn checked(&self, address: PhysAddr) -> usize {
        let index = self.index(address);
        assert!(self.live[index / 512].load(Ordering::SeqCst), "{address} was freed");
        index
    }

    fn pages(&self, address: PhysAddr, layout: PageLayout) -> std::ops::Range<usize> {
        let first = self.index(address) / 512;
        first..first + layout.size().div_ceil(4096)
    }

    fn hide(&self, table: u64, hide: bool) {
        let first = self.index(PhysAddr::new(table)) / 512;
        let bytes = *self.pool.lock().expect("pool").sizes.get(&table).expect("a table");
        let pages = &self.hidden[first..first + bytes.div_ceil(4096)];
        pages.iter().for_each(|page| page.store(hide, Ordering::Relaxed));
    }

    fn stored(&self, address: PhysAddr, old: u64, new: u64) {
        for (entry, hide) in [(old, false), (new, true)] {
            hidden_table(entry).into_iter().for_each(|table| self.hide(table, hide));
        }
        let page = self.index(address) / 512;
        let reachable = !self.hidden[page].load(Ordering::Relaxed);
        // Valid in any format: see `hidden_table`.
        let both_valid = reachable && old & 0b111 != 0 && new & 0b111 != 0;
        let software = self.software.load(Ordering::Relaxed);
        assert!(
            !self.strict.load(Ordering::Relaxed) || !both_valid || (old ^ new) & !software == 0,
            "{address}: {old:#x} became {new:#x} without a not-present entry between"
        );
        if let Some(watcher) = self.watcher.get() {
            watcher(self, address, old, new);
        }
    }
}

// SAFETY: all words live in atomics of its own, reached through an index that is checked; the pool gives no page out twice.
unsafe impl DmaMemory for TestMemory {
    fn allocate(&self, layout: PageLayout) -> Result<PhysAddr, AllocError> {
        let one_less = |left: usize| match left {
            usize::MAX => Some(left),
            left => left.checked_sub(1),
        };
        self.allowed
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less)
            .map_err(|_| AllocError { layout })?;
        self.allocations.fetch_add(1, Ordering::SeqCst);
        let mut pool = self.pool.lock().expect("pool");
        let reused = pool.free.entry((layout.size(), layout.align())).or_default().pop();
        let address = match reused {
            Some(address) => address,
            None => {
                let start = pool.next.next_multiple_of(layout.align().max(4096));
                let fits = layout.fits(PhysAddr::new(self.base + start as u64));
                if start + layout.size() > BYTES || !fits {
                    return Err(AllocError { layout });
                }
                pool.next = (start + layout.size()).next_multiple_of(4096);
                PhysAddr::new(self.base + start as u64)
            }
        };
        pool.live += 1;
        pool.sizes.insert(address.raw(), layout.size());
        let first = self.index(address);
        for word in &self.words[first..first + layout.size() / 8] {
            word.store(0, Ordering::SeqCst);
        }
        for page in self.pages(address, layout) {
            assert!(!self.live[page].swap(true, Ordering::SeqCst), "{address} handed out twice");
        }
        Ok(address)
    }

    fn free(&self, address: PhysAddr, layout: PageLayout) {
        let mut pool = self.pool.lock().expect("pool");
        for page in self.pages(address, layout) {
            assert!(self.live[page].swap(false, Ordering::SeqCst), "{address} freed twice");
            self.hidden[page].store(false, Ordering::Relaxed);
        }
        let first = self.index(address);
        for index in first..first + layout.size() / 8 {
            self.words[index].store(POISON, Ordering::SeqCst);
            self.published[index].store(POISON, Ordering::SeqCst);
        }
        pool.live -= 1;
        pool.free.entry((layout.size(), layout.align())).or_default().push(address);
    }

    fn load64(&self, address: PhysAddr) -> u64 {
        let value = self.words[self.checked(address)].load(Ordering::Acquire);
        if let Some(watcher) = self.load_watcher.get() {
            watcher(self, address, value);
        }
        value
    }

    fn store64(&self, address: PhysAddr, value: u64) {
        let old = self.words[self.checked(address)].swap(value, Ordering::AcqRel);
        self.stored(address, old, value);
    }

    fn compare_exchange64(&self, address: PhysAddr, old: u64, new: u64) -> Result<(), u64> {
        let word = &self.words[self.checked(address)];
        word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)?;
        self.stored(address, old, new);
        Ok(())
    }

    fn publish(&self, address: PhysAddr, len: usize, _: Coherency) {
        self.publishes.fetch_add(1, Ordering::SeqCst);
        let first = self.checked(address);
        let lost = if self.loses_lines.load(Ordering::Relaxed) && len > 64 { 64 } else { 0 };
        for index in first..first + (len - lost) / 8 {
            let value = self.words[index].load(Ordering::SeqCst);
            self.published[index].store(value, Ordering::SeqCst);
        }
    }

    fn refresh(&self, _: PhysAddr, _: usize, _: Coherency) {}

    fn clear(&self, address: PhysAddr, words: usize) {
        if !self.loses_clears.load(Ordering::Relaxed) {
            self.fill(address, words, 0, 0);
        }
    }
}

impl fmt::Debug for TestMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TestMemory({} live)", self.live())
    }
}
