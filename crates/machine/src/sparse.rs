//! Words that take space only once somebody has stored them: the storage behind [`PhysicalMemory`](crate::PhysicalMemory).

use crate::allocator::PAGE_SHIFT;
use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const REGION_SHIFT: u32 = 21;
const CHUNK_SHIFT: u32 = 14;
pub(crate) const CHUNK_WORDS: usize = 1 << (CHUNK_SHIFT - 3);
const CHUNKS: usize = 1 << (REGION_SHIFT - CHUNK_SHIFT);
const CHUNK_PAGES: usize = 1 << (CHUNK_SHIFT - PAGE_SHIFT);
const PAGE_WORDS_SHIFT: u32 = PAGE_SHIFT - 3;

/// Which of the two views of memory an agent has. They differ only on a machine where some IOMMU does not snoop the caches, or where stores are
/// made late ([`StoreOrder`](crate::StoreOrder)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// What the CPUs' loads return: the last store.
    Cpu,
    /// What is at the point of coherency: the last store that was published.
    Published,
}

/// The published view of a chunk, and which of its words the CPU has stored since.
struct Shadow {
    words: [AtomicU64; CHUNK_WORDS],
    dirty: [AtomicU64; CHUNK_WORDS / 64],
    listed: AtomicBool,
}

/// 16 KiB of memory.
pub(crate) struct Chunk {
    words: [AtomicU64; CHUNK_WORDS],
    shadow: OnceLock<Box<Shadow>>,
    /// Per page: 0 never allocated, else `epoch << 1 | live`, the epoch of the last allocation or free.
    pages: [AtomicU64; CHUNK_PAGES],
}

impl Chunk {
    fn new() -> Box<Self> {
        Box::new(Self {
            words: [const { AtomicU64::new(0) }; CHUNK_WORDS],
            shadow: OnceLock::new(),
            pages: [const { AtomicU64::new(0) }; CHUNK_PAGES],
        })
    }

    /// From now on the published view is kept apart.
    fn split(&self) {
        self.shadow.get_or_init(|| {
            let now = |word: usize| AtomicU64::new(self.words[word].load(Ordering::Acquire));
            Box::new(Shadow {
                words: std::array::from_fn(now),
                dirty: [const { AtomicU64::new(0) }; CHUNK_WORDS / 64],
                listed: AtomicBool::new(false),
            })
        });
    }

    pub(crate) fn load(&self, word: usize, view: View) -> u64 {
        match (view, self.shadow.get()) {
            (View::Published, Some(shadow)) => shadow.words[word].load(Ordering::Acquire),
            _ => self.words[word].load(Ordering::Acquire),
        }
    }

    /// A store by an agent that snoops, seen by everybody at once.
    pub(crate) fn store_through(&self, word: usize, value: u64) {
        self.words[word].store(value, Ordering::Release);
        self.publish(word);
    }

    /// A store by an agent that does not snoop: the CPU sees it after [`refresh`](Self::refresh).
    pub(crate) fn store_around(&self, word: usize, value: u64) {
        match self.shadow.get() {
            Some(shadow) => shadow.words[word].store(value, Ordering::Release),
            None => self.words[word].store(value, Ordering::Release),
        }
    }

    /// A store by a CPU. Whether the chunk has unpublished words that nobody has listed yet.
    pub(crate) fn store(&self, word: usize, value: u64) -> bool {
        self.words[word].store(value, Ordering::Release);
        self.mark(word)
    }

