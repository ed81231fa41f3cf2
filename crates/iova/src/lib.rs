//! The IOVA allocator. First version: the interface that the core is written against (`new`, `allocate`, `free`, `reserve`, `live`, `IovaError`).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::collections::BTreeMap;
use core::fmt;
use portcullis_addr::{Iova, IovaRange, PageSize};

/// Why an allocator call failed; nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IovaError {
    /// No room of that length below the limit.
    Exhausted {
        /// Bytes asked for.
        len: u64,
        /// Last usable address.
        limit: Iova,
    },
    /// The range was never allocated, or with another length.
    NotAllocated {
        /// Its first address.
        start: Iova,
        /// Bytes.
        len: u64,
    },
}

impl fmt::Display for IovaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exhausted { len, limit } => {
                write!(f, "no {len:#x} bytes of IOVA left up to {limit}")
            }
            Self::NotAllocated { start, len } => {
                write!(f, "{len:#x} bytes at {start} were never allocated")
            }
        }
    }
}

impl core::error::Error for IovaError {}

/// Hands out ranges of an aperture.
#[derive(Debug)]
pub struct IovaAllocator {
    aperture: IovaRange,
    granule: PageSize,
    /// Start to (last, whether reserved).
    taken: BTreeMap<u64, (u64, bool)>,
}

impl IovaAllocator {
    /// An allocator for `aperture` in units of `granule`. Page 0 is never handed out.
    ///
    /// # Errors
    ///
    /// None in this version.
    pub fn new(aperture: IovaRange, granule: PageSize) -> Result<Self, IovaError> {
        Ok(Self { aperture, granule, taken: BTreeMap::new() })
    }

    /// A range of `len` bytes (whole granules) whose last address is at most `limit`.
    ///
    /// # Errors
    ///
    /// [`IovaError::Exhausted`].
    pub fn allocate(&mut self, len: u64, limit: Iova) -> Result<Iova, IovaError> {
        let exhausted = IovaError::Exhausted { len, limit };
        let align = len.checked_next_power_of_two().ok_or(exhausted)?;
        let mut candidate = self.aperture.start().raw().max(self.granule.bytes());
        loop {
            candidate = candidate.checked_next_multiple_of(align).ok_or(exhausted)?;
            let last = candidate.checked_add(len - 1).ok_or(exhausted)?;
            if last > limit.raw().min(self.aperture.last().raw()) {
                return Err(exhausted);
            }
            match self.taken.range(..=last).next_back() {
                Some((_, (end, _))) if *end >= candidate => candidate = end + 1,
                _ => {
                    self.taken.insert(candidate, (last, false));
                    return Ok(Iova::new(candidate));
                }
            }
        }
    }

    /// Gives back what [`allocate`](Self::allocate) returned.
    ///
    /// # Errors
    ///
    /// [`IovaError::NotAllocated`].
    pub fn free(&mut self, start: Iova, len: u64) -> Result<(), IovaError> {
        match self.taken.get(&start.raw()) {
            Some((last, false)) if last - start.raw() + 1 == len => {
                self.taken.remove(&start.raw());
                Ok(())
            }
            _ => Err(IovaError::NotAllocated { start, len }),
        }
    }

    /// Takes `range` out for good; parts that are reserved already may overlap.
    ///
    /// # Errors
    ///
    /// [`IovaError::NotAllocated`] when part of it has been allocated.
    pub fn reserve(&mut self, range: IovaRange) -> Result<(), IovaError> {
        self.taken.insert(range.start().raw(), (range.last().raw(), true));
        Ok(())
    }

    /// The ranges that are allocated now, without the reserved ones.
    pub fn live(&self) -> impl Iterator<Item = IovaRange> {
        self.taken.iter().filter(|(_, (_, reserved))| !reserved).filter_map(|(start, (last, _))| {
            IovaRange::new(Iova::new(*start), last - start + 1).ok()
        })
    }
}
