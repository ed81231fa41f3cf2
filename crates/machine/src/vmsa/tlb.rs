//! Translations and table descriptors that a unit remembers. Nothing leaves except by a command that covers it.

use super::walk::{Permissions, TableEntry};
use std::collections::BTreeMap;

/// Which addresses an entry translates: those of a device (stage 1, alone or through stage 2) or intermediate ones (stage 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Regime {
    Stage1,
    Stage2,
}

/// The tag of a translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tag {
    pub(crate) regime: Regime,
    pub(crate) vmid: u16,
    /// `None` for global entries and for stage 2.
    pub(crate) asid: Option<u16>,
}

/// Addresses that a command covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u64,
    pub(crate) last: u64,
    /// Only entries from tables of this granule, and only leaves of this level, where given.
    pub(crate) granule: Option<u32>,
    pub(crate) level: Option<u32>,
    /// Table descriptors stay.
    pub(crate) leaf: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AsidScope {
    Any,
    /// Only non-global entries of that ASID.
    Only(u16),
    /// Those, and global ones.
    OrGlobal(u16),
}

/// What a TLBI command covers (§4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    regime: Option<Regime>,
    vmid: Option<u16>,
    asid: AsidScope,
    span: Option<Span>,
}

impl Scope {
    pub(crate) fn everything() -> Self {
        Self { regime: None, vmid: None, asid: AsidScope::Any, span: None }
    }

    pub(crate) fn of(regime: Regime) -> Self {
        Self { regime: Some(regime), ..Self::everything() }
    }

    pub(crate) fn vmid(self, vmid: u16) -> Self {
        Self { vmid: Some(vmid), ..self }
    }

    pub(crate) fn asid(self, asid: u16) -> Self {
        Self { asid: AsidScope::Only(asid), ..self }
    }

    pub(crate) fn asid_or_global(self, asid: u16) -> Self {
        Self { asid: AsidScope::OrGlobal(asid), ..self }
    }

    pub(crate) fn span(self, span: Span) -> Self {
        Self { span: Some(span), ..self }
    }

    fn covers_tag(&self, tag: &Tag) -> bool {
        self.regime.is_none_or(|regime| regime == tag.regime)
            && self.vmid.is_none_or(|vmid| vmid == tag.vmid)
            && match self.asid {
                AsidScope::Any => true,
                AsidScope::Only(asid) => tag.asid == Some(asid),
                AsidScope::OrGlobal(asid) => tag.asid.is_none_or(|of| of == asid),
            }
    }
}

/// A translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// Physical address of the page.
    pub(crate) physical: u64,
    /// Stage 1: the intermediate address of the page (the same without stage 2).
    pub(crate) intermediate: u64,
    /// Permissions of the stage that made the entry, and of stage 2 where it took part.
    pub(crate) own: Permissions,
    pub(crate) outer: Permissions,
    pub(crate) level: u32,
    pub(crate) granule: u32,
    /// The memory's epoch after the descriptor was read: what it maps was allocated before.
    pub(crate) epoch: u64,
}

/// Entries under tag, size and address.
#[derive(Clone, Debug)]
struct Tagged<V> {
    entries: BTreeMap<(Tag, u32, u64), V>,
    /// Sizes that ever occurred, as bits.
    sizes: u64,
}

impl<V> Default for Tagged<V> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), sizes: 0 }
    }
}

fn bits(mut set: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let bit = set.checked_ilog2().map(|_| set.trailing_zeros())?;
        set &= set - 1;
        Some(bit)
    })
}

impl<V: Copy> Tagged<V> {
    /// The smallest entry that covers `address`, and log2 of its size.
    fn find(&self, tag: Tag, address: u64) -> Option<(u32, V)> {
        bits(self.sizes)
            .find_map(|size| Some((size, *self.entries.get(&(tag, size, address >> size))?)))
    }

    fn insert(&mut self, tag: Tag, size: u32, address: u64, value: V) {
        self.sizes |= 1 << size;
        self.entries.insert((tag, size, address >> size), value);
    }

