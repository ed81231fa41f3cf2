//! What blocks have done before.
//!
//! What a block does depends on the bits of the state that its steps read, and there are far fewer values of these than
//! there are states. So a block is run once for each of them. What it wrote is remembered, and written again wherever
//! the same bits are found.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::layout::{Packed, Slot};
use crate::search::{Arrival, Identity, Look, PropertySet, fingerprint};

/// Blocks that were run, by what they had read.
#[derive(Debug)]
pub(crate) struct Memory<const W: usize> {
    /// For each thread, by its position: what blocks from there have done.
    reach: Vec<Vec<Reach<W>>>,
    blocks: HashMap<u64, Known<W>, BuildHasherDefault<Identity>>,
    /// How many changes of facts there were when these blocks were run: the facts say where a block ends.
    changes: u64,
}

/// The bits that some block from one position of a thread
#[derive(Debug, Clone, Copy)]
struct Reach<const W: usize> {
    /// has read,
    read: [u64; W],
    /// has written,
    written: [u64; W],
    /// has left otherwise than they were, or may in another state.
    changed: [u64; W],
}

impl<const W: usize> Reach<W> {
    const NOTHING: Self = Self { read: [0; W], written: [0; W], changed: [0; W] };

    /// Whether a block of this reach does the same behind one of the reach `other`.
    fn is_beyond(&self, other: &Self) -> bool {
        let met = (0..W).map(|i| other.changed[i] & (self.read[i] | self.written[i]));
        met.fold(0, |all, bits| all | bits) == 0
    }
}

fn meet<const W: usize>(a: &[u64; W], b: &[u64; W]) -> bool {
    a.iter().zip(b).fold(0, |all, (a, b)| all | a & b) != 0
}

/// So many blocks are remembered; then all are forgotten.
const MOST: usize = 1 << 18;

/// A block that was run.
#[derive(Debug)]
struct Known<const W: usize> {
    key: Key<W>,
    ends: Box<[Written<W>]>,
    looks: Box<[Written<W>]>,
}

/// What a block depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key<const W: usize> {
    thread: u32,
    /// Whether it also ends inside.
    cuts: bool,
    /// The bits that are read, as they are.
    read: Packed<W>,
}

impl<const W: usize> Key<W> {
    fn print(&self) -> u64 {
        fingerprint(&(self.read, self.thread, self.cuts))
    }
}

/// A state on the way, by what is different from the state at the start.
#[derive(Debug, Clone, Copy)]
struct Written<const W: usize> {
    mask: [u64; W],
    value: [u64; W],
    steps: u32,
    hits: PropertySet,
    cut: bool,
}

impl<const W: usize> Written<W> {
    fn on(&self, state: &Packed<W>) -> Packed<W> {
        Packed(std::array::from_fn(|i| state.0[i] & !self.mask[i] | self.value[i]))
    }
}

impl<const W: usize> Memory<W> {
    pub(crate) fn new(threads: usize) -> Self {
        Self { reach: vec![Vec::new(); threads], blocks: HashMap::default(), changes: 0 }
    }

    /// Forgets what was run before the facts changed.
    pub(crate) fn keep_up(&mut self, changes: u64) {
        if self.changes != changes || self.blocks.len() >= MOST {
            self.blocks.clear();
            self.changes = changes;
        }
    }

    /// The block of `thread` from `state`, where it stands at `node`: its ends and the states to be looked at, in the
    /// order of their steps. False if it is not known.
    pub(crate) fn recall(
        &self,
        state: &Packed<W>,
        (thread, node, cuts): (usize, u32, bool),
        arrivals: &mut Vec<Arrival<Packed<W>>>,
        looks: &mut Vec<Look<Packed<W>>>,
    ) -> bool {
        let Some(reach) = self.reach[thread].get(node as usize) else { return false };
        let key = Key { thread: thread as u32, cuts, read: masked(state, &reach.read) };
        let Some(known) = self.blocks.get(&key.print()).filter(|known| known.key == key) else {
            return false;
        };
        let arrival = |end: &Written<W>| Arrival {
            state: end.on(state),
            hits: end.hits,
            steps: end.steps,
            cut: end.cut,
        };
        arrivals.extend(known.ends.iter().map(arrival));
        let look = |on_the_way: &Written<W>| Look {
            state: on_the_way.on(state),
            hits: on_the_way.hits,
            steps: on_the_way.steps,
        };
        looks.extend(known.looks.iter().map(look));
        true
    }

