//! Equal threads: what belongs to each, and how they are exchanged.
//!
//! [`crate::reduction`], chapter "Equal threads", says why exchanging them loses nothing.

use super::layout::{Layout, Slot};
use super::learnt::Locks;
use super::machine::own_bit;
use super::spec::Spec;
use super::thread::Op;
use super::{Field, Mutex, ThreadId};

/// One of several threads that do the same, each with what is its own ([`Builder::interchangeable`]).
///
/// [`Builder::interchangeable`]: super::Builder::interchangeable
#[derive(Debug, Clone)]
pub struct Role {
    /// The thread.
    pub thread: ThreadId,
    /// Its fields, in the same order for each role. Others may use them too.
    pub fields: Vec<Field>,
    /// Its mutexes, in the same order for each role.
    pub mutexes: Vec<Mutex>,
    /// Fields that all share, with the value that stands for this thread; in the same order for each role.
    pub names: Vec<(Field, u64)>,
}

/// A way to exchange the roles of a protocol: which field, lock and thread takes the place of which.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    /// By field.
    fields: Vec<u16>,
    /// The locks (and threads' own bits) that move, and where to.
    locks: Vec<(u32, u32)>,
    /// The threads that move, and where to.
    threads: Vec<(u8, u8)>,
    /// In this field, this value becomes that one.
    values: Vec<(u16, u64, u64)>,
}

impl Exchange {
    /// All ways to exchange `roles` but the one that leaves them as they are.
    pub(crate) fn all(roles: &[Role], fields: usize) -> Vec<Self> {
        let mut orders = Vec::new();
        permute(&mut (0..roles.len()).collect(), 0, &mut orders);
        let changed = orders.iter().filter(|order| order.iter().enumerate().any(|(i, &j)| i != j));
        changed.map(|order| Self::of(roles, order, fields)).collect()
    }

    /// The one that exchanges just these two.
    pub(crate) fn two(roles: &[Role], a: usize, b: usize, fields: usize) -> Self {
        let mut order: Vec<usize> = (0..roles.len()).collect();
        order.swap(a, b);
        Self::of(roles, &order, fields)
    }

    fn of(roles: &[Role], order: &[usize], fields: usize) -> Self {
        let mut exchange = Self {
            fields: (0..fields as u16).collect(),
            locks: Vec::new(),
            threads: Vec::new(),
            values: Vec::new(),
        };
        for (from, to) in roles.iter().zip(order.iter().map(|&to| &roles[to])) {
            for (a, b) in from.fields.iter().zip(&to.fields) {
                exchange.fields[usize::from(a.0)] = b.0;
            }
            let mutexes = from.mutexes.iter().zip(&to.mutexes);
            exchange.locks.extend(mutexes.map(|(a, b)| (u32::from(a.0), u32::from(b.0))));
            let own = [from, to].map(|role| own_bit(role.thread.index()).trailing_zeros());
            exchange.locks.push((own[0], own[1]));
            exchange.threads.push((from.thread.0, to.thread.0));
            let names = from.names.iter().zip(&to.names);
            exchange.values.extend(names.map(|(a, b)| (a.0.0, a.1, b.1)));
        }
        exchange
    }

    /// What takes the place of this field.
    pub(crate) fn field(&self, field: usize) -> usize {
        self.fields[field].into()
    }

    /// What takes the place of these locks.
    pub(crate) fn locks(&self, locks: Locks) -> Locks {
        let stay = self.locks.iter().fold(locks, |left, (from, _)| left & !(1 << from));
        self.locks.iter().fold(stay, |set, (from, to)| set | (locks >> from & 1) << to)
    }

    /// What takes the place of this mutex.
    pub(crate) fn mutex(&self, mutex: u32) -> u32 {
        self.locks.iter().find(|(from, _)| *from == mutex).map_or(mutex, |(_, to)| *to)
    }

