//! The reserved regions of a group's address space: its members' and the hardware's, merged.

use crate::description::{ReservedKind, ReservedRegion};
use crate::reason::SetUpError;
use alloc::boxed::Box;
use alloc::vec::Vec;
use portcullis_addr::{Iova, IovaRange};

/// `regions` in order of address, with those of one kind merged where they overlap.
///
/// # Errors
///
/// The first two of different kinds that overlap.
pub fn merge(mut regions: Vec<ReservedRegion>) -> Result<Vec<ReservedRegion>, Box<SetUpError>> {
    if regions.is_empty() {
        return Ok(regions);
    }
    regions.sort_unstable_by_key(|region| (region.range.start(), region.range.last()));
    let mut merged: Vec<ReservedRegion> = Vec::new();
    for region in regions {
        match merged.last_mut().filter(|last| last.range.overlaps(&region.range)) {
            None => merged.push(region),
            Some(last) if last.kind == region.kind => {
                last.range =
                    spanning(last.range.start(), last.range.last().max(region.range.last()));
            }
            Some(last) => return Err(Box::new(SetUpError::RegionsConflict(*last, region))),
        }
    }
    Ok(merged)
}

/// The direct regions among `regions`, widened to whole pages of `granule` bytes, each page once.
pub(crate) fn direct(regions: &[ReservedRegion], granule: u64) -> Vec<IovaRange> {
    let mut pages: Vec<IovaRange> = Vec::new();
    for region in regions.iter().filter(|region| region.kind == ReservedKind::Direct) {
        let first = region.range.start().align_down(granule);
        let last = Iova::new(region.range.last().raw() | (granule - 1));
        match pages.last_mut().filter(|pages| pages.last() >= first) {
            Some(before) => *before = spanning(before.start(), before.last().max(last)),
            None => pages.push(spanning(first, last)),
        }
    }
    pages
}

/// From `first` to `last`, both inclusive; only the last byte of all 2^64 is left out, which no table reaches.
fn spanning(first: Iova, last: Iova) -> IovaRange {
    let bytes = (last.raw() - first.raw()).saturating_add(1);
    IovaRange::new(first, bytes).expect("it begins at `first` and ends at `last`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ReservedKind::{Direct, Reserved};

    fn region(start: u64, len: u64, kind: ReservedKind) -> ReservedRegion {
        ReservedRegion { range: IovaRange::new(Iova::new(start), len).expect("a range"), kind }
    }

    #[test]
    fn regions_of_one_kind_become_one_and_others_keep_apart() {
        let merged = merge(alloc::vec![
            region(0x3000, 0x1000, Direct),
            region(0x1000, 0x1000, Direct),
            region(0x1000, 0x1000, Direct),
            region(0x1800, 0x1000, Direct),
            region(0x5000, 0x1000, Reserved),
        ]);
        let right = [
            region(0x1000, 0x1800, Direct),
            region(0x3000, 0x1000, Direct),
            region(0x5000, 0x1000, Reserved),
        ];
        assert_eq!(merged, Ok(right.to_vec()));
    }

    #[test]
    fn an_overlap_of_two_kinds_is_told() {
        let (one, other) = (region(0x1000, 0x2000, Direct), region(0x2000, 0x1000, Reserved));
        let conflict = Err(Box::new(SetUpError::RegionsConflict(one, other)));
        assert_eq!(merge(alloc::vec![other, one]), conflict);
    }

    #[test]
    fn direct_regions_are_mapped_in_whole_pages_each_once() {
        let regions = [
            region(0x1010, 0x20, Direct),
            region(0x1800, 0x10, Direct),
            region(0x2ff0, 0x20, Direct),
            region(0x8000, 0x1000, Reserved),
        ];
        let pages = direct(&regions, 0x1000);
        // 0x1010 and 0x1800 share a page; the third lies across the next two.
        assert_eq!(
            pages,
            [region(0x1000, 0x1000, Direct).range, region(0x2000, 0x2000, Direct).range]
        );
        let top = direct(&[region(u64::MAX - 0xf, 0x10, Direct)], 0x1000);
        assert_eq!(top[0].last(), Iova::new(u64::MAX));
    }
}