    /// As [`store`](Self::store), where the word still is `old`.
    pub(crate) fn exchange(&self, word: usize, old: u64, new: u64) -> Result<bool, u64> {
        self.words[word].compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)?;
        Ok(self.mark(word))
    }

    /// Replaces some bytes of a word, by an agent that snoops.
    pub(crate) fn merge(&self, word: usize, skip: usize, bytes: &[u8]) {
        let merge = |old: u64| {
            let mut new = old.to_le_bytes();
            new[skip..skip + bytes.len()].copy_from_slice(bytes);
            Some(u64::from_le_bytes(new))
        };
        let _old = self.words[word].fetch_update(Ordering::AcqRel, Ordering::Acquire, merge);
        self.publish(word);
    }

    /// Fills the page that `word` begins.
    pub(crate) fn fill_page(&self, word: usize, value: u64) {
        let page = word..word + (1 << PAGE_WORDS_SHIFT);
        for word in &self.words[page.clone()] {
            word.store(value, Ordering::Release);
        }
        if self.shadow.get().is_some() {
            page.for_each(|word| self.publish(word));
        }
    }

    pub(crate) fn publish(&self, word: usize) {
        if let Some(shadow) = self.shadow.get() {
            shadow.dirty[word / 64].fetch_and(!(1 << (word % 64)), Ordering::AcqRel);
            shadow.words[word].store(self.words[word].load(Ordering::Acquire), Ordering::Release);
        }
    }

    /// As [`publish`](Self::publish), of a word that was stored since: cleaning a clean line writes nothing back.
    pub(crate) fn publish_if_dirty(&self, word: usize) {
        if self.is_dirty(word) {
            self.publish(word);
        }
    }

    /// Publishes all, and takes the chunk off the list.
    pub(crate) fn publish_all(&self) {
        if let Some(shadow) = self.shadow.get() {
            shadow.listed.store(false, Ordering::Release);
            (0..CHUNK_WORDS).for_each(|word| self.publish_if_dirty(word));
        }
    }

    /// Pulls in what hardware wrote, unless the CPU has an unpublished store there.
    pub(crate) fn refresh(&self, word: usize) {
        if let Some(shadow) = self.shadow.get()
            && !self.is_dirty(word)
        {
            self.words[word].store(shadow.words[word].load(Ordering::Acquire), Ordering::Release);
        }
    }

    fn is_dirty(&self, word: usize) -> bool {
        self.shadow
            .get()
            .is_some_and(|s| s.dirty[word / 64].load(Ordering::Acquire) >> (word % 64) & 1 == 1)
    }

    fn mark(&self, word: usize) -> bool {
        let Some(shadow) = self.shadow.get() else { return false };
        shadow.dirty[word / 64].fetch_or(1 << (word % 64), Ordering::AcqRel);
        !shadow.listed.swap(true, Ordering::AcqRel)
    }

    /// The state of the page that `word` is in.
    pub(crate) fn page(&self, word: usize) -> &AtomicU64 {
        &self.pages[word >> PAGE_WORDS_SHIFT]
    }
}

/// All chunks of a range of addresses.
pub(crate) struct Sparse {
    base: u64,
    size: u64,
    regions: Box<[OnceLock<Region>]>,
    split: AtomicBool,
}

type Region = Box<[OnceLock<Box<Chunk>>]>;

impl Sparse {
    pub(crate) fn new(base: u64, size: u64) -> Self {
        let regions = size.div_ceil(1 << REGION_SHIFT);
        Self {
            base,
            size,
            regions: (0..regions).map(|_| OnceLock::new()).collect(),
            split: AtomicBool::new(false),
        }
    }

    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn contains(&self, address: u64, len: u64) -> bool {
        let start = address.wrapping_sub(self.base);
        start < self.size && len <= self.size - start
    }

    /// From now on stores are published apart.
    pub(crate) fn split(&self) {
        self.split.store(true, Ordering::Release);
    }

    pub(crate) fn is_split(&self) -> bool {
        self.split.load(Ordering::Acquire)
    }

    /// The chunk that holds `address` and the word's index in it; `None` outside, and where nothing was ever stored.
    pub(crate) fn get(&self, address: u64) -> Option<(&Chunk, usize)> {
        let offset = address.wrapping_sub(self.base);
        let region = self.regions.get((offset >> REGION_SHIFT) as usize)?.get()?;
        let chunk = region[(offset >> CHUNK_SHIFT) as usize & (CHUNKS - 1)].get()?;
        Some((chunk, (offset >> 3) as usize & (CHUNK_WORDS - 1)))
    }

    /// As [`get`](Self::get), made where it did not exist. `address` must lie inside.
    pub(crate) fn get_or_make(&self, address: u64) -> (&Chunk, usize) {
        let offset = address - self.base;
        let region = self.regions[(offset >> REGION_SHIFT) as usize]
            .get_or_init(|| (0..CHUNKS).map(|_| OnceLock::new()).collect());
        let chunk = region[(offset >> CHUNK_SHIFT) as usize & (CHUNKS - 1)].get_or_init(Chunk::new);
        if self.is_split() {
            chunk.split();
        }
        (chunk, (offset >> 3) as usize & (CHUNK_WORDS - 1))
    }
}

impl fmt::Debug for Sparse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sparse({:#x} + {:#x})", self.base, self.size)
    }
}
