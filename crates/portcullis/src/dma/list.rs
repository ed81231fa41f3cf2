//! Several buffers that are mapped together.

use super::lend::Loan;
use super::{DmaDirection, DmaMapping, Lendable, Lent};
use crate::segments::SegmentLimits;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::iter::Peekable;
use core::slice;

/// Buffers that are mapped together, in their order: a scatter-gather list.
#[derive(Debug)]
#[doc(alias = "scatterlist")]
#[doc(alias = "sg_table")]
pub struct BufferList<B> {
    buffers: Box<[B]>,
    /// How it was mapped: [`SegmentLimits::pack`], and from bit [`GRANULE`] on log2 of the smallest page.
    shape: u64,
}

const GRANULE: u32 = 56;

impl<B: Lendable> BufferList<B> {
    /// A list of `buffers`; `None` for an empty one.
    pub fn new(buffers: Vec<B>) -> Option<Self> {
        (!buffers.is_empty()).then(|| Self { buffers: buffers.into_boxed_slice(), shape: 0 })
    }

    /// The buffers.
    pub fn buffers(&self) -> &[B] {
        &self.buffers
    }

    /// The buffers, each on its own again.
    pub fn into_buffers(self) -> Vec<B> {
        self.buffers.into_vec()
    }

    pub(super) fn mapped_with(self, limits: u64, granule: u64) -> Self {
        Self { shape: limits | u64::from(granule.ilog2()) << GRANULE, ..self }
    }
}

impl<B: Lendable> Lent for BufferList<B> {
    fn each(&self, act: impl FnMut(Loan)) {
        self.buffers.iter().map(Loan::of).for_each(act);
    }
}

/// One piece of addresses as a device is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Segment {
    /// What the driver writes into its device.
    pub address: u64,
    /// Bytes.
    pub len: u64,
}

impl<B: Lendable, D: DmaDirection> DmaMapping<BufferList<B>, D> {
    /// The list as the device is told of it: buffers whose addresses follow each other are one segment, and none is longer or crosses more than
    /// [`SegmentLimits`] allowed when the list was mapped.
    ///
    /// A buffer begins and ends where it does in its pages, so buffers follow each other where the one before ends with a page and the next begins with one.
    #[doc(alias = "for_each_sgtable_dma_sg")]
    pub fn segments(&self) -> impl Iterator<Item = Segment> + '_ {
        let BufferList { buffers, shape } = self.buffer();
        // The address of a list is that of its first page.
        let at = self.grant().is_translated().then(|| self.grant().address());
        let granule = 1 << (shape >> GRANULE);
        let limits = SegmentLimits::unpack(shape & ((1 << GRANULE) - 1));
        let pieces = Pieces { buffers: buffers.iter(), at, granule };
        Segments { pieces: pieces.peekable(), left: None, limits }
    }
}

/// Where each buffer is for the device.
struct Pieces<'a, B> {
    buffers: slice::Iter<'a, B>,
    /// The first page of the next buffer; `None` where nothing is translated.
    at: Option<u64>,
    granule: u64,
}

impl<B: Lendable> Iterator for Pieces<'_, B> {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        let range = self.buffers.next()?.range();
        let Some(page) = self.at else {
            return Some(Segment { address: range.start().raw(), len: range.len() });
        };
        let offset = range.start().offset_in(self.granule);
        // It was mapped, so this does not overflow; the end of the last one may be 2^64.
        let pages = whole_pages(offset, range.len(), self.granule).unwrap_or(0);
        self.at = Some(page.wrapping_add(pages));
        Some(Segment { address: page + offset, len: range.len() })
    }
}

struct Segments<'a, B: Lendable> {
    pieces: Peekable<Pieces<'a, B>>,
    /// What is left of the piece that was begun.
    left: Option<Segment>,
    limits: SegmentLimits,
}

impl<B: Lendable> Iterator for Segments<'_, B> {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        let Segment { address, mut len } = self.left.take().or_else(|| self.pieces.next())?;
        let follows = |next: &Segment, len: u64| address.checked_add(len) == Some(next.address);
        while let Some(next) = self.pieces.next_if(|next| follows(next, len)) {
            len += next.len;
        }
        let to_boundary = self.limits.boundary - (address & (self.limits.boundary - 1));
        let now = len.min(self.limits.most_bytes).min(to_boundary);
        self.left = (now < len).then(|| Segment { address: address + now, len: len - now });
        Some(Segment { address, len: now })
    }
}

/// The bytes of the pages of `granule` bytes, a power of two, that `len` bytes at `offset` touch.
#[inline]
pub(super) fn whole_pages(offset: u64, len: u64, granule: u64) -> Option<u64> {
    Some(offset.checked_add(len)?.checked_add(granule - 1)? & !(granule - 1))
}
