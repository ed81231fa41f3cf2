//! Who has claimed a stream, who may change its entry, and what hardware has not confirmed about it.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use portcullis::{OpsError, StreamSpec};
use portcullis_addr::{PhysAddr, StreamId};
use portcullis_platform::{Lock, LockLabel, Platform, RawAtomic};

/// The streams of one unit that somebody has claimed, under one lock together with what `T` the entries are kept in.
///
/// An entry *in doubt* says "blocked", and hardware was not confirmed to have read it since. It stays on record, whatever happens to its claims, until hardware confirms something.
#[derive(Debug)]
pub struct Claims<P: Platform, T> {
    inner: Lock<P, Inner<P, T>>,
    /// How many doubts there have been; each has its number.
    doubts: P::Atomic,
    /// How often hardware did not confirm that streams are blocked.
    unconfirmed: P::Atomic,
    /// How many of these have been made good since: hardware forgot all configuration.
    made_good: P::Atomic,
}

#[derive(Debug)]
struct Inner<P: Platform, T> {
    claims: BTreeMap<u32, Claim<P>>,
    tables: T,
}

#[derive(Debug)]
struct Claim<P: Platform> {
    count: usize,
    stream: Arc<Stream<P>>,
}

/// A stream that somebody has claimed.
#[derive(Debug)]
pub struct Stream<P: Platform> {
    id: StreamId,
    entry: PhysAddr,
    /// Somebody is changing the entry.
    busy: AtomicBool,
    /// The entry says "blocked", but hardware has not confirmed that: the number of the doubt, 0 for none.
    doubt: P::Atomic,
}

impl<P: Platform> Stream<P> {
    /// Its id.
    pub fn id(&self) -> StreamId {
        self.id
    }

    /// Where its entry is.
    pub fn entry(&self) -> PhysAddr {
        self.entry
    }

    /// Whether hardware has not confirmed that it is blocked, although its entry says so.
    pub fn is_doubtful(&self) -> bool {
        self.doubt.load(Ordering::Acquire) != 0
    }

    /// Hardware has confirmed what the entry says.
    pub fn trust(&self) {
        self.doubt.store(0, Ordering::Release);
    }
}

/// Streams whose entries only the holder changes, each once.
#[derive(Debug)]
pub struct Held<P: Platform>(Vec<Arc<Stream<P>>>);

impl<P: Platform> core::ops::Deref for Held<P> {
    type Target = [Arc<Stream<P>>];

    fn deref(&self) -> &[Arc<Stream<P>>] {
        &self.0
    }
}

impl<P: Platform> Drop for Held<P> {
    fn drop(&mut self) {
        for stream in &self.0 {
            stream.busy.store(false, Ordering::Release);
        }
    }
}

impl<P: Platform, T> Claims<P, T> {
    /// No claim yet. `label` tells the locks of two units apart.
    pub fn new(tables: T, label: u64) -> Self {
        let inner = Inner { claims: BTreeMap::new(), tables };
        let word = |class| P::Atomic::new(LockLabel::new(class, label), 0);
        Self {
            inner: Lock::<P, _>::new(LockLabel::new("iommu.streams", label), inner),
            doubts: word("iommu.doubts"),
            unconfirmed: word("iommu.unconfirmed"),
            made_good: word("iommu.made_good"),
        }
    }

    /// Counts one claim of each stream, after `make_room` has made room for the entries; `entry` says where each of them is. Returns those that hardware must still confirm to be
    /// blocked.
    ///
    /// # Errors
    ///
    /// What `make_room` says; nothing is claimed then.
    pub fn claim<E>(
        &self,
        ids: &[StreamId],
        make_room: impl FnOnce(&mut T) -> Result<(), E>,
        entry: impl Fn(StreamId) -> PhysAddr,
    ) -> Result<Vec<Arc<Stream<P>>>, E> {
        let mut inner = self.inner.lock();
        make_room(&mut inner.tables)?;
        let mut doubtful = Vec::new();
        for &id in ids {
            let claim = inner.claims.entry(id.raw()).or_insert_with(|| {
                let doubt = LockLabel::new("iommu.doubt", u64::from(id.raw()));
                let (busy, doubt) = (AtomicBool::new(false), P::Atomic::new(doubt, 0));
                Claim { count: 0, stream: Arc::new(Stream { id, entry: entry(id), busy, doubt }) }
            });
            claim.count += 1;
            if claim.stream.is_doubtful() {
                doubtful.push(Arc::clone(&claim.stream));
            }
        }
        Ok(doubtful)
    }

