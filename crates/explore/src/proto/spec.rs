//! What a protocol declares: fields, locks, threads, properties.

use super::equal::Role;
use super::layout::{Layout, Packer};
use super::shared::View;
use super::thread::{Step, Thread};
use crate::search::{Object, Property, PropertyKind, PropertySet};

/// A shared field of up to 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Field(pub(crate) u16);

/// One bit of a field, which shares its memory cell with the field's other bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bit {
    pub(crate) whole: Field,
    pub(crate) number: u32,
    pub(crate) alias: u16,
}

/// A lock: a mutex or a spinlock, not recursive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mutex(pub(crate) u8);

/// A thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ThreadId(pub(crate) u8);

impl ThreadId {
    /// The thread's number in schedules and traces.
    #[must_use]
    pub fn index(self) -> usize {
        self.0.into()
    }
}

/// A property.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PropertyId(pub(crate) u8);

/// How a field is meant to be protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guard {
    /// The search finds out.
    Learnt,
    /// Under this mutex only; anything else is a fault of the model.
    Lock(u8),
    /// Used without a lock on purpose.
    Racy,
}

pub(crate) struct FieldSpec {
    pub(crate) name: Object,
    pub(crate) bits: u32,
    pub(crate) init: u64,
    pub(crate) guard: Guard,
    /// For a bit: the slot of the field that it lies in, and its number there.
    pub(crate) whole: Option<u16>,
    pub(crate) bit: u32,
    /// Words for the values from 0 on.
    pub(crate) values: Vec<String>,
}

pub(crate) type Body = Box<dyn Fn(&mut Thread<'_>) -> Step<()>>;
pub(crate) type Predicate = Box<dyn Fn(&View<'_>) -> bool>;

pub(crate) struct ThreadSpec {
    pub(crate) name: String,
    pub(crate) dormant: bool,
    pub(crate) body: Body,
}

pub(crate) struct PropertySpec {
    pub(crate) property: Property,
    /// For `always`: true where it holds. For `sometimes`: true where it is reached. For `eventually`: the goal.
    pub(crate) predicate: Option<Predicate>,
}

/// A change of one line of a protocol, to see whether anybody notices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutation {
    /// The line: the text of a [`Site`](crate::search::Site).
    pub site: String,
    /// What becomes of it.
    pub effect: Effect,
}

/// What a [`Mutation`] does to a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It is left out: a write, an update or a wait does not happen, and a choice gives 0. A lock is left out together with its unlock in the same function.
    LeftOut,
    /// What it reads is inverted: 0 becomes 1, and anything else becomes 0.
    Inverted,
}

/// Everything declared.
pub(crate) struct Spec {
    pub(crate) mutation: Option<Mutation>,
    pub(crate) fields: Vec<FieldSpec>,
    pub(crate) mutexes: Vec<Object>,
    pub(crate) threads: Vec<ThreadSpec>,
    pub(crate) properties: Vec<PropertySpec>,
    /// Equal threads, each with what is its own; none, or at least two.
    pub(crate) roles: Vec<Role>,
}

impl Spec {
    pub(crate) fn field_bits(&self, field: Field) -> u32 {
        self.fields[usize::from(field.0)].bits
    }

    pub(crate) fn field_name(&self, field: Field) -> &Object {
        &self.fields[usize::from(field.0)].name
    }

    /// A value of the field in slot `slot`, in words.
    pub(crate) fn value_name(&self, slot: usize, value: u64) -> String {
        let names = &self.fields[slot].values;
        usize::try_from(value)
            .ok()
            .and_then(|v| names.get(v))
            .map_or_else(|| value.to_string(), String::clone)
    }

    /// Lays the state out, with so many bits for each thread's position.
    pub(crate) fn layout(&self, node_bits: u32) -> Layout {
        let mut packer = Packer::default();
        let mut fields: Vec<super::layout::Slot> = Vec::new();
        for field in &self.fields {
            let slot = match field.whole {
                Some(whole) => fields[usize::from(whole)].bit(field.bit),
                None => packer.place(field.bits),
            };
            fields.push(slot);
        }
        let locks = self.mutexes.iter().map(|_| packer.place(1)).collect();
        let nodes = self.threads.iter().map(|_| packer.place(node_bits)).collect();
        Layout { fields, locks, nodes, words: packer.words() }
    }

    /// The properties among `kinds` whose predicate, negated for those that must hold, is true of `view`.
    pub(crate) fn hits(&self, view: &View<'_>, at_end: bool) -> PropertySet {
        let mut hits = PropertySet::EMPTY;
        for (i, p) in self.properties.iter().enumerate() {
            let Some(predicate) = &p.predicate else { continue };
            let hit = match p.property.kind {
                PropertyKind::Sometimes => !at_end && predicate(view),
                PropertyKind::Always => !at_end && !predicate(view),
                PropertyKind::Eventually => at_end && !predicate(view),
                PropertyKind::Deadlock => false,
            };
            if hit {
                hits = hits.with(PropertySet::of(i));
            }
        }
        hits
    }
}
