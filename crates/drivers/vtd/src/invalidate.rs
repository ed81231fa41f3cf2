//! Turning what an unmap owes into descriptors (§6.5.2.3, §6.5.2.4): one batch and one wait a call.

use crate::command::Command;
use crate::identify::Features;
use portcullis_addr::Iova;
use portcullis_driver_parts::Name;
use portcullis_pgtable::{FlushRange, IotlbGather};

/// More descriptors than this are answered by dropping the whole space: refilling its translations costs less.
pub(crate) const MAX_SINGLE: usize = 32;

/// log2 of the smallest page.
const PAGE: u8 = 12;
/// log2 of the pages of the largest leaf, 1 GiB.
const LARGEST: u8 = 18;

/// The descriptors that a debt needs, without the wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Invalidation {
    /// Drop the whole space.
    Space(Name),
    /// One descriptor for each block of pages.
    Pages(Pages),
}

/// Blocks of pages one behind the other, each as large as its address and the unit allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pages {
    name: Name,
    next: u64,
    /// Pages that are left.
    left: u64,
    /// log2 of the pages of the largest block.
    most: u8,
    /// Tables on the way have not changed.
    leaves: bool,
}

/// The descriptors that pay `gather`; `None` where nothing is owed.
///
/// A large leaf goes only with a block that holds all of it (§6.5.2.3), so a range is cut at the boundaries of blocks as large as they can be: each leaf in it then lies in one of them.
pub(crate) fn invalidation(
    features: &Features,
    name: Name,
    gather: &IotlbGather,
) -> Option<Invalidation> {
    if gather.is_empty() {
        return None;
    }
    let pages = gather.as_range().and_then(|range| pages(features.most_pages?, name, range));
    Some(pages.map_or(Invalidation::Space(name), Invalidation::Pages))
}

/// The blocks of a range; `None` where they are too many, or may not hold a leaf.
fn pages(most: u8, name: Name, range: &FlushRange) -> Option<Pages> {
    let leaf = range.leaf.log2();
    // With tables there may be larger leaves than the smallest one.
    let largest = if range.tables_freed { LARGEST } else { leaf - PAGE };
    if largest > most {
        return None;
    }
    let start = range.start.raw() >> leaf << leaf;
    let last = range.last.raw() | ((1 << leaf) - 1);
    let left = (last >> PAGE) - (start >> PAGE) + 1;
    let pages = Pages { name, next: start, left, most, leaves: !range.tables_freed };
    (pages.clone().take(MAX_SINGLE + 1).count() <= MAX_SINGLE).then_some(pages)
}

impl Pages {
    /// How many descriptors it gives.
    pub(crate) fn total(&self) -> usize {
        self.clone().count()
    }
}

impl Iterator for Pages {
    type Item = Command;

    #[inline]
    fn next(&mut self) -> Option<Command> {
        if self.left == 0 {
            return None;
        }
        let aligned = (self.next >> PAGE).trailing_zeros() as u8;
        let log2 = aligned.min(self.left.ilog2() as u8).min(self.most);
        let command = Command::forget_pages(self.name, Iova::new(self.next), log2, self.leaves);
        self.next = self.next.wrapping_add(1 << (PAGE + log2));
        self.left -= 1 << log2;
        Some(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_addr::PageSize;
    use std::vec::Vec;

    const SECOND: Name = Name { id: 5, second: true };

    fn range(start: u64, last: u64, leaf: PageSize, tables_freed: bool) -> FlushRange {
        FlushRange { start: Iova::new(start), last: Iova::new(last), leaf, tables_freed }
    }

    fn blocks(range: &FlushRange, most: u8) -> Option<Vec<[u64; 2]>> {
        Some(pages(most, SECOND, range)?.map(|command| command.0).collect())
    }

    /// Type 2, granularity 3, drains (bits 6 and 7), domain 5; then mask, hint (bit 6) and address.
    const WORD: u64 = 2 | 3 << 4 | 3 << 6 | 5 << 16;

    #[test]
    fn a_range_is_cut_into_aligned_blocks() {
        let small = PageSize::SIZE_4K;
        let found = blocks(&range(0x1000, 0x6fff, small, false), 18);
        let words = [(0x1000, 0), (0x2000, 1), (0x4000, 1), (0x6000, 0)];
        let words: Vec<_> = words.iter().map(|(at, log2)| [WORD, at | 1 << 6 | log2]).collect();
        assert_eq!(found, Some(words));
        // Three leaves of 2 MiB, of which two make a block.
        let found = blocks(&range(0x20_0000, 0x7f_ffff, PageSize::SIZE_2M, false), 18);
        let words = [[WORD, 0x20_0000 | 1 << 6 | 9], [WORD, 0x40_0000 | 1 << 6 | 10]];
        assert_eq!(found, Some(words.to_vec()));
        // Tables go: no hint.
        let found = blocks(&range(0x1000, 0x1fff, small, true), 18);
        assert_eq!(found, Some([[WORD, 0x1000]].to_vec()));
    }

    #[test]
    fn what_cannot_be_named_by_page_is_the_whole_space() {
        let small = PageSize::SIZE_4K;
        assert_eq!(blocks(&range(0, 0x1f_ffff, PageSize::SIZE_2M, false), 8), None, "mask");
        assert_eq!(blocks(&range(0x1000, 0x1fff, small, true), 17), None, "a leaf of 1 GiB");
        assert_eq!(blocks(&range(0, (1 << 17) - 1, small, false), 0).map(|it| it.len()), Some(32));
        assert_eq!(blocks(&range(0, (1 << 17) + 0xfff, small, false), 0), None, "too many");
    }

    #[test]
    fn a_first_stage_is_named_with_its_pasid() {
        let name = Name { id: 5, second: false };
        assert_eq!(Command::forget_space(name).0, [6 | 2 << 4 | 5 << 16, 0]);
        let page = Command::forget_pages(name, Iova::new(0x7000), 0, true);
        assert_eq!(page.0, [6 | 3 << 4 | 5 << 16, 0x7040]);
    }
}
