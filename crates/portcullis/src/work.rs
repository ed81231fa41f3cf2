//! What became ready and must be tried again, and who sleeps until there is some.

use crate::device::{Device, DeviceNode, Group};
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use core::hint;
use portcullis_platform::{Lock, LockLabel, Mutex, Platform, RawEvent};
use smallvec::SmallVec;

pub(crate) enum Work<P: Platform> {
    /// Try to bind the device again.
    Retry(Weak<Device<P>>),
    /// Give every group behind the node its domain, also where no driver asks for it.
    SetUpGroups(Arc<DeviceNode<P>>),
    /// The same for one group.
    SetUpGroup(Weak<Group<P>>),
}

/// How many devices are looked at ahead of their turn. What they take in a first-level cache is a fraction of it.
pub(crate) const AHEAD: usize = 16;

/// What one thread has looked at ahead.
pub(crate) struct LookAhead<P: Platform> {
    /// How many items were taken since.
    taken: usize,
    devices: SmallVec<[Arc<Device<P>>; AHEAD]>,
}

impl<P: Platform> LookAhead<P> {
    pub(crate) fn new() -> Self {
        Self { taken: 0, devices: SmallVec::new() }
    }

    /// Chooses the next devices of a long queue.
    fn choose(&mut self, items: &VecDeque<Work<P>>) {
        self.taken += 1;
        if self.taken < AHEAD || items.len() < AHEAD {
            return;
        }
        self.taken = 0;
        let retries = || {
            items.iter().take(AHEAD).filter_map(|work| match work {
                Work::Retry(device) => Some(device),
                Work::SetUpGroups(_) | Work::SetUpGroup(_) => None,
            })
        };
        // Plain loads of all of them first: the memory answers them together.
        hint::black_box(retries().map(Weak::strong_count).sum::<usize>());
        self.devices.extend(retries().filter_map(Weak::upgrade));
    }

    /// Looks at those that were chosen.
    fn look(&mut self) {
        if !self.devices.is_empty() {
            hint::black_box(self.devices.iter().map(|device| device.look()).sum::<usize>());
            self.devices.clear();
        }
    }
}

#[doc(alias = "deferred_probe_active_list")]
pub(crate) struct WorkQueue<P: Platform> {
    items: Lock<P, VecDeque<Work<P>>>,
    /// Shared with who may have something to flush.
    arrived: Arc<P::Event>,
}

impl<P: Platform> WorkQueue<P> {
    pub(crate) fn new() -> Self {
        Self {
            items: Mutex::new(LockLabel::new("work", 0), VecDeque::new()),
            arrived: Arc::new(P::Event::new(LockLabel::new("work", 0))),
        }
    }

    pub(crate) fn push(&self, work: impl IntoIterator<Item = Work<P>>) {
        self.items.lock().extend(work);
        self.arrived.notify_all();
    }

    /// The next item. Has a long queue's devices fetched into the cache before it is their turn, several at once: they were queued in the order in which they were bound, which is any.
    pub(crate) fn pop(&self, ahead: &mut LookAhead<P>) -> Option<Work<P>> {
        let work = {
            let mut items = self.items.lock();
            let work = items.pop_front()?;
            ahead.choose(&items);
            work
        };
        ahead.look();
        Some(work)
    }

    pub(crate) fn len(&self) -> usize {
        self.items.lock().len()
    }

    pub(crate) fn arrived(&self) -> &Arc<P::Event> {
        &self.arrived
    }
}
