//! The nodes of the tree and the pools that they live in.
//!
//! A node's *value* says how much a search can expect below it: 0 if no page is free, else the order of its largest naturally aligned free block plus
//! 1 (a block of order `k` has 2^k pages). A wholly free node of `n` orders has value `n + 1`, and no other node has that.

use crate::bits::{Bytes, largest_group};
use crate::error::NoNodes;
use alloc::vec::Vec;

/// Children of a node, and pages of a leaf, as a power of two.
pub(crate) const FANOUT_LOG2: u32 = 6;
/// No kid.
pub(crate) const NONE: u32 = u32::MAX;

/// 64 pages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaf {
    /// Pages that are free. A used page without marks is reserved, or inside a live range.
    pub(crate) free: u64,
    /// Pages with which a live range begins.
    pub(crate) start: u64,
    /// Pages with which a live range ends.
    pub(crate) end: u64,
}

impl Leaf {
    pub(crate) fn all(free: bool) -> Self {
        Self { free: if free { u64::MAX } else { 0 }, start: 0, end: 0 }
    }

    pub(crate) fn value(&self) -> u8 {
        if self.free == 0 { 0 } else { largest_group(self.free) + 1 }
    }
}

/// 64 children: smaller inner nodes or leaves, as the level says.
#[derive(Clone, Debug)]
pub(crate) struct Inner {
    /// Children that are wholly free; one of them may still have its (wholly free) kid, see `kept`.
    pub(crate) free: u64,
    /// Children wholly used by one live range that begins with them.
    pub(crate) start: u64,
    /// Children wholly used by one live range that ends with them.
    pub(crate) end: u64,
    /// The children's values.
    pub(crate) values: Bytes,
    /// The largest of the values; meaningful only while no child is wholly free.
    largest: u8,
    /// The child whose free kid is kept for the next allocation, so that one range that comes and goes does not make and drop nodes; or 64 and more.
    pub(crate) kept: u8,
    /// The children's nodes; [`NONE`] for a child that is wholly free, or wholly used by one live range or reservation.
    pub(crate) kids: [u32; 64],
}

impl Inner {
    /// A node whose children have `order` each, all of them free or all used.
    pub(crate) fn all(free: bool, order: u32) -> Self {
        Self {
            free: if free { u64::MAX } else { 0 },
            start: 0,
            end: 0,
            values: Bytes::filled(if free { free_value(order) } else { 0 }),
            largest: 0,
            kept: u8::MAX,
            kids: [NONE; 64],
        }
    }

    /// The node's value when its children have `order` each.
    pub(crate) fn value(&self, order: u32) -> u8 {
        if self.free == 0 { self.largest } else { free_value(order) + largest_group(self.free) }
    }
}

impl Inner {
    /// Notes a child's new value; the children have `order` each. Says whether the child is wholly free now.
    pub(crate) fn set_value(&mut self, order: u32, child: usize, value: u8) -> bool {
        let free = value == free_value(order);
        let old = self.values.get(child);
        let some_free = self.free != 0;
        self.values.set(child, value);
        self.free = self.free & !(1 << child) | u64::from(free) << child;
        if self.free == 0 {
            // The scan is needed only where the largest value may have gone.
            if some_free || (old == self.largest && value < old) {
                self.largest = self.values.largest();
            } else {
                self.largest = self.largest.max(value);
            }
        }
        free
    }
}

/// The value of a wholly free node of `order`.
pub(crate) fn free_value(order: u32) -> u8 {
    debug_assert!(order < 64, "a tree covers fewer than 2^64 pages");
    order as u8 + 1
}

/// Nodes of one kind by number; unused ones are kept for the next user.
#[derive(Debug)]
pub(crate) struct Pool<T> {
    nodes: Vec<T>,
    /// Its capacity is never below the number of nodes, so giving back cannot fail.
    unused: Vec<u32>,
}

impl<T: Clone> Pool<T> {
    pub(crate) const fn new() -> Self {
        Self { nodes: Vec::new(), unused: Vec::new() }
    }

    /// Makes sure that `count` nodes can be taken without memory. `blank` is what an unused node looks like.
    pub(crate) fn ensure(&mut self, count: usize, blank: impl Fn() -> T) -> Result<(), NoNodes> {
        if self.unused.len() >= count {
            return Ok(());
        }
        let more = count.max(self.nodes.len() / 2);
        let next = u32::try_from(self.nodes.len()).map_err(|_| NoNodes)?;
        let end = u32::try_from(self.nodes.len() + more).map_err(|_| NoNodes)?;
        if end == NONE {
            return Err(NoNodes);
        }
        self.nodes.try_reserve_exact(more)?;
        let all = self.nodes.len() + more;
        self.unused.try_reserve_exact(all - self.unused.len())?;
        self.nodes.resize_with(all, blank);
        self.unused.extend((next..end).rev());
        Ok(())
    }

    /// A node that holds `value`. [`ensure`](Self::ensure) came before.
    pub(crate) fn take(&mut self, value: T) -> u32 {
        let index = self.unused.pop().expect("the caller has ensured enough nodes");
        self.nodes[index as usize] = value;
        index
    }

    pub(crate) fn give_back(&mut self, index: u32) {
        self.unused.push(index);
    }

    pub(crate) fn get(&self, index: u32) -> &T {
        &self.nodes[index as usize]
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> &mut T {
        &mut self.nodes[index as usize]
    }

    /// Nodes that are in use.
    pub(crate) fn used(&self) -> usize {
        self.nodes.len() - self.unused.len()
    }

    /// Bytes taken from the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<T>() + self.unused.capacity() * size_of::<u32>()
    }
}
