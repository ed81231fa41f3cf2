//! Protocols that read like the kernel's code.
//!
//! A thread is a function over a [`Thread`]. Each shared access is a *step*, returns a [`Step`] and is followed
//! by `?`:
//!
//! ```
//! use portcullis_explore::proto::{Field, Mutex, Step, Thread};
//!
//! const EPROBE_DEFER: i32 = -517;
//!
//! fn use_default_domain(t: &mut Thread<'_>, lock: Mutex, domain: Field) -> Step<i32> {
//!     t.func("iommu_device_use_default_domain", |t| {
//!         t.lock(lock, "group->mutex")?;
//!         let ready = t.is_set(domain, "has it a default domain?")?;
//!         t.unlock(lock)?;
//!         Ok(if ready { 0 } else { EPROBE_DEFER })
//!     })
//! }
//! ```
//!
//! # How it runs
//!
//! The function has no effect of its own. What a thread is about to do is a function of what it has observed,
//! so the engine keeps a log of observations and runs the function over it: the first step beyond the end of
//! the log returns a [`Pause`] and is the thread's next step. A pair of function and log is numbered; a number
//! knows its step and where each observation leads. So each passage of a function runs once, and exploring is
//! looking up numbers: a state is the shared fields, packed, and one number for each thread.
//!
//! # How to write one
//!
//! - **Be deterministic.** Local variables must be functions of what steps and calls returned. Nothing may be
//!   kept outside the function; the search notices most ways of doing so.
//! - **Use [`Thread::func`] as the original uses functions.** When a call returns, what it observed is
//!   forgotten but for what it returned. Without that, a value read long ago and not needed any more keeps
//!   states apart: in a function, two ways that meet again are the same state only if the same was observed.
//!   [`Thread::scope`] does it for a passage, [`Thread::repeat`] and [`Thread::fold`] for each turn of a loop.
//! - **One access, one step.** Use [`Thread::update`] only for what is atomic in the original.
//! - **Ask what a property needs.** Writes of fields that an [`Builder::always`] reads cannot be part of longer
//!   blocks. [`View::while_free`] looks at fields only outside of the critical section that changes them, and
//!   [`Thread::check`] costs nothing.
//! - **Let the search find out** which mutex protects what. [`Builder::protected_by`] makes it a rule instead.

mod builder;
mod equal;
mod layout;
mod learnt;
mod log;
mod machine;
mod memory;
mod node;
mod pool;
mod shared;
mod spec;
mod thread;
mod value;

use std::cell::RefCell;

pub use builder::Builder;
pub use equal::Role;
pub use pool::{Obj, Pool, PoolField};
pub use shared::{Shared, View};
pub use spec::{Bit, Effect, Field, Mutation, Mutex, PropertyId, ThreadId};
pub use thread::{Pause, Step, Thread};
pub use value::Value;

use self::equal::Exchange;
use self::learnt::Learnt;
use self::machine::{Machine, own_bit};
use self::node::Nodes;
use self::spec::{Guard, Spec};
use self::thread::Op;
use crate::schedule::{Schedule, with_kind};
use crate::search::{
    self, Broken, Control, Fault, Object, Outcome, PropertySet, ReplayError, Strategy, Trace,
};

/// A protocol in one world, ready to be explored.
pub struct Protocol {
    world: String,
    spec: Spec,
    facts: Facts,
}

impl std::fmt::Debug for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Protocol").field("world", &self.world).finish_non_exhaustive()
    }
}

/// What is found out about a protocol while it is explored.
struct Facts {
    learnt: Learnt,
    nodes: Vec<RefCell<Nodes>>,
    /// The first local state of each thread.
    first: Vec<u32>,
    /// What is wrong with the first passage of some thread.
    fault: Option<String>,
}

