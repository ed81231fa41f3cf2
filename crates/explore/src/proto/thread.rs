//! The context that a protocol's function runs in.

use std::fmt;
use std::ops::ControlFlow;

use super::log::{Entry, Log};
use super::shared::{Shared, View};
use super::value::Value;
use super::{Bit, Effect, Field, Mutation, Mutex, PropertyId, Spec, ThreadId};
use crate::search::{Action, Note, Object, PropertySet, Site};

/// What every step returns: a value, or "stop here for now", which a protocol passes on with `?`.
pub type Step<T> = Result<T, Pause>;

/// The thread stops here for now: it has reached a step that it has not taken yet. Only steps make one, and a
/// protocol must pass it on; the search reports a function that swallows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause(());

/// An operation on the shared state.
pub(crate) enum Op {
    Read(u16),
    Write(u16, u64),
    Lock(u8),
    TryLock(u8),
    Unlock(u8),
    Choose(u16),
    Start(u8),
    Update(Box<dyn Fn(&mut Shared<'_>) -> u64>),
    Wait { idle: bool, ready: Box<dyn Fn(&View<'_>) -> bool> },
    Finished,
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(field) => write!(f, "Read({field})"),
            Self::Write(field, value) => write!(f, "Write({field}, {value})"),
            Self::Lock(mutex) => write!(f, "Lock({mutex})"),
            Self::TryLock(mutex) => write!(f, "TryLock({mutex})"),
            Self::Unlock(mutex) => write!(f, "Unlock({mutex})"),
            Self::Choose(n) => write!(f, "Choose({n})"),
            Self::Start(thread) => write!(f, "Start({thread})"),
            Self::Update(_) => f.write_str("Update"),
            Self::Wait { idle, .. } => write!(f, "Wait(idle: {idle})"),
            Self::Finished => f.write_str("Finished"),
        }
    }
}

/// A step that has been reached.
pub(crate) struct Pending {
    pub(crate) op: Op,
    pub(crate) why: String,
    pub(crate) functions: Vec<&'static str>,
    /// Its number among the steps of this call with the same action on the same object.
    pub(crate) ordinal: u16,
}

/// An action and the number of its object: what a place in the code is known by.
type Place = (Action, u16);

/// One thread of a protocol, running.
///
/// A function of a protocol has no effect of its own and keeps no state of its own outside this context: it
/// is run again and again over the log of what the thread has observed. So it must be deterministic, and its
/// local variables must be functions of what steps and calls returned.
pub struct Thread<'a> {
    spec: &'a Spec,
    log: Log,
    functions: Vec<&'static str>,
    /// The steps taken in the calls under way, and where those of the innermost named one begin.
    taken: Vec<Place>,
    call: usize,
    /// The ordinal of the next step, where the protocol gave it.
    ordinal: Option<u16>,
    pending: Option<Pending>,
    dead: bool,
    hits: PropertySet,
    notes: Vec<Note>,
    fault: Option<String>,
}

impl fmt::Debug for Thread<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Thread").field("functions", &self.functions).finish_non_exhaustive()
    }
}

/// How a run of a thread's function ended.
pub(crate) struct Run {
    pub(crate) log: Vec<u8>,
    pub(crate) pending: Pending,
    pub(crate) hits: PropertySet,
    pub(crate) notes: Vec<Note>,
}

impl Run {
    /// A thread that has finished: where it ended up does not matter any more.
    pub(crate) fn finished() -> Self {
        let pending =
            Pending { op: Op::Finished, why: String::new(), functions: Vec::new(), ordinal: 0 };
        Self { log: vec![u8::MAX], pending, hits: PropertySet::EMPTY, notes: Vec::new() }
    }
}