    /// Whether an entry of another size covers part of `2^size` bytes at `address`.
    fn overlaps_other_size(&self, tag: Tag, size: u32, address: u64) -> bool {
        let start = address >> size << size;
        let last = start | ((1 << size) - 1);
        bits(self.sizes & !(1 << size)).any(|other| {
            let (from, to) = ((tag, other, start >> other), (tag, other, last >> other));
            self.entries.range(from..=to).next().is_some()
        })
    }

    fn forget(&mut self, scope: &Scope, keep: impl Fn(&V) -> bool) {
        let Some(span) = scope.span else {
            self.entries.retain(|(tag, ..), _| !scope.covers_tag(tag));
            return;
        };
        let covered =
            |size: u32, page: u64| span.start >> size <= page && page <= span.last >> size;
        if let (Some(regime), Some(vmid)) = (scope.regime, scope.vmid) {
            let asids: &[Option<u16>] = match scope.asid {
                AsidScope::OrGlobal(asid) => &[Some(asid), None],
                AsidScope::Only(asid) => &[Some(asid)],
                AsidScope::Any if regime == Regime::Stage2 => &[None],
                AsidScope::Any => &[],
            };
            if !asids.is_empty() {
                for asid in asids {
                    self.forget_range(Tag { regime, vmid, asid: *asid }, span, &keep);
                }
                return;
            }
        }
        self.entries.retain(|(tag, size, page), value| {
            !scope.covers_tag(tag) || !covered(*size, *page) || keep(value)
        });
    }

    fn forget_range(&mut self, tag: Tag, span: Span, keep: &impl Fn(&V) -> bool) {
        for size in bits(self.sizes) {
            let range = (tag, size, span.start >> size)..=(tag, size, span.last >> size);
            let found: Vec<_> =
                self.entries.range(range).filter(|(_, v)| !keep(v)).map(|(key, _)| *key).collect();
            for key in found {
                self.entries.remove(&key);
            }
        }
    }
}

/// The TLB: leaves and, for walks that begin further down, tables.
#[derive(Clone, Debug, Default)]
pub(crate) struct Translations {
    tables: Tagged<TableEntry>,
    leaves: Tagged<Leaf>,
}

impl Translations {
    /// The table to begin a walk with: the deepest known.
    pub(crate) fn table(&self, tag: Tag, address: u64) -> Option<TableEntry> {
        Some(self.tables.find(tag, address)?.1)
    }

    /// The translation of `address`, and log2 of its size; a global one where the tag has none.
    pub(crate) fn leaf(&self, tag: Tag, address: u64) -> Option<(u32, Leaf)> {
        let global = Tag { asid: None, ..tag };
        self.leaves.find(tag, address).or_else(|| self.leaves.find(global, address))
    }

    /// How many leaves there are.
    pub(crate) fn count(&self) -> usize {
        self.leaves.entries.len()
    }

    /// Keeps a table descriptor.
    pub(crate) fn keep_table(&mut self, tag: Tag, size: u32, address: u64, entry: TableEntry) {
        self.tables.insert(tag, size, address, entry);
    }

    /// Keeps a translation. Says whether it overlaps one of another size.
    pub(crate) fn keep(&mut self, tag: Tag, size: u32, address: u64, leaf: Leaf) -> bool {
        let conflict = self.leaves.overlaps_other_size(tag, size, address);
        self.leaves.insert(tag, size, address, leaf);
        conflict
    }

