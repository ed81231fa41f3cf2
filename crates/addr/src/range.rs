//! Half-open ranges that are never empty and may end exactly at 2^64.

use crate::space::{Address, Iova, PhysAddr};
use core::fmt;

/// `[start, start + len)`; `len` is at least 1 and the last byte fits 64 bits.
///
/// # Invariants
///
/// `len >= 1` and `start + (len - 1)` does not overflow.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Range<A> {
    start: A,
    len: u64,
}

/// A range of [`Iova`]s.
pub type IovaRange = Range<Iova>;
/// A range of [`PhysAddr`]s.
pub type PhysRange = Range<PhysAddr>;

/// Why a range could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeError {
    /// The length was zero.
    Empty {
        /// Where the range would have begun.
        start: u64,
    },
    /// The last byte lies beyond 2^64.
    Wraps {
        /// Where the range would have begun.
        start: u64,
        /// Its length in bytes.
        len: u64,
    },
}

impl fmt::Display for RangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty { start } => write!(f, "range at {start:#x} has length 0"),
            Self::Wraps { start, len } => {
                write!(f, "range at {start:#x} of {len:#x} bytes ends beyond 2^64")
            }
        }
    }
}

impl core::error::Error for RangeError {}

impl<A: Address> Range<A> {
    /// The range of `len` bytes from `start`.
    ///
    /// # Errors
    ///
    /// [`RangeError::Empty`] for `len` 0, [`RangeError::Wraps`] where the last byte does not fit 64 bits.
    #[inline]
    pub fn new(start: A, len: u64) -> Result<Self, RangeError> {
        let raw = start.raw();
        let last = len.checked_sub(1).ok_or(RangeError::Empty { start: raw })?;
        raw.checked_add(last).ok_or(RangeError::Wraps { start: raw, len })?;
        // INVARIANT: both conditions were checked on the two lines above.
        Ok(Self { start, len })
    }

    /// First address.
    #[inline]
    pub fn start(&self) -> A {
        self.start
    }

    /// Last address, inclusive.
    #[inline]
    pub fn last(&self) -> A {
        A::from_raw(self.start.raw() + (self.len - 1))
    }

    /// Length in bytes, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "a range is never empty")]
    #[inline]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether `address` lies inside.
    #[inline]
    pub fn contains(&self, address: A) -> bool {
        self.start <= address && address <= self.last()
    }

    /// Whether all of `other` lies inside.
    #[inline]
    pub fn covers(&self, other: &Self) -> bool {
        self.start <= other.start && other.last() <= self.last()
    }

    /// Whether the two share an address.
    #[inline]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.start <= other.last() && other.start <= self.last()
    }

    /// Whether start and length are multiples of `align`, a power of two in bytes.
    #[inline]
    pub fn is_aligned(&self, align: u64) -> bool {
        (self.start.raw() | self.len) & (align - 1) == 0
    }
}

impl<A: Address> fmt::Display for Range<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..={}", self.start, self.last())
    }
}

impl<A: Address> fmt::Debug for Range<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}+{:#x}", self.start, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, len: u64) -> IovaRange {
        Range::new(Iova::new(start), len).expect("test range")
    }

    #[test]
    fn refuses_what_is_no_range() {
        assert_eq!(Range::new(Iova::new(5), 0), Err(RangeError::Empty { start: 5 }));
        let start = u64::MAX - 1;
        assert_eq!(Range::new(Iova::new(start), 3), Err(RangeError::Wraps { start, len: 3 }));
        assert_eq!(range(start, 2).last(), Iova::new(u64::MAX));
    }

    #[test]
    fn overlap_and_cover() {
        assert!(range(0, 0x1000).overlaps(&range(0xfff, 1)));
        assert!(!range(0, 0x1000).overlaps(&range(0x1000, 1)));
        assert!(range(0, 0x1000).covers(&range(0xfff, 1)));
        assert!(!range(0, 0x1000).covers(&range(0xfff, 2)));
        assert!(range(0x2000, 0x1000).contains(Iova::new(0x2fff)));
    }
}
