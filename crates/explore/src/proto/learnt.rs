//! What the search has learnt about locks and fields, on which the reduction rests.
//!
//! A field is not declared to be protected; the search watches which locks are held at each access (the
//! lock-set idea of Eraser, Savage and others, SOSP 1997) and calls an access a both mover while the facts
//! allow it. When a fact changes in a way that reclassifies an access already taken, the search starts again
//! with the new facts; they only ever get weaker, so this ends.

use std::cell::{Cell, RefCell};

use super::equal::Exchange;

/// Locks as a set: mutexes from bit 0, and from [`THREAD_BIT`] one bit that each thread "holds" always, so that
/// a field used by one thread only needs no lock.
pub(crate) type Locks = u64;

/// The first of the bits that stand for threads.
pub(crate) const THREAD_BIT: u32 = 48;

/// What is known of one field.
#[derive(Debug, Clone)]
struct Facts {
    /// Locks held at every read.
    reads: Cell<Locks>,
    /// Locks held at every write.
    writes: Cell<Locks>,
    written: Cell<bool>,
    /// How properties read it: for each kind of read, the mutexes without which being free they do not look.
    observed: RefCell<Vec<Locks>>,
}

/// All facts.
#[derive(Debug)]
pub(crate) struct Learnt {
    /// The ways to exchange equal threads. What is learnt of one is learnt of all: a search that exchanges them does not
    /// see each in the place of the others.
    exchanges: Vec<Exchange>,
    fields: Vec<Facts>,
    /// For each mutex, those taken while it was held, directly or by way of others.
    below: Vec<Cell<Locks>>,
    /// Mutexes whose state somebody looks at without taking them.
    watched: Cell<Locks>,
    /// Mutexes that properties ask about in order to look no further while they are taken.
    guards: Cell<Locks>,
    /// Counts what properties have come to look at.
    version: Cell<u32>,
    /// Counts every change of a fact.
    changes: Cell<u64>,
    changed: Cell<bool>,
}

impl Learnt {
    pub(crate) fn new(fields: usize, mutexes: usize, exchanges: Vec<Exchange>) -> Self {
        let facts = Facts {
            reads: Cell::new(Locks::MAX),
            writes: Cell::new(Locks::MAX),
            written: Cell::new(false),
            observed: RefCell::new(Vec::new()),
        };
        Self {
            exchanges,
            fields: vec![facts; fields],
            below: vec![Cell::new(0); mutexes],
            watched: Cell::new(0),
            guards: Cell::new(0),
            version: Cell::new(0),
            changes: Cell::new(0),
            changed: Cell::new(false),
        }
    }

    /// Whether a fact has changed that an earlier classification relied on; asking resets it.
    pub(crate) fn take_changed(&self) -> bool {
        self.changed.replace(false)
    }

