//! Doing the deferred work.

use crate::device::DeviceNode;
use crate::subsystem::Subsystem;
use crate::work::{LookAhead, Work};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::hint;
use portcullis_platform::{Platform, RawEvent};

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

    /// Runs deferred work until `finished` says so, sleeping while there is none. Call [`wake_workers`](Self::wake_workers) after `finished` changed.
    pub fn serve_deferred(&self, finished: impl Fn() -> bool) {
        loop {
            let seen = self.work().arrived().generation();
            self.run_deferred();
            if finished() {
                return;
            }
            self.work().arrived().wait(seen);
        }
    }

    /// Lets every [`serve_deferred`](Self::serve_deferred) look at its condition again.
    pub fn wake_workers(&self) {
        self.work().arrived().notify_all();
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