impl<'a> Thread<'a> {
    /// Runs `body` over `log` up to the next step.
    pub(crate) fn run(
        spec: &'a Spec,
        log: Vec<u8>,
        body: &dyn Fn(&mut Thread<'_>) -> Step<()>,
    ) -> Result<Run, String> {
        let mut thread = Thread {
            spec,
            log: Log::new(log),
            functions: Vec::new(),
            taken: Vec::new(),
            call: 0,
            ordinal: None,
            pending: None,
            dead: false,
            hits: PropertySet::EMPTY,
            notes: Vec::new(),
            fault: None,
        };
        let result = body(&mut thread);
        thread.into_run(result)
    }

    fn into_run(mut self, result: Step<()>) -> Result<Run, String> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let run = match (result, self.pending.take()) {
            (Err(Pause(())), Some(pending)) => {
                Run { log: self.log.into_bytes(), pending, ..Run::finished() }
            }
            (Ok(()), None) => Run::finished(),
            (Err(Pause(())), None) if self.dead => Run::finished(),
            (Ok(()), Some(pending)) => {
                return Err(format!("a `Pause` was swallowed before the step `{}`", pending.why));
            }
            (Err(Pause(())), None) => return Err("a `Pause` was passed on twice".to_owned()),
        };
        Ok(Run { hits: self.hits, notes: self.notes, ..run })
    }

    /// Takes the step `op` at `place`: what it observed, or a pause at it.
    fn step(&mut self, place: Place, why: &str, op: impl FnOnce() -> Op) -> Step<u64> {
        if self.pending.is_some() || self.dead {
            return Err(Pause(()));
        }
        let said = self.ordinal.take();
        let effect = self.effect(place, said);
        if effect == Some(Effect::LeftOut) {
            self.taken.push(place);
            return Ok(0);
        }
        match self.log.next() {
            Some((Entry::Observed, value)) => {
                self.taken.push(place);
                let inverted = effect == Some(Effect::Inverted);
                Ok(if inverted { u64::from(value == 0) } else { value })
            }
            Some(other) => {
                self.complain(format!("not deterministic: a step where {other:?} was before"));
                Err(Pause(()))
            }
            None => {
                let functions = self.functions.clone();
                let ordinal = said.unwrap_or(self.ordinal_of(place));
                self.pending = Some(Pending { op: op(), why: why.to_owned(), functions, ordinal });
                Err(Pause(()))
            }
        }
    }

    /// How often this call has taken such a step before.
    fn ordinal_of(&self, place: Place) -> u16 {
        self.taken[self.call..].iter().filter(|taken| **taken == place).count() as u16
    }

    /// What the protocol's mutation, if it has one, does at this place.
    fn effect(&self, (action, slot): Place, said: Option<u16>) -> Option<Effect> {
        let Mutation { site, effect } = self.spec.mutation.as_ref()?;
        let object = match action {
            Action::Read | Action::Write => self.spec.fields[usize::from(slot)].name.name.as_str(),
            Action::Lock | Action::TryLock | Action::Unlock => {
                self.spec.mutexes[usize::from(slot)].name.as_str()
            }
            _ => "",
        };
        let ordinal = said.unwrap_or(self.ordinal_of((action, slot)));
        let function = self.functions.last().copied().unwrap_or_default();
        let mut here = Site { function, action, object: object.to_owned(), ordinal };
        if action == Action::Unlock {
            // The unlock goes with its lock, whichever of several it is.
            here.action = Action::Lock;
            return site.starts_with(&Site { ordinal: 0, ..here }.to_string()).then_some(*effect);
        }
        (*site == here.to_string()).then_some(*effect)
    }

    pub(crate) fn field_name(&self, field: Field) -> &Object {
        self.spec.field_name(field)
    }

    fn complain(&mut self, words: String) {
        let place = self.functions.last().copied().unwrap_or("the thread's function");
        self.fault.get_or_insert(format!("{place}: {words}"));
    }

    /// Whether what happens now happens for the first time.
    fn is_live(&self) -> bool {
        self.log.is_live() && self.pending.is_none()
    }

    // ---- Calls and loops ----

