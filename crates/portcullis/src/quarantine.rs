//! What an IOMMU did not confirm, kept at its node until it confirms after all or is brought up anew.

use crate::ops::{AddressSpace, OpsError};
use crate::stream::StreamSpec;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use portcullis_platform::{Lock, LockLabel, Mutex, Platform};

/// An address space that was given up while hardware may still use it.
#[derive(Debug)]
pub(crate) struct LeftSpace {
    /// Something may still walk it.
    _space: Arc<dyn AddressSpace>,
    bytes: u64,
}

impl LeftSpace {
    /// `space`, in which `bytes` were in quarantine.
    pub(crate) fn new(space: Arc<dyn AddressSpace>, bytes: u64) -> Self {
        Self { _space: space, bytes }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// What is unconfirmed at one node.
pub(crate) struct Quarantine<P: Platform> {
    /// Whether there is anything. Not visible to the explorer: what concerns one stream or space is written and read under the same group lock.
    any: AtomicBool,
    left: Lock<P, Left>,
}

#[derive(Default)]
struct Left {
    /// How many notes there have been. Each has its number.
    notes: u64,
    streams: Vec<(u64, StreamSpec, OpsError)>,
    spaces: Vec<(u64, Arc<LeftSpace>)>,
}

impl<P: Platform> Quarantine<P> {
    pub(crate) fn new(index: u64) -> Self {
        let left = Mutex::new(LockLabel::new("quarantine", index), Left::default());
        Self { any: AtomicBool::new(false), left }
    }

    fn note(&self, note: impl FnOnce(&mut Left, u64)) {
        let mut left = self.left.lock();
        left.notes += 1;
        let number = left.notes;
        note(&mut left, number);
        self.any.store(true, Ordering::Relaxed);
    }

    /// It is not known what devices that emit `streams` reach, because of `error`.
    pub(crate) fn doubt(&self, streams: &[StreamSpec], error: OpsError) {
        self.note(|left, number| {
            left.streams.retain(|(_, doubtful, _)| !streams.contains(doubtful));
            left.streams.extend(streams.iter().map(|stream| (number, *stream, error)));
        });
    }

    /// Hardware may still use `space`.
    pub(crate) fn keep(&self, space: &Arc<LeftSpace>) {
        self.note(|left, number| left.spaces.push((number, Arc::clone(space))));
    }

    /// Hardware has confirmed what these streams reach.
    pub(crate) fn trust(&self, streams: &[StreamSpec]) {
        if self.any.load(Ordering::Relaxed) {
            self.left.lock().streams.retain(|(_, doubtful, _)| !streams.contains(doubtful));
        }
    }

    /// Why it is unknown what a device that emits `stream` reaches; `None` where it is known.
    pub(crate) fn doubts(&self, stream: StreamSpec) -> Option<OpsError> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        let left = self.left.lock();
        let doubtful = left.streams.iter().find(|(_, doubtful, _)| doubtful.overlaps(&stream));
        doubtful.map(|(_, _, error)| *error)
    }

    /// The spaces that are left.
    pub(crate) fn spaces(&self) -> Vec<Arc<LeftSpace>> {
        if !self.any.load(Ordering::Relaxed) {
            return Vec::new();
        }
        self.left.lock().spaces.iter().map(|(_, space)| Arc::clone(space)).collect()
    }

    /// The number of the latest note, for [`Self::settle`].
    pub(crate) fn latest(&self) -> u64 {
        self.left.lock().notes
    }

    /// Hardware has forgotten all that was noted up to `latest`.
    pub(crate) fn settle(&self, latest: u64) {
        // Dropped after the lock is given back: the last of them frees a table.
        let settled: Vec<_> = {
            let mut left = self.left.lock();
            left.streams.retain(|(number, _, _)| *number > latest);
            let all = core::mem::take(&mut left.spaces);
            let (settled, kept) = all.into_iter().partition(|(number, _)| *number <= latest);
            left.spaces = kept;
            settled
        };
        drop(settled);
    }
}

impl<P: Platform> fmt::Debug for Quarantine<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quarantine").field("any", &self.any).finish_non_exhaustive()
    }
}
