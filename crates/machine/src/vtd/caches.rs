//! What the unit remembers (6.2): root and context entries, PASID entries, translations and tables. Nothing leaves except by a descriptor that covers it.

use std::collections::BTreeMap;

/// Whose addresses a translation is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Space {
    /// A second stage, by domain id.
    Second(u16),
    /// A first stage, by domain id and PASID.
    First(u16, u32),
}

impl Space {
    fn domain(self) -> u16 {
        match self {
            Self::Second(domain) | Self::First(domain, _) => domain,
        }
    }
}

/// What may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) user: bool,
}

impl Access {
    pub(super) const ALL: Self = Self { read: true, write: true, user: true };

    pub(super) fn and(self, other: Self) -> Self {
        Self {
            read: self.read && other.read,
            write: self.write && other.write,
            user: self.user && other.user,
        }
    }
}

/// A translation, or (in caching mode) that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    /// Where it leads; `None` where nothing is mapped.
    pub(super) physical: Option<u64>,
    pub(super) access: Access,
    /// The memory's epoch when it was made.
    pub(super) made: u64,
}

/// A table on the way to a leaf: where it is, how many levels are left below, what the entries before it permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inner {
    pub(super) table: u64,
    pub(super) level: u32,
    pub(super) access: Access,
}

/// An entry as it was read. One that is not present is tagged with domain 0 (6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) words: [u64; 8],
    pub(super) domain: u16,
}

/// Something that a walk found and that may be kept.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fill {
    /// By bus and half.
    Root {
        key: (u8, bool),
        words: [u64; 2],
    },
    Context {
        source: u16,
        entry: Entry,
    },
    Directory {
        source: u16,
        index: u32,
        word: u64,
    },
    Pasid {
        source: u16,
        pasid: u32,
        entry: Entry,
    },
    Table {
        space: Space,
        size: u32,
        address: u64,
        inner: Inner,
    },
    Leaf {
        space: Space,
        size: u32,
        address: u64,
        leaf: Leaf,
    },
}

/// What an invalidation of translations covers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scope {
    All,
    Domain(u16),
    /// Of a second stage: `first` of 2^`log2` bytes; tables too unless `leaves`.
    Pages {
        domain: u16,
        first: u64,
        log2: u32,
        leaves: bool,
    },
    Pasid {
        domain: u16,
        pasid: u32,
    },
    PasidPages {
        domain: u16,
        pasid: u32,
        first: u64,
        log2: u32,
        leaves: bool,
    },
}

#[derive(Clone, Debug, Default)]
pub(super) struct Caches {
    roots: BTreeMap<(u8, bool), [u64; 2]>,
    contexts: BTreeMap<u16, Entry>,
    directories: BTreeMap<(u16, u32), u64>,
    pasids: BTreeMap<(u16, u32), Entry>,
    tables: BTreeMap<(Space, u32, u64), Inner>,
    leaves: BTreeMap<(Space, u32, u64), Leaf>,
}

/// log2 of every size that a leaf or a table can cover.
const SIZES: [u32; 5] = [12, 21, 30, 39, 48];

impl Caches {
    pub(super) fn root(&self, key: (u8, bool)) -> Option<[u64; 2]> {
        self.roots.get(&key).copied()
    }

    pub(super) fn context(&self, source: u16) -> Option<[u64; 8]> {
        self.contexts.get(&source).map(|entry| entry.words)
    }

    pub(super) fn directory(&self, source: u16, index: u32) -> Option<u64> {
        self.directories.get(&(source, index)).copied()
    }

    pub(super) fn pasid(&self, source: u16, pasid: u32) -> Option<[u64; 8]> {
        self.pasids.get(&(source, pasid)).map(|entry| entry.words)
    }

    /// The translation of `address`, with log2 of its size.
    pub(super) fn leaf(&self, space: Space, address: u64) -> Option<(u32, Leaf)> {
        let at = |size: &u32| Some((*size, *self.leaves.get(&(space, *size, address >> size))?));
        SIZES.iter().find_map(at)
    }

    /// The table nearest to the leaf of `address`.
    pub(super) fn table(&self, space: Space, address: u64) -> Option<Inner> {
        SIZES.iter().find_map(|size| self.tables.get(&(space, *size, address >> size)).copied())
    }

    /// How many translations there are.
    pub(super) fn count(&self) -> usize {
        self.leaves.len()
    }

    pub(super) fn fill(&mut self, fill: Fill) {
        match fill {
            Fill::Root { key, words } => drop(self.roots.insert(key, words)),
            Fill::Context { source, entry } => drop(self.contexts.insert(source, entry)),
            Fill::Directory { source, index, word } => {
                self.directories.insert((source, index), word);
            }
            Fill::Pasid { source, pasid, entry } => {
                self.pasids.insert((source, pasid), entry);
            }
            Fill::Table { space, size, address, inner } => {
                self.tables.insert((space, size, address >> size), inner);
            }
            Fill::Leaf { space, size, address, leaf } => {
                self.leaves.insert((space, size, address >> size), leaf);
            }
        }
    }

    /// All context entries, and the root entries with them (6.5.2.1, "Global").
    pub(super) fn forget_contexts(&mut self) {
        self.roots.clear();
        self.contexts.clear();
    }

    /// The context entries that were tagged with the domain.
    pub(super) fn forget_contexts_of(&mut self, domain: u16) {
        self.contexts.retain(|_, entry| entry.domain != domain);
    }

    /// The context entries of the functions that equal `source` but for `ignored` bits. In legacy mode only those that were tagged with the domain.
    pub(super) fn forget_context(&mut self, source: u16, ignored: u16, domain: Option<u16>) {
        self.contexts.retain(|of, entry| {
            let named = (of ^ source) & !ignored == 0;
            !(named && domain.is_none_or(|domain| domain == entry.domain))
        });
    }

