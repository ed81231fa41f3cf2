//! Physical memory: sparse, shared by CPUs, IOMMUs and devices, and suspicious of all three.
#![expect(
    unsafe_code,
    reason = "DmaMemory's obligations are promised here; no line needs more than the word"
)]

use crate::access::{AccessKind, Agent};
use crate::allocator::{Allocator, Block, FreeError, PAGE_SHIFT};
use crate::oracle::{Oracle, Violation};
pub(crate) use crate::sparse::View;
use crate::sparse::{Chunk, Sparse};
use portcullis_addr::PhysAddr;
use portcullis_platform::{AllocError, Coherency, DmaMemory, PageLayout};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What freed memory is filled with. As a table entry it is valid and points outside memory, so that a walk through freed memory is noticed.
pub const POISON: u64 = 0x6b6b_6b6b_6b6b_6b6b;

/// Nothing answers at the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusAbort;

/// Counts of what was handed out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Blocks handed out and not given back.
    pub live: usize,
    /// Bytes in these blocks, as requested.
    pub live_bytes: u64,
    /// Allocations tried since the machine was made, failed ones included.
    pub attempts: u64,
    /// Allocations that failed.
    pub failures: u64,
}

/// The machine's RAM, and the allocator of its pages.
///
/// Loads and stores take no lock. Every freed page is filled with [`POISON`] and remembered as freed until it is allocated again; whoever accesses it meanwhile,
/// CPU, IOMMU or device, causes a [`Violation::FreedMemory`].
#[derive(Debug)]
pub struct PhysicalMemory {
    words: Sparse,
    dirty_chunks: Mutex<Vec<u64>>,
    allocator: Mutex<Allocator>,
    epoch: AtomicU64,
    attempts: AtomicU64,
    failures: AtomicU64,
    /// The number of the allocation that fails; 0 for none.
    fail_at: AtomicU64,
    fail_on: AtomicBool,
    late: AtomicBool,
    oracle: Arc<Oracle>,
}

impl PhysicalMemory {
    /// RAM at `[base, base + size)`, both multiples of 4 KiB.
    pub(crate) fn new(base: u64, size: u64, oracle: Arc<Oracle>) -> Self {
        Self {
            words: Sparse::new(base, size),
            dirty_chunks: Mutex::new(Vec::new()),
            allocator: Mutex::new(Allocator::new((size >> PAGE_SHIFT) as u32)),
            epoch: AtomicU64::new(0),
            attempts: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            fail_at: AtomicU64::new(0),
            fail_on: AtomicBool::new(false),
            late: AtomicBool::new(false),
            oracle,
        }
    }

    /// First address.
    pub fn base(&self) -> PhysAddr {
        PhysAddr::new(self.words.base())
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.words.size()
    }

