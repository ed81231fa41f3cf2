//! What the unit remembers: configuration entries, table descriptors, translations. Nothing leaves but by a command that covers it.

use std::collections::BTreeMap;

/// Which addresses an entry translates: those of a device (stage 1, alone or through stage 2) or intermediate ones (stage 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Regime {
    Stage1,
    Stage2,
}

/// The tag of a translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tag {
    pub(super) regime: Regime,
    pub(super) vmid: u16,
    /// `None` for global entries and for stage 2.
    pub(super) asid: Option<u16>,
}

/// Addresses that a command covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u64,
    pub(super) last: u64,
    /// Only entries from tables of this granule, and only leaves of this level, where given.
    pub(super) granule: Option<u32>,
    pub(super) level: Option<u32>,
    /// Table descriptors stay.
    pub(super) leaf: bool,
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
pub(super) struct Scope {
    regime: Option<Regime>,
    vmid: Option<u16>,
    asid: AsidScope,
    span: Option<Span>,
}

impl Scope {
    pub(super) fn everything() -> Self {
        Self { regime: None, vmid: None, asid: AsidScope::Any, span: None }
    }

    pub(super) fn of(regime: Regime) -> Self {
        Self { regime: Some(regime), ..Self::everything() }
    }

    pub(super) fn vmid(self, vmid: u16) -> Self {
        Self { vmid: Some(vmid), ..self }
    }

    pub(super) fn asid(self, asid: u16) -> Self {
        Self { asid: AsidScope::Only(asid), ..self }
    }

    pub(super) fn asid_or_global(self, asid: u16) -> Self {
        Self { asid: AsidScope::OrGlobal(asid), ..self }
    }

    pub(super) fn span(self, span: Span) -> Self {
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
pub(super) struct Leaf {
    /// Physical address of the page.
    pub(super) physical: u64,
    /// Stage 1: the intermediate address of the page (the same without stage 2).
    pub(super) intermediate: u64,
    /// Permissions of the stage that made the entry, and of stage 2 where it took part.
    pub(super) own: Permissions,
    pub(super) outer: Permissions,
    pub(super) level: u32,
    pub(super) granule: u32,
    /// The memory's epoch after the descriptor was read: what it maps was allocated before.
    pub(super) epoch: u64,
}

/// Who may do what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Permissions {
    pub(super) read: bool,
    pub(super) write: bool,
    /// Unprivileged accesses too.
    pub(super) user: bool,
}

impl Permissions {
    pub(super) const ALL: Self = Self { read: true, write: true, user: true };
}

/// A table descriptor: where the next table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TableEntry {
    /// Address of the table that it points to.
    pub(super) next: u64,
    /// Level of the descriptor; the table is one level deeper.
    pub(super) level: u32,
    pub(super) granule: u32,
    /// What hierarchical attributes leave of the permissions below.
    pub(super) limit: Permissions,
}

/// Entries under tag, size and address.
#[derive(Clone, Debug)]
pub(super) struct Tagged<V> {
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
    pub(super) fn find(&self, tag: Tag, address: u64) -> Option<(u32, V)> {
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

/// Something that a walk found and that may be kept.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fill {
    StreamDescriptor { index: u32, word: u64 },
    Stream { stream: u32, entry: [u64; 8] },
    ContextDescriptorTable { stream: u32, index: u32, word: u64 },
    Context { stream: u32, substream: u32, entry: [u64; 8] },
    Table { tag: Tag, size: u32, address: u64, entry: TableEntry },
    Leaf { tag: Tag, size: u32, address: u64, leaf: Leaf },
}

/// Every cache of the unit.
#[derive(Clone, Debug, Default)]
pub(super) struct Caches {
    stream_descriptors: BTreeMap<u32, u64>,
    streams: BTreeMap<u32, [u64; 8]>,
    context_tables: BTreeMap<(u32, u32), u64>,
    contexts: BTreeMap<(u32, u32), [u64; 8]>,
    tables: Tagged<TableEntry>,
    leaves: Tagged<Leaf>,
    /// StreamID bits below a level 1 descriptor, as of the last one cached.
    split: u32,
}

impl Caches {
    pub(super) fn stream_descriptor(&self, index: u32) -> Option<u64> {
        self.stream_descriptors.get(&index).copied()
    }

    pub(super) fn stream(&self, stream: u32) -> Option<[u64; 8]> {
        self.streams.get(&stream).copied()
    }

    pub(super) fn context_table(&self, stream: u32, index: u32) -> Option<u64> {
        self.context_tables.get(&(stream, index)).copied()
    }

    pub(super) fn context(&self, stream: u32, substream: u32) -> Option<[u64; 8]> {
        self.contexts.get(&(stream, substream)).copied()
    }

