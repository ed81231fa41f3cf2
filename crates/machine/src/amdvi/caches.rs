//! What the unit remembers: device table entries, translations, tables. Nothing leaves except by a command that covers it.

use super::walk::Permit;
use std::collections::BTreeMap;

pub(super) type Entry = [u64; 4];

/// A translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    pub(super) physical: u64,
    pub(super) permit: Permit,
    /// Addresses pass unchanged: the entry had Mode 0.
    pub(super) unchanged: bool,
    /// The memory's epoch when it was made.
    pub(super) made: u64,
}

/// A table on the way to a leaf, what was permitted on the way there, and its level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inner {
    pub(super) table: u64,
    pub(super) level: u32,
    pub(super) permit: Permit,
}

/// Something that a walk found and that may be kept.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fill {
    Entry { device: u32, entry: Entry },
    Table { domain: u16, size: u32, address: u64, inner: Inner },
    Leaf { device: u32, domain: u16, size: u32, address: u64, leaf: Leaf },
    Absent { domain: u16, address: u64 },
}

/// What an INVALIDATE_IOMMU_PAGES covers (2.4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    pub(super) domain: u16,
    pub(super) first: u64,
    pub(super) last: u64,
    /// Also tables.
    pub(super) tables: bool,
}

/// Translations are kept twice: by domain, for whoever has that domain, and by device, where they are found without a look at the device's entry. So a change of an entry that is told only to the cache of
/// entries, or only to that of translations, shows.
#[derive(Clone, Debug, Default)]
pub(super) struct Caches {
    entries: BTreeMap<u32, Entry>,
    tables: BTreeMap<(u16, u32, u64), Inner>,
    leaves: BTreeMap<(u16, u32, u64), Leaf>,
    own: BTreeMap<(u32, u32, u64), (u16, Leaf)>,
    absent: BTreeMap<(u16, u64), ()>,
}

/// log2 of every size that a leaf or a table can cover.
const SIZES: std::ops::RangeInclusive<u32> = 12..=57;

impl Caches {
    pub(super) fn entry(&self, device: u32) -> Option<Entry> {
        self.entries.get(&device).copied()
    }

    /// The translation of a device's address that was kept for the device, with the domain and log2 of the size.
    pub(super) fn own(&self, device: u32, address: u64) -> Option<(u16, u32, Leaf)> {
        SIZES.clone().find_map(|size| {
            let (domain, leaf) = self.own.get(&(device, size, address >> size))?;
            Some((*domain, size, *leaf))
        })
    }

    /// The translation of `address` for a domain, with log2 of its size.
    pub(super) fn leaf(&self, domain: u16, address: u64) -> Option<(u32, Leaf)> {
        let at = |size| Some((size, *self.leaves.get(&(domain, size, address >> size))?));
        SIZES.clone().find_map(at)
    }

    pub(super) fn is_absent(&self, domain: u16, address: u64) -> bool {
        self.absent.contains_key(&(domain, address >> 12))
    }

    /// The table nearest to the leaf of `address`.
    pub(super) fn table(&self, domain: u16, address: u64) -> Option<Inner> {
        SIZES.clone().find_map(|size| self.tables.get(&(domain, size, address >> size)).copied())
    }

    /// How many translations there are.
    pub(super) fn count(&self) -> usize {
        self.leaves.len()
    }

    pub(super) fn fill(&mut self, fill: Fill) {
        match fill {
            Fill::Entry { device, entry } => _ = self.entries.insert(device, entry),
            Fill::Table { domain, size, address, inner } => {
                self.tables.insert((domain, size, address >> size), inner);
            }
            Fill::Leaf { device, domain, size, address, leaf } => {
                self.leaves.insert((domain, size, address >> size), leaf);
                self.own.insert((device, size, address >> size), (domain, leaf));
            }
            Fill::Absent { domain, address } => _ = self.absent.insert((domain, address >> 12), ()),
        }
    }

    /// INVALIDATE_DEVTAB_ENTRY (2.4.2): the entry, and nothing that was made with it.
    pub(super) fn forget_entry(&mut self, device: u32) {
        self.entries.remove(&device);
    }

    /// INVALIDATE_IOMMU_PAGES (2.4.3): every translation of which a part is covered; tables only where PDE says so.
    pub(super) fn forget(&mut self, scope: Scope) {
        let covers = |size: u32, page: u64| {
            let first = page << size;
            first <= scope.last && first | ((1 << size) - 1) >= scope.first
        };
        let domain = scope.domain;
        self.leaves.retain(|(of, size, page), _| *of != domain || !covers(*size, *page));
        self.own.retain(|(_, size, page), (of, _)| *of != domain || !covers(*size, *page));
        self.absent.retain(|(of, page), ()| *of != domain || !covers(12, *page));
        if scope.tables {
            self.tables.retain(|(of, size, page), _| *of != domain || !covers(*size, *page));
        }
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Scope {
    /// What the command's second word covers: one page of 4 KiB, or with S the size that the address encodes.
    pub(super) fn of(domain: u16, address: u64, sized: bool, tables: bool) -> Self {
        let size = if sized { (address | 0xfff).trailing_ones() + 1 } else { 12 };
        let mask = if size >= 64 { u64::MAX } else { (1 << size) - 1 };
        Self { domain, first: address & !mask, last: address | mask, tables }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_spec::amdvi::command::invalidate_pages;

    fn cached() -> Caches {
        let mut caches = Caches::default();
        let permit = Permit { read: true, write: true };
        let leaf = Leaf { physical: 0, permit, unchanged: false, made: 0 };
        for (device, domain, size, address) in
            [(1, 5, 12, 0x1000), (1, 5, 21, 0x20_0000), (2, 5, 12, 0x3000), (3, 6, 12, 0x1000)]
        {
            caches.fill(Fill::Leaf { device, domain, size, address, leaf });
        }
        let inner = Inner { table: 0x9000, level: 1, permit };
        caches.fill(Fill::Table { domain: 5, size: 21, address: 0x1000, inner });
        caches.fill(Fill::Entry { device: 1, entry: [3, 5, 0, 0] });
        caches
    }

    /// Translations by domain, by device, tables, entries.
    fn left(caches: &Caches) -> [usize; 4] {
        [caches.leaves.len(), caches.own.len(), caches.tables.len(), caches.entries.len()]
    }

    #[test]
    fn a_command_drops_what_it_covers_and_nothing_else() {
        let after = |address, sized, tables| {
            let mut caches = cached();
            caches.forget(Scope::of(5, address, sized, tables));
            left(&caches)
        };
        assert_eq!(after(0x1000, false, false), [3, 3, 1, 1], "one page");
        assert_eq!(after(0x1000, false, true), [3, 3, 0, 1], "one page and what leads there");
        assert_eq!(after(0x2000, false, true), [4, 4, 0, 1]);
        assert_eq!(after(0x1000, true, false), [2, 2, 1, 1], "16 KiB: bit 13 is the lowest 0");
        assert_eq!(after(0x3f_f000, false, false), [3, 3, 1, 1], "any page of a large leaf");
        assert_eq!(after(invalidate_pages::ALL, true, true), [1, 1, 0, 1], "all of the domain");
        let mut caches = cached();
        caches.forget_entry(1);
        assert_eq!(left(&caches), [4, 4, 1, 0]);
        caches.clear();
        assert_eq!(left(&caches), [0; 4]);
    }
}
