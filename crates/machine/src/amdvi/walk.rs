//! Walking host page tables (2.2.3).

use portcullis_spec::page_table::amd::host;

/// What may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Permit {
    pub(super) read: bool,
    pub(super) write: bool,
}

impl Permit {
    /// The IR and IW of an entry of the device table or of a page table: both have them in the same place.
    pub(super) fn of(word: u64) -> Self {
        Self { read: host::READ.is_set(word), write: host::WRITE.is_set(word) }
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self { read: self.read && other.read, write: self.write && other.write }
    }
}

/// What one entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// PR is 0.
    Absent,
    /// An encoding that is reserved; whether a reserved bit is set.
    Malformed(bool),
    /// The table of that level.
    Table { table: u64, level: u32, permit: Permit },
    /// Where the page begins, and log2 of its size.
    Leaf { output: u64, size: u32, permit: Permit },
}

/// Bits `[58:52]`, and in entries that lead to tables U and FC too.
const RESERVED: u64 = 0x7f << 52;
const RESERVED_IN_TABLES: u64 = RESERVED | 3 << 59;

const LEAF: u32 = host::next_level::LEAF as u32;
const SIZED: u32 = host::next_level::SIZED as u32;

/// log2 of what an entry of a table of that level covers; level 1 has pages.
pub(super) fn shift(level: u32) -> u32 {
    12 + 9 * (level - 1)
}

/// Whether tables of `level` levels reach `input`.
pub(super) fn covers(level: u32, input: u64) -> bool {
    level >= 6 || input >> shift(level + 1) == 0
}

/// Where the entry for `input` is in a table of that level.
pub(super) fn entry(table: u64, level: u32, input: u64) -> u64 {
    let mask = if level == 6 { 0x7f } else { 0x1ff };
    table + 8 * (input >> shift(level) & mask)
}

/// What an entry of a table of `level` says of `input`.
pub(super) fn decode(word: u64, level: u32, input: u64) -> Entry {
    if !host::PRESENT.is_set(word) {
        return Entry::Absent;
    }
    if word & RESERVED != 0 {
        return Entry::Malformed(true);
    }
    let (address, permit) = (host::ADDRESS.in_place(word), Permit::of(word));
    let next = host::NEXT_LEVEL.get(word) as u32;
    match next {
        LEAF => leaf(address, shift(level), permit),
        SIZED => {
            let size = (address | 0xfff).trailing_ones() + 1;
            let fits = size > shift(level) && size < shift(level + 1);
            if fits { leaf(address >> size << size, size, permit) } else { Entry::Malformed(false) }
        }
        // Levels that are left out stand for zeroes.
        _ if next < level => {
            let skipped = (1u64 << shift(level)) - (1 << shift(next + 1));
            if word & RESERVED_IN_TABLES != 0 {
                Entry::Malformed(true)
            } else if input & skipped != 0 {
                Entry::Absent
            } else {
                Entry::Table { table: address, level: next, permit }
            }
        }
        _ => Entry::Malformed(false),
    }
}

fn leaf(output: u64, size: u32, permit: Permit) -> Entry {
    match output & ((1 << size) - 1) {
        0 => Entry::Leaf { output, size, permit },
        _ => Entry::Malformed(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RW: u64 = 1 | 3 << 61;
    const BOTH: Permit = Permit { read: true, write: true };

    #[test]
    fn sizes_are_what_the_address_encodes() {
        let page = |word, level| decode(word, level, 0);
        let leaf = |output, size| Entry::Leaf { output, size, permit: BOTH };
        assert_eq!(page(0x7000 | RW, 1), leaf(0x7000, 12));
        assert_eq!(page(0x20_0000 | RW, 2), leaf(0x20_0000, 21));
        // 2.2.3: bit 12 is 0, so 8 KiB; bits 13:12 are 01, so 16 KiB.
        assert_eq!(page(0x4000 | 7 << 9 | RW, 1), leaf(0x4000, 13));
        assert_eq!(page(0x1_0000 | 0x7000 | 7 << 9 | RW, 1), leaf(0x1_0000, 16));
        assert_eq!(page(0x40_0000 | 0x1f_f000 | 7 << 9 | RW, 2), leaf(0x40_0000, 22));
        assert_eq!(page(0x1f_f000 | 7 << 9 | RW, 1), Entry::Malformed(false), "4 MiB among pages");
        assert_eq!(page(0x1000 | RW, 2), Entry::Malformed(false), "a misaligned large page");
    }

    #[test]
    fn levels_go_down_and_what_is_left_out_is_zero() {
        let table = |level| Entry::Table { table: 0x9000, level, permit: BOTH };
        assert_eq!(decode(0x9000 | 2 << 9 | RW, 3, 0x1234_5678), table(2));
        assert_eq!(decode(0x9000 | 1 << 9 | RW, 3, 0x1000), table(1));
        assert_eq!(decode(0x9000 | 1 << 9 | RW, 3, 0x20_1000), Entry::Absent, "a skipped level");
        assert_eq!(decode(0x9000 | 3 << 9 | RW, 3, 0), Entry::Malformed(false), "not down");
        assert_eq!(decode(0x9000 | 2 << 9 | RW | 1 << 55, 3, 0), Entry::Malformed(true));
        assert_eq!(decode(0x9000 | 2 << 9 | RW | 1 << 60, 3, 0), Entry::Malformed(true), "FC");
        assert_eq!(decode(0x9000 | 3 << 61, 1, 0), Entry::Absent);
        assert!(covers(3, (1 << 39) - 1) && !covers(3, 1 << 39) && covers(6, u64::MAX));
        assert_eq!(entry(0x1000, 6, u64::MAX), 0x1000 + 8 * 0x7f);
    }
}
