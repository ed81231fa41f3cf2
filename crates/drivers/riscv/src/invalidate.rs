//! Turning what an unmap owes into invalidations (§3.1.1, §6.3): one batch and one fence a call.

use crate::command::Command;
use portcullis_addr::Iova;
use portcullis_driver_parts::Name;
use portcullis_pgtable::{FlushRange, IotlbGather};

/// More pages than this are answered by dropping the whole space: refilling its translations costs less than sending so many commands.
pub(crate) const MAX_SINGLE: u64 = 64;

/// log2 of the smallest page.
const PAGE: u32 = 12;

/// The commands that a debt needs, without the fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Invalidation {
    /// Drop the whole space.
    Space(Name),
    /// One command for each page of 4 KiB.
    Pages(Pages),
}

/// Pages one behind the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pages {
    name: Name,
    next: u64,
    left: u64,
}

/// The commands that pay `gather`; `None` where nothing is owed.
///
/// By address hardware drops leaves only, so tables that go cost the whole space. The document has one command drop the leaf whatever its size; QEMU 10 keeps each 4 KiB page of a large leaf for itself, so each is named.
pub(crate) fn invalidation(name: Name, gather: &IotlbGather) -> Option<Invalidation> {
    if gather.is_empty() {
        return None;
    }
    let pages = gather.range().and_then(|range| pages(name, &range));
    Some(pages.map_or(Invalidation::Space(name), Invalidation::Pages))
}

/// The pages of a range; `None` where they are too many, or tables go with them.
fn pages(name: Name, range: &FlushRange) -> Option<Pages> {
    let leaf = range.leaf.log2();
    let start = range.start.raw() >> leaf << leaf;
    let last = range.last.raw() | ((1 << leaf) - 1);
    let left = (last >> PAGE) - (start >> PAGE) + 1;
    let few = left <= MAX_SINGLE && !range.tables_freed;
    few.then_some(Pages { name, next: start, left })
}

/// Drops everything of a space.
#[inline]
pub(crate) fn whole(name: Name) -> Command {
    match name.second {
        false => Command::forget_process(name.id),
        true => Command::forget_guest(name.id),
    }
}

impl Pages {
    /// How many commands it gives.
    pub(crate) fn total(&self) -> usize {
        self.left as usize
    }
}

impl Iterator for Pages {
    type Item = Command;

    #[inline]
    fn next(&mut self) -> Option<Command> {
        self.left = self.left.checked_sub(1)?;
        let command = whole(self.name).at(Iova::new(self.next));
        self.next = self.next.wrapping_add(1 << PAGE);
        Some(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_addr::PageSize;
    use std::vec::Vec;

    const FIRST: Name = Name { id: 5, second: false };

    fn owed(start: u64, last: u64, leaf: PageSize, tables_freed: bool) -> IotlbGather {
        let mut gather = IotlbGather::new();
        let (start, last) = (Iova::new(start), Iova::new(last));
        gather.add(FlushRange { start, last, leaf, tables_freed });
        gather
    }

    fn paid(gather: &mut IotlbGather) {
        drop(gather.confirm());
    }

    #[test]
    fn each_page_is_named_and_many_are_the_whole_space() {
        let mut gather = owed(0x1000, 0x3fff, PageSize::SIZE_4K, false);
        let Some(Invalidation::Pages(pages)) = invalidation(FIRST, &gather) else {
            panic!("three pages")
        };
        // §3.1.1: opcode 1, AV, PSCV, PSCID 5; ADDR from bit 74 of the command on.
        let word = 1 | 1 << 10 | 5 << 12 | 1 << 32;
        let commands: Vec<_> = pages.map(|command| command.0).collect();
        assert_eq!(commands, [[word, 1 << 10], [word, 2 << 10], [word, 3 << 10]]);
        paid(&mut gather);
        for (last, tables, whole) in [
            (0x1000 + 64 * 4096 - 1, false, false),
            (0x1000 + 64 * 4096, false, true),
            (0x1fff, true, true),
        ] {
            let mut gather = owed(0x1000, last, PageSize::SIZE_4K, tables);
            let found = invalidation(FIRST, &gather);
            assert_eq!(found == Some(Invalidation::Space(FIRST)), whole, "{last:#x} {tables}");
            paid(&mut gather);
        }
        let mut gather = owed(0x20_0000, 0x3f_ffff, PageSize::SIZE_2M, false);
        assert_eq!(invalidation(FIRST, &gather), Some(Invalidation::Space(FIRST)));
        paid(&mut gather);
        assert_eq!(invalidation(FIRST, &IotlbGather::new()), None);
    }

    #[test]
    fn a_second_stage_is_named_by_its_guest() {
        let name = Name { id: 7, second: true };
        assert_eq!(whole(name).0, [1 | 1 << 7 | 1 << 33 | 7 << 44, 0]);
    }
}
