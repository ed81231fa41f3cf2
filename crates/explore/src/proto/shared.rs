//! The shared state as a step or a property sees it.

use std::cell::{Cell, RefCell};
use std::fmt;

use super::layout::{Layout, Slot};
use super::learnt::{Learnt, Locks};
use super::{Bit, Field, Guard, Mutex, PropertyId, Spec, ThreadId};
use crate::search::PropertySet;

/// What is asked of the facts at each access.
pub(crate) struct Access<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) layout: &'a Layout,
    pub(crate) learnt: &'a Learnt,
    /// Locks held by the accessing thread; `None` for a property, which reads from outside.
    pub(crate) held: Option<Locks>,
    /// For a property: the mutexes that it found free and whose being free its further reads depend on.
    pub(crate) guards: Cell<Locks>,
    /// Whether it was asked about a thread, whose place is no part of what is shared.
    pub(crate) asked_threads: Cell<bool>,
    /// Whether every access so far is a both mover.
    pub(crate) both: Cell<bool>,
    pub(crate) hits: Cell<PropertySet>,
    pub(crate) fault: RefCell<Option<String>>,
    /// Where to note which bits are read and written, if somebody wants to know.
    pub(crate) footprint: Option<Footprint<'a>>,
}

/// The bits of a state that steps read and write, word by word.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Footprint<'a> {
    pub(crate) read: &'a [Cell<u64>],
    pub(crate) written: &'a [Cell<u64>],
}

impl<'a> Access<'a> {
    pub(crate) fn new(
        spec: &'a Spec,
        layout: &'a Layout,
        learnt: &'a Learnt,
        held: Option<Locks>,
    ) -> Self {
        Self {
            spec,
            layout,
            learnt,
            held,
            guards: Cell::new(0),
            asked_threads: Cell::new(false),
            both: Cell::new(true),
            hits: Cell::new(PropertySet::EMPTY),
            fault: RefCell::new(None),
            footprint: None,
        }
    }

    /// These bits of the state are read (or written).
    fn leave_trace(&self, slot: Slot, write: bool) {
        if let Some(Footprint { read, written }) = self.footprint {
            slot.add_to(if write { written } else { read });
        }
    }

    /// A read (or write) of the field in slot `slot`.
    pub(crate) fn touch(&self, slot: u16, write: bool) {
        self.leave_trace(self.layout.fields[usize::from(slot)], write);
        let spec = &self.spec.fields[usize::from(slot)];
        let field = spec.whole.unwrap_or(slot);
        let Some(held) = self.held else {
            self.learnt.observe(field.into(), self.guards.get());
            return;
        };
        let by_facts = if write {
            self.learnt.write(field.into(), held)
        } else {
            self.learnt.read(field.into(), held)
        };
        let both = match self.spec.fields[usize::from(field)].guard {
            Guard::Learnt => by_facts,
            Guard::Racy => false,
            Guard::Lock(mutex) if held >> mutex & 1 == 1 => {
                !write || !self.learnt.is_observed(field.into(), held)
            }
            Guard::Lock(mutex) => {
                let lock = &self.spec.mutexes[usize::from(mutex)];
                let words = format!("{} is used without {lock}, which protects it", spec.name);
                self.fault.borrow_mut().get_or_insert(words);
                false
            }
        };
        self.both.set(self.both.get() && both);
    }
}

/// The shared state, for looking at it.
pub struct View<'a> {
    pub(crate) words: &'a [u64],
    pub(crate) access: &'a Access<'a>,
}

impl fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("words", &self.words).finish_non_exhaustive()
    }
}

