//! Memory of this process as DMA memory.
#![expect(
    unsafe_code,
    reason = "DmaMemory's obligations are promised here; no line needs more than the word"
)]

use crate::{AllocError, Coherency, DmaMemory, PageLayout};
use portcullis_addr::PhysAddr;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

/// Memory that hands out addresses and keeps nothing: every word reads 0. For code that moves no data, such as tests and benchmarks of the probe protocol.
#[derive(Debug, Default)]
pub struct NoMemory(AtomicU64);

/// Above what a test takes for an address of its own by accident.
const FIRST_ADDRESS: u64 = 0x8000_0000;

// SAFETY: nothing is reached at any address, and no address is given out twice.
unsafe impl DmaMemory for NoMemory {
    fn allocate(&self, layout: PageLayout) -> Result<PhysAddr, AllocError> {
        let (size, align) = (layout.size() as u64, layout.align() as u64);
        let start = |used: u64| PhysAddr::new((FIRST_ADDRESS + used).next_multiple_of(align));
        let take = |used| {
            let start = start(used);
            layout.fits(start).then(|| start.raw() + size - FIRST_ADDRESS)
        };
        let used = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        used.map(start).map_err(|_| AllocError { layout })
    }
    fn free(&self, _: PhysAddr, _: PageLayout) {}
    fn load64(&self, _: PhysAddr) -> u64 {
        0
    }
    fn store64(&self, _: PhysAddr, _: u64) {}
    fn compare_exchange64(&self, _: PhysAddr, old: u64, _: u64) -> Result<(), u64> {
        if old == 0 { Ok(()) } else { Err(0) }
    }
    fn publish(&self, _: PhysAddr, _: usize, _: Coherency) {}
    fn refresh(&self, _: PhysAddr, _: usize, _: Coherency) {}
}

/// Memory of this process, for programs without hardware. Each block is an allocation of its own at an address that is never used again, so a use after free panics.
#[derive(Debug, Default)]
pub struct HostMemory {
    addresses: NoMemory,
    blocks: RwLock<BTreeMap<u64, Block>>,
}

#[derive(Debug)]
struct Block {
    layout: PageLayout,
    words: Box<[AtomicU64]>,
}

impl HostMemory {
    /// Blocks that were not given back.
    pub fn live(&self) -> usize {
        self.blocks.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn with<R>(&self, address: PhysAddr, act: impl FnOnce(&AtomicU64) -> R) -> R {
        let blocks = self.blocks.read().unwrap_or_else(PoisonError::into_inner);
        let block = blocks.range(..=address.raw()).next_back();
        let word = block.and_then(|(start, block)| {
            let offset = usize::try_from(address.raw() - start).ok()?;
            if offset % 8 == 0 { block.words.get(offset / 8) } else { None }
        });
        act(word.unwrap_or_else(|| panic!("{address} is no word of allocated memory")))
    }
}

// SAFETY: a block's words are atomics of its own, found by an address that lies inside; no address is given out twice.
unsafe impl DmaMemory for HostMemory {
    fn allocate(&self, layout: PageLayout) -> Result<PhysAddr, AllocError> {
        let address = self.addresses.allocate(layout)?;
        let words = (0..layout.size().div_ceil(8)).map(|_| AtomicU64::new(0)).collect();
        let mut blocks = self.blocks.write().unwrap_or_else(PoisonError::into_inner);
        blocks.insert(address.raw(), Block { layout, words });
        Ok(address)
    }

    fn free(&self, address: PhysAddr, layout: PageLayout) {
        let mut blocks = self.blocks.write().unwrap_or_else(PoisonError::into_inner);
        let known = blocks.remove(&address.raw()).is_some_and(|block| block.layout == layout);
        assert!(known, "{address} was not allocated with {layout:?}");
    }

    fn load64(&self, address: PhysAddr) -> u64 {
        self.with(address, |word| word.load(Ordering::Acquire))
    }

    fn store64(&self, address: PhysAddr, value: u64) {
        self.with(address, |word| word.store(value, Ordering::Release));
    }

    fn compare_exchange64(&self, address: PhysAddr, old: u64, new: u64) -> Result<(), u64> {
        let order = (Ordering::AcqRel, Ordering::Acquire);
        self.with(address, |word| word.compare_exchange(old, new, order.0, order.1).map(drop))
    }

    fn publish(&self, _: PhysAddr, _: usize, _: Coherency) {}
    fn refresh(&self, _: PhysAddr, _: usize, _: Coherency) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DmaPages, MemoryWatch, WatchedMemory};
    use std::sync::{Arc, Mutex};

    #[test]
    fn addresses_without_memory_are_aligned_and_never_the_same() {
        let memory = NoMemory::default();
        let low = PageLayout::new(8, 8).expect("sound").within_bits(31);
        assert_eq!(memory.allocate(low), Err(AllocError { layout: low }), "all of it is higher");
        let mut end = 0;
        for (size, align) in [(4096, 4096), (1, 1), (64, 64), (0x10000, 0x10000), (8, 8)] {
            let layout = PageLayout::new(size, align).expect("sound");
            let address = memory.allocate(layout).expect("never runs out");
            assert!(address.is_aligned(align as u64) && address.raw() >= end);
            end = address.raw() + size as u64;
        }
    }

