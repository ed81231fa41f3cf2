//! The whole way of a buffer: `map`, then `unmap`, strict, through the core and the SMMUv3 driver, on registers that act at once.

use crate::clock::{time, wall_time};
use crate::floor::{Floor, FloorTable};
use crate::instant::{BoundDevice, Host};
use crate::pool::{Piece, memory};
use portcullis::{Both, DmaHandle, DmaMapping, Parked};
use portcullis_platform::host::HostLock;
use portcullis_platform::{LockLabel, Mutex};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// The sizes of the table, in pages.
pub const SIZES: [usize; 5] = [1, 8, 32, 64, 512];
/// Mappings in flight, and the most bytes of them.
const IN_FLIGHT: usize = 256;
/// Mappings that are unmapped lazily and come back together.
pub const TOGETHER: usize = 64;
const MOST_BYTES: usize = 32 << 20;

/// A device with some mappings in flight, the oldest of which goes with each new one.
#[derive(Debug)]
pub struct Ring {
    handle: DmaHandle<Host>,
    spare: Vec<Piece>,
    live: VecDeque<DmaMapping<Piece, Both>>,
    /// What waits for a flush. Empty where the device's domain is strict.
    parked: Vec<Parked<Piece, Both>>,
    /// How many come back together; 0 in a strict domain.
    together: usize,
}

impl Ring {
    /// `pages` pages a mapping, 256 mappings in flight or as many as are 32 MiB. No buffer lies where a larger leaf would fit. Buffers are addresses and lengths: a driver that has
    /// its memory from elsewhere, and passes it on.
    ///
    /// # Panics
    ///
    /// If the pool is used up, or nothing can be mapped.
    pub fn new(device: &BoundDevice, pages: usize) -> Self {
        Self::of(device, pages, 0)
    }

    /// The same, unmapped lazily: [`TOGETHER`] come back by one invalidation, or as many as are in flight.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    pub fn lazy(device: &BoundDevice, pages: usize) -> Self {
        Self::of(device, pages, TOGETHER)
    }

    fn of(device: &BoundDevice, pages: usize, together: usize) -> Self {
        let count = IN_FLIGHT.min(MOST_BYTES / (pages * 4096));
        let together = together.min(count);
        let piece = |_| Piece::new(pages).expect("the pool is large enough");
        let spare = (0..=count + together).map(piece).collect();
        let (handle, parked) = (device.handle.clone(), Vec::with_capacity(together));
        let mut ring = Self { handle, spare, live: VecDeque::new(), parked, together };
        (0..count).for_each(|_| ring.map());
        ring
    }

    #[inline(always)]
    fn map(&mut self) {
        let buffer = self.spare.pop().expect("one more than are in flight");
        self.live.push_back(self.handle.map(buffer, Both).expect("room"));
    }

    #[inline(always)]
    fn unmap(&mut self) {
        let mapping = self.live.pop_front().expect("some are in flight");
        self.spare.push(self.handle.unmap(mapping).expect("confirmed"));
    }

    #[inline(always)]
    fn unmap_later(&mut self) {
        let mapping = self.live.pop_front().expect("some are in flight");
        self.parked.push(self.handle.unmap_later(mapping).expect("unmapped"));
        if self.parked.len() == self.together {
            self.redeem();
        }
    }

    fn redeem(&mut self) {
        let back = |piece| self.spare.push(piece);
        self.handle.redeem_all(&mut self.parked, back).expect("confirmed");
    }

    /// Maps one and unmaps the oldest, `pairs` times; nanoseconds a pair.
    pub fn pairs(&mut self, pairs: usize) -> f64 {
        time(pairs, || {
            for _ in 0..pairs {
                self.map();
                if self.together == 0 { self.unmap() } else { self.unmap_later() }
            }
        })
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        while !self.live.is_empty() {
            self.unmap();
        }
        self.redeem();
        self.spare.drain(..).for_each(Piece::give_back);
    }
}

/// Two threads with a ring each on `device`, which each has filled on its own processor: wall nanoseconds a pair in total, one thread alone and both at once, best of `rounds`.
pub fn two_threads(device: &BoundDevice, pages: usize, rounds: usize) -> (f64, f64) {
    const PAIRS: usize = 4096;
    let (mut alone, mut together) = (f64::MAX, f64::MAX);
    let ring = |()| {
        let mut ring = Ring::new(device, pages);
        // Once round, so that its tables are in the processor's caches again.
        ring.pairs(IN_FLIGHT);
        ring
    };
    let work = |ring: &mut Ring| _ = ring.pairs(PAIRS);
    for _ in 0..rounds {
        alone = alone.min(wall_time(vec![()], ring, work) / PAIRS as f64);
        together = together.min(wall_time(vec![(); 2], ring, work) / (2 * PAIRS) as f64);
    }
    (alone, together)
}

/// What no path can beat: an address from a private stack, the [floor](crate::floor) of a map and an unmap, and under a lock two commands, an order and a register write.
pub struct PathFloor {
    table: FloorTable,
    addresses: VecDeque<u64>,
    ring: Mutex<u64, HostLock>,
    words: Box<[AtomicU64]>,
    doorbell: AtomicU64,
}

impl std::fmt::Debug for PathFloor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PathFloor")
    }
}

impl Default for PathFloor {
    fn default() -> Self {
        let words = (0..512).map(|_| AtomicU64::new(0)).collect();
        let (table, ring) =
            (FloorTable::new(memory()), Mutex::new(LockLabel::new("floor queue", 0), 0));
        Self { table, addresses: VecDeque::new(), ring, words, doorbell: AtomicU64::new(0) }
    }
}

impl PathFloor {
    /// As [`Ring::pairs`].
    pub fn pairs(&mut self, pages: usize, pairs: usize) -> f64 {
        let len = pages as u64 * 4096;
        let live = IN_FLIGHT.min(MOST_BYTES / (pages * 4096)) as u64;
        // A leaf table for each range, as the address allocator does it from 512 pages on.
        let stride = len.next_power_of_two();
        self.addresses = (0..live + 1).map(|slot| slot * stride).collect();
        let phys = 0x1_0000_1000;
        let spare = self.addresses.pop_back().expect("one more than are in flight");
        self.addresses.iter().for_each(|iova| self.table.map(*iova, phys, len));
        let mut next = spare;
        let found = time(pairs, || {
            for _ in 0..pairs {
                self.table.map(next, phys, len);
                self.addresses.push_back(next);
                next = self.addresses.pop_front().expect("some are in flight");
                self.table.unmap(next, len);
                self.commands(next);
            }
        });
        self.addresses.iter().for_each(|iova| self.table.unmap(*iova, len));
        found
    }

    /// An invalidation and a sync, consumed at once.
    #[inline(always)]
    fn commands(&self, iova: u64) {
        let mut produced = self.ring.lock();
        let at = *produced as usize & 511;
        for (word, value) in self.words[at & !3..].iter().zip([0x12, iova, 0x46, 0]) {
            word.store(value, Ordering::Relaxed);
        }
        *produced += 4;
        fence(Ordering::Release);
        self.doorbell.store(*produced, Ordering::Release);
    }
}
