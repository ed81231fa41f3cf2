//! What is reserved of a device's address space: rounded to pages, merged, without contradictions.

use alloc::vec::Vec;
use portcullis::{ReservedKind, ReservedRegion};
use portcullis_addr::{Iova, IovaRange};

/// The smallest granule of any table format: what a device's regions are rounded to here. The core rounds further where its granule is larger.
const PAGE: u64 = 0x1000;

/// A reserved range, first to last address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Span {
    first: u64,
    last: u64,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Kind {
    Direct,
    Reserved,
}

impl Span {
    /// Memory that is to be mapped 1:1.
    pub(crate) fn direct((first, last): (u64, u64)) -> Self {
        Self { first, last, kind: Kind::Direct }
    }

    /// Addresses that must not be handed out.
    pub(crate) fn kept_free((first, last): (u64, u64)) -> Self {
        Self { first, last, kind: Kind::Reserved }
    }

    /// A region that has been read before.
    pub(crate) fn of(region: &ReservedRegion) -> Self {
        let kind = match region.kind {
            ReservedKind::Direct => Kind::Direct,
            ReservedKind::Reserved => Kind::Reserved,
        };
        Self { first: region.range.start().raw(), last: region.range.last().raw(), kind }
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.first.is_multiple_of(PAGE) && self.last & (PAGE - 1) == PAGE - 1
    }

    /// All pages that it touches.
    fn rounded(self) -> Self {
        Self { first: self.first & !(PAGE - 1), last: self.last | (PAGE - 1), ..self }
    }

    fn region(&self) -> Option<ReservedRegion> {
        let kind = match self.kind {
            Kind::Direct => ReservedKind::Direct,
            Kind::Reserved => ReservedKind::Reserved,
        };
        // A range of all 2^64 addresses has no length; it ends one page earlier.
        let len = self.last.checked_sub(self.first)?.checked_add(1);
        let len = len.unwrap_or(!(PAGE - 1));
        let range = IovaRange::new(Iova::new(self.first), len).ok()?;
        Some(ReservedRegion { range, kind })
    }
}

/// What is reserved of one device's address space, in whole pages.
pub(crate) struct Reserved {
    /// Ascending; no two overlap.
    pub(crate) regions: Vec<ReservedRegion>,
    /// A region to be mapped 1:1 that overlaps addresses to be kept free.
    pub(crate) overlap: Option<(u64, u64)>,
}

impl Reserved {
    /// Merges equal and overlapping regions of one kind. Where a region that is mapped 1:1 overlaps one that is kept free, it is mapped.
    pub(crate) fn merged(spans: impl IntoIterator<Item = Span>) -> Self {
        let mut spans: Vec<Span> = spans.into_iter().map(Span::rounded).collect();
        spans.sort_unstable_by_key(|span| (span.kind, span.first, span.last));
        let direct = spans.partition_point(|span| span.kind == Kind::Direct);
        let (direct, free) = spans.split_at(direct);
        let (direct, free) = (merge(direct), merge(free));
        let (free, overlap) = without(&free, &direct);
        let mut all = [direct, free].concat();
        all.sort_unstable();
        Self { regions: all.iter().filter_map(Span::region).collect(), overlap }
    }
}

/// Joins overlapping and adjacent spans of an ascending list.
fn merge(spans: &[Span]) -> Vec<Span> {
    let mut merged: Vec<Span> = Vec::new();
    for span in spans {
        match merged.last_mut() {
            Some(before) if span.first <= before.last.saturating_add(1) => {
                before.last = before.last.max(span.last);
            }
            _ => merged.push(*span),
        }
    }
    merged
}

/// `free` without what `direct` covers, both ascending and without overlaps of their own; and the first overlap, if there is one.
fn without(free: &[Span], direct: &[Span]) -> (Vec<Span>, Option<(u64, u64)>) {
    let (mut left, mut overlap) = (Vec::new(), None);
    let mut cuts = direct.iter().peekable();
    for span in free {
        let mut from = Some(span.first);
        while let Some(cut) = cuts.peek().filter(|cut| cut.first <= span.last) {
            let Some(first) = from.filter(|first| *first <= cut.last) else {
                cuts.next();
                continue;
            };
            overlap.get_or_insert((cut.first.max(first), cut.last.min(span.last)));
            if let Some(last) = cut.first.checked_sub(1).filter(|last| *last >= first) {
                left.push(Span { first, last, ..*span });
            }
            from = cut.last.checked_add(1).filter(|after| *after <= span.last);
            if from.is_none() {
                break;
            }
        }
        left.extend(from.map(|first| Span { first, ..*span }));
    }
    (left, overlap)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn span(first: u64, last: u64, kind: Kind) -> Span {
        Span { first, last, kind }
    }

    fn merged(spans: Vec<Span>) -> Vec<(u64, u64, ReservedKind)> {
        let merged = Reserved::merged(spans).regions;
        merged.iter().map(|it| (it.range.start().raw(), it.range.last().raw(), it.kind)).collect()
    }

    #[test]
    fn regions_of_one_kind_become_one_in_whole_pages() {
        let spans = vec![
            span(0x8320_0036, 0x8331_9435, Kind::Direct),
            span(0x8331_a000, 0x8331_afff, Kind::Direct),
            span(0x8320_0000, 0x8320_0fff, Kind::Direct),
        ];
        assert_eq!(merged(spans), [(0x8320_0000, 0x8331_afff, ReservedKind::Direct)]);
    }

    #[test]
    fn what_is_mapped_is_cut_out_of_what_is_kept_free() {
        let spans = || {
            vec![
                span(0, 0xffff, Kind::Reserved),
                span(0x2_0000, u64::MAX, Kind::Reserved),
                span(0x1000, 0x1fff, Kind::Direct),
                span(0xf000, 0x2_0fff, Kind::Direct),
            ]
        };
        let (direct, free) = (ReservedKind::Direct, ReservedKind::Reserved);
        assert_eq!(
            merged(spans()),
            [
                (0, 0xfff, free),
                (0x1000, 0x1fff, direct),
                (0x2000, 0xefff, free),
                (0xf000, 0x2_0fff, direct),
                (0x2_1000, u64::MAX, free)
            ]
        );
        assert_eq!(Reserved::merged(spans()).overlap, Some((0x1000, 0x1fff)));
        assert_eq!(Reserved::merged(vec![span(0, 1, Kind::Direct)]).overlap, None);
    }
}