    fn page() -> PageLayout {
        PageLayout::new(4096, 4096).expect("sound")
    }

    #[test]
    fn layouts_know_their_place() {
        let low = page().within_bits(32);
        assert!(low.fits(PhysAddr::new(0xffff_f000)) && !low.fits(PhysAddr::new(0x1_0000_0000)));
        assert!(!low.fits(PhysAddr::new(0xffff_e800)), "not aligned");
        assert!(page().fits(PhysAddr::new(u64::MAX - 4095)), "the very last page");
        assert_eq!(low.within_bits(40), low, "a limit only gets tighter");
        assert_eq!(low.within_bits(64), low);
        let message = AllocError { layout: low }.to_string();
        assert!(
            message.ends_with("4096 bytes aligned to 4096, up to address 0xffffffff"),
            "{message}"
        );
        assert_eq!(PageLayout::new(0, 8), None);
        assert_eq!(PageLayout::new(8, 24), None);
    }

    #[test]
    fn runs_are_what_single_accesses_are() {
        let memory = Arc::<HostMemory>::default();
        let pages = DmaPages::new(&memory, page()).expect("room");
        let at = PhysAddr::new(pages.address().raw() + 64);
        assert!(memory.is_zero(pages.address(), 512), "zeroed");
        memory.fill(at, 8, 0x1003, 0x1000);
        let words: Vec<_> = (0..10).map(|word| pages.load64(56 + 8 * word)).collect();
        assert_eq!(words, [0, 0x1003, 0x2003, 0x3003, 0x4003, 0x5003, 0x6003, 0x7003, 0x8003, 0]);
        assert!(
            memory.all_set(at, 8, 3) && !memory.all_set(at, 9, 3) && !memory.all_set(at, 8, 0x1003)
        );
        assert!(memory.is_zero(at, 0) && memory.all_set(at, 0, 1), "an empty run is everything");
        memory.clear(at, 7);
        assert!(memory.is_zero(at, 7) && !memory.is_zero(at, 8));
        memory.fill(at, 2, u64::MAX, 1);
        assert_eq!([pages.load64(64), pages.load64(72)], [u64::MAX, 0], "modulo 2^64");
    }

    #[test]
    #[should_panic(expected = "is no word of allocated memory")]
    fn a_use_after_free_panics() {
        let memory = HostMemory::default();
        let address = memory.allocate(page()).expect("room");
        memory.store64(address, 1);
        memory.free(address, page());
        assert_eq!(memory.live(), 0);
        memory.load64(address);
    }

    #[test]
    #[should_panic(expected = "was not allocated with")]
    fn a_wrong_layout_is_refused() {
        let memory = HostMemory::default();
        let address = memory.allocate(page()).expect("room");
        memory.free(address, page().within_bits(48));
    }

    /// Says what happens, refuses the second allocation, and forgets to publish for hardware that does not snoop.
    #[derive(Default)]
    struct Book(Mutex<Vec<String>>);

    impl Book {
        fn note(&self, text: String) -> usize {
            let mut lines = self.0.lock().expect("no panic");
            lines.push(text);
            lines.len()
        }
    }

    impl MemoryWatch for Book {
        fn allocates(&self, layout: PageLayout) -> bool {
            self.note(format!("allocate {}", layout.size())) == 1
        }
        fn loads(&self, _: PhysAddr) {
            self.note("load".to_owned());
        }
        fn stores(&self, _: PhysAddr, value: u64) {
            self.note(format!("store {value}"));
        }
        fn exchanges(&self, _: PhysAddr, old: u64, new: u64) {
            self.note(format!("exchange {old} {new}"));
        }
        fn publishes(&self, _: PhysAddr, len: usize, to: Coherency) -> bool {
            self.note(format!("publish {len} {to:?}"));
            to == Coherency::Coherent
        }
    }

    #[test]
    fn a_watch_sees_every_access_and_can_refuse() {
        let inner = Arc::<HostMemory>::default();
        let watched = Arc::new(WatchedMemory::new(Arc::clone(&inner), Book::default()));
        let pages = DmaPages::new(&watched, page()).expect("the first is allowed");
        assert!(DmaPages::new(&watched, page()).is_err());
        watched.fill(pages.address(), 2, 5, 1);
        assert_eq!(watched.compare_exchange64(pages.address(), 5, 7), Ok(()));
        assert_eq!(inner.load64(pages.address()), 7);
        pages.publish(0, 16, Coherency::NonCoherent);
        pages.load64(0);
        let seen = watched.watch().0.lock().expect("no panic").join(", ");
        let all = "allocate 4096, allocate 4096, store 5, store 6, exchange 5 7, publish 16 NonCoherent, load";
        assert_eq!(seen, all);
        drop(pages);
        assert_eq!(inner.live(), 0);
    }
}
