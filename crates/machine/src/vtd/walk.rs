//! Walking second-stage tables (3.7, 9.8) and the first stage's (3.6, 9.7).

use super::VtdProfile;
use super::caches::Access;
use portcullis_spec::page_table::vtd::second_stage as ss;
use portcullis_spec::page_table::x86::paging as fs;

/// Where a walk begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageTable {
    pub(super) root: u64,
    /// 3, 4 or 5.
    pub(super) levels: u32,
    pub(super) first: bool,
}

/// What one entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    NotPresent,
    Reserved,
    /// The table one level down, and what may be done below.
    Table(u64, Access),
    /// Where a page is, log2 of its size, and what may be done there.
    Leaf(u64, u32, Access),
}

impl PageTable {
    /// log2 of what an entry at `level` covers; level 0 has pages.
    pub(super) fn shift(level: u32) -> u32 {
        12 + 9 * level
    }

    /// Whether `input` is an address of this table: sign-extended in the first stage, not wider than the unit's in the second.
    pub(super) fn covers(&self, input: u64, profile: &VtdProfile) -> bool {
        let bits = Self::shift(self.levels);
        if self.first {
            let spare = 64 - bits;
            return ((input << spare) as i64 >> spare) as u64 == input;
        }
        input >> bits.min(profile.address_bits.into()) == 0
    }

    /// Where the entry for `input` is in a table at `level`.
    pub(super) fn entry(table: u64, level: u32, input: u64) -> u64 {
        table + 8 * (input >> Self::shift(level) & 0x1ff)
    }

    /// What an entry of a table at `level` says.
    pub(super) fn decode(&self, word: u64, level: u32, profile: &VtdProfile) -> Entry {
        if self.first { first(word, level, profile) } else { second(word, level, profile) }
    }
}

/// Bits 51:12 that the host does not have.
fn beyond_host(profile: &VtdProfile) -> u64 {
    ss::ADDRESS.mask() & !((1 << profile.host_bits.min(52)) - 1)
}

fn second(word: u64, level: u32, profile: &VtdProfile) -> Entry {
    let access = Access { read: ss::READ.is_set(word), write: ss::WRITE.is_set(word), user: true };
    if !access.read && !access.write {
        return Entry::NotPresent;
    }
    let shift = PageTable::shift(level);
    let large = level > 0 && ss::PAGE_SIZE.is_set(word);
    let known = !large || level <= 2 && profile.large[level as usize - 1];
    let leaf = large || level == 0;
    let snoop = ss::SNOOP.is_set(word) && !(leaf && profile.snoop_control);
    let low = if leaf { ((1u64 << shift) - 1) & !0xfff } else { 0 };
    if !known || snoop || word & (beyond_host(profile) | low) != 0 {
        return Entry::Reserved;
    }
    let address = ss::ADDRESS.in_place(word);
    if leaf { Entry::Leaf(address, shift, access) } else { Entry::Table(address, access) }
}

fn first(word: u64, level: u32, profile: &VtdProfile) -> Entry {
    if !fs::PRESENT.is_set(word) {
        return Entry::NotPresent;
    }
    let shift = PageTable::shift(level);
    let large = level > 0 && fs::PAGE_SIZE.is_set(word);
    let leaf = large || level == 0;
    // Bit 12 of a large leaf is a memory type.
    let low = if large { ((1u64 << shift) - 1) & !0x1fff } else { 0 };
    let executable = fs::EXECUTE_DISABLE.is_set(word);
    if large && level > 2 || executable || word & (beyond_host(profile) | low) != 0 {
        return Entry::Reserved;
    }
    // Flags that hardware would have to set are not modelled.
    let flagged = fs::ACCESSED.is_set(word);
    let dirty = !leaf || fs::DIRTY.is_set(word);
    let access = Access {
        read: flagged,
        write: flagged && dirty && fs::WRITE.is_set(word),
        user: fs::USER.is_set(word),
    };
    let address = fs::ADDRESS.in_place(word) & !if large { (1u64 << shift) - 1 } else { 0 };
    if leaf { Entry::Leaf(address, shift, access) } else { Entry::Table(address, access) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_extended_as_each_stage_says() {
        let profile = VtdProfile::qemu10();
        let table = |levels, first| PageTable { root: 0, levels, first };
        assert!(table(3, false).covers((1 << 39) - 1, &profile));
        assert!(!table(3, false).covers(1 << 39, &profile));
        assert!(!table(5, false).covers(1 << 48, &profile), "the unit's own width");
        assert!(table(4, true).covers(u64::MAX << 47, &profile));
        assert!(!table(4, true).covers(1 << 47, &profile));
    }

    #[test]
    fn reserved_encodings_fault() {
        let profile = VtdProfile::qemu10();
        let page = |word| second(word, 0, &profile);
        let access = Access { read: true, write: false, user: true };
        assert_eq!(page(0x5001), Entry::Leaf(0x5000, 12, access));
        assert_eq!(page(0x5000), Entry::NotPresent);
        assert_eq!(page(0x5003 | 1 << 11), Entry::Reserved, "SNP without snoop control");
        assert_eq!(page(0x5003 | 1 << 50), Entry::Reserved, "beyond the host");
        assert_eq!(second(0x5083, 1, &profile), Entry::Reserved, "a misaligned large page");
        assert_eq!(second(0x83, 3, &profile), Entry::Reserved, "a leaf of 512 GiB");
        assert_eq!(second(0x83, 1, &VtdProfile::early()), Entry::Reserved, "no large leaves");
        let snooped = VtdProfile { snoop_control: true, ..profile.clone() };
        assert_eq!(second(0x5003 | 1 << 11, 0, &snooped), Entry::Leaf(0x5000, 12, Access::ALL));
        assert_eq!(second(0x5003 | 1 << 11, 1, &snooped), Entry::Reserved, "SNP in a table entry");
        assert_eq!(first(0x5067, 0, &profile), Entry::Leaf(0x5000, 12, Access::ALL));
        assert_eq!(first(0x5066, 0, &profile), Entry::NotPresent);
        assert_eq!(first(0x5067 | 1 << 63, 0, &profile), Entry::Reserved);
        assert!(matches!(first(0x5027, 0, &profile), Entry::Leaf(_, _, it) if !it.write), "clean");
    }
}
