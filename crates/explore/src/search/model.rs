//! What the explorer needs to know about a system: the [`Model`] trait and the small types around it.

use std::fmt;
use std::hash::Hash;

use super::block::{Arrival, Look};
use super::step::{Label, StepReport};

/// A system of threads whose whole state is a value that can be copied, compared and hashed.
///
/// The methods take `&self`: a model may build parts of itself lazily, but everything it answers
/// must be a function of its arguments, or schedules do not replay.
pub trait Model {
    /// One state of the system: shared fields, locks and the position of each thread.
    type State: Clone + Eq + Hash;

    /// The state before the first step.
    fn initial(&self) -> Self::State;

    /// The number of threads, dormant ones included; at most 255.
    fn thread_count(&self) -> usize;

    /// Puts the successors of `thread` in `state` into `out` (which is empty): none if it is blocked or
    /// finished ([`Model::status`] tells which), usually one, several where the environment chooses.
    fn step(&self, state: &Self::State, thread: usize, out: &mut Steps<Self::State>);

    /// Why `thread` has no successor, or that it has one.
    fn status(&self, state: &Self::State, thread: usize) -> ThreadStatus;

    /// The next step of `thread` in words.
    fn label(&self, state: &Self::State, thread: usize) -> Label;

    /// The name of `thread`.
    fn thread_name(&self, thread: usize) -> String;

    /// The properties, in the order that [`PropertySet`] counts them; at most [`PropertySet::MAX`].
    fn properties(&self) -> Vec<Property>;

    /// The `always` properties that `state` violates and the `sometimes` properties that it reaches. A step
    /// that changes the answer must be a [`Mover::Non`], or a reduced search may not see it.
    fn hits(&self, state: &Self::State) -> PropertySet {
        let _ = state;
        PropertySet::EMPTY
    }

    /// The `eventually` properties whose goal does not hold in `state`, in which no thread can move.
    fn unmet(&self, state: &Self::State) -> PropertySet {
        let _ = state;
        PropertySet::EMPTY
    }

    /// One state for all that differ from `state` only by which of several equal threads does what: a reduced search
    /// remembers and expands that one alone.
    ///
    /// It must be `state` with its threads, and all that is theirs, exchanged in a way under which the model is the same:
    /// the exchanged threads have the exchanged steps, and properties say the same. A wrong answer hides schedules.
    fn canonical(&self, state: Self::State) -> Self::State {
        state
    }

    /// Appends what the block of `thread` from `state` does, if the model remembers it: its ends, and the states on the way
    /// that the search is to look at, each in the order of their steps. `cuts` says whether the block also ends inside.
    ///
    /// False if it is not known; the block is then run step by step ([`Model::stepped`]), and [`Model::remember`] follows. A
    /// model that remembers must give what running the block would.
    fn recall(
        &self,
        state: &Self::State,
        thread: usize,
        cuts: bool,
        arrivals: &mut Vec<Arrival<Self::State>>,
        looks: &mut Vec<Look<Self::State>>,
    ) -> bool {
        let _ = (state, thread, cuts, arrivals, looks);
        false
    }

    /// The block that [`Model::recall`] did not know takes a step to `state`, which hits `hits` itself.
    fn stepped(&self, state: &Self::State, hits: PropertySet) {
        let _ = (state, hits);
    }

    /// The block of `thread` from `state`, which [`Model::recall`] did not know, has these ends; none if it branches or
    /// is wrong, and is not to be remembered. Whether it is remembered now.
    fn remember(
        &self,
        state: &Self::State,
        thread: usize,
        cuts: bool,
        arrivals: Option<&[Arrival<Self::State>]>,
    ) -> bool {
        let _ = (state, thread, cuts, arrivals);
        false
    }

    /// Those among `others` whose blocks from `state` can as well be taken before that of `thread`, all of them remembered
    /// (threads below 64, a bit each): the other's block does the same behind that of `thread`, and properties say the same
    /// of the states on its way; that of `thread` does the same behind the other's; both orders lead to the same state.
    fn independent(&self, state: &Self::State, thread: usize, others: u64) -> u64 {
        let _ = (state, thread, others);
        0
    }

    /// What a reader wants to know about the step of `thread` from `before` to `after`.
    fn report(&self, before: &Self::State, thread: usize, after: &Self::State) -> StepReport {
        let _ = (before, thread, after);
        StepReport::default()
    }
}

