//! The addresses of one space: which are handed out, to which lease, and which are in quarantine.

use crate::description::ReservedRegion;
use crate::error::{DmaError, WindowError};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use hashbrown::HashMap;
use portcullis_addr::{Iova, IovaRange, PageSize};
use portcullis_iova::{AllocateError, IovaAllocator, IovaRequest};

/// One bind of one driver, unlike every other one ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LeaseId(u64);

/// How many leases there have been. Their addresses would not do as names: memory is reused.
static LEASES: AtomicU64 = AtomicU64::new(1);

impl LeaseId {
    /// Nobody's.
    const NONE: Self = Self(0);

    /// A name that nobody had before.
    pub(crate) fn fresh() -> Self {
        Self(LEASES.fetch_add(1, Ordering::Relaxed))
    }
}

/// What is handed out of an address space.
pub(super) struct Window {
    addresses: IovaAllocator,
    /// The lease that has every live range, while `owners` is `None`.
    sole: LeaseId,
    /// The lease of each live range, by first address. Kept only once two leases have had ranges at the same time, which takes a group of several devices.
    owners: Option<HashMap<Iova, LeaseId>>,
    /// The live ranges that hardware did not confirm to have forgotten: first address and bytes.
    quarantine: HashMap<Iova, u64>,
}

impl Window {
    /// All of `input` but the `reserved` ranges and the first page.
    pub(super) fn new(
        granule: PageSize,
        input: IovaRange,
        reserved: &[ReservedRegion],
    ) -> Result<Self, DmaError> {
        let addresses = IovaAllocator::new(granule, input);
        let mut addresses = addresses.map_err(|_| DmaError::Window(WindowError::NoMemory))?;
        // Address 0 is what a driver that forgot to set its address register emits.
        let zero = IovaRange::new(Iova::new(0), granule.bytes()).ok();
        for range in reserved.iter().map(|region| region.range).chain(zero) {
            addresses.reserve(range).map_err(|_| DmaError::Window(WindowError::Reserved))?;
        }
        Ok(Self { addresses, sole: LeaseId::NONE, owners: None, quarantine: HashMap::new() })
    }

    /// Takes a free range for `lease`.
    pub(super) fn allocate(
        &mut self,
        lease: LeaseId,
        request: IovaRequest,
    ) -> Result<IovaRange, AllocateError> {
        let range = self.addresses.allocate(request)?;
        if (self.owners.is_some() || self.sole != lease) && !self.note_owner(lease, range) {
            self.give_back(range);
            return Err(AllocateError::NoMemory);
        }
        Ok(range)
    }

    /// Remembers that `range`, just allocated, is the lease's; `false` without the memory for it.
    #[cold]
    fn note_owner(&mut self, lease: LeaseId, range: IovaRange) -> bool {
        if self.addresses.live_count() == 1 {
            self.sole = lease;
            self.owners = None;
            return true;
        }
        let mut owners = self.owners.take().unwrap_or_default();
        let first_time = owners.is_empty();
        let more = if first_time { self.addresses.live_count() } else { 1 };
        let room = owners.try_reserve(more).is_ok();
        if room && first_time {
            owners.extend(self.addresses.live().map(|range| (range.start(), self.sole)));
        }
        if room {
            owners.insert(range.start(), lease);
        }
        self.owners = (!owners.is_empty()).then_some(owners);
        room
    }

    /// Gives a live range back, from quarantine too.
    pub(super) fn free(&mut self, range: IovaRange) {
        if !self.quarantine.is_empty() {
            self.quarantine.remove(&range.start());
        }
        if let Some(owners) = &mut self.owners {
            owners.remove(&range.start());
        }
        self.give_back(range);
    }

    fn give_back(&mut self, range: IovaRange) {
        let freed = self.addresses.free(range);
        debug_assert!(freed.is_ok(), "a live range was not known: {freed:?}");
    }

    /// Puts a live range into quarantine. Without memory for the note it is live until its lease ends, and counts as a mapping.
    pub(super) fn quarantine(&mut self, range: IovaRange) {
        if self.quarantine.try_reserve(1).is_ok() {
            self.quarantine.insert(range.start(), range.len());
        }
    }

    /// The lease's live ranges, with those in quarantine.
    pub(super) fn of(&self, lease: LeaseId) -> Vec<IovaRange> {
        let is_its = |range: &IovaRange| match &self.owners {
            Some(owners) => owners.get(&range.start()) == Some(&lease),
            None => self.sole == lease,
        };
        self.addresses.live().filter(is_its).collect()
    }

    /// The lease's mappings in force.
    pub(super) fn mapped_by(&self, lease: LeaseId) -> usize {
        let held = |range: &IovaRange| self.quarantine.contains_key(&range.start());
        self.of(lease).iter().filter(|range| !held(range)).count()
    }

    /// Mappings in force.
    pub(super) fn mapped(&self) -> usize {
        self.addresses.live_count() - self.quarantine.len()
    }

    /// Bytes in quarantine.
    pub(super) fn quarantined(&self) -> u64 {
        self.quarantine.values().sum()
    }
}