    /// The table to begin a walk with: the deepest known.
    pub(super) fn table(&self, tag: Tag, address: u64) -> Option<TableEntry> {
        Some(self.tables.find(tag, address)?.1)
    }

    pub(super) fn leaf(&self, tag: Tag, address: u64) -> Option<(u32, Leaf)> {
        let global = Tag { asid: None, ..tag };
        self.leaves.find(tag, address).or_else(|| self.leaves.find(global, address))
    }

    pub(super) fn translations(&self) -> usize {
        self.leaves.entries.len()
    }

    pub(super) fn set_split(&mut self, split: u32) {
        self.split = split;
    }

    /// Keeps what a walk found. Gives the address of a translation that overlaps one of another size.
    pub(super) fn fill(&mut self, fill: Fill) -> Option<u64> {
        match fill {
            Fill::StreamDescriptor { index, word } => {
                self.stream_descriptors.insert(index, word);
            }
            Fill::Stream { stream, entry } => {
                self.streams.insert(stream, entry);
            }
            Fill::ContextDescriptorTable { stream, index, word } => {
                self.context_tables.insert((stream, index), word);
            }
            Fill::Context { stream, substream, entry } => {
                self.contexts.insert((stream, substream), entry);
            }
            Fill::Table { tag, size, address, entry } => {
                self.tables.insert(tag, size, address, entry);
            }
            Fill::Leaf { tag, size, address, leaf } => {
                let conflict = self.leaves.overlaps_other_size(tag, size, address);
                self.leaves.insert(tag, size, address, leaf);
                return conflict.then_some(address);
            }
        }
        None
    }

    /// CMD_CFGI_STE: the entry, all its contexts, and without `leaf` the descriptor above it (§4.3.1).
    pub(super) fn forget_stream(&mut self, stream: u32, leaf: bool) {
        self.streams.remove(&stream);
        self.forget_contexts(stream);
        if !leaf {
            self.stream_descriptors.remove(&(stream >> self.split));
        }
    }

    /// CMD_CFGI_STE_RANGE: an aligned range of `2^bits` streams, descriptors included (§4.3.2).
    pub(super) fn forget_streams(&mut self, stream: u32, bits: u32) {
        let mask = u32::MAX.checked_shl(bits).unwrap_or(0);
        let inside = |id: u32| id & mask == stream & mask;
        self.streams.retain(|id, _| !inside(*id));
        self.contexts.retain(|(id, _), _| !inside(*id));
        self.context_tables.retain(|(id, _), _| !inside(*id));
        let (first, last) = (stream & mask, stream | !mask);
        let split = self.split;
        self.stream_descriptors
            .retain(|index, _| !(first >> split..=last >> split).contains(index));
    }

    /// CMD_CFGI_CD (§4.3.3).
    pub(super) fn forget_context(&mut self, stream: u32, substream: u32, leaf: bool) {
        self.contexts.remove(&(stream, substream));
        if !leaf {
            // The split of the table is not in the command: every descriptor of the stream goes.
            self.context_tables.retain(|(id, _), _| *id != stream);
        }
    }

    /// CMD_CFGI_CD_ALL (§4.3.4).
    pub(super) fn forget_contexts(&mut self, stream: u32) {
        self.contexts.retain(|(id, _), _| *id != stream);
        self.context_tables.retain(|(id, _), _| *id != stream);
    }

    /// CMD_TLBI_* (§4.4).
    pub(super) fn forget_translations(&mut self, scope: &Scope) {
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

    fn cached() -> Caches {
        let mut caches = Caches::default();
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
            assert_eq!(caches.fill(Fill::Leaf { tag, size, address, leaf }), None);
        }
        caches
    }

    fn left(scope: Scope) -> usize {
        let mut caches = cached();
        caches.forget_translations(&scope);
        caches.translations()
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
        let mut caches = Caches::default();
        let entry = TableEntry { next: 0x9000, level: 2, granule: 12, limit: Permissions::ALL };
        caches.fill(Fill::Table { tag: tag(1), size: 21, address: 0x1000, entry });
        let scope = Scope::of(Regime::Stage1).vmid(5).asid_or_global(1);
        caches.forget_translations(&scope.span(at(0x1000, 0x1fff)));
        assert_eq!(caches.table(tag(1), 0x1000), Some(entry));
        caches.forget_translations(&scope.span(Span { leaf: false, ..at(0x1000, 0x1fff) }));
        assert_eq!(caches.table(tag(1), 0x1000), None);
    }

    #[test]
    fn two_sizes_for_one_address_are_noticed() {
        let mut caches = cached();
        let fill = Fill::Leaf { tag: tag(1), size: 21, address: 0, leaf: LEAF };
        assert_eq!(caches.fill(fill), Some(0));
    }
}
