//! The radix tree over page numbers: marking, searching, looking around.

use crate::bits::{groups, span};
use crate::error::NoNodes;
use crate::node::{FANOUT_LOG2, Inner, Leaf, NONE, Pool, free_value};

/// The tree over the pages `0..2^(6 * (top + 1))`.
///
/// # Invariants
///
/// A child's `free` bit is set exactly if its value is that of a free node; a node that is wholly used by one range has no kid; every other node has
/// one. Start and end marks stand on the largest wholly used pieces of a range, so that what was marked as a range is unmarked the same way.
#[derive(Debug)]
pub(crate) struct Tree {
    top: u32,
    leaves: Pool<Leaf>,
    inner: Pool<Inner>,
    root: u32,
}

/// Levels of the tallest tree: 52 bits of page numbers, 6 a level.
const MAX_LEVELS: usize = 9;

/// What pages become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    Free,
    Reserved,
    Live,
}

/// What to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A free page, but none in nodes whose value is below this.
    Free(u8),
    /// A page that is not free.
    Used,
    /// The first page of a live range.
    Start,
    /// The last page of a live range.
    End,
}

/// Whether a part holds the first and the last page of what is marked.
#[derive(Clone, Copy)]
struct Edges {
    first: bool,
    last: bool,
}

/// One child of an inner node.
enum Child {
    Free,
    Whole { start: bool, end: bool },
    Kid(u32),
}

impl Tree {
    /// A tree of used pages that covers page `last`.
    pub(crate) fn new(last: u64) -> Result<Self, NoNodes> {
        let bits = 64 - last.leading_zeros();
        let top = bits.div_ceil(FANOUT_LOG2).max(2) - 1;
        let mut tree = Self { top, leaves: Pool::new(), inner: Pool::new(), root: NONE };
        tree.ensure()?;
        tree.root = tree.inner.take(Inner::all(false, order(top)));
        Ok(tree)
    }

    /// Makes sure that one [`mark`](Self::mark) cannot run out of nodes: it makes at most two on each level below the root.
    pub(crate) fn ensure(&mut self) -> Result<(), NoNodes> {
        self.leaves.ensure(2, || Leaf::all(false))?;
        self.inner.ensure(2 * self.top as usize, || Inner::all(false, 0))
    }

    /// Pages that the tree covers.
    pub(crate) fn pages(&self) -> u64 {
        1 << order(self.top + 1)
    }

    pub(crate) fn nodes(&self) -> usize {
        self.leaves.used() + self.inner.used()
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.leaves.heap_bytes() + self.inner.heap_bytes()
    }

    /// Makes the pages `first..=last` what `mark` says. A range that becomes live was free, one that becomes free was marked as one range.
    /// [`ensure`](Self::ensure) came before, except where a whole range becomes free.
    pub(crate) fn mark(&mut self, first: u64, last: u64, mark: Mark) {
        let live = mark == Mark::Live;
        if first >> FANOUT_LOG2 == last >> FANOUT_LOG2 && last - first < 63 {
            return self.mark_in_leaf(first, last, mark, Edges { first: live, last: live });
        }
        self.mark_inner(self.top, self.root, first, last, mark, Edges { first: live, last: live });
    }

    fn mark_node(
        &mut self,
        level: u32,
        node: u32,
        (first, last): (u64, u64),
        mark: Mark,
        edges: Edges,
    ) -> u8 {
        if level > 0 {
            return self.mark_inner(level, node, first, last, mark, edges);
        }
        mark_leaf(self.leaves.get_mut(node), first as u32, last as u32, mark, edges)
    }

    /// Marks pages of one leaf, not all of it: down once, and up only as far as a value changes.
    fn mark_in_leaf(&mut self, first: u64, last: u64, mark: Mark, edges: Edges) {
        let mut path = [self.root; MAX_LEVELS];
        let place = |level: u32| (first >> order(level)) as usize & 63;
        for level in (1..=self.top).rev() {
            let (node, child) = (path[level as usize], place(level));
            let kid = self.inner.get(node).kids[child];
            path[level as usize - 1] = if kid == NONE { self.kid(level, node, child) } else { kid };
        }
        let leaf = self.leaves.get_mut(path[0]);
        let mut value = mark_leaf(leaf, first as u32 & 63, last as u32 & 63, mark, edges);
        for level in 1..=self.top {
            let (node, child) = (path[level as usize], place(level));
            if self.inner.get(node).values.get(child) == value {
                return;
            }
            self.set_value(level, node, child, value);
            value = self.inner.get(node).value(order(level));
        }
    }

