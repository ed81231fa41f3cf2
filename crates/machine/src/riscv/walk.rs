//! Walking Sv39, Sv48, Sv57 and their x4 forms (Privileged Architecture 20211203: 4.3.2, 4.4 to 4.6, 8.5; Svnapot).

use portcullis_spec::page_table::riscv::pte;

/// What may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) read: bool,
    pub(super) write: bool,
    /// By user accesses, which are all without a process id.
    pub(super) user: bool,
}

impl Access {
    pub(super) const ALL: Self = Self { read: true, write: true, user: true };
}

/// Where a walk begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageTable {
    pub(super) root: u64,
    /// 3, 4 or 5.
    pub(super) levels: u32,
    /// Second stage: a root of four pages, input addresses with two more bits that are not sign-extended.
    pub(super) second: bool,
    /// PSCID or GSCID.
    pub(super) tag: u32,
}

/// What a walk ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) output: u64,
    /// log2 of its size.
    pub(super) size: u32,
    pub(super) access: Access,
    /// A write finds the page dirty already; it would fault else.
    pub(super) dirty: bool,
    pub(super) global: bool,
}

/// What one entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// Not present, or of an encoding that is reserved.
    Fault,
    /// The table one level down.
    Table(u64),
    Leaf(Page),
}

impl PageTable {
    /// log2 of what an entry at `level` covers; level 0 has pages.
    pub(super) fn shift(level: u32) -> u32 {
        12 + 9 * level
    }

    /// Whether `input` is an address of this table: sign-extended in the first stage, zero-extended in the second (4.4.1, 8.5.1).
    pub(super) fn covers(&self, input: u64) -> bool {
        let bits = Self::shift(self.levels) + if self.second { 2 } else { 0 };
        if self.second {
            return input >> bits == 0;
        }
        let spare = 64 - bits;
        ((input << spare) as i64 >> spare) as u64 == input
    }

    /// Where the entry for `input` is in a table at `level`.
    pub(super) fn entry(&self, table: u64, level: u32, input: u64) -> u64 {
        let wide = self.second && level + 1 == self.levels;
        let mask = if wide { 0x7ff } else { 0x1ff };
        table + 8 * (input >> Self::shift(level) & mask)
    }

    /// What an entry of a table at `level` says (4.3.2, steps 3 to 6).
    pub(super) fn decode(word: u64, level: u32) -> Entry {
        let bit = |field: portcullis_spec::Field| field.is_set(word);
        let (read, write) = (bit(pte::READ), bit(pte::WRITE));
        let reserved = word >> 54 & 0x7f != 0 || bit(pte::PBMT);
        if !bit(pte::VALID) || write && !read || reserved {
            return Entry::Fault;
        }
        let output = pte::PPN.get(word) << 12;
        if !read && !bit(pte::EXECUTE) {
            let spoiled = bit(pte::ACCESSED) || bit(pte::DIRTY) || bit(pte::USER) || bit(pte::N);
            return if spoiled || level == 0 { Entry::Fault } else { Entry::Table(output) };
        }
        let mut size = Self::shift(level);
        let mut output = output;
        if bit(pte::N) {
            // Only 64 KiB of pages are defined.
            if level != 0 || pte::PPN.get(word) & 0xf != 8 {
                return Entry::Fault;
            }
            size = 16;
            output &= !0xffff;
        }
        if output & ((1 << size) - 1) != 0 || !bit(pte::ACCESSED) {
            return Entry::Fault;
        }
        let access = Access { read, write, user: bit(pte::USER) };
        Entry::Leaf(Page { output, size, access, dirty: bit(pte::DIRTY), global: bit(pte::GLOBAL) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAF: u64 = 0xd7;

    fn table(levels: u32, second: bool) -> PageTable {
        PageTable { root: 0, levels, second, tag: 0 }
    }

    #[test]
    fn addresses_are_extended_as_each_stage_says() {
        assert!(table(3, false).covers(0x3f_ffff_ffff) && !table(3, false).covers(0x40_0000_0000));
        assert!(table(3, false).covers(0xffff_ffc0_0000_0000));
        assert!(table(3, true).covers(0x1ff_ffff_ffff) && !table(3, true).covers(0x200_0000_0000));
        assert!(!table(5, true).covers(1 << 59) && table(5, true).covers((1 << 59) - 1));
    }

    #[test]
    fn reserved_encodings_fault() {
        let page = |word| PageTable::decode(word, 0);
        assert!(
            matches!(page(0x1000 << 10 | LEAF), Entry::Leaf(page) if page.output == 0x100_0000)
        );
        for (word, why) in [
            (LEAF & !1, "not valid"),
            (LEAF & !2, "writable without being readable"),
            (LEAF & !(1 << 6), "not accessed"),
            (LEAF | 1 << 54, "a reserved bit"),
            (LEAF | 1 << 61, "a memory type without Svpbmt"),
            (LEAF | 1 << 63, "NAPOT of a size that is not defined"),
            (1, "a table where pages stand"),
        ] {
            assert_eq!(page(word), Entry::Fault, "{why}");
        }
        assert_eq!(PageTable::decode(1 << 10 | LEAF, 1), Entry::Fault, "a misaligned large page");
        assert_eq!(PageTable::decode(0x41, 1), Entry::Fault, "a table that says accessed");
        assert_eq!(PageTable::decode(5 << 10 | 1, 1), Entry::Table(0x5000));
        let napot = 1 << 63 | 0x18 << 10 | LEAF;
        assert!(matches!(page(napot), Entry::Leaf(Page { output: 0x1_0000, size: 16, .. })));
    }
}