    /// Grows whenever a fact changes, whether or not anything relied on it.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.get()
    }

    fn note_change(&self) {
        self.changes.set(self.changes.get() + 1);
    }

    /// A read of `field` with these locks held; whether it is a both mover.
    pub(crate) fn read(&self, field: usize, held: Locks) -> bool {
        for exchange in &self.exchanges {
            self.note_read(exchange.field(field), exchange.locks(held));
        }
        self.note_read(field, held)
    }

    fn note_read(&self, field: usize, held: Locks) -> bool {
        let facts = &self.fields[field];
        let (old, writes) = (facts.reads.get(), facts.writes.get());
        let new = old & held;
        if new != old {
            facts.reads.set(new);
            self.note_change();
            // Writes taken so far were both movers only while one lock covered reads and writes.
            if facts.written.get() && old & writes != 0 && new & writes == 0 {
                self.changed.set(true);
            }
        }
        !facts.written.get() || held & writes != 0
    }

    /// A write of `field` with these locks held; whether it is a both mover.
    pub(crate) fn write(&self, field: usize, held: Locks) -> bool {
        for exchange in &self.exchanges {
            self.note_write(exchange.field(field), exchange.locks(held));
        }
        self.note_write(field, held)
    }

    fn note_write(&self, field: usize, held: Locks) -> bool {
        let facts = &self.fields[field];
        let old = facts.writes.get();
        let new = old & held;
        if new != old || !facts.written.get() {
            facts.writes.set(new);
            self.note_change();
            // Reads taken so far stay both movers if one lock covers all of them and all writes.
            if facts.reads.get() & new == 0 && (facts.written.get() || facts.was_read()) {
                self.changed.set(true);
            }
            facts.written.set(true);
        }
        !facts.is_observed(held) && facts.reads.get() & new != 0
    }

    /// A property reads `field`, unless one of the mutexes `guards` is taken: it sees every write that is done
    /// without them.
    pub(crate) fn observe(&self, field: usize, guards: Locks) {
        self.note_observed(field, guards);
        for exchange in &self.exchanges {
            self.note_observed(exchange.field(field), exchange.locks(guards));
        }
    }

    fn note_observed(&self, field: usize, guards: Locks) {
        let facts = &self.fields[field];
        let mut observed = facts.observed.borrow_mut();
        // Read without a guard, it is visible already whatever the guards of other reads.
        let known = observed.first() == Some(&0) || observed.contains(&guards);
        if !known {
            if guards == 0 {
                observed.clear();
            }
            observed.push(guards);
            self.version.set(self.version.get() + 1);
            self.note_change();
            if facts.written.get() {
                self.changed.set(true);
            }
        }
    }

    /// Whether a write of `field` with these locks held is visible to some property.
    pub(crate) fn is_observed(&self, field: usize, held: Locks) -> bool {
        self.fields[field].is_observed(held)
    }

    /// Somebody looks at whether `mutex` is taken, without waiting for it.
    pub(crate) fn watch(&self, mutex: u32) {
        self.note_watched(mutex);
        self.exchanges.iter().for_each(|exchange| self.note_watched(exchange.mutex(mutex)));
    }

    fn note_watched(&self, mutex: u32) {
        let old = self.watched.get();
        if old >> mutex & 1 == 0 {
            self.watched.set(old | 1 << mutex);
            self.version.set(self.version.get() + 1);
            self.note_change();
            self.changed.set(true);
        }
    }

    /// A property asks whether `mutex` is free, and looks no further while it is not.
    pub(crate) fn guard(&self, mutex: u32) {
        self.note_guard(mutex);
        self.exchanges.iter().for_each(|exchange| self.note_guard(exchange.mutex(mutex)));
    }

    fn note_guard(&self, mutex: u32) {
        let old = self.guards.get();
        if old >> mutex & 1 == 0 {
            self.guards.set(old | 1 << mutex);
            self.version.set(self.version.get() + 1);
            self.note_change();
        }
    }

    /// Grows with what [`Learnt::looked_at`] says.
    pub(crate) fn version(&self) -> u32 {
        self.version.get()
    }

    /// The fields and mutexes that properties have looked at so far (and some mutexes that only steps have).
    pub(crate) fn looked_at(&self) -> (impl Iterator<Item = usize>, Locks) {
        let fields = self.fields.iter().enumerate();
        let seen = fields.filter(|(_, facts)| !facts.observed.borrow().is_empty());
        (seen.map(|(field, _)| field), self.watched.get() | self.guards.get())
    }

    /// Whether taking and giving back `mutex` is visible to others.
    pub(crate) fn is_watched(&self, mutex: u32) -> bool {
        self.watched.get() >> mutex & 1 == 1
    }

    /// `mutex` is asked for while `held` are held; whether others may take them in the reverse order.
    pub(crate) fn nested(&self, mutex: u32, held: Locks) -> bool {
        for exchange in &self.exchanges {
            self.note_nested(exchange.mutex(mutex), exchange.locks(held));
        }
        self.note_nested(mutex, held)
    }

    fn note_nested(&self, mutex: u32, held: Locks) -> bool {
        let outer = held & !(Locks::MAX << THREAD_BIT);
        if outer == 0 {
            return false;
        }
        let inner = self.below[mutex as usize].get() | 1 << mutex;
        for (i, below) in self.below.iter().enumerate() {
            let above = outer >> i & 1 == 1 || below.get() & outer != 0;
            if above && below.get() | inner != below.get() {
                below.set(below.get() | inner);
                self.note_change();
                // A new pair in both orders turns an earlier plain acquisition into a boundary.
                if (0..self.below.len()).any(|j| self.reversed(i, j)) {
                    self.changed.set(true);
                }
            }
        }
        self.below[mutex as usize].get() & outer != 0 || outer >> mutex & 1 == 1
    }

    fn reversed(&self, i: usize, j: usize) -> bool {
        self.below[i].get() >> j & 1 == 1 && self.below[j].get() >> i & 1 == 1
    }
}

