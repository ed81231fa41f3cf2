//! Doing the deferred work.

use crate::device::DeviceNode;
use crate::subsystem::Subsystem;
use crate::work::{LookAhead, Work};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::hint;
use portcullis_platform::{Clock, Nanos, Platform, RawEvent};

/// How many groups are looked at together.
const AT_ONCE: usize = 32;

impl<P: Platform> Subsystem<P> {
    /// Does all the work that is queued, and the work that follows from it. Returns how many items it did. Any number of threads may do this at once. Within a
    /// callback of a driver, the retry of its own device is left for later.
    #[doc(alias = "deferred_probe_work_func")]
    pub fn run_deferred(&self) -> usize {
        let mut done = 0;
        let mut later = Vec::new();
        let mut ahead = LookAhead::new();
        while let Some(work) = self.work().pop(&mut ahead) {
            match work {
                Work::Retry(device) => {
                    if device.upgrade().is_some_and(|device| !self.retry(&device)) {
                        later.push(Work::Retry(device));
                        continue;
                    }
                }
                Work::SetUpGroups(node) => self.set_up_groups(&node),
                Work::SetUpGroup(group) => {
                    if let Some(group) = group.upgrade() {
                        self.set_up_group(&group);
                    }
                }
            }
            done += 1;
        }
        if !later.is_empty() {
            self.work().push(later);
        }
        done
    }

    /// Runs deferred work until `finished` says so, sleeping while there is none; wakes up for the flushes that lazy domains owe ([`next_flush_due`](Self::next_flush_due)). Call [`wake_workers`](Self::wake_workers) after `finished` changed.
    pub fn serve_deferred(&self, finished: impl Fn() -> bool) {
        loop {
            let seen = self.work().arrived().generation();
            self.run_deferred();
            self.flush_overdue();
            if finished() {
                return;
            }
            match self.next_flush_due() {
                None => self.work().arrived().wait(seen),
                Some(due) => {
                    let left = due.saturating_sub(self.platform().clock().now());
                    self.work().arrived().wait_at_most(seen, left);
                }
            }
        }
    }

    /// Lets every [`serve_deferred`](Self::serve_deferred) look at its condition again.
    pub fn wake_workers(&self) {
        self.work().arrived().notify_all();
    }

    /// When [`flush_overdue`](Self::flush_overdue) must be called next, by the platform's clock; `None` where nothing waits for a flush.
    ///
    /// In a lazy domain a device may reach what its driver has unmapped ([`DmaHandle::unmap_later`](crate::DmaHandle::unmap_later)) until a flush, which there must be 10 ms after the first such unmap. A
    /// driver that goes on unmapping flushes by itself, every 256 mappings of a CPU; for one that stops, a timer must. [`serve_deferred`](Self::serve_deferred) is such a timer. A kernel with a timer of its own asks
    /// here when [`serve_deferred`](Self::serve_deferred)'s event was signalled, or every 10 ms.
    #[doc(alias = "fq_timer")]
    pub fn next_flush_due(&self) -> Option<Nanos> {
        self.flushes().all().iter().filter_map(|lease| lease.flush_due()).min()
    }

    /// Flushes what waits for longer than it may, and returns for how many drivers. What hardware does not confirm counts as [`quarantined`](crate::Counts::quarantined) and is tried again 10 ms later.
    pub fn flush_overdue(&self) -> usize {
        let leases = self.flushes().all();
        if leases.is_empty() {
            return 0;
        }
        let now = self.platform().clock().now();
        leases.iter().filter(|lease| lease.flush_if_due(now)).count()
    }

    fn set_up_groups(&self, node: &DeviceNode<P>) {
        let groups = Arc::clone(&node.slot.lock().groups);
        for some in groups.chunks(AT_ONCE) {
            // Plain loads of all of them first: the memory answers them together.
            hint::black_box(some.iter().map(Weak::strong_count).sum::<usize>());
            some.iter().filter_map(Weak::upgrade).for_each(|group| self.set_up_group(&group));
        }
    }
}
