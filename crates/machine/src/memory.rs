//! Physical memory: sparse, shared by CPUs, IOMMUs and devices, and suspicious of all three.

use crate::allocator::{Allocator, Block, FreeError, PAGE_SHIFT};
use crate::oracle::{AccessKind, Agent, Oracle, Violation};
use portcullis_addr::PhysAddr;
use portcullis_platform::{AllocError, DmaMemory, PageLayout};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// What freed memory is filled with. As a table entry it is valid and points nowhere, so whoever still walks it is noticed.
pub const POISON: u64 = 0x6b6b_6b6b_6b6b_6b6b;

const REGION_SHIFT: u32 = 21;
const CHUNK_SHIFT: u32 = 14;
const CHUNK_WORDS: usize = 1 << (CHUNK_SHIFT - 3);
const CHUNKS: usize = 1 << (REGION_SHIFT - CHUNK_SHIFT);
const CHUNK_PAGES: usize = 1 << (CHUNK_SHIFT - PAGE_SHIFT);

/// Which of the two pictures of memory an agent sees. They differ only on a machine where some IOMMU does not snoop the caches, or where stores are
/// made late ([`StoreOrder`](crate::StoreOrder)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// What the CPUs' loads return: the last store.
    Cpu,
    /// What is at the point of coherency: the last store that was published.
    Published,
}

/// Nothing answers at the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BusAbort;

/// The published picture of a chunk, and which of its words the CPU has stored since.
#[derive(Debug)]
struct Shadow {
    words: Box<[AtomicU64]>,
    dirty: Box<[AtomicU64]>,
    listed: AtomicBool,
}

#[derive(Debug)]
struct Chunk {
    words: Box<[AtomicU64]>,
    shadow: OnceLock<Shadow>,
    /// Per page: 0 never allocated, else `epoch << 1 | live`, the epoch of the last allocation or free.
    pages: [AtomicU64; CHUNK_PAGES],
}

type Region = Box<[OnceLock<Chunk>]>;

/// Counts of what was handed out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Blocks handed out and not given back.
    pub live: usize,
    /// Their bytes, as asked for.
    pub live_bytes: u64,
    /// Allocations tried since the machine was made, failed ones included.
    pub attempts: u64,
    /// Allocations that failed.
    pub failures: u64,
}

/// The machine's RAM, and the allocator of its pages.
///
/// Loads and stores take no lock. Every freed page is filled with [`POISON`] and remembered as freed until it is allocated again; whoever reaches it meanwhile,
/// CPU, IOMMU or device, leaves a [`Violation::FreedMemory`].
#[derive(Debug)]
pub struct PhysicalMemory {
    base: u64,
    size: u64,
    regions: Box<[OnceLock<Region>]>,
    /// Whether stores and publications are kept apart.
    split: AtomicBool,
    dirty_chunks: Mutex<Vec<u64>>,
    allocator: Mutex<Allocator>,
    epoch: AtomicU64,
    attempts: AtomicU64,
    failures: AtomicU64,
    /// The attempt that fails, 0 for none.
    fail_at: AtomicU64,
    fail_on: AtomicBool,
    oracle: Arc<Oracle>,
}

fn zeroed(words: usize) -> Box<[AtomicU64]> {
    (0..words).map(|_| AtomicU64::new(0)).collect()
}

impl PhysicalMemory {
    /// RAM at `[base, base + size)`, both multiples of 4 KiB.
    pub(crate) fn new(base: u64, size: u64, oracle: Arc<Oracle>) -> Self {
        let regions = size.div_ceil(1 << REGION_SHIFT);
        Self {
            base,
            size,
            regions: (0..regions).map(|_| OnceLock::new()).collect(),
            split: AtomicBool::new(false),
            dirty_chunks: Mutex::new(Vec::new()),
            allocator: Mutex::new(Allocator::new((size >> PAGE_SHIFT) as u32)),
            epoch: AtomicU64::new(0),
            attempts: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            fail_at: AtomicU64::new(0),
            fail_on: AtomicBool::new(false),
            oracle,
        }
    }