    /// The block of `thread` from `state` was run, and is on `recording`.
    pub(crate) fn remember(
        &mut self,
        state: &Packed<W>,
        (thread, node, cuts): (usize, u32, bool),
        recording: &Recording<W>,
        arrivals: &[Arrival<Packed<W>>],
    ) {
        let reach = &mut self.reach[thread];
        if reach.len() <= node as usize {
            reach.resize(node as usize + 1, Reach::NOTHING);
        }
        // Blocks from here that were remembered under fewer bits are found only where they are right, too: all that they
        // have read is among these bits.
        let reach = &mut reach[node as usize];
        reach.read.iter_mut().zip(&recording.read).for_each(|(bits, read)| *bits |= read.get());
        let key = Key { thread: thread as u32, cuts, read: masked(state, &reach.read) };
        let trail = recording.trail.borrow();
        let end = |arrival: &Arrival<Packed<W>>| {
            let there = trail[arrival.steps as usize - 1];
            Written { cut: arrival.cut, hits: PropertySet::EMPTY, ..there }
        };
        let ends: Box<[Written<W>]> = arrivals.iter().map(end).collect();
        for end in &ends {
            for i in 0..W {
                // What it read and left as it was, it leaves so wherever it reads the same.
                let kept = recording.read[i].get() & !(state.0[i] ^ end.value[i]);
                reach.changed[i] |= end.mask[i] & !kept;
                reach.written[i] |= end.mask[i];
            }
        }
        let looks = recording.looks.borrow().iter().map(|&at| trail[at]).collect();
        self.blocks.insert(key.print(), Known { key, ends, looks });
    }
}

impl<const W: usize> Memory<W> {
    /// The threads among `others` whose blocks can as well be taken before that of `thread`; all are remembered.
    /// `node` says where a thread stands, and properties look at the bits `looked_at`.
    pub(crate) fn independent(
        &self,
        thread: usize,
        others: u64,
        looked_at: &[u64; W],
        node: impl Fn(usize) -> u32,
    ) -> u64 {
        let reach = |thread: usize| &self.reach[thread][node(thread) as usize];
        let here = reach(thread);
        let seen = meet(&here.changed, looked_at);
        let (mut left, mut independent) = (others, 0);
        while left != 0 {
            let other = left.trailing_zeros() as usize;
            left &= left - 1;
            let there = reach(other);
            // Properties would see the states on the other's way beside what this one has changed.
            let beside = seen && meet(&there.written, looked_at);
            if !beside && here.is_beyond(there) && there.is_beyond(here) {
                independent |= 1 << other;
            }
        }
        independent
    }
}

fn masked<const W: usize>(state: &Packed<W>, mask: &[u64; W]) -> Packed<W> {
    Packed(std::array::from_fn(|i| state.0[i] & mask[i]))
}

/// A block while it is run for the first time.
#[derive(Debug)]
pub(crate) struct Recording<const W: usize> {
    on: Cell<bool>,
    changes: Cell<u64>,
    /// The bits that its steps have read.
    pub(crate) read: [Cell<u64>; W],
    /// The bits that the step under way has written, and those that all before have.
    pub(crate) written: [Cell<u64>; W],
    before: Cell<[u64; W]>,
    /// The state after each step.
    trail: RefCell<Vec<Written<W>>>,
    /// Those of them that may be judged otherwise than the one before.
    looks: RefCell<Vec<usize>>,
}

impl<const W: usize> Recording<W> {
    pub(crate) fn new() -> Self {
        let zero = || std::array::from_fn(|_| Cell::new(0));
        Self {
            on: Cell::new(false),
            changes: Cell::new(0),
            read: zero(),
            written: zero(),
            before: Cell::new([0; W]),
            trail: RefCell::default(),
            looks: RefCell::default(),
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.on.get()
    }

    /// A block begins.
    pub(crate) fn begin(&self, changes: u64) {
        self.read.iter().chain(&self.written).for_each(|word| word.set(0));
        self.before.set([0; W]);
        self.trail.borrow_mut().clear();
        self.looks.borrow_mut().clear();
        self.changes.set(changes);
        self.on.set(true);
    }

    /// It is over; whether the facts have stayed as they were.
    pub(crate) fn end(&self, changes: u64) -> bool {
        self.on.set(false);
        self.changes.get() == changes
    }

    /// These bits are read (or written).
    pub(crate) fn note(&self, slot: Slot, write: bool) {
        if self.on.get() {
            slot.add_to(if write { &self.written } else { &self.read });
        }
    }

    /// A step was taken to `state`; it has hit `hits` itself. Properties look at the bits `looked_at`.
    pub(crate) fn step(&self, state: &Packed<W>, looked_at: [u64; W], hits: PropertySet) {
        let written: [u64; W] = std::array::from_fn(|i| self.written[i].replace(0));
        let before = self.before.get();
        let mask = std::array::from_fn(|i| before[i] | written[i]);
        self.before.set(mask);
        let mut trail = self.trail.borrow_mut();
        // Written is enough: what was there already is not there in each state that the block is recalled in.
        let seen = written.iter().zip(looked_at).any(|(bits, looked_at)| bits & looked_at != 0);
        if seen || !hits.is_empty() {
            self.looks.borrow_mut().push(trail.len());
        }
        let steps = trail.len() as u32 + 1;
        trail.push(Written { mask, value: masked(state, &mask).0, steps, hits, cut: false });
    }
}
