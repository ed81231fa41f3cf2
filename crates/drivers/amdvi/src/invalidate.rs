//! Turning what an unmap owes into an invalidation (§2.4.3): one command a call, whatever the range.

use crate::command::Command;
use portcullis_pgtable::{FlushRange, IotlbGather};

/// The command that pays `gather`; `None` where nothing is owed.
pub(crate) fn invalidation(domain: u16, gather: &IotlbGather) -> Option<Command> {
    if gather.is_empty() {
        return None;
    }
    let command = match gather.range() {
        Some(range) => pages(domain, &range, range.tables_freed || gather.tables() > 0),
        None => Command::forget_domain(domain),
    };
    Some(command)
}

/// Forgets the smallest naturally aligned power of two of pages around a range; more than asked for is permitted.
fn pages(domain: u16, range: &FlushRange, tables: bool) -> Command {
    let leaf = range.leaf.log2();
    let start = range.start.raw() >> leaf << leaf;
    let last = range.last.raw() | ((1 << leaf) - 1);
    let log2 = 64 - (start ^ last).leading_zeros();
    match log2 {
        0..=12 => Command::forget_pages(domain, start, false, tables),
        // The lowest 0 is at the bit below the size's.
        13..=62 => {
            let address = start >> log2 << log2 | ((1 << (log2 - 1)) - 1);
            Command::forget_pages(domain, address, true, tables)
        }
        _ => Command::forget_domain(domain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_addr::{Iova, PageSize};

    fn owed(start: u64, last: u64, leaf: PageSize, tables_freed: bool) -> Option<[u64; 2]> {
        let mut gather = IotlbGather::new();
        let (start, last) = (Iova::new(start), Iova::new(last));
        gather.add(FlushRange { start, last, leaf, tables_freed });
        let command = invalidation(7, &gather).map(|command| command.0);
        drop(gather.confirm());
        command
    }

    /// §2.4.3: opcode 3, domain from bit 32 on; S is bit 0 of the second word, PDE bit 1; of the address the lowest 0 from bit 12 on stands for half the size.
    #[test]
    fn one_command_covers_every_range() {
        const FIRST: u64 = 3 << 60 | 7 << 32;
        let small = PageSize::SIZE_4K;
        assert_eq!(owed(0x5000, 0x5fff, small, false), Some([FIRST, 0x5000]));
        assert_eq!(owed(0x5000, 0x5fff, small, true), Some([FIRST, 0x5002]));
        assert_eq!(owed(0x4000, 0x5fff, small, false), Some([FIRST, 0x4001]), "8 KiB");
        assert_eq!(owed(0x5000, 0x6fff, small, false), Some([FIRST, 0x5001]), "16 KiB around it");
        assert_eq!(owed(0x4000, 0x7fff, small, false), Some([FIRST, 0x5001]));
        let large = PageSize::SIZE_2M;
        assert_eq!(owed(0x40_0000, 0x5f_ffff, large, false), Some([FIRST, 0x4f_f001]));
        let all = Some([FIRST, 0x7fff_ffff_ffff_f003]);
        assert_eq!(owed(0, u64::MAX, small, false), all);
        let mut gather = IotlbGather::new();
        assert_eq!(invalidation(7, &gather), None);
        gather.add_everything();
        assert_eq!(invalidation(7, &gather).map(|command| command.0), all);
        drop(gather.confirm());
    }

    /// What the command's address stands for, decoded as hardware does, covers the range that was asked for.
    #[test]
    fn the_encoded_size_covers_what_is_owed() {
        for (start, last) in [(0x1000, 0x2fff), (0x3f_f000, 0x40_0fff), (0x1_0000, 0x1_ffff)] {
            let [_, second] = owed(start, last, PageSize::SIZE_4K, false).expect("something");
            let address = second & !0xfff;
            let size = (address | 0xfff).trailing_ones() + 1;
            let first = address >> size << size;
            assert_eq!(second & 1, 1);
            assert!(first <= start && first + ((1 << size) - 1) >= last, "{start:#x}");
        }
    }
}