    /// Drops what `scope` covers.
    pub(crate) fn forget(&mut self, scope: &Scope) {
        let filter = scope.span.map(|span| (span.granule, span.level, span.leaf));
        let (granule, level, leaf_only) = filter.unwrap_or_default();
        let wrong_granule = |of: u32| granule.is_some_and(|granule| granule != of);
        self.leaves.forget(scope, |leaf| {
            wrong_granule(leaf.granule) || level.is_some_and(|level| level != leaf.level)
        });
        if leaf_only {
            return;
        }
        self.tables.forget(scope, |table| {
            wrong_granule(table.granule) || level.is_some_and(|level| table.level >= level)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAF: Leaf = Leaf {
        physical: 0,
        intermediate: 0,
        own: Permissions::ALL,
        outer: Permissions::ALL,
        level: 3,
        granule: 12,
        epoch: 0,
    };

    fn tag(asid: impl Into<Option<u16>>) -> Tag {
        Tag { regime: Regime::Stage1, vmid: 5, asid: asid.into() }
    }

    fn cached() -> Translations {
        let mut caches = Translations::default();
        for (tag, size, address) in [
            (tag(1), 12, 0x1000),
            (tag(1), 12, 0x2000),
            (tag(1), 21, 0x20_0000),
            (tag(2), 12, 0x1000),
            (tag(None), 12, 0x5000),
            (Tag { regime: Regime::Stage2, vmid: 5, asid: None }, 12, 0x1000),
            (Tag { vmid: 6, ..tag(1) }, 12, 0x1000),
        ] {
            let leaf = Leaf { level: if size == 21 { 2 } else { 3 }, ..LEAF };
            assert!(!caches.keep(tag, size, address, leaf));
        }
        caches
    }

    fn left(scope: Scope) -> usize {
        let mut caches = cached();
        caches.forget(&scope);
        caches.count()
    }

    fn at(start: u64, last: u64) -> Span {
        Span { start, last, granule: None, level: None, leaf: true }
    }

    #[test]
    fn a_command_drops_what_it_covers_and_nothing_else() {
        let stage1 = Scope::of(Regime::Stage1).vmid(5);
        assert_eq!(left(Scope::everything()), 0);
        assert_eq!(left(Scope::everything().vmid(5)), 1, "the other VMID stays");
        assert_eq!(left(stage1), 2, "stage 2 and the other VMID stay");
        assert_eq!(left(stage1.asid(1)), 4, "three of ASID 1; global ones stay");
        assert_eq!(left(stage1.asid_or_global(1).span(at(0x1000, 0x1fff))), 6);
        assert_eq!(left(stage1.asid_or_global(1).span(at(0x5000, 0x5fff))), 6, "global by address");
        assert_eq!(left(stage1.asid_or_global(3).span(at(0x1000, 0x2fff))), 7, "nobody's ASID");
        assert_eq!(left(stage1.span(at(0x1000, 0x1fff))), 5, "all ASIDs");
        assert_eq!(left(stage1.asid_or_global(1).span(at(0x3f_f000, 0x3f_ffff))), 6, "any part");
        assert_eq!(left(Scope::of(Regime::Stage2).vmid(5).span(at(0, 0xffff))), 6);
    }

    #[test]
    fn hints_are_taken_at_their_word() {
        let scope = |granule, level| {
            let span = Span { granule, level, ..at(0x1000, 0x3f_ffff) };
            left(Scope::of(Regime::Stage1).vmid(5).asid_or_global(1).span(span))
        };
        assert_eq!(scope(None, None), 3, "1000, 2000, 2M block, global 5000");
        assert_eq!(scope(Some(12), Some(2)), 6, "only the block");
        assert_eq!(scope(Some(12), Some(3)), 4, "all but the block");
        assert_eq!(scope(Some(16), None), 7, "wrong granule");
    }

    #[test]
    fn leaf_only_commands_leave_tables() {
        let mut caches = Translations::default();
        let entry = TableEntry { next: 0x9000, level: 2, granule: 12, limit: Permissions::ALL };
        caches.keep_table(tag(1), 21, 0x1000, entry);
        let scope = Scope::of(Regime::Stage1).vmid(5).asid_or_global(1);
        caches.forget(&scope.span(at(0x1000, 0x1fff)));
        assert_eq!(caches.table(tag(1), 0x1000), Some(entry));
        caches.forget(&scope.span(Span { leaf: false, ..at(0x1000, 0x1fff) }));
        assert_eq!(caches.table(tag(1), 0x1000), None);
    }

    #[test]
    fn two_sizes_for_one_address_are_noticed() {
        let mut caches = cached();
        assert!(caches.keep(tag(1), 21, 0, LEAF));
    }
}
