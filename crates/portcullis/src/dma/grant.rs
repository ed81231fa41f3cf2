//! What a mapping remembers of what its device was lent.

use crate::space::LeaseId;
use core::num::NonZeroU64;
use portcullis_addr::{Iova, IovaRange};

/// Where a device finds what it was lent, in two registers: structures are returned through memory, and read there while they are still being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    /// As the device emits it.
    pub(super) address: u64,
    /// One more than the bytes of the whole pages around it; 1 where nothing is translated.
    span: NonZeroU64,
}

impl Placed {
    /// In `pages`, beginning at byte `offset` of them.
    #[inline]
    pub(super) fn translated(pages: IovaRange, offset: u64) -> Self {
        let address = pages.start().raw() + offset;
        Self { address, span: NonZeroU64::MIN.saturating_add(pages.len()) }
    }

    /// At `address` itself.
    pub(super) fn untranslated(address: u64) -> Self {
        Self { address, span: NonZeroU64::MIN }
    }
}

/// What a device was lent, and under which lease.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grant {
    placed: Placed,
    pub(super) lease: LeaseId,
}

impl Grant {
    #[inline]
    pub(super) fn new(placed: Placed, lease: LeaseId) -> Self {
        Self { placed, lease }
    }

    /// The same addresses as nobody's, so that nobody gets back what is kept for them.
    pub(super) fn of_nobody(self) -> Self {
        Self { lease: LeaseId::NOBODY, ..self }
    }

    /// As the device emits it.
    #[inline]
    pub(super) fn address(&self) -> u64 {
        self.placed.address
    }

    /// Whether the address is translated.
    #[inline]
    pub(super) fn is_translated(&self) -> bool {
        self.placed.span != NonZeroU64::MIN
    }

    /// The whole pages of `granule` bytes around it; `None` where nothing is translated.
    #[inline]
    pub(super) fn pages(&self, granule: u64) -> Option<IovaRange> {
        let start = self.placed.address & !(granule - 1);
        IovaRange::new(Iova::new(start), self.placed.span.get() - 1).ok()
    }
}