    /// Whether `len` bytes from `address` are RAM.
    pub fn contains(&self, address: PhysAddr, len: u64) -> bool {
        self.words.contains(address.raw(), len)
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

    /// What is allocated now.
    pub fn usage(&self) -> Usage {
        let allocator = lock(&self.allocator);
        Usage {
            live: allocator.live_count(),
            live_bytes: allocator.live_bytes(),
            attempts: self.attempts.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
        }
    }

    /// Every block that is allocated now, in order of address. When all should have been freed, these are the leaks.
    pub fn live_blocks(&self) -> Vec<(PhysAddr, PageLayout)> {
        let allocator = lock(&self.allocator);
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

    /// From now on [`View::Published`] shows a store only after it was published. With `late`, coherent agents see that view too.
    pub(crate) fn split_views(&self, late: bool) {
        self.late.fetch_or(late, Ordering::Relaxed);
        self.words.split();
    }

    /// Whether publishing to `observer` (or refreshing from it) changes the published view. Publishing to a coherent observer does nothing for one that does
    /// not snoop, except on a machine with late stores: there is only one published view.
    fn needs_cleaning_for(&self, observer: Coherency) -> bool {
        observer == Coherency::NonCoherent || self.late.load(Ordering::Relaxed)
    }

    /// How many pages, from the first, lie wholly at or below address `last`.
    fn pages_up_to(&self, last: u64) -> u32 {
        let Some(beyond) = last.checked_sub(self.words.base()) else { return 0 };
        u32::try_from((beyond.min(self.words.size() - 1) + 1) >> PAGE_SHIFT).unwrap_or(u32::MAX)
    }

    /// The number of the last allocation or free.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Whether the page at `address` was allocated anew after `epoch`.
    pub(crate) fn reallocated_since(&self, address: u64, epoch: u64) -> bool {
        let Some((chunk, word)) = self.words.get(address) else { return false };
        let state = chunk.page(word).load(Ordering::Acquire);
        state & 1 == 1 && state >> 1 > epoch
    }

    /// Hardware reads a word.
    pub(crate) fn hardware_load(
        &self,
        address: u64,
        view: View,
        by: Agent,
    ) -> Result<u64, BusAbort> {
        if !self.words.contains(address, 8) {
            return Err(BusAbort);
        }
        let Some((chunk, word)) = self.words.get(address) else { return Ok(0) };
        self.check_live(chunk, word, address, AccessKind::Read, by);
        Ok(chunk.load(word, view))
    }

    /// A walk reads a word. Returns also whether that lies in freed memory: the walk reports it once its result is used.
    pub(crate) fn walk_load(&self, address: u64, view: View) -> Result<(u64, bool), BusAbort> {
        if !self.words.contains(address, 8) {
            return Err(BusAbort);
        }
        let Some((chunk, word)) = self.words.get(address) else { return Ok((0, false)) };
        Ok((chunk.load(word, view), is_freed(chunk, word)))
    }

    /// The word at `address` as `view` shows it, without any check; 0 outside memory. For the model's own second look.
    pub(crate) fn peek(&self, address: u64, view: View) -> u64 {
        self.words.get(address).map_or(0, |(chunk, word)| chunk.load(word, view))
    }

    /// A coherent agent may see a store before it was published: makes the word at `address` published.
    pub(crate) fn settle(&self, address: u64) {
        if let Some((chunk, word)) = self.words.get(address) {
            chunk.publish(word);
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
        if !self.words.contains(address, 8) {
            return Err(BusAbort);
        }
        let (chunk, word) = self.words.get_or_make(address);
        self.check_live(chunk, word, address, AccessKind::Write, by);
        match view {
            View::Published => chunk.store_around(word, value),
            View::Cpu => chunk.store_through(word, value),
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
        if !self.words.contains(address, bytes.len() as u64) {
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
        if !self.words.contains(address, bytes.len() as u64) {
            return Err(BusAbort);
        }
        self.each_page(address, bytes.len(), AccessKind::Write, by);
        let mut done = 0;
        while done < bytes.len() {
            let at = address + done as u64;
            let skip = (at & 7) as usize;
            let count = (8 - skip).min(bytes.len() - done);
            let (chunk, word) = self.words.get_or_make(at & !7);
            chunk.merge(word, skip, &bytes[done..done + count]);
            done += count;
        }
        Ok(())
    }

    /// Publishes every store so far: what a register write does for hardware that snoops.
    pub(crate) fn publish_all(&self) {
        if !self.words.is_split() {
            return;
        }
        let listed = std::mem::take(&mut *lock(&self.dirty_chunks));
        for address in listed {
            if let Some((chunk, _)) = self.words.get(address) {
                chunk.publish_all();
            }
        }
    }

    fn address_of(&self, page: u32) -> PhysAddr {
        PhysAddr::new(self.words.base() + (u64::from(page) << PAGE_SHIFT))
    }

    fn check_live(&self, chunk: &Chunk, word: usize, address: u64, kind: AccessKind, by: Agent) {
        if is_freed(chunk, word) {
            let address = PhysAddr::new(address);
            self.oracle.violated(Violation::FreedMemory { by, address, kind });
        }
    }

    fn each_page(&self, address: u64, len: usize, kind: AccessKind, by: Agent) {
        let last = address + (len as u64).saturating_sub(1);
        for page in address >> PAGE_SHIFT..=last >> PAGE_SHIFT {
            let at = address.max(page << PAGE_SHIFT);
            if let Some((chunk, word)) = self.words.get(at) {
                self.check_live(chunk, word, at, kind, by);
            }
        }
    }

    /// Marks and fills the pages of a block.
    fn turn(&self, block: Block, live: bool, fill: Option<u64>) {
        let epoch = self.epoch.fetch_add(1, Ordering::AcqRel) + 1;
        for page in block.first..block.first + block.pages {
            let (chunk, first) = self.words.get_or_make(self.address_of(page).raw());
            if let Some(value) = fill {
                chunk.fill_page(first, value);
            }
            chunk.page(first).store(epoch << 1 | u64::from(live), Ordering::Release);
        }
    }

    /// Whether software may use the address at all.
    fn is_word(&self, address: PhysAddr) -> bool {
        let good = self.words.contains(address.raw(), 8) && address.is_aligned(8);
        if !good {
            self.oracle.violated(Violation::OutsideMemory { address });
        }
        good
    }

    fn list(&self, address: PhysAddr, fresh: bool) {
        if fresh {
            lock(&self.dirty_chunks).push(address.raw());
        }
    }

    fn each_word(&self, address: PhysAddr, len: usize, act: impl Fn(&Chunk, usize)) {
        if !self.words.is_split() {
            return;
        }
        let end = address.raw().saturating_add(len as u64);
        for at in (address.align_down(8).raw()..end).step_by(8) {
            if let Some((chunk, word)) = self.words.get(at) {
                act(chunk, word);
            }
        }
    }
}

fn is_freed(chunk: &Chunk, word: usize) -> bool {
    let state = chunk.page(word).load(Ordering::Acquire);
    state != 0 && state & 1 == 0
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// SAFETY: every word lives in an atomic that this type owns, reached through a checked index; any other access is refused and recorded as a violation.
// The allocator hands out no page twice and knows what it handed out.
unsafe impl DmaMemory for PhysicalMemory {
    fn allocate(&self, layout: PageLayout) -> Result<PhysAddr, AllocError> {
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed) + 1;
        let fail_at = self.fail_at.load(Ordering::Relaxed);
        let refused = fail_at != 0
            && (attempt == fail_at || attempt > fail_at && self.fail_on.load(Ordering::Relaxed));
        let within = self.pages_up_to(layout.last());
        let block = if refused { None } else { lock(&self.allocator).allocate(layout, within) };
        let Some(block) = block else {
            self.failures.fetch_add(1, Ordering::Relaxed);
            return Err(AllocError { layout });
        };
        self.turn(block, true, block.used_before.then_some(0));
        Ok(self.address_of(block.first))
    }

    fn free(&self, address: PhysAddr, layout: PageLayout) {
        if !self.words.contains(address.raw(), 1) || !address.is_aligned(1 << PAGE_SHIFT) {
            self.oracle.violated(Violation::ForeignFree { address });
            return;
        }
        let page = (address.raw() - self.words.base()) >> PAGE_SHIFT;
        // Poisoned and marked before the lock is released: right after that the block may be handed out again.
        let mut allocator = lock(&self.allocator);
        let error = match allocator.free(page as u32, layout) {
            Ok(block) => return self.turn(block, false, Some(POISON)),
            Err(error) => error,
        };
        drop(allocator);
        self.oracle.violated(match error {
            FreeError::Foreign => Violation::ForeignFree { address },
            FreeError::Double => Violation::DoubleFree { address },
            FreeError::Layout(given) => {
                Violation::WrongLayout { address, allocated: given.size(), freed: layout.size() }
            }
        });
    }

    fn load64(&self, address: PhysAddr) -> u64 {
        if !self.is_word(address) {
            return u64::MAX;
        }
        let Some((chunk, word)) = self.words.get(address.raw()) else { return 0 };
        self.check_live(chunk, word, address.raw(), AccessKind::Read, Agent::Cpu);
        chunk.load(word, View::Cpu)
    }

    fn store64(&self, address: PhysAddr, value: u64) {
        if self.is_word(address) {
            let (chunk, word) = self.words.get_or_make(address.raw());
            self.check_live(chunk, word, address.raw(), AccessKind::Write, Agent::Cpu);
            self.list(address, chunk.store(word, value));
        }
    }

    fn compare_exchange64(&self, address: PhysAddr, old: u64, new: u64) -> Result<(), u64> {
        if !self.is_word(address) {
            return Err(u64::MAX);
        }
        let (chunk, word) = self.words.get_or_make(address.raw());
        self.check_live(chunk, word, address.raw(), AccessKind::Write, Agent::Cpu);
        self.list(address, chunk.exchange(word, old, new)?);
        Ok(())
    }

    fn publish(&self, address: PhysAddr, len: usize, to: Coherency) {
        if self.needs_cleaning_for(to) {
            self.each_word(address, len, Chunk::publish_if_dirty);
        }
    }

    fn refresh(&self, address: PhysAddr, len: usize, from: Coherency) {
        // What snoops stores where the CPU sees it at once, also where the CPU's own stores are shown late: pulling in the other view could lose a store that is just being made.
        if from == Coherency::NonCoherent {
            self.each_word(address, len, Chunk::refresh);
        }
    }
}