impl Facts {
    fn new(spec: &Spec) -> Self {
        let mut facts = Self {
            learnt: Learnt::new(
                spec.fields.len(),
                spec.mutexes.len(),
                Exchange::all(&spec.roles, spec.fields.len()),
            ),
            nodes: Vec::new(),
            first: Vec::new(),
            fault: None,
        };
        for (i, thread) in spec.threads.iter().enumerate() {
            let mut nodes = Nodes::new();
            match nodes.first(spec, &thread.body, own_bit(i)) {
                Ok((node, edge)) if edge.hits.is_empty() => facts.first.push(node),
                Ok((node, _)) => {
                    facts.first.push(node);
                    let words = format!("{}: a check before the first step", thread.name);
                    facts.fault.get_or_insert(words);
                }
                Err(words) => {
                    facts.first.push(0);
                    facts.fault.get_or_insert(words);
                }
            }
            facts.nodes.push(RefCell::new(nodes));
        }
        facts
    }

    /// Where `observed` leads `thread` from `node`, running its function if that is not known yet.
    fn child(
        &self,
        spec: &Spec,
        thread: usize,
        node: u32,
        observed: u64,
    ) -> Result<(u32, PropertySet), String> {
        if let Some(known) = self.nodes[thread].borrow().child(node, observed) {
            return Ok(known);
        }
        let mut nodes = self.nodes[thread].borrow_mut();
        let from = nodes.get(node);
        let held = match from.op {
            Op::Lock(mutex) => from.held | 1 << mutex,
            Op::TryLock(mutex) if observed != 0 => from.held | 1 << mutex,
            Op::Unlock(mutex) => from.held & !(1 << mutex),
            _ => from.held,
        };
        let known = nodes.len();
        nodes.extend(spec, &spec.threads[thread].body, node, observed, held)?;
        let child =
            nodes.child(node, observed).ok_or_else(|| "a local state got lost".to_owned())?;
        if nodes.len() > known {
            drop(nodes);
            self.number_alike(spec, thread, child.0)?;
        }
        Ok(child)
    }

    /// Gives the new local state `node` of `thread` the same number in all threads that are equal to it.
    fn number_alike(&self, spec: &Spec, thread: usize, node: u32) -> Result<(), String> {
        let Some(role) = spec.roles.iter().position(|role| role.thread.index() == thread) else {
            return Ok(());
        };
        let nodes = self.nodes[thread].borrow();
        for (other, twin) in spec.roles.iter().enumerate().filter(|(other, _)| *other != role) {
            let exchange = Exchange::two(&spec.roles, role, other, spec.fields.len());
            let twin = &spec.threads[twin.thread.index()];
            let mut twins = self.nodes[spec.roles[other].thread.index()].borrow_mut();
            if !twins.adopt(spec, &twin.body, node, nodes.get(node), &exchange)? {
                let (name, place) = (&spec.threads[thread].name, &nodes.get(node).functions);
                let words = format!("{name} and {} are not interchangeable", twin.name);
                return Err(format!("{words}: they differ in {}", place.join(" > ")));
            }
        }
        Ok(())
    }
}

/// Makes a machine of the right width and evaluates an expression with it.
macro_rules! with_machine {
    ($protocol:expr, $layout:expr, $relearn:expr, |$machine:ident| $body:expr) => {{
        let (protocol, layout, relearn) = ($protocol, $layout, $relearn);
        with_machine!(@ protocol, layout, relearn, $machine, $body, 1 2 3 4 5 6 8 10 12 16 24 32)
    }};
    (@ $p:ident, $l:ident, $r:ident, $machine:ident, $body:expr, $($words:literal)*) => {
        match $l.words {
            $(n if n <= $words => {
                let $machine = Machine::<$words>::new($p, $l, $r);
                $body
            })*
            n => panic!("{}: {n} words of state; the most is 32", $p.world),
        }
    };
}

/// Bits for the position of a thread, to begin with and if these are too few.
const NODE_BITS: [u32; 2] = [16, 31];

/// With more threads than this a search that begins again costs more than many random schedules beforehand.
const LARGE: usize = 4;

impl Protocol {
    fn new(world: String, spec: Spec) -> Self {
        let facts = Facts::new(&spec);
        Self { world: with_kind(world), spec, facts }
    }

    /// The world's name with its kind in front, as schedules have it.
    #[must_use]
    pub fn world(&self) -> &str {
        &self.world
    }

    /// The threads' names, by number.
    #[must_use]
    pub fn thread_names(&self) -> Vec<&str> {
        self.spec.threads.iter().map(|t| t.name.as_str()).collect()
    }