    /// Takes back one claim of each stream; returns those that nobody claims any more. They must be blocked and then [`forget`](Self::forget)ed.
    pub fn unclaim(&self, ids: &[StreamId]) -> Vec<Arc<Stream<P>>> {
        let mut inner = self.inner.lock();
        let mut last = Vec::new();
        for id in ids {
            if let Some(claim) = inner.claims.get_mut(&id.raw()).filter(|claim| claim.count > 0) {
                claim.count -= 1;
                if claim.count == 0 {
                    last.push(Arc::clone(&claim.stream));
                }
            }
        }
        last
    }

    /// Drops the records of streams without a claim, except where hardware has not confirmed that they are blocked.
    pub fn forget(&self, gone: &[Arc<Stream<P>>]) {
        let mut inner = self.inner.lock();
        for stream in gone.iter().filter(|stream| !stream.is_doubtful()) {
            let id = stream.id.raw();
            if inner.claims.get(&id).is_some_and(|claim| claim.count == 0) {
                inner.claims.remove(&id);
            }
        }
    }

    /// From now on it is not known what hardware does with the stream, until it confirms something.
    pub fn doubt(&self, stream: &Stream<P>) {
        let number = self.doubts.fetch_add(1, Ordering::Relaxed) + 1;
        stream.doubt.store(number, Ordering::Release);
    }

    /// The streams in doubt, with the number of each doubt.
    pub fn doubts(&self) -> Vec<(Arc<Stream<P>>, u64)> {
        let inner = self.inner.lock();
        let all = inner.claims.values().map(|claim| &claim.stream);
        let all = all.map(|stream| (Arc::clone(stream), stream.doubt.load(Ordering::Acquire)));
        all.filter(|(_, doubt)| *doubt != 0).collect()
    }

    /// Hardware has forgotten all configuration since `doubts` were looked up: streams that were not doubted anew can be trusted.
    pub fn settle(&self, doubts: Vec<(Arc<Stream<P>>, u64)>) {
        let (same, none) = (Ordering::AcqRel, Ordering::Acquire);
        let settled = doubts.into_iter().filter_map(|(stream, doubt)| {
            stream.doubt.compare_exchange(doubt, 0, same, none).is_ok().then_some(stream)
        });
        self.forget(&settled.collect::<Vec<_>>());
    }

    /// Takes the right to change the entries of claimed streams.
    ///
    /// # Errors
    ///
    /// [`OpsError::UnknownStream`] where one is not claimed, [`OpsError::StreamInUse`] where somebody else is changing one.
    pub fn hold(&self, ids: &[StreamId]) -> Result<Held<P>, OpsError> {
        let inner = self.inner.lock();
        let mut held = Held(Vec::new());
        for &id in ids {
            let claim = inner.claims.get(&id.raw()).filter(|claim| claim.count > 0);
            let stream =
                &claim.ok_or(OpsError::UnknownStream { stream: StreamSpec::exact(id) })?.stream;
            if !stream.busy.swap(true, Ordering::AcqRel) {
                held.0.push(Arc::clone(stream));
            } else if !held.iter().any(|other| other.id == id) {
                return Err(OpsError::StreamInUse { stream: StreamSpec::exact(id) });
            }
        }
        Ok(held)
    }

    /// Takes the right to change the entries of all claimed streams that `wanted` names, but for those that somebody else is changing.
    pub fn hold_where(&self, wanted: impl Fn(&Stream<P>) -> bool) -> Held<P> {
        let inner = self.inner.lock();
        let mut held = Held(Vec::new());
        for claim in inner.claims.values() {
            let stream = &claim.stream;
            if stream.busy.swap(true, Ordering::AcqRel) {
                continue;
            }
            if wanted(stream) {
                held.0.push(Arc::clone(stream));
            } else {
                stream.busy.store(false, Ordering::Release);
            }
        }
        held
    }

    /// Notes that hardware may still hold old entries of streams whose entries say "blocked".
    pub fn note_unconfirmed(&self) {
        self.unconfirmed.fetch_add(1, Ordering::AcqRel);
    }

    /// What [`Self::note_made_good`] is to be told once hardware has forgotten all configuration; `None` where it holds nothing old.
    pub fn unconfirmed(&self) -> Option<u64> {
        let seen = self.unconfirmed.load(Ordering::Acquire);
        (seen > self.made_good.load(Ordering::Acquire)).then_some(seen)
    }

    /// Notes that hardware confirmed, after `seen` was read, to have forgotten all configuration.
    pub fn note_made_good(&self, seen: u64) {
        let mut known = self.made_good.load(Ordering::Acquire);
        while known < seen {
            let (done, not) = (Ordering::AcqRel, Ordering::Acquire);
            match self.made_good.compare_exchange(known, seen, done, not) {
                Ok(()) => return,
                Err(found) => known = found,
            }
        }
    }
}
