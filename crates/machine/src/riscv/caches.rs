//! What the unit remembers (2.8): directory entries, contexts, translations and tables. Nothing leaves except by a command that covers it.

use super::walk::{Access, PageTable};
use std::collections::BTreeMap;

/// Whose addresses a translation is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Space {
    /// The first stage of a host's address space, by PSCID.
    Host(u32),
    /// Both stages, or the first of them, by GSCID and PSCID.
    Guest(u16, u32),
    /// The second stage, by GSCID.
    Second(u16),
}

/// A translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    pub(super) physical: u64,
    /// The guest physical address, of a translation through both stages.
    pub(super) intermediate: u64,
    /// What the first stage permits, or the only one.
    pub(super) own: Access,
    /// What the second stage permits.
    pub(super) outer: Access,
    /// It belongs to all address spaces.
    pub(super) global: bool,
    /// The memory's epoch when it was made.
    pub(super) made: u64,
}

/// A table on the way to a leaf: where it is, and how many levels are left below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inner {
    pub(super) table: u64,
    pub(super) level: u32,
}

/// Something that a walk found and that may be kept.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fill {
    Directory { level: u32, prefix: u32, word: u64 },
    Context { device: u32, context: [u64; 8] },
    Table { space: Space, size: u32, address: u64, inner: Inner },
    Leaf { space: Space, size: u32, address: u64, leaf: Leaf },
}

/// What an IOTINVAL covers (3.1.1).
#[derive(Clone, Copy, Debug)]
pub(super) enum Scope {
    /// First stages of hosts (`None`) or of one guest.
    First { guest: Option<u16>, process: Option<u32>, address: Option<u64> },
    /// Second stages, all or of one guest.
    Second { guest: Option<u16>, address: Option<u64> },
}

#[derive(Clone, Debug, Default)]
pub(super) struct Caches {
    directories: BTreeMap<(u32, u32), u64>,
    contexts: BTreeMap<u32, [u64; 8]>,
    tables: BTreeMap<(Space, u32, u64), Inner>,
    leaves: BTreeMap<(Space, u32, u64), Leaf>,
}

/// log2 of every size that a leaf or a table can cover.
const SIZES: [u32; 6] = [12, 16, 21, 30, 39, 48];

impl Caches {
    pub(super) fn directory(&self, level: u32, prefix: u32) -> Option<u64> {
        self.directories.get(&(level, prefix)).copied()
    }

    pub(super) fn context(&self, device: u32) -> Option<[u64; 8]> {
        self.contexts.get(&device).copied()
    }

    /// The translation of `address`, with log2 of its size.
    pub(super) fn leaf(&self, space: Space, address: u64) -> Option<(u32, Leaf)> {
        let at = |size: &u32| Some((*size, *self.leaves.get(&(space, *size, address >> size))?));
        SIZES.iter().find_map(at).or_else(|| self.global(space, address))
    }