    /// The next step is at the `n`-th place (from 0) in this function where the same is done to the same object,
    /// although the way here may not have passed the places before it. For its [`Site`](crate::search::Site).
    pub fn nth(&mut self, n: u16) -> &mut Self {
        self.ordinal = Some(n);
        self
    }

    /// Calls a function. When it returns, everything it observed is forgotten but what it returned, as on a
    /// real stack: two ways through it that return the same are the same state afterwards.
    ///
    /// # Errors
    /// [`Pause`], to be passed on.
    pub fn func<R: Value>(
        &mut self,
        name: &'static str,
        body: impl Fn(&mut Self) -> Step<R>,
    ) -> Step<R> {
        self.frame(Some(name), body)
    }

    /// As [`Thread::func`], without a name: forgets the local variables of a passage.
    ///
    /// # Errors
    /// [`Pause`], to be passed on.
    pub fn scope<R: Value>(&mut self, body: impl Fn(&mut Self) -> Step<R>) -> Step<R> {
        self.frame(None, body)
    }

    fn frame<R: Value>(
        &mut self,
        name: Option<&'static str>,
        body: impl Fn(&mut Self) -> Step<R>,
    ) -> Step<R> {
        if self.pending.is_some() || self.dead {
            return Err(Pause(()));
        }
        let start = self.log.position();
        match self.log.next() {
            None => self.log.push(Entry::Enter, 0),
            Some((Entry::Enter, _)) => {}
            Some((Entry::Returned, bits)) => return Ok(R::from_bits(bits)),
            Some(other) => {
                self.complain(format!("not deterministic: a call where {other:?} was before"));
                return Err(Pause(()));
            }
        }
        let (depth, begin, call) = (self.functions.len(), self.taken.len(), self.call);
        self.functions.extend(name);
        if name.is_some() {
            self.call = begin;
        }
        let value = body(self)?;
        self.functions.truncate(depth);
        self.taken.truncate(begin);
        self.call = call;
        self.finish_frame(start, Entry::Returned, value.to_bits())?;
        Ok(value)
    }

    fn finish_frame(&mut self, start: usize, entry: Entry, bits: u64) -> Step<()> {
        if self.pending.is_some() || self.dead {
            self.complain("a `Pause` was swallowed".to_owned());
            return Err(Pause(()));
        }
        if !self.log.is_live() {
            self.complain("not deterministic: it returned earlier than before".to_owned());
            return Err(Pause(()));
        }
        self.log.collapse(start, entry, bits);
        Ok(())
    }

    /// A loop with a state: runs `body` from `start` until it breaks. After each iteration only the state is
    /// remembered, so an endless loop has finitely many states.
    ///
    /// # Errors
    /// [`Pause`], to be passed on.
    pub fn fold<S: Value, R: Value>(
        &mut self,
        start: S,
        body: impl Fn(&mut Self, S) -> Step<ControlFlow<R, S>>,
    ) -> Step<R> {
        if self.pending.is_some() || self.dead {
            return Err(Pause(()));
        }
        let position = self.log.position();
        let mut state = match self.log.next() {
            None => {
                self.log.push(Entry::Loop, start.to_bits());
                start
            }
            Some((Entry::Loop, bits)) => S::from_bits(bits),
            Some((Entry::Returned, bits)) => return Ok(R::from_bits(bits)),
            Some(other) => {
                self.complain(format!("not deterministic: a loop where {other:?} was before"));
                return Err(Pause(()));
            }
        };
        let begin = self.taken.len();
        for _ in 0..LONGEST_IDLE_LOOP {
            let turn = body(self, state)?;
            self.taken.truncate(begin);
            match turn {
                ControlFlow::Continue(next) => {
                    self.finish_frame(position, Entry::Loop, next.to_bits())?;
                    state = next;
                }
                ControlFlow::Break(value) => {
                    self.finish_frame(position, Entry::Returned, value.to_bits())?;
                    return Ok(value);
                }
            }
        }
        self.complain(format!("a loop went round {LONGEST_IDLE_LOOP} times without a step"));
        Err(Pause(()))
    }