    /// First address.
    pub fn base(&self) -> PhysAddr {
        PhysAddr::new(self.base)
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether `len` bytes from `address` are RAM.
    pub fn contains(&self, address: PhysAddr, len: u64) -> bool {
        let start = address.raw().wrapping_sub(self.base);
        start < self.size && len <= self.size - start
    }

    /// Makes allocation number `nth` from now (1: the next) fail, and with `from_then_on` all after it too.
    pub fn fail_allocation(&self, nth: u64, from_then_on: bool) {
        self.fail_on.store(from_then_on, Ordering::Relaxed);
        self.fail_at.store(self.attempts.load(Ordering::Relaxed) + nth, Ordering::Relaxed);
    }

    /// Ends [`fail_allocation`](Self::fail_allocation).
    pub fn stop_failing(&self) {
        self.fail_at.store(0, Ordering::Relaxed);
    }

    /// What is handed out now.
    pub fn usage(&self) -> Usage {
        let allocator = self.allocator();
        Usage {
            live: allocator.live_count(),
            live_bytes: allocator.live_bytes(),
            attempts: self.attempts.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
        }
    }

    /// Every block that is handed out now, by address: what leaked, when nothing should be.
    pub fn live_blocks(&self) -> Vec<(PhysAddr, PageLayout)> {
        let allocator = self.allocator();
        allocator.live().map(|(first, layout)| (self.address_of(first), layout)).collect()
    }

    /// Copies bytes in, as a CPU would (any alignment). Published at once.
    ///
    /// # Errors
    ///
    /// `false`, and nothing written, where the range is not RAM.
    #[must_use]
    pub fn write_bytes(&self, address: PhysAddr, bytes: &[u8]) -> bool {
        self.dma_write(address.raw(), bytes, Agent::Cpu).is_ok()
    }

    /// Copies bytes out, as a CPU would (any alignment). `false` where the range is not RAM.
    #[must_use]
    pub fn read_bytes(&self, address: PhysAddr, bytes: &mut [u8]) -> bool {
        self.dma_read(address.raw(), bytes, Agent::Cpu).is_ok()
    }

    /// From now on stores are seen by [`View::Published`] only after they were published.
    pub(crate) fn split_views(&self) {
        self.split.store(true, Ordering::Release);
    }

    /// The number that the next allocation or free gets; a translation that is older than a page's owner is stale.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Whether the page at `address` was allocated anew after `epoch`.
    pub(crate) fn reallocated_since(&self, address: u64, epoch: u64) -> bool {
        let state = self.page_state(address);
        state & 1 == 1 && state >> 1 > epoch
    }

    /// Hardware reads a word.
    pub(crate) fn hardware_load(
        &self,
        address: u64,
        view: View,
        by: Agent,
    ) -> Result<u64, BusAbort> {
        if !self.contains(PhysAddr::new(address), 8) {
            return Err(BusAbort);
        }
        self.check_live(address, AccessKind::Read, by);
        Ok(self.peek(address, view))
    }

    /// The word at `address` as `view` shows it, without any check; 0 outside memory. For the model's own second look.
    pub(crate) fn peek(&self, address: u64, view: View) -> u64 {
        let Some((chunk, word)) = self.chunk(address) else { return 0 };
        match (view, chunk.shadow.get()) {
            (View::Published, Some(shadow)) => shadow.words[word].load(Ordering::Acquire),
            _ => chunk.words[word].load(Ordering::Acquire),
        }
    }

    /// A coherent agent may see a store before it was published: makes the word at `address` published.
    pub(crate) fn settle(&self, address: u64) {
        if let Some((chunk, word)) = self.chunk(address) {
            publish_word(chunk, word);
        }
    }

    /// Hardware writes a word. With [`View::Published`] a CPU sees it only after [`DmaMemory::refresh`].
    pub(crate) fn hardware_store(
        &self,
        address: u64,
        value: u64,
        view: View,
        by: Agent,
    ) -> Result<(), BusAbort> {
        if !self.contains(PhysAddr::new(address), 8) {
            return Err(BusAbort);
        }
        self.check_live(address, AccessKind::Write, by);
        let (chunk, word) = self.chunk_for_store(address);
        match (view, chunk.shadow.get()) {
            (View::Published, Some(shadow)) => shadow.words[word].store(value, Ordering::Release),
            (View::Cpu, Some(_)) | (_, None) => {
                chunk.words[word].store(value, Ordering::Release);
                publish_word(chunk, word);
            }
        }
        Ok(())
    }

    /// A device (always coherent with the CPUs) reads bytes.
    pub(crate) fn dma_read(
        &self,
        address: u64,
        bytes: &mut [u8],
        by: Agent,
    ) -> Result<(), BusAbort> {
        if !self.contains(PhysAddr::new(address), bytes.len() as u64) {
            return Err(BusAbort);
        }
        self.each_page(address, bytes.len(), AccessKind::Read, by);
        let mut done = 0;
        while done < bytes.len() {
            let at = address + done as u64;
            let skip = (at & 7) as usize;
            let count = (8 - skip).min(bytes.len() - done);
            let word = self.peek(at & !7, View::Cpu).to_le_bytes();
            bytes[done..done + count].copy_from_slice(&word[skip..skip + count]);
            done += count;
        }
        Ok(())
    }

    /// A device (always coherent with the CPUs) writes bytes. Neighbouring bytes of a word keep what another thread stores meanwhile.
    pub(crate) fn dma_write(&self, address: u64, bytes: &[u8], by: Agent) -> Result<(), BusAbort> {
        if !self.contains(PhysAddr::new(address), bytes.len() as u64) {
            return Err(BusAbort);
        }
        self.each_page(address, bytes.len(), AccessKind::Write, by);
        let mut done = 0;
        while done < bytes.len() {
            let at = address + done as u64;
            let skip = (at & 7) as usize;
            let count = (8 - skip).min(bytes.len() - done);
            let (chunk, word) = self.chunk_for_store(at & !7);
            let merge = |old: u64| {
                let mut new = old.to_le_bytes();
                new[skip..skip + count].copy_from_slice(&bytes[done..done + count]);
                Some(u64::from_le_bytes(new))
            };
            let _old = chunk.words[word].fetch_update(Ordering::AcqRel, Ordering::Acquire, merge);
            publish_word(chunk, word);
            done += count;
        }
        Ok(())
    }

    /// Publishes every store so far: what a register write does for hardware that snoops.
    pub(crate) fn publish_all(&self) {
        if !self.split.load(Ordering::Acquire) {
            return;
        }
        let listed = std::mem::take(&mut *lock(&self.dirty_chunks));
        for address in listed {
            let Some((chunk, _)) = self.chunk(address) else { continue };
            if let Some(shadow) = chunk.shadow.get() {
                shadow.listed.store(false, Ordering::Release);
            }
            (0..CHUNK_WORDS).for_each(|word| publish_word(chunk, word));
        }
    }

    fn allocator(&self) -> MutexGuard<'_, Allocator> {
        lock(&self.allocator)
    }