impl View<'_> {
    /// The value of a field.
    #[must_use]
    pub fn get(&self, field: Field) -> u64 {
        self.access.touch(field.0, false);
        self.access.layout.fields[usize::from(field.0)].get(self.words)
    }

    /// Whether a field is not 0.
    #[must_use]
    pub fn is_set(&self, field: Field) -> bool {
        self.get(field) != 0
    }

    /// The value of a bit.
    #[must_use]
    pub fn bit(&self, bit: Bit) -> bool {
        self.access.touch(bit.alias, false);
        self.access.layout.fields[usize::from(bit.alias)].get(self.words) != 0
    }

    /// For a property: what `look` sees while `mutex` is free, and nothing while somebody holds it.
    ///
    /// A property that looks at fields only outside of the critical section that changes them costs the
    /// reduction nothing: the section as a whole is one visible step, its lines are none.
    pub fn while_free<R>(&self, mutex: Mutex, look: impl FnOnce(&Self) -> R) -> Option<R> {
        if self.access.held.is_some() {
            return (!self.is_locked(mutex)).then(|| look(self));
        }
        self.access.learnt.guard(mutex.0.into());
        self.access.leave_trace(self.access.layout.locks[usize::from(mutex.0)], false);
        if self.access.layout.locks[usize::from(mutex.0)].get(self.words) != 0 {
            return None;
        }
        let outer = self.access.guards.get();
        self.access.guards.set(outer | 1 << mutex.0);
        let seen = look(self);
        self.access.guards.set(outer);
        Some(seen)
    }

    /// Whether somebody holds a mutex. Taking and giving back a mutex that is asked about is visible, so it
    /// does not begin or end longer blocks; a property had better use [`View::while_free`].
    #[must_use]
    pub fn is_locked(&self, mutex: Mutex) -> bool {
        self.access.learnt.watch(mutex.0.into());
        self.access.both.set(false);
        self.access.leave_trace(self.access.layout.locks[usize::from(mutex.0)], false);
        self.access.layout.locks[usize::from(mutex.0)].get(self.words) != 0
    }

    /// Whether a thread was started (those that start by themselves: always).
    #[must_use]
    pub fn is_started(&self, thread: ThreadId) -> bool {
        self.access.both.set(false);
        self.access.asked_threads.set(true);
        self.access.leave_trace(self.access.layout.nodes[usize::from(thread.0)], false);
        self.access.layout.nodes[usize::from(thread.0)].get(self.words) != 0
    }
}

/// The shared state, for changing it in one step.
pub struct Shared<'a> {
    pub(crate) words: &'a mut [u64],
    pub(crate) access: &'a Access<'a>,
}

impl fmt::Debug for Shared<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("words", &self.words).finish_non_exhaustive()
    }
}

impl Shared<'_> {
    /// The state as it is now.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View { words: self.words, access: self.access }
    }

    /// The value of a field.
    #[must_use]
    pub fn get(&self, field: Field) -> u64 {
        self.view().get(field)
    }

    /// Whether a field is not 0.
    #[must_use]
    pub fn is_set(&self, field: Field) -> bool {
        self.get(field) != 0
    }

    /// Stores a value; one that does not fit is a fault of the model.
    pub fn set(&mut self, field: Field, value: u64) {
        self.access.touch(field.0, true);
        let slot = self.access.layout.fields[usize::from(field.0)];
        if value > slot.max() {
            let words = format!("{value} does not fit into {}", self.access.spec.field_name(field));
            self.access.fault.borrow_mut().get_or_insert(words);
        }
        slot.set(self.words, value);
    }

    /// Stores a value in a new object; `fresh` if nobody can have known its place before.
    pub(crate) fn init(&mut self, field: Field, value: u64, fresh: bool) {
        self.access.both.set(false);
        if fresh {
            let slot = self.access.layout.fields[usize::from(field.0)];
            self.access.leave_trace(slot, true);
            slot.set(self.words, value);
        } else {
            self.set(field, value);
        }
    }

    /// The value of a bit.
    #[must_use]
    pub fn bit(&self, bit: Bit) -> bool {
        self.view().bit(bit)
    }

    /// Changes one bit alone, as an atomic bit operation does.
    pub fn set_bit(&mut self, bit: Bit, value: bool) {
        self.access.touch(bit.alias, true);
        self.access.layout.fields[usize::from(bit.alias)].set(self.words, u64::from(value));
    }

    /// The step violates (or, for `sometimes`, reaches) a property.
    pub fn hit(&mut self, property: PropertyId) {
        let set = PropertySet::of(property.0.into());
        self.access.hits.set(self.access.hits.get().with(set));
    }
}