impl Facts {
    fn is_observed(&self, held: Locks) -> bool {
        self.observed.borrow().iter().any(|guards| guards & held == 0)
    }

    fn was_read(&self) -> bool {
        self.reads.get() != Locks::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Locks = 1;
    const B: Locks = 2;
    const T0: Locks = 1 << THREAD_BIT;
    const T1: Locks = 2 << THREAD_BIT;

    #[test]
    fn a_lock_that_covers_every_access_makes_both_movers() {
        let learnt = Learnt::new(1, 2, Vec::new());
        assert!(learnt.write(0, A | T0));
        assert!(learnt.read(0, A | B | T1));
        assert!(!learnt.take_changed());
    }

    #[test]
    fn an_unlocked_read_makes_writes_racy_but_not_locked_reads() {
        let learnt = Learnt::new(1, 2, Vec::new());
        assert!(learnt.write(0, A | T0));
        assert!(!learnt.read(0, T1));
        assert!(learnt.take_changed());
        assert!(!learnt.write(0, A | T0));
        assert!(learnt.read(0, A | T1));
        assert!(!learnt.take_changed());
    }

    #[test]
    fn a_field_of_one_thread_needs_no_lock() {
        let learnt = Learnt::new(1, 0, Vec::new());
        assert!(learnt.write(0, T0) && learnt.read(0, T0));
        assert!(!learnt.read(0, T1));
        assert!(learnt.take_changed());
    }

    #[test]
    fn the_first_write_reclassifies_unlocked_reads() {
        let learnt = Learnt::new(1, 1, Vec::new());
        assert!(learnt.read(0, T0) && learnt.read(0, T1));
        assert!(!learnt.write(0, A | T0));
        assert!(learnt.take_changed());
        assert!(!learnt.read(0, T1));
    }

    #[test]
    fn an_observed_field_is_written_visibly() {
        let learnt = Learnt::new(1, 1, Vec::new());
        assert!(learnt.write(0, A | T0));
        learnt.observe(0, A);
        assert!(learnt.take_changed());
        assert!(learnt.write(0, A | T0));
        assert!(!learnt.write(0, B | T0));
        learnt.take_changed();
        learnt.observe(0, 0);
        assert!(learnt.take_changed());
        assert!(!learnt.write(0, A | T0));
    }

    #[test]
    fn reversed_orders_are_noticed_also_by_way_of_a_third_lock() {
        let learnt = Learnt::new(0, 3, Vec::new());
        assert!(!learnt.nested(0, T0));
        assert!(!learnt.nested(1, 1 | T0));
        assert!(!learnt.nested(2, 2 | T1));
        assert!(!learnt.take_changed());
        assert!(learnt.nested(0, 4 | T1));
        assert!(learnt.take_changed());
        assert!(learnt.nested(1, 1 | T0));
        assert!(!learnt.take_changed());
    }
}
