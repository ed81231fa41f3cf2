//! How an IOMMU's own accesses see memory.

use crate::faults::StoreOrder;
use crate::memory::{BusAbort, PhysicalMemory, View};
use crate::random::Random;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a unit sees of software's stores: all of them, those that were published, or, with late stores, some of the others too.
#[derive(Debug)]
pub(crate) struct Sight {
    memory: Arc<PhysicalMemory>,
    coherent: bool,
    late: bool,
    draws: AtomicU64,
}

impl Sight {
    pub(crate) fn new(
        memory: &Arc<PhysicalMemory>,
        coherent: bool,
        order: StoreOrder,
        seed: u64,
    ) -> Self {
        let late = order == StoreOrder::Late;
        Self { memory: Arc::clone(memory), coherent, late, draws: AtomicU64::new(seed) }
    }

    /// Which view of memory it sees.
    pub(crate) fn view(&self) -> View {
        if self.coherent && !self.late { View::Cpu } else { View::Published }
    }

    /// A number from the seed, without a lock.
    pub(crate) fn draw(&self) -> u64 {
        Random::new(self.draws.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)).next_u64()
    }

    /// With late stores, an unpublished one at `address` may be seen now.
    pub(crate) fn maybe_settle(&self, address: u64) {
        if self.coherent && self.late && self.draw() & 3 == 0 {
            self.memory.settle(address);
        }
    }

    /// A register was written: what was stored before is seen by a unit that snoops.
    pub(crate) fn register_written(&self) {
        if self.coherent && self.late {
            self.memory.publish_all();
        }
    }

    /// Reads a descriptor: its value, and whether it lies in freed memory.
    pub(crate) fn walk_load(&self, address: u64) -> Result<(u64, bool), BusAbort> {
        self.maybe_settle(address);
        self.memory.walk_load(address, self.view())
    }
}