    /// All PASID entries, and the directory entries with them.
    pub(super) fn forget_pasids(&mut self) {
        self.directories.clear();
        self.pasids.clear();
    }

    /// The PASID entries that were tagged with the domain, all or one.
    pub(super) fn forget_pasids_of(&mut self, domain: u16, pasid: Option<u32>) {
        self.pasids.retain(|(_, of), entry| {
            !(entry.domain == domain && pasid.is_none_or(|pasid| pasid == *of))
        });
    }

    /// Translations and tables. A leaf goes only if the whole of it is covered: software names a large one by a mask of its size (6.5.2.3).
    pub(super) fn forget(&mut self, scope: Scope) {
        self.leaves.retain(|(space, size, page), _| {
            let (first, last) = (page << size, (page << size) + ((1 << size) - 1));
            !(scope.is_of(*space) && scope.covers(first, last))
        });
        self.tables.retain(|(space, size, page), _| {
            let (first, last) = (page << size, (page << size) + ((1 << size) - 1));
            !(scope.is_of(*space) && scope.touches(first, last))
        });
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Scope {
    /// Whether translations of `space` belong to it. Those of a first stage do not belong to an invalidation by page of a second one.
    fn is_of(&self, space: Space) -> bool {
        match *self {
            Self::All => true,
            Self::Domain(domain) => space.domain() == domain,
            Self::Pages { domain, .. } => space == Space::Second(domain),
            Self::Pasid { domain, pasid } | Self::PasidPages { domain, pasid, .. } => {
                space == Space::First(domain, pasid)
            }
        }
    }

    /// The addresses and whether tables stay; `None` for all of them.
    fn pages(&self) -> Option<(u64, u64, bool)> {
        match *self {
            Self::All | Self::Domain(_) | Self::Pasid { .. } => None,
            Self::Pages { first, log2, leaves, .. }
            | Self::PasidPages { first, log2, leaves, .. } => {
                let rest = (1u64 << log2) - 1;
                Some((first & !rest, first | rest, leaves))
            }
        }
    }

    fn covers(&self, first: u64, last: u64) -> bool {
        self.pages().is_none_or(|(from, to, _)| from <= first && last <= to)
    }

    fn touches(&self, first: u64, last: u64) -> bool {
        self.pages().is_none_or(|(from, to, leaves)| !leaves && from <= last && first <= to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cached() -> Caches {
        let mut caches = Caches::default();
        let leaf = Leaf { physical: Some(0x7000), access: Access::ALL, made: 0 };
        for (space, size, address) in [
            (Space::Second(1), 12, 0x1000),
            (Space::Second(1), 12, 0x2000),
            (Space::Second(1), 21, 0x20_0000),
            (Space::Second(2), 12, 0x1000),
            (Space::First(1, 0), 12, 0x1000),
            (Space::First(1, 5), 12, 0x1000),
        ] {
            caches.fill(Fill::Leaf { space, size, address, leaf });
        }
        let inner = Inner { table: 0x9000, level: 0, access: Access::ALL };
        caches.fill(Fill::Table { space: Space::Second(1), size: 21, address: 0x1000, inner });
        caches
    }

    /// Leaves and tables that are left.
    fn left(scope: Scope) -> (usize, usize) {
        let mut caches = cached();
        caches.forget(scope);
        (caches.count(), caches.tables.len())
    }

    #[test]
    fn a_descriptor_drops_what_it_covers_and_nothing_else() {
        let pages = |first, log2, leaves| Scope::Pages { domain: 1, first, log2, leaves };
        assert_eq!(left(Scope::All), (0, 0));
        assert_eq!(left(Scope::Domain(1)), (1, 0), "of both stages");
        assert_eq!(left(Scope::Domain(3)), (6, 1));
        assert_eq!(left(pages(0x1000, 12, false)), (5, 0), "the tables on the way too");
        assert_eq!(left(pages(0x1000, 12, true)), (5, 1), "or not");
        assert_eq!(left(pages(0x0000, 14, true)), (4, 1), "four pages");
        assert_eq!(left(pages(0x20_0000, 12, true)), (6, 1), "a large leaf takes its own mask");
        assert_eq!(left(pages(0x20_0000, 21, true)), (5, 1));
        assert_eq!(left(Scope::Pasid { domain: 1, pasid: 5 }), (5, 1));
        let (domain, pasid) = (1, 0);
        let page = Scope::PasidPages { domain, pasid, first: 0x1000, log2: 12, leaves: false };
        assert_eq!(left(page), (5, 1));
    }

    #[test]
    fn entries_go_by_the_domain_that_they_had() {
        let with = |domain| Entry { words: [1; 8], domain };
        let mut caches = Caches::default();
        let left = |caches: &Caches| (caches.contexts.len(), caches.pasids.len());
        caches.fill(Fill::Context { source: 0x10, entry: with(3) });
        caches.fill(Fill::Context { source: 0x11, entry: with(4) });
        caches.fill(Fill::Pasid { source: 0x10, pasid: 0, entry: with(3) });
        caches.forget_context(0x10, 0, Some(4));
        assert_eq!(left(&caches), (2, 1), "another domain");
        caches.forget_pasids_of(4, None);
        caches.forget_pasids_of(3, Some(1));
        assert_eq!(left(&caches), (2, 1), "another domain, another PASID");
        caches.forget_context(0x10, 1, Some(4));
        assert_eq!(left(&caches), (1, 1), "under a mask");
        caches.forget_context(0x10, 0, Some(3));
        caches.forget_pasids_of(3, Some(0));
        assert_eq!(left(&caches), (0, 0));
    }
}
