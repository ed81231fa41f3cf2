//! Which kinds of meeting between arrivals a boot saw: whoever claims that nothing goes wrong in a race must have raced.

use portcullis::FwNode;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

/// Kinds of meeting, in the order of [`Counts`].
pub const KINDS: [&str; 6] = [
    "client arrived before its IOMMU",
    "client arrived after its IOMMU",
    "client arrived while its IOMMU was registering",
    "two IOMMUs registered at once",
    "two clients of one group arrived at once",
    "unbind while an IOMMU was registering",
];

const ABSENT: u8 = 0;
const REGISTERING: u8 = 1;
const REGISTERED: u8 = 2;

/// Counts of each of [`KINDS`].
pub type Counts = [u64; KINDS.len()];

/// Watches one boot.
#[derive(Debug)]
pub(super) struct Races {
    phases: HashMap<FwNode, AtomicU8>,
    registering: AtomicUsize,
    /// Binds under way, by stream.
    binding: HashMap<(FwNode, u32), AtomicUsize>,
    counts: [AtomicU64; KINDS.len()],
}

impl Races {
    /// A watcher of those IOMMUs and streams.
    pub(super) fn new(
        iommus: impl Iterator<Item = FwNode>,
        streams: impl Iterator<Item = (FwNode, u32)>,
    ) -> Self {
        Self {
            phases: iommus.map(|node| (node, AtomicU8::new(ABSENT))).collect(),
            registering: AtomicUsize::new(0),
            binding: streams.map(|stream| (stream, AtomicUsize::new(0))).collect(),
            counts: Default::default(),
        }
    }

    /// `node` begins to come up.
    pub(super) fn registration_begins(&self, node: FwNode) {
        if self.registering.fetch_add(1, Ordering::AcqRel) > 0 {
            self.saw(3);
        }
        self.set(node, REGISTERING);
    }

    /// `node` is registered (or has failed).
    pub(super) fn registration_ends(&self, node: FwNode) {
        self.set(node, REGISTERED);
        self.registering.fetch_sub(1, Ordering::AcqRel);
    }

    /// A client of those streams arrives; call [`bind_ends`](Self::bind_ends) when its first attempt is over.
    pub(super) fn bind_begins(&self, streams: &[(FwNode, u32)]) {
        let phases = streams.iter().filter_map(|(node, _)| self.phases.get(node));
        match phases.map(|phase| phase.load(Ordering::Acquire)).min() {
            Some(ABSENT) => self.saw(0),
            Some(REGISTERED) => self.saw(1),
            Some(_) => self.saw(2),
            None => {}
        }
        let mates = streams.iter().filter_map(|stream| self.binding.get(stream));
        let meetings = mates.filter(|count| count.fetch_add(1, Ordering::AcqRel) > 0).count();
        if meetings > 0 {
            self.saw(4);
        }
    }

    /// The attempt is over.
    pub(super) fn bind_ends(&self, streams: &[(FwNode, u32)]) {
        for count in streams.iter().filter_map(|stream| self.binding.get(stream)) {
            count.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// A client is about to be unbound.
    pub(super) fn unbind_begins(&self) {
        if self.registering.load(Ordering::Acquire) > 0 {
            self.saw(5);
        }
    }

    /// How often each kind was seen.
    pub(super) fn counts(&self) -> Counts {
        core::array::from_fn(|index| self.counts[index].load(Ordering::Relaxed))
    }

    fn set(&self, node: FwNode, phase: u8) {
        if let Some(slot) = self.phases.get(&node) {
            slot.store(phase, Ordering::Release);
        }
    }

    fn saw(&self, kind: usize) {
        self.counts[kind].fetch_add(1, Ordering::Relaxed);
    }
}