    /// A global translation of another address space of the same kind.
    fn global(&self, space: Space, address: u64) -> Option<(u32, Leaf)> {
        let kin = |other: &Space| match (space, other) {
            (Space::Host(_), Space::Host(_)) => true,
            (Space::Guest(one, _), Space::Guest(another, _)) => one == *another,
            _ => false,
        };
        let found = self.leaves.iter().find(|((other, size, page), leaf)| {
            leaf.global && kin(other) && address >> size == *page
        });
        found.map(|((_, size, _), leaf)| (*size, *leaf))
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
            Fill::Directory { level, prefix, word } => {
                self.directories.insert((level, prefix), word);
            }
            Fill::Context { device, context } => {
                self.contexts.insert(device, context);
            }
            Fill::Table { space, size, address, inner } => {
                self.tables.insert((space, size, address >> size), inner);
            }
            Fill::Leaf { space, size, address, leaf } => {
                self.leaves.insert((space, size, address >> size), leaf);
            }
        }
    }

    /// IODIR.INVAL_DDT: the context of one device, or all contexts and everything that led to them (3.1.3).
    pub(super) fn forget_contexts(&mut self, device: Option<u32>) {
        match device {
            Some(device) => drop(self.contexts.remove(&device)),
            None => {
                self.contexts.clear();
                self.directories.clear();
            }
        }
    }

    /// IOTINVAL.VMA and IOTINVAL.GVMA. By address only leaves go, which is why tables that are freed need the other kind.
    pub(super) fn forget(&mut self, scope: Scope) {
        let address = match scope {
            Scope::First { address, .. } | Scope::Second { address, .. } => address,
        };
        let Some(address) = address else {
            self.leaves.retain(|(space, ..), leaf| !scope.is_of(space, leaf.global));
            self.tables.retain(|(space, ..), _| !scope.is_of(space, false));
            return;
        };
        let second = matches!(scope, Scope::Second { .. });
        self.leaves.retain(|(space, size, page), leaf| {
            let covered = match space {
                // Of a translation through both stages GVMA names the guest's address.
                Space::Guest(..) if second => address >> size == leaf.intermediate >> size,
                _ => address >> size == *page,
            };
            !(covered && scope.is_of(space, leaf.global))
        });
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Scope {
    /// Whether translations of `space` belong to it; those that are global belong to no process.
    fn is_of(&self, space: &Space, global: bool) -> bool {
        match *self {
            Self::First { guest, process, .. } => {
                let (of, own) = match *space {
                    Space::Host(own) => (None, own),
                    Space::Guest(of, own) => (Some(of), own),
                    Space::Second(_) => return false,
                };
                of == guest && process.is_none_or(|process| process == own && !global)
            }
            Self::Second { guest, .. } => match *space {
                Space::Second(of) | Space::Guest(of, _) => guest.is_none_or(|guest| guest == of),
                Space::Host(_) => false,
            },
        }
    }
}

impl Space {
    /// Whose addresses the first stage of a context translates.
    pub(super) fn first(process: u32, outer: Option<&PageTable>) -> Self {
        match outer {
            None => Self::Host(process),
            Some(table) => Self::Guest(table.tag as u16, process),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(global: bool) -> Leaf {
        let (own, outer) = (Access::ALL, Access::ALL);
        Leaf { physical: 0, intermediate: 0x7000, own, outer, global, made: 0 }
    }

    fn cached() -> Caches {
        let mut caches = Caches::default();
        for (space, size, address, global) in [
            (Space::Host(1), 12, 0x1000, false),
            (Space::Host(1), 21, 0x20_0000, false),
            (Space::Host(1), 12, 0x5000, true),
            (Space::Host(2), 12, 0x1000, false),
            (Space::Guest(3, 1), 12, 0x1000, false),
            (Space::Second(3), 12, 0x7000, false),
            (Space::Second(4), 12, 0x7000, false),
        ] {
            caches.fill(Fill::Leaf { space, size, address, leaf: leaf(global) });
        }
        let inner = Inner { table: 0x9000, level: 0 };
        caches.fill(Fill::Table { space: Space::Host(1), size: 21, address: 0x1000, inner });
        caches
    }

    fn left(scope: Scope) -> (usize, usize) {
        let mut caches = cached();
        caches.forget(scope);
        (caches.count(), caches.tables.len())
    }

    /// Row by row of the tables in 3.1.1.
    #[test]
    fn a_command_drops_what_it_covers_and_nothing_else() {
        let first = |guest, process, address| Scope::First { guest, process, address };
        assert_eq!(left(first(None, None, None)), (3, 0), "all of the hosts");
        assert_eq!(left(first(None, Some(1), None)), (5, 0), "global ones stay");
        assert_eq!(left(first(None, None, Some(0x1000))), (5, 1), "leaves of all, no table");
        assert_eq!(left(first(None, Some(1), Some(0x1000))), (6, 1));
        assert_eq!(left(first(None, Some(1), Some(0x3f_f000))), (6, 1), "any page of a large leaf");
        assert_eq!(left(first(None, Some(1), Some(0x5000))), (7, 1), "global ones stay");
        assert_eq!(left(first(Some(3), None, None)), (6, 1));
        assert_eq!(left(first(Some(3), Some(2), None)), (7, 1));
        assert_eq!(left(first(Some(4), None, None)), (7, 1));
        let second = |guest, address| Scope::Second { guest, address };
        assert_eq!(left(second(None, None)), (4, 1), "both stages together too");
        assert_eq!(left(second(Some(3), None)), (5, 1));
        assert_eq!(left(second(Some(3), Some(0x7000))), (5, 1), "by the guest's address");
        assert_eq!(left(second(Some(3), Some(0x1000))), (7, 1));
    }

    #[test]
    fn a_global_translation_serves_other_processes() {
        assert!(cached().leaf(Space::Host(9), 0x5123).is_some());
        assert!(cached().leaf(Space::Host(9), 0x1123).is_none());
        assert!(cached().leaf(Space::Guest(3, 9), 0x5123).is_none());
    }
}