    fn address_of(&self, page: u32) -> PhysAddr {
        PhysAddr::new(self.base + (u64::from(page) << PAGE_SHIFT))
    }

    /// The chunk that holds `address` and the word's index in it; `None` outside RAM and where nothing was ever stored.
    fn chunk(&self, address: u64) -> Option<(&Chunk, usize)> {
        let offset = address.wrapping_sub(self.base);
        if offset >= self.size {
            return None;
        }
        let region = self.regions[(offset >> REGION_SHIFT) as usize].get()?;
        let chunk = region[(offset >> CHUNK_SHIFT) as usize & (CHUNKS - 1)].get()?;
        Some((chunk, (offset >> 3) as usize & (CHUNK_WORDS - 1)))
    }

    /// As [`chunk`](Self::chunk), made where it did not exist. `address` must be RAM.
    fn chunk_for_store(&self, address: u64) -> (&Chunk, usize) {
        let offset = address - self.base;
        let region = self.regions[(offset >> REGION_SHIFT) as usize]
            .get_or_init(|| (0..CHUNKS).map(|_| OnceLock::new()).collect());
        let chunk = region[(offset >> CHUNK_SHIFT) as usize & (CHUNKS - 1)].get_or_init(|| Chunk {
            words: zeroed(CHUNK_WORDS),
            shadow: OnceLock::new(),
            pages: Default::default(),
        });
        if self.split.load(Ordering::Acquire) {
            chunk.shadow.get_or_init(|| Shadow {
                words: chunk
                    .words
                    .iter()
                    .map(|w| AtomicU64::new(w.load(Ordering::Acquire)))
                    .collect(),
                dirty: zeroed(CHUNK_WORDS / 64),
                listed: AtomicBool::new(false),
            });
        }
        (chunk, (offset >> 3) as usize & (CHUNK_WORDS - 1))
    }

