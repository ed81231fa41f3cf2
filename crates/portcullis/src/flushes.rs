//! Which drivers leave unmaps to a later flush.

use crate::dma::Lease;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use portcullis_platform::{Lock, LockLabel, Mutex, Platform};

/// The leases of lazy domains.
pub(crate) struct Flushes<P: Platform> {
    /// Whether there ever was one: strict machines take no lock for this. Not visible to the explorer: who binds a driver has not parked anything yet.
    any: AtomicBool,
    leases: Lock<P, Vec<Weak<Lease<P>>>>,
}

impl<P: Platform> Flushes<P> {
    pub(crate) fn new() -> Self {
        let leases = Mutex::new(LockLabel::new("flushes", 0), Vec::new());
        Self { any: AtomicBool::new(false), leases }
    }

    /// From now on `lease` is looked at.
    pub(crate) fn watch(&self, lease: &Arc<Lease<P>>) {
        self.any.store(true, Ordering::Relaxed);
        let mut leases = self.leases.lock();
        leases.retain(|lease| lease.strong_count() != 0);
        leases.push(Arc::downgrade(lease));
    }

    /// Those that may have parked something.
    pub(crate) fn all(&self) -> Vec<Arc<Lease<P>>> {
        if !self.any.load(Ordering::Relaxed) {
            return Vec::new();
        }
        self.leases.lock().iter().filter_map(Weak::upgrade).collect()
    }
}