    /// The fields at the start: their names, and their values in words.
    #[must_use]
    pub fn initial(&self) -> Vec<(Object, String)> {
        let fields = self.spec.fields.iter().enumerate();
        fields
            .map(|(slot, field)| (field.name.clone(), self.spec.value_name(slot, field.init)))
            .collect()
    }

    /// Explores the protocol.
    ///
    /// # Errors
    /// [`Broken`] if the protocol breaks a rule of protocols, with the schedule that shows it.
    pub fn explore(
        &self,
        strategy: Strategy,
        control: &mut Control<'_>,
    ) -> Result<Outcome, Broken> {
        self.explore_with_ends(strategy, control, &mut |_| {})
    }

    /// As [`Protocol::explore`]; also hands every end state of an exhaustive search to `on_end`.
    ///
    /// # Errors
    /// As [`Protocol::explore`].
    pub fn explore_with_ends(
        &self,
        strategy: Strategy,
        control: &mut Control<'_>,
        on_end: &mut dyn FnMut(&EndState),
    ) -> Result<Outcome, Broken> {
        self.sound()?;
        let (mut wide, mut restarts) = (0, 0);
        loop {
            match self.attempt(NODE_BITS[wide], strategy, control, on_end) {
                Ok(mut outcome) => {
                    outcome.restarts = restarts;
                    return Ok(outcome);
                }
                Err(Broken { fault: Fault::Relearn, .. }) => restarts += 1,
                Err(Broken { fault: Fault::Widen, .. }) if wide + 1 < NODE_BITS.len() => wide += 1,
                Err(broken) => return Err(broken),
            }
        }
    }

    /// One search with so many bits for each thread's position.
    fn attempt(
        &self,
        node_bits: u32,
        strategy: Strategy,
        control: &mut Control<'_>,
        on_end: &mut dyn FnMut(&EndState),
    ) -> Result<Outcome, Broken> {
        let relearn = strategy == Strategy::Exhaustive { reduce: true };
        let layout = self.spec.layout(node_bits);
        with_machine!(self, layout, relearn, |machine| {
            if relearn {
                // A few random schedules teach most of what there is to learn, for next to nothing.
                let runs = if self.spec.threads.len() > LARGE { 1000 } else { 64 };
                let warm_up = Strategy::Random { runs, seed: 0 };
                let learning = machine.without_relearning();
                search::explore(&learning, &self.world, warm_up, &mut Control::default())?;
                self.facts.learnt.take_changed();
            }
            // Ends of a search that has to begin again must not be reported.
            let mut ends = Vec::new();
            let outcome = search::explore_with_ends(
                &machine,
                &self.world,
                strategy,
                control,
                &mut |state| ends.push(machine.end_state(state)),
            )?;
            ends.iter().for_each(on_end);
            Ok(outcome)
        })
    }

    /// Runs a schedule step by step.
    ///
    /// # Errors
    /// [`ReplayError`] if a step of it is not possible; also if it names another world.
    pub fn replay(&self, schedule: &Schedule) -> Result<Trace, ReplayError> {
        if schedule.world != self.world {
            let (asked, here) = (schedule.world.clone(), self.world.clone());
            return Err(ReplayError::World { asked, here });
        }
        for bits in NODE_BITS {
            let layout = self.spec.layout(bits);
            let trace =
                with_machine!(self, layout, false, |machine| search::replay(&machine, schedule));
            if !matches!(trace, Err(ReplayError::Broken { fault: Fault::Widen, .. })) {
                return trace;
            }
        }
        unreachable!("the last width is that of the numbers themselves")
    }

    /// The number of local states met so far, by thread.
    #[must_use]
    pub fn local_states(&self) -> Vec<usize> {
        self.facts.nodes.iter().map(|nodes| nodes.borrow().len() - 1).collect()
    }

    fn sound(&self) -> Result<(), Broken> {
        match &self.facts.fault {
            None => Ok(()),
            Some(words) => Err(Broken {
                fault: Fault::Model(words.clone()),
                schedule: Schedule::new(&self.world, Vec::new()),
            }),
        }
    }
}

/// A state in which no thread can move.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndState {
    /// The fields' values, in the order of their declaration.
    pub fields: Vec<u64>,
    /// Where each thread stands, in words; "finished" where it has.
    pub threads: Vec<String>,
}
