//! Bytes that reach a device by way of pages of their own.

use super::Lendable;
use super::pool::PooledPages;
use crate::error::DmaError;
use core::fmt;
use core::ops::Range;
use portcullis_addr::{PhysAddr, PhysRange};
use portcullis_platform::{AllocError, DmaMemory, DmaPages, PageLayout, Platform};

const WORD: usize = 8;

/// Bytes that a device is lent by way of whole pages that nothing else is in: what it can reach is these bytes, and zeroes.
///
/// Made by [`DmaHandle::bounce`](crate::DmaHandle::bounce), lent like any buffer, and turned into its bytes again by [`into_bytes`](Self::into_bytes). The bytes are copied into the pages when it is made, for a
/// device that only writes as well: what that does not write comes back as it was. (Where tables cannot say "write only", as Arm's stage 1, it could read them, as it could those of any buffer
/// that it is lent.) One that fits a page takes it from a pool of its driver's, at most 64 pages that are zeroed when they go back, so that a warm driver asks for no memory; a longer one takes
/// fresh pages. Bytes are copied a word at a time.
#[doc(alias = "swiotlb")]
pub struct Bounce<T, P: Platform> {
    bytes: T,
    pages: PooledPages<P>,
}

impl<T: AsRef<[u8]> + AsMut<[u8]> + 'static, P: Platform> Bounce<T, P> {
    /// `bytes`, copied into `pages`.
    pub(super) fn new(pages: PooledPages<P>, bytes: T) -> Self {
        let bounce = Self { bytes, pages };
        bounce.store(0, bounce.bytes.as_ref());
        bounce
    }

    /// The layout of the pages for `len` bytes; `None` where there is no such memory.
    pub(super) fn layout(len: usize, granule: usize) -> Option<PageLayout> {
        PageLayout::new(len.max(1).checked_next_multiple_of(granule)?, granule)
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.bytes.as_ref().len()
    }

    /// Whether there are none. A device is lent one byte then.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes, as the device has left them.
    pub fn into_bytes(mut self) -> T {
        load(&self.pages, 0, self.bytes.as_mut());
        self.bytes
    }

    fn check(&self, offset: usize, len: usize) {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len());
        assert!(inside, "beyond the end of {} bytes", self.len());
    }

    /// Reads what stands at byte `offset` for the device now.
    ///
    /// # Panics
    ///
    /// Beyond the end.
    pub fn load(&self, offset: usize, into: &mut [u8]) {
        self.check(offset, into.len());
        load(&self.pages, offset, into);
    }

    /// Writes what the device finds at byte `offset` from now on. The device must not write in the same words of 8 bytes meanwhile.
    ///
    /// # Panics
    ///
    /// Beyond the end.
    pub fn store(&self, offset: usize, bytes: &[u8]) {
        self.check(offset, bytes.len());
        let mut left = bytes;
        for (word, inside) in words(offset, bytes.len()) {
            let (now, rest) = left.split_at(inside.len());
            let mut old = self.pages.load64(word).to_le_bytes();
            old[inside].copy_from_slice(now);
            self.pages.store64(word, u64::from_le_bytes(old));
            left = rest;
        }
    }
}

fn load<M: DmaMemory>(pages: &DmaPages<M>, offset: usize, into: &mut [u8]) {
    let mut done = 0;
    for (word, inside) in words(offset, into.len()) {
        let bytes = &pages.load64(word).to_le_bytes()[inside];
        into[done..done + bytes.len()].copy_from_slice(bytes);
        done += bytes.len();
    }
}

/// The words that `len` bytes at `offset` touch, each with which of its bytes.
fn words(offset: usize, len: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    let end = offset + len;
    (offset / WORD * WORD..end).step_by(WORD).map(move |word| {
        let (first, last) = (offset.max(word), end.min(word + WORD));
        (word, first - word..last - word)
    })
}

// SAFETY: the pages belong to the value from `DmaMemory::allocate` to its drop, wherever it is moved, all of them; they are reached as atomic words, for which every content is valid.
#[expect(unsafe_code, reason = "it vouches for its pages")]
unsafe impl<T: AsRef<[u8]> + AsMut<[u8]> + 'static, P: Platform> Lendable for Bounce<T, P> {
    fn range(&self) -> PhysRange {
        let len = self.bytes.as_ref().len().clamp(1, self.pages.len());
        whole(self.pages.address(), len)
    }

    fn around(&self) -> PhysRange {
        whole(self.pages.address(), self.pages.len())
    }
}

fn whole(start: PhysAddr, len: usize) -> PhysRange {
    PhysRange::new(start, len as u64).expect("memory does not wrap")
}

impl<T, P: Platform> fmt::Debug for Bounce<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bounce").field("pages", &*self.pages).finish_non_exhaustive()
    }
}

/// There are no pages to copy to; here are the bytes.
pub struct NoBounce<T> {
    /// The bytes.
    pub bytes: T,
    /// What was asked for.
    pub error: AllocError,
}

impl<T> fmt::Debug for NoBounce<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NoBounce").field(&self.error).finish()
    }
}

impl<T> fmt::Display for NoBounce<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)
    }
}

impl<T> core::error::Error for NoBounce<T> {}

impl<T> From<NoBounce<T>> for DmaError {
    fn from(failure: NoBounce<T>) -> Self {
        failure.error.into()
    }
}