    /// Marks inside one inner node, by offsets from its first page; returns its new value.
    fn mark_inner(
        &mut self,
        level: u32,
        node: u32,
        first: u64,
        last: u64,
        mark: Mark,
        edges: Edges,
    ) -> u8 {
        let size_log2 = order(level);
        let size = 1u64 << size_log2;
        let (low, high) = (first >> size_log2, last >> size_log2);
        for child in low..=high {
            let from = if child == low { first & (size - 1) } else { 0 };
            let to = if child == high { last & (size - 1) } else { size - 1 };
            let edges =
                Edges { first: edges.first && child == low, last: edges.last && child == high };
            let child = child as usize;
            let value = if to - from == size - 1 {
                self.mark_whole(level, node, child, mark, edges)
            } else {
                let kid = self.kid(level, node, child);
                self.mark_node(level - 1, kid, (from, to), mark, edges)
            };
            self.set_value(level, node, child, value);
        }
        self.inner.get(node).value(size_log2)
    }

    /// Marks a whole child; returns its new value.
    fn mark_whole(&mut self, level: u32, node: u32, child: usize, mark: Mark, edges: Edges) -> u8 {
        let inner = self.inner.get_mut(node);
        let bit = 1u64 << child;
        inner.start &= !bit;
        inner.end &= !bit;
        inner.start |= u64::from(edges.first) << child;
        inner.end |= u64::from(edges.last) << child;
        let kid = core::mem::replace(&mut inner.kids[child], NONE);
        if kid != NONE {
            self.drop_node(level - 1, kid);
        }
        if mark == Mark::Free { free_value(order(level)) } else { 0 }
    }

    /// The kid of a child that is to be marked in part; made if the child was of one piece.
    fn kid(&mut self, level: u32, node: u32, child: usize) -> u32 {
        let kid = self.inner.get(node).kids[child];
        if kid != NONE {
            return kid;
        }
        let free = self.inner.get(node).free >> child & 1 == 1;
        let kid = if level == 1 {
            self.leaves.take(Leaf::all(free))
        } else {
            self.inner.take(Inner::all(free, order(level - 1)))
        };
        self.inner.get_mut(node).kids[child] = kid;
        kid
    }

    /// Notes a child's new value, and keeps at most one free kid.
    fn set_value(&mut self, level: u32, node: u32, child: usize, value: u8) {
        let inner = self.inner.get_mut(node);
        let free = inner.set_value(order(level), child, value);
        if !free || inner.kids[child] == NONE {
            return;
        }
        let kept = usize::from(core::mem::replace(&mut inner.kept, child as u8));
        if kept < 64 && kept != child && inner.free >> kept & 1 == 1 {
            let kid = core::mem::replace(&mut inner.kids[kept], NONE);
            if kid != NONE {
                self.drop_node(level - 1, kid);
            }
        }
    }

    /// Gives a node and all below it back to the pools.
    fn drop_node(&mut self, level: u32, node: u32) {
        if level == 0 {
            self.leaves.give_back(node);
            return;
        }
        for child in 0..64 {
            let kid = self.inner.get(node).kids[child];
            if kid != NONE {
                self.drop_node(level - 1, kid);
            }
        }
        self.inner.give_back(node);
    }

    /// The first page of the highest free block of 2^`block` pages, aligned to its size, among the first `limit` pages (at least 1).
    pub(crate) fn highest_block(&self, block: u32, limit: u64) -> Option<u64> {
        if block > order(self.top + 1) {
            return None;
        }
        self.block_in(self.top, self.root, block, limit.min(self.pages()))
    }

    /// The same inside one node, by offsets from its first page.
    fn block_in(&self, level: u32, node: u32, block: u32, limit: u64) -> Option<u64> {
        if level == 0 {
            let leaf = self.leaves.get(node);
            let usable = leaf.free & span(0, limit as u32 - 1);
            return groups(usable, block).checked_ilog2().map(u64::from);
        }
        let size_log2 = order(level);
        let inner = self.inner.get(node);
        let (whole, rest) = ((limit >> size_log2) as usize, limit & ((1 << size_log2) - 1));
        if rest > 0 && block <= size_log2 && inner.values.get(whole) >= free_value(block) {
            // The child that the limit cuts: the only place where a promising value can disappoint.
            if let Some(found) = self.block_in_child(level, inner, whole, block, rest) {
                return Some(found);
            }
        }
        if whole == 0 {
            return None;
        }
        if block > size_log2 {
            let usable = inner.free & span(0, whole as u32 - 1);
            let group = groups(usable, block - size_log2).checked_ilog2()?;
            return Some(u64::from(group) << size_log2);
        }
        let child = inner.values.last_at_least(free_value(block), whole)?;
        self.block_in_child(level, inner, child, block, 1 << size_log2)
    }

    fn block_in_child(
        &self,
        level: u32,
        inner: &Inner,
        child: usize,
        block: u32,
        limit: u64,
    ) -> Option<u64> {
        let base = (child as u64) << order(level);
        if inner.free >> child & 1 == 1 {
            let start = limit.checked_sub(1 << block)?;
            return Some(base + (start & !((1 << block) - 1)));
        }
        self.block_in(level - 1, inner.kids[child], block, limit).map(|found| base + found)
    }

    fn child(inner: &Inner, child: usize) -> Child {
        let bit = |set: u64| set >> child & 1 == 1;
        if bit(inner.free) {
            Child::Free
        } else if inner.kids[child] == NONE {
            Child::Whole { start: bit(inner.start), end: bit(inner.end) }
        } else {
            Child::Kid(inner.kids[child])
        }
    }

