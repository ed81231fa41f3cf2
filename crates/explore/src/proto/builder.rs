//! Declaring a protocol.

use super::learnt::THREAD_BIT;
use super::spec::{FieldSpec, Guard, Predicate, PropertySpec, Spec, ThreadSpec};
use super::{
    Bit, Field, Mutation, Mutex, PropertyId, Protocol, Role, Step, Thread, ThreadId, View,
};
use crate::search::{Object, Property, PropertyKind, PropertySet};

/// Collects what a protocol consists of.
///
/// Declarations are the protocol author's own code, so a wrong one (too many locks, a value too large for its
/// field) panics and names itself.
pub struct Builder {
    spec: Spec,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("fields", &self.spec.fields.len())
            .field("mutexes", &self.spec.mutexes)
            .field("threads", &self.spec.threads.len())
            .finish_non_exhaustive()
    }
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// An empty protocol.
    #[must_use]
    pub fn new() -> Self {
        let spec = Spec {
            mutation: None,
            fields: Vec::new(),
            mutexes: Vec::new(),
            threads: Vec::new(),
            properties: Vec::new(),
            roles: Vec::new(),
        };
        let mut builder = Self { spec };
        for name in ["lock-misuse", "use-after-free", "null-pointer"] {
            builder.property(name, PropertyKind::Always, None);
        }
        builder
    }

    /// Adds a shared field of `bits` bits (1 to 64), which is 0 at the start. The search learns how it is protected.
    ///
    /// # Panics
    /// If `bits` is out of range, or there are more than 65535 fields.
    pub fn field(&mut self, name: impl Into<Object>, bits: u32) -> Field {
        let name = name.into();
        assert!((1..=64).contains(&bits), "{name}: a field has 1 to 64 bits, not {bits}");
        self.push_field(FieldSpec {
            name,
            bits,
            init: 0,
            guard: Guard::Learnt,
            whole: None,
            bit: 0,
            values: Vec::new(),
        })
    }

    fn push_field(&mut self, field: FieldSpec) -> Field {
        let number = u16::try_from(self.spec.fields.len()).expect("at most 65535 fields");
        self.spec.fields.push(field);
        Field(number)
    }

    /// Bit `number` of `whole`, with a name of its own.
    ///
    /// # Panics
    /// If the field has no such bit.
    pub fn bit(&mut self, whole: Field, number: u32, name: impl Into<Object>) -> Bit {
        let bits = self.spec.field_bits(whole);
        let name = name.into();
        assert!(number < bits, "{name}: {} has {bits} bits", self.spec.field_name(whole));
        let alias = self.push_field(FieldSpec {
            name,
            bits: 1,
            init: 0,
            guard: Guard::Learnt,
            whole: Some(whole.0),
            bit: number,
            values: Vec::new(),
        });
        Bit { whole, number, alias: alias.0 }
    }

    /// The value of `field` at the start.
    ///
    /// # Panics
    /// If it does not fit.
    pub fn init(&mut self, field: Field, value: u64) {
        let spec = &mut self.spec.fields[usize::from(field.0)];
        assert!(
            spec.bits == 64 || value >> spec.bits == 0,
            "{value} does not fit into {}",
            spec.name
        );
        spec.init = value;
    }

    /// Declares that `field` is used only under `mutex`; the search reports any other access as a fault of the model.
    pub fn protected_by(&mut self, field: Field, mutex: Mutex) {
        self.spec.fields[usize::from(field.0)].guard = Guard::Lock(mutex.0);
    }

    /// Declares that `field` is used without a lock on purpose: no access to it is ever part of a longer block.
    pub fn racy(&mut self, field: Field) {
        self.spec.fields[usize::from(field.0)].guard = Guard::Racy;
    }

    /// The names of the values of `field` from 0 on, for traces.
    pub fn value_names(&mut self, field: Field, names: &[&str]) {
        self.spec.fields[usize::from(field.0)].values =
            names.iter().map(|&n| n.to_owned()).collect();
    }

    /// Adds a mutex or spinlock, which is free at the start.
    ///
    /// # Panics
    /// If there are more than 48.
    pub fn mutex(&mut self, name: impl Into<Object>) -> Mutex {
        let number = self.spec.mutexes.len();
        assert!(number < THREAD_BIT as usize, "a protocol has at most {THREAD_BIT} mutexes");
        self.spec.mutexes.push(name.into());
        Mutex(number as u8)
    }

    /// Adds a thread that runs from the start. `body` must be deterministic and without effects of its own.
    ///
    /// # Panics
    /// If there are more than 16 threads.
    pub fn thread(
        &mut self,
        name: impl Into<String>,
        body: impl Fn(&mut Thread<'_>) -> Step<()> + 'static,
    ) -> ThreadId {
        self.push_thread(ThreadSpec { name: name.into(), dormant: false, body: Box::new(body) })
    }

    /// Adds a thread that another one starts ([`Thread::start`]).
    ///
    /// # Panics
    /// If there are more than 16 threads.
    pub fn dormant_thread(
        &mut self,
        name: impl Into<String>,
        body: impl Fn(&mut Thread<'_>) -> Step<()> + 'static,
    ) -> ThreadId {
        self.push_thread(ThreadSpec { name: name.into(), dormant: true, body: Box::new(body) })
    }

    fn push_thread(&mut self, thread: ThreadSpec) -> ThreadId {
        let number = self.spec.threads.len();
        let most = (u64::BITS - THREAD_BIT) as usize;
        assert!(number < most, "a protocol has at most {most} threads");
        self.spec.threads.push(thread);
        ThreadId(number as u8)
    }

    /// Declares that these threads do the same, each with what is its own, and that nothing else tells them apart: no
    /// property, no other thread, no value that one of them (or another thread) remembers. A reduced search then takes
    /// states that differ only by who is who for one.
    ///
    /// The search notices threads whose steps differ; what an update or a property does with the fields of the one and
    /// of the other, it does not see: a wrong declaration hides schedules.
    ///
    /// # Panics
    /// If it was called before, there are more than four roles, or what belongs to one does not look like what belongs
    /// to the others at the start.
    pub fn interchangeable(&mut self, roles: Vec<Role>) {
        assert!(self.spec.roles.is_empty(), "one set of equal threads");
        assert!(roles.len() <= MOST_ROLES, "at most {MOST_ROLES} equal threads");
        for (a, b) in roles.iter().zip(roles.iter().skip(1)) {
            self.assert_alike(a, b);
        }
        if roles.len() > 1 {
            self.spec.roles = roles;
        }
    }

    fn assert_alike(&self, a: &Role, b: &Role) {
        let threads = [a, b].map(|role| &self.spec.threads[role.thread.index()]);
        let names = threads.map(|thread| thread.name.as_str()).join(" and ");
        let sizes = |role: &Role| (role.fields.len(), role.mutexes.len(), role.names.len());
        assert_eq!(sizes(a), sizes(b), "{names}");
        assert_eq!(threads[0].dormant, threads[1].dormant, "{names}");
        let look = |field: &Field| {
            let spec = &self.spec.fields[usize::from(field.0)];
            (spec.bits, spec.init, spec.guard == Guard::Racy, spec.whole.is_some())
        };
        let mut fields = a.fields.iter().zip(&b.fields);
        assert!(fields.all(|(x, y)| look(x) == look(y)), "{names}: their fields differ");
        let named =
            |(field, value): &(Field, u64)| self.spec.fields[usize::from(field.0)].init == *value;
        assert!(!a.names.iter().chain(&b.names).any(named), "{names}: named at the start");
        let mut shared = a.names.iter().zip(&b.names);
        assert!(shared.all(|(x, y)| x.0 == y.0), "{names}: named by different fields");
    }

    fn property(
        &mut self,
        name: impl Into<String>,
        kind: PropertyKind,
        predicate: Option<Predicate>,
    ) -> PropertyId {
        let number = self.spec.properties.len();
        assert!(number < PropertySet::MAX, "at most {} properties", PropertySet::MAX);
        let property = Property { name: name.into(), kind };
        self.spec.properties.push(PropertySpec { property, predicate });
        PropertyId(number as u8)
    }

    /// A property that must hold wherever [`Thread::check`] or [`Shared::hit`](super::Shared::hit) asks.
    pub fn checked(&mut self, name: impl Into<String>) -> PropertyId {
        self.property(name, PropertyKind::Always, None)
    }

    /// A property that must hold in every state. Every write of a field that it reads is visible to it, so
    /// such writes are not part of longer blocks.
    pub fn always(
        &mut self,
        name: impl Into<String>,
        holds: impl Fn(&View<'_>) -> bool + 'static,
    ) -> PropertyId {
        self.property(name, PropertyKind::Always, Some(Box::new(holds)))
    }

    /// A property that some schedule must reach, by [`Thread::reach`].
    pub fn reachable(&mut self, name: impl Into<String>) -> PropertyId {
        self.property(name, PropertyKind::Sometimes, None)
    }

    /// A property that some state must have.
    pub fn sometimes(
        &mut self,
        name: impl Into<String>,
        reached: impl Fn(&View<'_>) -> bool + 'static,
    ) -> PropertyId {
        self.property(name, PropertyKind::Sometimes, Some(Box::new(reached)))
    }

    /// A goal that must hold whenever nothing can move any more: no wake-up was lost.
    pub fn eventually(
        &mut self,
        name: impl Into<String>,
        goal: impl Fn(&View<'_>) -> bool + 'static,
    ) -> PropertyId {
        self.property(name, PropertyKind::Eventually, Some(Box::new(goal)))
    }

    /// Changes one line of the protocol, for tests that ask whether its verdicts depend on it.
    pub fn mutate(&mut self, mutation: Mutation) {
        self.spec.mutation = Some(mutation);
    }

    /// Finishes the protocol. `world` names it in schedules: a short word without white space, after its kind and a colon
    /// (see [`crate::schedule`]).
    ///
    /// # Panics
    /// If `world` holds white space, there is no thread, or the state does not fit into 2048 bits.
    #[must_use]
    pub fn build(self, world: impl Into<String>) -> Protocol {
        let world = world.into();
        assert!(!world.contains(char::is_whitespace), "`{world}`: white space in a world's name");
        assert!(!self.spec.threads.is_empty(), "`{world}` has no thread");
        Protocol::new(world, self.spec)
    }
}

/// What is learnt is learnt of every order of the roles.
const MOST_ROLES: usize = 4;

/// The built-in property that only its holder gives a mutex back.
pub(crate) const LOCK_MISUSE: PropertyId = PropertyId(0);
/// The built-in property that nothing is used after it was freed.
pub(crate) const USE_AFTER_FREE: PropertyId = PropertyId(1);
/// The built-in property that no null pointer is followed.
pub(crate) const NULL_POINTER: PropertyId = PropertyId(2);