    fn page_state(&self, address: u64) -> u64 {
        self.chunk(address).map_or(0, |(chunk, word)| {
            chunk.pages[word >> (PAGE_SHIFT - 3)].load(Ordering::Acquire)
        })
    }

    fn check_live(&self, address: u64, kind: AccessKind, by: Agent) {
        let state = self.page_state(address);
        if state != 0 && state & 1 == 0 {
            let address = PhysAddr::new(address);
            self.oracle.violated(Violation::FreedMemory { by, address, kind });
        }
    }

    fn each_page(&self, address: u64, len: usize, kind: AccessKind, by: Agent) {
        let last = address + (len as u64).saturating_sub(1);
        for page in address >> PAGE_SHIFT..=last >> PAGE_SHIFT {
            self.check_live(address.max(page << PAGE_SHIFT), kind, by);
        }
    }

    /// Marks and fills the pages of a block.
    fn turn(&self, block: Block, live: bool, fill: Option<u64>) {
        let epoch = self.epoch.fetch_add(1, Ordering::AcqRel) + 1;
        for page in block.first..block.first + block.pages {
            let start = self.address_of(page).raw();
            let (chunk, first) = self.chunk_for_store(start);
            if let Some(value) = fill {
                for word in first..first + (1 << (PAGE_SHIFT - 3)) {
                    chunk.words[word].store(value, Ordering::Release);
                    publish_word(chunk, word);
                }
            }
            let state = epoch << 1 | u64::from(live);
            chunk.pages[first >> (PAGE_SHIFT - 3)].store(state, Ordering::Release);
        }
    }

    /// Software's own accesses: reports what is no memory, and what was freed.
    fn software(&self, address: PhysAddr, kind: AccessKind) -> bool {
        if !self.contains(address, 8) || !address.is_aligned(8) {
            self.oracle.violated(Violation::OutsideMemory { address });
            return false;
        }
        self.check_live(address.raw(), kind, Agent::Cpu);
        true
    }

    fn stored(&self, chunk: &Chunk, word: usize, address: PhysAddr) {
        if let Some(shadow) = chunk.shadow.get() {
            shadow.dirty[word / 64].fetch_or(1 << (word % 64), Ordering::AcqRel);
            if !shadow.listed.swap(true, Ordering::AcqRel) {
                lock(&self.dirty_chunks).push(address.raw());
            }
        }
    }