    /// A loop without a state: runs `body` until it breaks.
    ///
    /// # Errors
    /// [`Pause`], to be passed on.
    pub fn repeat<R: Value>(
        &mut self,
        body: impl Fn(&mut Self) -> Step<ControlFlow<R>>,
    ) -> Step<R> {
        self.fold((), |t, ()| body(t))
    }

    // ---- Fields ----

    /// Reads a field: one step.
    ///
    /// # Errors
    /// [`Pause`], to be passed on.
    pub fn read(&mut self, field: Field, why: &str) -> Step<u64> {
        self.step((Action::Read, field.0), why, || Op::Read(field.0))
    }

    /// Reads a field and says whether it is not 0: one step.
    ///
    /// # Errors
    /// [`Pause`], to be passed on.
    pub fn is_set(&mut self, field: Field, why: &str) -> Step<bool> {
        Ok(self.read(field, why)? != 0)
    }

    /// Writes a field: one step.
    ///
    /// # Errors
    /// [`Pause`], to be passed on.
    pub fn write(&mut self, field: Field, value: impl Value, why: &str) -> Step<()> {
        let value = value.to_bits();
        if self.spec.field_bits(field) < 64 && value >> self.spec.field_bits(field) != 0 {
            let name = self.spec.field_name(field);
            self.complain(format!("{value} does not fit into {name}"));
            return Err(Pause(()));
        }
        self.step((Action::Write, field.0), why, || Op::Write(field.0, value)).map(|_| ())
    }

    /// Reads one bit of a field that is shared by several bits: one step.
    ///
    /// # Errors
    /// [`Pause`], to be passed on.
    pub fn read_bit(&mut self, bit: Bit, why: &str) -> Step<bool> {
        Ok(self.step((Action::Read, bit.alias), why, || Op::Read(bit.alias))? != 0)
    }

    /// Writes one bit of a field as a compiler does for a C bit-field: loads the whole field, changes the bit,
    /// stores the whole field. Two steps; a change of a neighbour between them is lost.
    ///
    /// # Errors
    /// [`Pause`], to be passed on.
    pub fn write_bit(&mut self, bit: Bit, value: bool, why: &str) -> Step<()> {
        self.scope(|t| {
            let old = t.read(bit.whole, why)?;
            let new = if value { old | 1 << bit.number } else { old & !(1 << bit.number) };
            t.write(bit.whole, new, why)
        })
    }

    // ---- Locks ----

    /// Takes a mutex, waiting for it: one step.
    ///
    /// # Errors
    /// [`Pause`], to be passed on.
    pub fn lock(&mut self, mutex: Mutex, why: &str) -> Step<()> {
        self.step((Action::Lock, mutex.0.into()), why, || Op::Lock(mutex.0)).map(|_| ())
    }

    /// Takes a mutex if it is free: one step. True if it was.
    ///
    /// # Errors
    /// [`Pause`], to be passed on.
    pub fn try_lock(&mut self, mutex: Mutex, why: &str) -> Step<bool> {
        Ok(self.step((Action::TryLock, mutex.0.into()), why, || Op::TryLock(mutex.0))? != 0)
    }

    /// Gives a mutex back: one step. Giving back what the thread does not hold violates `lock-misuse`.
    ///
    /// # Errors
    /// [`Pause`], to be passed on.
    pub fn unlock(&mut self, mutex: Mutex) -> Step<()> {
        self.step((Action::Unlock, mutex.0.into()), "", || Op::Unlock(mutex.0)).map(|_| ())
    }

