//! Memory of page tables whose words are loom's: every load may read what the orderings of the product's accesses allow, not only the latest store.
//!
//! `cargo test --release`. The engine's own words (the root and the counters) are the processor's and not seen by loom; the trees here do not grow.

use loom::sync::atomic::{AtomicU64, Ordering, fence};
use portcullis_addr::PhysAddr;
use portcullis_platform::{AllocError, Coherency, DmaMemory, PageLayout};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// A few pages whose first words are loom's. The others are ordinary ones, which everybody sees as they are: loom would have too much to try with 512 a table. All of loom's words are there from
/// the start, because it minds when one is made while others may reach it. `RELAXED` leaves the orderings out that `DmaMemory` asks for: the planted bug.
#[derive(Debug)]
pub struct LoomMemory<const RELAXED: bool> {
    words: BTreeMap<u64, AtomicU64>,
    others: Mutex<BTreeMap<u64, u64>>,
    next: Mutex<u64>,
}

const FIRST: u64 = 0x10_0000;
const PAGE: u64 = 4096;
const PAGES: u64 = 4;
/// Of each page, the words that loom looks after.
const WORDS: u64 = 4;

impl<const RELAXED: bool> Default for LoomMemory<RELAXED> {
    fn default() -> Self {
        let words = (0..PAGES * WORDS).map(|n| FIRST + n / WORDS * PAGE + n % WORDS * 8);
        let words = words.map(|address| (address, AtomicU64::new(0))).collect();
        Self { words, others: Mutex::default(), next: Mutex::new(FIRST) }
    }
}

impl<const RELAXED: bool> LoomMemory<RELAXED> {
    fn others<R>(&self, act: impl FnOnce(&mut BTreeMap<u64, u64>) -> R) -> R {
        act(&mut self.others.lock().expect("no panic inside"))
    }

    fn order(order: Ordering) -> Ordering {
        if RELAXED { Ordering::Relaxed } else { order }
    }
}

// SAFETY: the words are atomics of their own; no address is given out twice.
unsafe impl<const RELAXED: bool> DmaMemory for LoomMemory<RELAXED> {
    fn allocate(&self, layout: PageLayout) -> Result<PhysAddr, AllocError> {
        let mut next = self.next.lock().expect("no panic inside");
        let start = next.next_multiple_of(layout.align() as u64);
        if start + layout.size() as u64 > FIRST + PAGES * PAGE {
            return Err(AllocError { layout });
        }
        *next = start + layout.size() as u64;
        Ok(PhysAddr::new(start))
    }
    fn free(&self, _: PhysAddr, _: PageLayout) {}
    fn load64(&self, address: PhysAddr) -> u64 {
        match self.words.get(&address.raw()) {
            Some(word) => word.load(Self::order(Ordering::Acquire)),
            None => self.others(|words| words.get(&address.raw()).copied().unwrap_or(0)),
        }
    }
    fn store64(&self, address: PhysAddr, value: u64) {
        match self.words.get(&address.raw()) {
            Some(word) => word.store(value, Self::order(Ordering::Release)),
            None => self.others(|words| _ = words.insert(address.raw(), value)),
        }
    }
    fn compare_exchange64(&self, address: PhysAddr, old: u64, new: u64) -> Result<(), u64> {
        let word = self.words.get(&address.raw()).expect("only first words are exchanged here");
        let (success, failure) = (Self::order(Ordering::AcqRel), Self::order(Ordering::Acquire));
        word.compare_exchange(old, new, success, failure).map(drop)
    }
    fn publish(&self, _: PhysAddr, _: usize, _: Coherency) {
        if !RELAXED {
            fence(Ordering::Release);
        }
    }
    fn refresh(&self, _: PhysAddr, _: usize, _: Coherency) {
        fence(Ordering::Acquire);
    }
}
