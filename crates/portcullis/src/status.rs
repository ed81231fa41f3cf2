//! What anybody may look at of a device, also while a driver has the device lock: where it stands, and what was counted.

use crate::description::FwNode;
use crate::reason::{BlockedReason, FailedReason};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use portcullis_platform::{Lock, LockLabel, Mutex, Platform, RawAtomic};

/// How far a device has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceStage {
    /// Known, nothing asked of it yet.
    Described,
    /// A bind waits for the supplier at this node.
    Waiting(FwNode),
    /// A driver is bound.
    Bound,
    /// Nothing reaches memory on its behalf, for this reason. A registration of what was missing lifts it.
    Blocked(BlockedReason),
    /// Its driver's probe failed for this reason; its address space is attached and empty.
    Failed(FailedReason),
    /// Removed from the machine.
    Gone,
}

/// The stages as they stand in the low half of the word; for [`WAITING`] the node is in the high half.
const DESCRIBED: u64 = 0;
const WAITING: u64 = 1;
const BOUND: u64 = 2;
const GONE: u64 = 3;
const BLOCKED: u64 = 4;
const FAILED: u64 = 5;

/// Where a device stands. Changed only by who holds the device lock, but for faults that were missed.
pub(crate) struct Status<P: Platform> {
    /// One word, not a lock: every attempt to bind reads and writes it several times.
    word: P::Atomic,
    /// The latest stage with a reason. Stored before the word, so who reads such a word finds one here, that one or a later one.
    reason: Lock<P, Option<Box<DeviceStage>>>,
    // No seam for the counters: nothing is decided by them.
    probes: AtomicU32,
    defers: AtomicU32,
    missed_faults: AtomicUsize,
}

impl<P: Platform> Status<P> {
    /// That of device `index`, just described.
    pub(crate) fn new(index: u64) -> Self {
        let label = LockLabel::new("status", index);
        Self {
            word: P::Atomic::new(label, DESCRIBED),
            reason: Mutex::new(label, None),
            probes: AtomicU32::new(0),
            defers: AtomicU32::new(0),
            missed_faults: AtomicUsize::new(0),
        }
    }

    pub(crate) fn stage(&self) -> DeviceStage {
        let word = self.word.load(Ordering::Acquire);
        match word & u64::from(u32::MAX) {
            DESCRIBED => DeviceStage::Described,
            WAITING => DeviceStage::Waiting(FwNode((word >> 32) as u32)),
            BOUND => DeviceStage::Bound,
            GONE => DeviceStage::Gone,
            _ => self.reason.lock().as_deref().map_or(DeviceStage::Described, Clone::clone),
        }
    }

    #[inline]
    pub(crate) fn show(&self, stage: DeviceStage) {
        let word = match stage {
            DeviceStage::Described => DESCRIBED,
            DeviceStage::Waiting(node) => WAITING | u64::from(node.0) << 32,
            DeviceStage::Bound => BOUND,
            DeviceStage::Gone => GONE,
            DeviceStage::Blocked(_) | DeviceStage::Failed(_) => self.keep(stage),
        };
        self.word.store(word, Ordering::Release);
    }

    #[cold]
    fn keep(&self, stage: DeviceStage) -> u64 {
        let word = if matches!(stage, DeviceStage::Blocked(_)) { BLOCKED } else { FAILED };
        *self.reason.lock() = Some(Box::new(stage));
        word
    }

    fn is(&self, stage: u64) -> bool {
        self.word.load(Ordering::Acquire) & u64::from(u32::MAX) == stage
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.is(GONE)
    }

    pub(crate) fn is_bound(&self) -> bool {
        self.is(BOUND)
    }

    /// Whether a bind was put off or refused for a reason that can go away.
    pub(crate) fn is_put_off(&self) -> bool {
        let stage = self.word.load(Ordering::Acquire) & u64::from(u32::MAX);
        stage == WAITING || stage == BLOCKED
    }

    /// How often the driver's probe was called.
    pub(crate) fn probes(&self) -> u32 {
        self.probes.load(Ordering::Relaxed)
    }

    pub(crate) fn count_probe(&self) {
        self.probes.store(self.probes().saturating_add(1), Ordering::Relaxed);
    }

    /// How often a bind was put off.
    pub(crate) fn defers(&self) -> u32 {
        self.defers.load(Ordering::Relaxed)
    }

    pub(crate) fn count_defer(&self) {
        self.defers.store(self.defers().saturating_add(1), Ordering::Relaxed);
    }

    /// Faults of which the driver was not told.
    pub(crate) fn missed_faults(&self) -> u64 {
        self.missed_faults.load(Ordering::Relaxed) as u64
    }

    /// Called by who does not have the device lock.
    pub(crate) fn count_missed_fault(&self) {
        self.missed_faults.fetch_add(1, Ordering::Relaxed);
    }
}