    /// Whether `there` is what takes the place of `here`, as far as that can be seen: what an update does, cannot.
    pub(crate) fn agrees(&self, here: &Op, there: &Op) -> bool {
        let field = |slot: u16| self.fields[usize::from(slot)];
        let mutex = |m: u8| self.mutex(m.into()) as u8;
        match (here, there) {
            (Op::Read(a), Op::Read(b)) => field(*a) == *b,
            (Op::Write(a, v), Op::Write(b, w)) => {
                let named = |(slot, from, _): &&(u16, u64, u64)| slot == a && from == v;
                let becomes = self.values.iter().find(named).map_or(*v, |(.., to)| *to);
                field(*a) == *b && becomes == *w
            }
            (Op::Lock(a), Op::Lock(b))
            | (Op::TryLock(a), Op::TryLock(b))
            | (Op::Unlock(a), Op::Unlock(b)) => mutex(*a) == *b,
            (Op::Choose(a), Op::Choose(b)) => a == b,
            (Op::Start(a), Op::Start(b)) => {
                self.threads.iter().find(|(from, _)| from == a).map_or(a, |(_, to)| to) == b
            }
            (Op::Wait { idle: a, .. }, Op::Wait { idle: b, .. }) => a == b,
            (Op::Update(_), Op::Update(_)) | (Op::Finished, Op::Finished) => true,
            _ => false,
        }
    }
}

/// Every order of the places from `at` on.
fn permute(order: &mut Vec<usize>, at: usize, orders: &mut Vec<Vec<usize>>) {
    if at == order.len() {
        orders.push(order.clone());
        return;
    }
    for other in at..order.len() {
        order.swap(at, other);
        permute(order, at + 1, orders);
        order.swap(at, other);
    }
}

/// Where in a state the roles of a protocol lie.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// For each role its thread's position, its fields and its mutexes.
    roles: Vec<Vec<Slot>>,
    /// Shared fields, with the value that names each role.
    names: Vec<(Slot, Vec<u64>)>,
}

impl Places {
    /// None if there are no equal threads.
    pub(crate) fn new(spec: &Spec, layout: &Layout) -> Option<Self> {
        let first = spec.roles.first()?;
        let own = |role: &Role| {
            let thread = layout.nodes[role.thread.index()];
            let fields = role.fields.iter().map(|f| layout.fields[usize::from(f.0)]);
            let mutexes = role.mutexes.iter().map(|m| layout.locks[usize::from(m.0)]);
            std::iter::once(thread).chain(fields).chain(mutexes).collect()
        };
        let name = |at: usize| {
            let slot = layout.fields[usize::from(first.names[at].0.0)];
            (slot, spec.roles.iter().map(|role| role.names[at].1).collect())
        };
        Some(Self {
            roles: spec.roles.iter().map(own).collect(),
            names: (0..first.names.len()).map(name).collect(),
        })
    }

    /// Puts the roles in ascending order of what is theirs in this state.
    pub(crate) fn sort(&self, words: &mut [u64]) {
        for last in 1..self.roles.len() {
            for role in (0..last).rev() {
                if !self.follows(words, role, role + 1) {
                    break;
                }
                self.swap(words, role, role + 1);
            }
        }
    }

    /// Whether what belongs to `a` is greater than what belongs to `b`.
    fn follows(&self, words: &[u64], a: usize, b: usize) -> bool {
        let own = self.roles[a].iter().zip(&self.roles[b]);
        let own = own.map(|(x, y)| (x.get(words), y.get(words)));
        let named = self.names.iter().map(|(slot, values)| {
            let value = slot.get(words);
            (u64::from(value == values[a]), u64::from(value == values[b]))
        });
        own.chain(named).find(|(x, y)| x != y).is_some_and(|(x, y)| x > y)
    }

    fn swap(&self, words: &mut [u64], a: usize, b: usize) {
        for (x, y) in self.roles[a].iter().zip(&self.roles[b]) {
            let (left, right) = (x.get(words), y.get(words));
            x.set(words, right);
            y.set(words, left);
        }
        for (slot, values) in &self.names {
            let value = slot.get(words);
            if value == values[a] {
                slot.set(words, values[b]);
            } else if value == values[b] {
                slot.set(words, values[a]);
            }
        }
    }
}
