//! What became ready and must be tried again, and who sleeps until there is some.

use crate::device::{Device, DeviceNode, Group};
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use portcullis_platform::{Lock, LockLabel, Mutex, Platform, RawEvent};

pub(crate) enum Work<P: Platform> {
    /// Try to bind the device again.
    Retry(Weak<Device<P>>),
    /// Give every group behind the node its domain, also where no driver asks for it.
    SetUpGroups(Arc<DeviceNode<P>>),
    /// The same for one group.
    SetUpGroup(Weak<Group<P>>),
}

#[doc(alias = "deferred_probe_active_list")]
pub(crate) struct WorkQueue<P: Platform> {
    items: Lock<P, VecDeque<Work<P>>>,
    arrived: P::Event,
}

impl<P: Platform> WorkQueue<P> {
    pub(crate) fn new() -> Self {
        Self {
            items: Mutex::new(LockLabel::new("work", 0), VecDeque::new()),
            arrived: P::Event::new(LockLabel::new("work", 0)),
        }
    }

    pub(crate) fn push(&self, work: impl IntoIterator<Item = Work<P>>) {
        self.items.lock().extend(work);
        self.arrived.notify_all();
    }

    pub(crate) fn pop(&self) -> Option<Work<P>> {
        self.items.lock().pop_front()
    }

    pub(crate) fn len(&self) -> usize {
        self.items.lock().len()
    }

    pub(crate) fn arrived(&self) -> &P::Event {
        &self.arrived
    }
}