/// What a thread can do in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThreadStatus {
    /// It has a next step that can be taken now.
    Runnable,
    /// It waits for something that only another thread can bring about; at the end this is a deadlock.
    Blocked,
    /// It has returned, or died.
    Finished,
    /// It waits for work and may do so for ever, or was never started: no deadlock.
    Idle,
}

/// How a step commutes with the steps of other threads (Lipton, "Reduction", CACM 18(12), 1975).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mover {
    /// Commutes both ways: local, or a field that its lock protects.
    Both,
    /// Commutes with what follows it in other threads: taking a lock.
    Right,
    /// Commutes with what precedes it in other threads: giving a lock back.
    Left,
    /// Commutes with nothing: a racy access.
    Non,
    /// A [`Mover::Right`] that must begin a block of its own: taking a lock, while another is held, in an
    /// order that other threads may reverse (see [`crate::reduction`], "End states and deadlocks").
    Boundary,
}

/// One successor.
#[derive(Debug, Clone)]
pub struct Taken<S> {
    /// The state after the step.
    pub state: S,
    /// How the step commutes.
    pub mover: Mover,
    /// Properties that the step itself violates (`always`) or reaches (`sometimes`).
    pub hits: PropertySet,
}

/// The successors of one thread in one state, filled by [`Model::step`].
#[derive(Debug)]
pub struct Steps<S> {
    pub(crate) taken: Vec<Taken<S>>,
    pub(crate) fault: Option<Fault>,
}

impl<S> Steps<S> {
    /// An empty list.
    #[must_use]
    pub fn new() -> Self {
        Self { taken: Vec::new(), fault: None }
    }

    /// Adds a successor that commutes with nothing and hits no property.
    pub fn push(&mut self, state: S) {
        self.add(state, Mover::Non, PropertySet::EMPTY);
    }

    /// Adds a successor.
    pub fn add(&mut self, state: S, mover: Mover, hits: PropertySet) {
        self.taken.push(Taken { state, mover, hits });
    }

    /// Says that the model itself is wrong here; the search ends with this fault and its schedule.
    pub fn fail(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }

    /// The successors so far.
    #[must_use]
    pub fn taken(&self) -> &[Taken<S>] {
        &self.taken
    }

    pub(crate) fn clear(&mut self) {
        self.taken.clear();
        self.fault = None;
    }
}

impl<S> Default for Steps<S> {
    fn default() -> Self {
        Self::new()
    }
}

/// Why a search cannot go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The model breaks a rule of its own, in words: a protected field used without its lock, a `Pause`
    /// that was swallowed, a thread started twice.
    Model(String),
    /// The model has learnt something that changes how steps commute; start the search again.
    Relearn,
    /// The model has more local states than its packed form can number; start again with a wider one.
    Widen,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model(words) => write!(f, "the model is wrong: {words}"),
            Self::Relearn => f.write_str("the model has learnt which steps commute; search again"),
            Self::Widen => f.write_str("the packed state is too narrow; search again, wider"),
        }
    }
}

/// A property of a system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    /// Its name, for reports.
    pub name: String,
    /// What it asks.
    pub kind: PropertyKind,
}

/// What a property asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PropertyKind {
    /// Holds in every state (or at every check of it). A hit is a violation.
    Always,
    /// Is reached by some schedule: shows that the model is not vacuous. A hit is good news.
    Sometimes,
    /// Holds whenever nothing can move any more: no wake-up was lost. An end without it is a violation.
    Eventually,
    /// No thread waits for ever. Added by the engine.
    Deadlock,
}

/// A set of properties, by their position in [`Model::properties`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct PropertySet(pub(crate) u64);

impl PropertySet {
    /// No property.
    pub const EMPTY: Self = Self(0);
    /// The most properties that a model can have; one more is the engine's, for deadlock.
    pub const MAX: usize = 63;
    /// The engine's own property: some thread is blocked and nothing can move.
    pub(crate) const DEADLOCK: Self = Self(1 << Self::MAX);

    /// The set of one property.
    ///
    /// # Panics
    /// If `index` is not below [`PropertySet::MAX`].
    #[must_use]
    pub fn of(index: usize) -> Self {
        assert!(index < Self::MAX, "a model has at most {} properties", Self::MAX);
        Self(1 << index)
    }

    /// Both sets together.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This set without `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether the property at `index` is in it.
    #[must_use]
    pub fn contains(self, index: usize) -> bool {
        index <= Self::MAX && self.0 >> index & 1 == 1
    }

    /// The positions in it, ascending.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..=Self::MAX).filter(move |&i| self.contains(i))
    }
}