    fn each_word(&self, address: PhysAddr, len: usize, act: impl Fn(&Chunk, usize)) {
        if !self.split.load(Ordering::Acquire) {
            return;
        }
        let end = address.raw().saturating_add(len as u64);
        for at in (address.align_down(8).raw()..end).step_by(8) {
            if let Some((chunk, word)) = self.chunk(at) {
                act(chunk, word);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn publish_word(chunk: &Chunk, word: usize) {
    if let Some(shadow) = chunk.shadow.get() {
        shadow.dirty[word / 64].fetch_and(!(1 << (word % 64)), Ordering::AcqRel);
        shadow.words[word].store(chunk.words[word].load(Ordering::Acquire), Ordering::Release);
    }
}

/// Pulls in what hardware wrote, unless the CPU has an unpublished store there.
fn refresh_word(chunk: &Chunk, word: usize) {
    if let Some(shadow) = chunk.shadow.get()
        && shadow.dirty[word / 64].load(Ordering::Acquire) & 1 << (word % 64) == 0
    {
        chunk.words[word].store(shadow.words[word].load(Ordering::Acquire), Ordering::Release);
    }
}

impl DmaMemory for PhysicalMemory {
    fn allocate(&self, layout: PageLayout) -> Result<PhysAddr, AllocError> {
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed) + 1;
        let fail_at = self.fail_at.load(Ordering::Relaxed);
        let refused = fail_at != 0
            && (attempt == fail_at || attempt > fail_at && self.fail_on.load(Ordering::Relaxed));
        let block = if refused { None } else { self.allocator().allocate(layout) };
        let Some(block) = block else {
            self.failures.fetch_add(1, Ordering::Relaxed);
            return Err(AllocError { layout });
        };
        self.turn(block, true, block.used_before.then_some(0));
        Ok(self.address_of(block.first))
    }

    fn free(&self, address: PhysAddr, layout: PageLayout) {
        let offset = address.raw().wrapping_sub(self.base);
        if offset >= self.size || !address.is_aligned(1 << PAGE_SHIFT) {
            self.oracle.violated(Violation::ForeignFree { address });
            return;
        }
        // Poisoned and marked before the lock is gone: the block may be handed out again right after.
        let mut allocator = self.allocator();
        match allocator.free((offset >> PAGE_SHIFT) as u32, layout) {
            Ok(block) => self.turn(block, false, Some(POISON)),
            Err(error) => {
                drop(allocator);
                self.oracle.violated(match error {
                    FreeError::Foreign => Violation::ForeignFree { address },
                    FreeError::Double => Violation::DoubleFree { address },
                    FreeError::Layout(given) => Violation::WrongLayout {
                        address,
                        allocated: given.size(),
                        freed: layout.size(),
                    },
                });
            }
        }
    }

    fn load64(&self, address: PhysAddr) -> u64 {
        if !self.software(address, AccessKind::Read) {
            return u64::MAX;
        }
        self.peek(address.raw(), View::Cpu)
    }

    fn store64(&self, address: PhysAddr, value: u64) {
        if self.software(address, AccessKind::Write) {
            let (chunk, word) = self.chunk_for_store(address.raw());
            chunk.words[word].store(value, Ordering::Release);
            self.stored(chunk, word, address);
        }
    }

    fn compare_exchange64(&self, address: PhysAddr, old: u64, new: u64) -> Result<(), u64> {
        if !self.software(address, AccessKind::Write) {
            return Err(u64::MAX);
        }
        let (chunk, word) = self.chunk_for_store(address.raw());
        chunk.words[word]
            .compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
            .map(|_old| self.stored(chunk, word, address))
    }

    fn publish(&self, address: PhysAddr, len: usize) {
        // Only what was stored: cleaning a clean line writes nothing back.
        self.each_word(address, len, |chunk, word| {
            let dirty = |s: &Shadow| s.dirty[word / 64].load(Ordering::Acquire) >> (word % 64) & 1;
            if chunk.shadow.get().is_some_and(|shadow| dirty(shadow) == 1) {
                publish_word(chunk, word);
            }
        });
    }

    fn refresh(&self, address: PhysAddr, len: usize) {
        self.each_word(address, len, refresh_word);
    }
}