    /// Runs `body` with a mutex held. An early `return` in it, too, gives the mutex back.
    ///
    /// # Errors
    /// [`Pause`], to be passed on.
    pub fn locked<R: Value>(
        &mut self,
        mutex: Mutex,
        why: &str,
        body: impl Fn(&mut Self) -> Step<R>,
    ) -> Step<R> {
        self.lock(mutex, why)?;
        let value = self.scope(body)?;
        self.unlock(mutex)?;
        Ok(value)
    }

    // ---- Everything else that is a step ----

    /// One of `n` outcomes, which the environment chooses: one step. Returns 0 to `n - 1`.
    ///
    /// # Errors
    /// [`Pause`], to be passed on.
    pub fn choose(&mut self, n: u16, why: &str) -> Step<u64> {
        if n == 0 {
            self.complain("a choice of none".to_owned());
            return Err(Pause(()));
        }
        self.step((Action::Choose, 0), why, || Op::Choose(n))
    }

    /// Several accesses in one step (a list splice, an atomic operation). What `change` returns is observed.
    ///
    /// # Errors
    /// [`Pause`], to be passed on.
    pub fn update<R: Value>(
        &mut self,
        what: &str,
        change: impl Fn(&mut Shared<'_>) -> R + 'static,
    ) -> Step<R> {
        let op = || Op::Update(Box::new(move |s| change(s).to_bits()));
        let bits = self.step((Action::Update, 0), what, op)?;
        Ok(R::from_bits(bits))
    }

    /// Waits until `ready`: one step, possible only then. A thread that waits here at the end is deadlocked.
    ///
    /// # Errors
    /// [`Pause`], to be passed on.
    pub fn wait_until(
        &mut self,
        what: &str,
        ready: impl Fn(&View<'_>) -> bool + 'static,
    ) -> Step<()> {
        let op = || Op::Wait { idle: false, ready: Box::new(ready) };
        self.step((Action::Wait, 0), what, op).map(|_| ())
    }

    /// As [`Thread::wait_until`], for a thread that waits for work and may do so for ever.
    ///
    /// # Errors
    /// [`Pause`], to be passed on.
    pub fn wait_idle(
        &mut self,
        what: &str,
        ready: impl Fn(&View<'_>) -> bool + 'static,
    ) -> Step<()> {
        let op = || Op::Wait { idle: true, ready: Box::new(ready) };
        self.step((Action::Wait, 0), what, op).map(|_| ())
    }

    /// Starts a dormant thread: one step. A thread is started at most once.
    ///
    /// # Errors
    /// [`Pause`], to be passed on.
    pub fn start(&mut self, thread: ThreadId, why: &str) -> Step<()> {
        self.step((Action::Start, thread.0.into()), why, || Op::Start(thread.0)).map(|_| ())
    }

    // ---- What is not a step ----

    /// The property must hold here; part of the step that led here.
    pub fn check(&mut self, property: PropertyId, holds: bool) {
        if !holds && self.is_live() {
            self.hits = self.hits.with(PropertySet::of(property.0.into()));
        }
    }

    /// The `sometimes` property is reached here; part of the step that led here.
    pub fn reach(&mut self, property: PropertyId) {
        self.check(property, false);
    }

    /// The thread dies here (an oops): `property` is violated, its locks stay taken, and it takes no more step.
    ///
    /// # Errors
    /// Always [`Pause`], to be passed on.
    pub fn die<R>(&mut self, property: PropertyId, note: &str) -> Step<R> {
        self.check(property, false);
        self.note(note);
        self.dead |= self.is_live();
        Err(Pause(()))
    }

    /// A remark on the step that led here, for the reader of a trace.
    pub fn note(&mut self, text: impl Into<String>) {
        if self.is_live() {
            self.notes.push(Note::Remark(text.into()));
        }
    }

    /// A line that the modelled system leaves in its log at the step that led here.
    pub fn log(&mut self, line: impl Into<String>) {
        if self.is_live() {
            self.notes.push(Note::Log(line.into()));
        }
    }
}

/// A loop that goes round so often without a step will do so for ever.
const LONGEST_IDLE_LOOP: u32 = 100_000;