    /// The first page of `kind` at or above `from`, a page of the tree.
    pub(crate) fn next(&self, from: u64, kind: Kind) -> Option<u64> {
        self.next_in(self.top, self.root, from, kind)
    }

    fn next_in(&self, level: u32, node: u32, from: u64, kind: Kind) -> Option<u64> {
        if level == 0 {
            let hits = self.hits(node, kind) & (u64::MAX << from);
            return (hits != 0).then(|| u64::from(hits.trailing_zeros()));
        }
        let size_log2 = order(level);
        let inner = self.inner.get(node);
        let low = (from >> size_log2) as usize;
        (low..64).find_map(|child| {
            let base = (child as u64) << size_log2;
            let inside = from.saturating_sub(base);
            let found = match Self::child(inner, child) {
                Child::Kid(kid) if promises(inner, child, kind) => {
                    self.next_in(level - 1, kid, inside, kind)
                }
                Child::Kid(_) => None,
                Child::Free => matches!(kind, Kind::Free(_)).then_some(inside),
                Child::Whole { start, end } => match kind {
                    Kind::Used => Some(inside),
                    Kind::Start => (start && inside == 0).then_some(0),
                    Kind::End => end.then_some((1 << size_log2) - 1),
                    Kind::Free(_) => None,
                },
            };
            found.map(|found| base + found)
        })
    }

    /// The last page of `kind`, any but [`Kind::End`], at or below `from`, a page of the tree.
    pub(crate) fn previous(&self, from: u64, kind: Kind) -> Option<u64> {
        self.previous_in(self.top, self.root, from, kind)
    }

    fn previous_in(&self, level: u32, node: u32, from: u64, kind: Kind) -> Option<u64> {
        if level == 0 {
            let hits = self.hits(node, kind) & span(0, from as u32);
            return hits.checked_ilog2().map(u64::from);
        }
        let size_log2 = order(level);
        let last = (1u64 << size_log2) - 1;
        let inner = self.inner.get(node);
        let high = (from >> size_log2) as usize;
        (0..=high).rev().find_map(|child| {
            let base = (child as u64) << size_log2;
            let inside = (from - base).min(last);
            let found = match Self::child(inner, child) {
                Child::Kid(kid) if promises(inner, child, kind) => {
                    self.previous_in(level - 1, kid, inside, kind)
                }
                Child::Kid(_) => None,
                Child::Free => matches!(kind, Kind::Free(_)).then_some(inside),
                Child::Whole { start, .. } => match kind {
                    Kind::Used => Some(inside),
                    Kind::Start => start.then_some(0),
                    Kind::Free(_) | Kind::End => None,
                },
            };
            found.map(|found| base + found)
        })
    }

    fn hits(&self, leaf: u32, kind: Kind) -> u64 {
        let leaf = self.leaves.get(leaf);
        match kind {
            Kind::Free(_) => leaf.free,
            Kind::Used => !leaf.free,
            Kind::Start => leaf.start,
            Kind::End => leaf.end,
        }
    }

    /// The last page of the live range that begins with page `first`, if one does.
    pub(crate) fn live_end(&self, first: u64) -> Option<u64> {
        let (mut level, mut node, mut offset) = (self.top, self.root, first);
        while level > 0 {
            let inner = self.inner.get(node);
            let child = (offset >> order(level)) as usize;
            offset &= (1 << order(level)) - 1;
            match Self::child(inner, child) {
                Child::Kid(kid) => node = kid,
                Child::Whole { start: true, .. } if offset == 0 => {
                    return self.next(first, Kind::End);
                }
                _ => return None,
            }
            level -= 1;
        }
        let leaf = self.leaves.get(node);
        if leaf.start >> offset & 1 == 0 {
            return None;
        }
        match (leaf.end >> offset).trailing_zeros() {
            // The range leaves the leaf.
            64 => self.next(first, Kind::End),
            distance => Some(first + u64::from(distance)),
        }
    }
}

/// Marks pages `first..=last` of a leaf; returns its new value.
fn mark_leaf(leaf: &mut Leaf, first: u32, last: u32, mark: Mark, edges: Edges) -> u8 {
    let bits = span(first, last);
    leaf.start &= !bits;
    leaf.end &= !bits;
    if mark == Mark::Free {
        leaf.free |= bits;
    } else {
        leaf.free &= !bits;
        leaf.start |= u64::from(edges.first) << first;
        leaf.end |= u64::from(edges.last) << last;
    }
    leaf.value()
}

/// log2 of the pages that each child of an inner node of `level` has.
fn order(level: u32) -> u32 {
    level * FANOUT_LOG2
}

/// Whether it is worth looking for `kind` below a child.
fn promises(inner: &Inner, child: usize, kind: Kind) -> bool {
    match kind {
        Kind::Free(value) => inner.values.get(child) >= value,
        _ => true,
    }
}
