//! A protocol as a model: table look-ups on a packed state.

use std::cell::{Cell, RefCell};

use super::builder::LOCK_MISUSE;
use super::equal::Places;
use super::layout::{Layout, Packed};
use super::learnt::{Learnt, THREAD_BIT};
use super::memory::{Memory, Recording};
use super::node::{DORMANT, Node};
use super::shared::{Access, Footprint, Shared, View};
use super::spec::{Guard, PropertySpec, Spec};
use super::thread::Op;
use super::{EndState, Facts, Protocol};
use crate::search::{
    Arrival, Change, Fault, Label, Look, Model, Mover, Object, Operation, Property, PropertyKind,
    PropertySet, Site, StepReport, Steps, ThreadStatus, fingerprint,
};

/// A protocol with its state laid out in `W` words.
pub(crate) struct Machine<'p, const W: usize> {
    spec: &'p Spec,
    facts: &'p Facts,
    layout: Layout,
    /// Where equal threads lie.
    equal: Option<Places>,
    /// Whether anybody asks how steps commute.
    learn: bool,
    /// Whether a newly learnt fact ends the search.
    relearn: bool,
    judge: Option<Judge<W>>,
    memory: RefCell<Memory<W>>,
    recording: Recording<W>,
}

/// What the properties say of a state, remembered by the fields and locks that they have looked at so far: most steps
/// change none of these.
struct Judge<const W: usize> {
    /// The bits of what they have looked at, and the version of the facts that says so.
    looked_at: Cell<([u64; W], Option<u32>)>,
    last: Cell<Option<(Packed<W>, PropertySet)>>,
    verdicts: RefCell<Vec<Option<(Packed<W>, PropertySet)>>>,
}

/// How many verdicts are remembered.
const VERDICTS: usize = 1 << 12;

impl<const W: usize> Judge<W> {
    fn new() -> Self {
        Self {
            looked_at: Cell::new(([0; W], None)),
            last: Cell::new(None),
            verdicts: RefCell::new(vec![None; VERDICTS]),
        }
    }

    /// The bits that properties have looked at so far.
    fn bits(&self, layout: &Layout, learnt: &Learnt) -> [u64; W] {
        let (mut bits, version) = self.looked_at.get();
        if version != Some(learnt.version()) {
            bits = layout.bits_of(learnt.looked_at());
            self.looked_at.set((bits, Some(learnt.version())));
        }
        bits
    }

    /// What the properties look at in `state`.
    fn part(&self, state: &Packed<W>, layout: &Layout, learnt: &Learnt) -> Packed<W> {
        let bits = self.bits(layout, learnt);
        Packed(std::array::from_fn(|i| state.0[i] & bits[i]))
    }

    /// The verdict on `state`, by `judge` if it is not known; `judge` also says whether it may be remembered.
    ///
    /// A verdict is remembered under what properties had looked at right after it was given. It holds for every state
    /// that agrees there; that the others are looked for by more bits later on does no harm.
    fn verdict(
        &self,
        state: &Packed<W>,
        layout: &Layout,
        learnt: &Learnt,
        judge: impl FnOnce() -> (PropertySet, bool),
    ) -> PropertySet {
        let part = self.part(state, layout, learnt);
        if let Some((known, hits)) = self.last.get()
            && known == part
        {
            return hits;
        }
        if let Some((known, hits)) = self.verdicts.borrow()[place(&part)]
            && known == part
        {
            self.last.set(Some((part, hits)));
            return hits;
        }
        let (hits, lasting) = judge();
        if lasting {
            let part = self.part(state, layout, learnt);
            self.verdicts.borrow_mut()[place(&part)] = Some((part, hits));
            self.last.set(Some((part, hits)));
        }
        hits
    }
}

/// Where the verdict on a state is remembered.
fn place<const W: usize>(part: &Packed<W>) -> usize {
    (fingerprint(part) >> 32) as usize % VERDICTS
}

/// What taking an operation gave.
struct Taken {
    observed: u64,
    mover: Mover,
    hits: PropertySet,
}

impl Taken {
    fn new(observed: u64, mover: Mover) -> Self {
        Self { observed, mover, hits: PropertySet::EMPTY }
    }
}

impl<'p, const W: usize> Machine<'p, W> {
    pub(crate) fn new(protocol: &'p Protocol, layout: Layout, relearn: bool) -> Self {
        assert!(layout.words <= W);
        let every_state = |kind| matches!(kind, PropertyKind::Always | PropertyKind::Sometimes);
        let judged = |p: &PropertySpec| p.predicate.is_some() && every_state(p.property.kind);
        let judged = protocol.spec.properties.iter().any(judged);
        let judge = judged.then(Judge::new);
        Self {
            spec: &protocol.spec,
            facts: &protocol.facts,
            equal: Places::new(&protocol.spec, &layout),
            layout,
            learn: relearn,
            relearn,
            judge,
            memory: RefCell::new(Memory::new(protocol.spec.threads.len())),
            recording: Recording::new(),
        }
    }

    fn node(&self, state: &Packed<W>, thread: usize) -> u32 {
        self.layout.nodes[thread].get(&state.0) as u32
    }

    fn access(&self, node: &Node) -> Access<'_> {
        let Recording { read, written, .. } = &self.recording;
        let footprint = self.recording.is_on().then_some(Footprint { read, written });
        Access {
            footprint,
            ..Access::new(self.spec, &self.layout, &self.facts.learnt, Some(node.held))
        }
    }

    /// The bits that properties have looked at so far.
    fn looked_at(&self) -> [u64; W] {
        self.judge.as_ref().map_or([0; W], |j| j.bits(&self.layout, &self.facts.learnt))
    }

    /// Takes `op` in `state`, which it changes, or says that it is blocked (`None`).
    fn take(&self, words: &mut [u64; W], node: &Node, out: &mut Steps<Packed<W>>) -> Option<Taken> {
        let learnt = &self.facts.learnt;
        match node.op {
            Op::Read(slot) => {
                let value = self.layout.fields[usize::from(slot)].get(words);
                Some(Taken::new(value, self.touch(node, slot, false, out)))
            }
            Op::Write(slot, value) => {
                self.layout.fields[usize::from(slot)].set(words, value);
                Some(Taken::new(0, self.touch(node, slot, true, out)))
            }
            Op::Lock(mutex) => {
                let reversed = self.learn && learnt.nested(mutex.into(), node.held);
                let lock = self.layout.locks[usize::from(mutex)];
                self.recording.note(lock, false);
                self.recording.note(lock, true);
                if lock.get(words) != 0 {
                    return None;
                }
                lock.set(words, 1);
                Some(Taken::new(0, self.acquired(mutex, reversed)))
            }
            Op::TryLock(mutex) => {
                learnt.watch(mutex.into());
                let lock = self.layout.locks[usize::from(mutex)];
                self.recording.note(lock, false);
                self.recording.note(lock, true);
                let free = lock.get(words) == 0;
                lock.set(words, 1);
                Some(Taken::new(u64::from(free), Mover::Non))
            }
            Op::Unlock(mutex) => Some(self.unlock(words, node, mutex)),
            Op::Start(thread) => {
                self.start(words, thread, out);
                Some(Taken::new(0, Mover::Non))
            }
            Op::Update(ref change) => {
                let access = self.access(node);
                let observed = change(&mut Shared { words, access: &access });
                let mover = finish(&access, out);
                Some(Taken { observed, mover, hits: access.hits.get() })
            }
            Op::Wait { ref ready, .. } => {
                let access = self.access(node);
                let ready = ready(&View { words, access: &access });
                finish(&access, out);
                // It can wait, so it must not follow a commit.
                ready.then(|| Taken::new(0, Mover::Non))
            }
            Op::Choose(_) | Op::Finished => None,
        }
    }

    fn touch(&self, node: &Node, slot: u16, write: bool, out: &mut Steps<Packed<W>>) -> Mover {
        self.recording.note(self.layout.fields[usize::from(slot)], write);
        let spec = &self.spec.fields[usize::from(slot)];
        if spec.guard == Guard::Learnt && spec.whole.is_none() {
            // The usual case, by the shortest way; what follows says the same.
            let (field, learnt) = (usize::from(slot), &self.facts.learnt);
            let both = self.learn
                && if write {
                    learnt.write(field, node.held)
                } else {
                    learnt.read(field, node.held)
                };
            return if both { Mover::Both } else { Mover::Non };
        }
        let access = self.access(node);
        access.touch(slot, write);
        finish(&access, out)
    }

    fn acquired(&self, mutex: u8, reversed: bool) -> Mover {
        match (self.facts.learnt.is_watched(mutex.into()), reversed) {
            (true, _) => Mover::Non,
            (false, true) => Mover::Boundary,
            (false, false) => Mover::Right,
        }
    }

    fn unlock(&self, words: &mut [u64; W], node: &Node, mutex: u8) -> Taken {
        if node.held >> mutex & 1 == 0 {
            let hits = PropertySet::of(LOCK_MISUSE.0.into());
            return Taken { observed: 0, mover: Mover::Non, hits };
        }
        let lock = self.layout.locks[usize::from(mutex)];
        self.recording.note(lock, true);
        lock.set(words, 0);
        let watched = self.facts.learnt.is_watched(mutex.into());
        Taken::new(0, if watched { Mover::Non } else { Mover::Left })
    }

    fn start(&self, words: &mut [u64; W], thread: u8, out: &mut Steps<Packed<W>>) {
        let thread = usize::from(thread);
        let slot = self.layout.nodes[thread];
        self.recording.note(slot, false);
        self.recording.note(slot, true);
        if slot.get(words) != u64::from(DORMANT) {
            let name = &self.spec.threads[thread].name;
            out.fail(Fault::Model(format!("thread {name} is started twice")));
            return;
        }
        slot.set(words, self.facts.first[thread].into());
    }

    /// Moves `thread` on from `node` after `taken`, and adds the state to `out`.
    fn advance(
        &self,
        words: [u64; W],
        thread: usize,
        node: u32,
        taken: &Taken,
        out: &mut Steps<Packed<W>>,
    ) {
        match self.facts.child(self.spec, thread, node, taken.observed) {
            Ok(child) => self.arrive(words, thread, child, taken, out),
            Err(words) => out.fail(Fault::Model(words)),
        }
    }

    /// Adds the state in which `thread` is at `child`.
    fn arrive(
        &self,
        mut words: [u64; W],
        thread: usize,
        (child, hits): (u32, PropertySet),
        taken: &Taken,
        out: &mut Steps<Packed<W>>,
    ) {
        let slot = self.layout.nodes[thread];
        if u64::from(child) > slot.max() {
            out.fail(Fault::Widen);
            return;
        }
        slot.set(&mut words, child.into());
        out.add(Packed(words), taken.mover, hits.with(taken.hits));
    }

    /// What the properties say of `state`, and whether they looked at nothing but fields and locks.
    fn judge(&self, state: &Packed<W>, at_end: bool) -> (PropertySet, bool) {
        // Goals are judged only in states that no step changes any more, so they make no write visible.
        let held = at_end.then_some(u64::MAX);
        let access = Access::new(self.spec, &self.layout, &self.facts.learnt, held);
        let hits = self.spec.hits(&View { words: &state.0, access: &access }, at_end);
        (hits, !access.asked_threads.get())
    }

    fn held_names(&self, state: &Packed<W>, thread: usize) -> Vec<Object> {
        let nodes = self.facts.nodes[thread].borrow();
        let held = nodes.get(self.node(state, thread)).held;
        let names = self.spec.mutexes.iter().enumerate();
        names.filter(|(i, _)| held >> i & 1 == 1).map(|(_, name)| name.clone()).collect()
    }
}

/// The mover of an operation whose accesses are all done.
fn finish<S>(access: &Access<'_>, out: &mut Steps<S>) -> Mover {
    if let Some(words) = access.fault.take() {
        out.fail(Fault::Model(words));
    }
    if access.both.get() { Mover::Both } else { Mover::Non }
}

impl<const W: usize> Model for Machine<'_, W> {
    type State = Packed<W>;

    fn initial(&self) -> Packed<W> {
        let mut words = [0; W];
        for (field, slot) in self.spec.fields.iter().zip(&self.layout.fields) {
            if field.whole.is_none() {
                slot.set(&mut words, field.init);
            }
        }
        for (thread, slot) in self.layout.nodes.iter().enumerate() {
            if !self.spec.threads[thread].dormant {
                slot.set(&mut words, self.facts.first[thread].into());
            }
        }
        Packed(words)
    }

    fn thread_count(&self) -> usize {
        self.spec.threads.len()
    }

    fn step(&self, state: &Packed<W>, thread: usize, out: &mut Steps<Packed<W>>) {
        let number = self.node(state, thread);
        let mut words = state.0;
        let nodes = self.facts.nodes[thread].borrow();
        let node = nodes.get(number);
        if let Op::Choose(n) = node.op {
            drop(nodes);
            for choice in 0..n {
                let taken = Taken::new(choice.into(), Mover::Both);
                self.advance(words, thread, number, &taken, out);
            }
            return;
        }
        if let Some(taken) = self.take(&mut words, node, out) {
            if let Some(child) = nodes.child(number, taken.observed) {
                self.arrive(words, thread, child, &taken, out);
            } else {
                drop(nodes);
                self.advance(words, thread, number, &taken, out);
            }
        }
        if self.facts.learnt.take_changed() && self.relearn {
            out.fail(Fault::Relearn);
        }
    }

    fn status(&self, state: &Packed<W>, thread: usize) -> ThreadStatus {
        let number = self.node(state, thread);
        if number == DORMANT {
            return ThreadStatus::Idle;
        }
        let nodes = self.facts.nodes[thread].borrow();
        let node = nodes.get(number);
        match node.op {
            Op::Finished => ThreadStatus::Finished,
            Op::Lock(mutex) if self.layout.locks[usize::from(mutex)].get(&state.0) != 0 => {
                ThreadStatus::Blocked
            }
            Op::Wait { idle, ref ready } => {
                let access = self.access(node);
                match (ready(&View { words: &state.0, access: &access }), idle) {
                    (true, _) => ThreadStatus::Runnable,
                    (false, true) => ThreadStatus::Idle,
                    (false, false) => ThreadStatus::Blocked,
                }
            }
            _ => ThreadStatus::Runnable,
        }
    }

    fn label(&self, state: &Packed<W>, thread: usize) -> Label {
        let nodes = self.facts.nodes[thread].borrow();
        let number = self.node(state, thread);
        let node = nodes.get(number);
        let operation = if number == DORMANT { Operation::Dormant } else { self.operation(node) };
        let site = Site {
            function: node.functions.last().copied().unwrap_or_default(),
            action: operation.action(),
            object: operation.object().map_or_else(String::new, |object| object.name.clone()),
            ordinal: node.ordinal,
        };
        Label {
            thread: self.thread_name(thread),
            functions: node.functions.clone(),
            operation,
            why: node.why.clone(),
            site,
        }
    }

    fn thread_name(&self, thread: usize) -> String {
        self.spec.threads[thread].name.clone()
    }

    fn properties(&self) -> Vec<Property> {
        self.spec.properties.iter().map(|p| p.property.clone()).collect()
    }

    fn hits(&self, state: &Packed<W>) -> PropertySet {
        let Some(judge) = &self.judge else { return PropertySet::EMPTY };
        judge.verdict(state, &self.layout, &self.facts.learnt, || self.judge(state, false))
    }

    fn canonical(&self, mut state: Packed<W>) -> Packed<W> {
        if let Some(equal) = &self.equal {
            equal.sort(&mut state.0);
        }
        state
    }

    fn recall(
        &self,
        state: &Packed<W>,
        thread: usize,
        cuts: bool,
        arrivals: &mut Vec<Arrival<Packed<W>>>,
        looks: &mut Vec<Look<Packed<W>>>,
    ) -> bool {
        let changes = self.facts.learnt.changes();
        let mut memory = self.memory.borrow_mut();
        memory.keep_up(changes);
        let start = (thread, self.node(state, thread), cuts);
        let known = memory.recall(state, start, arrivals, looks);
        if !known {
            self.recording.begin(changes);
            self.recording.note(self.layout.nodes[thread], false);
            self.recording.note(self.layout.nodes[thread], true);
        }
        known
    }

    fn stepped(&self, state: &Packed<W>, hits: PropertySet) {
        if self.recording.is_on() {
            self.recording.step(state, self.looked_at(), hits);
        }
    }

    fn remember(
        &self,
        state: &Packed<W>,
        thread: usize,
        cuts: bool,
        arrivals: Option<&[Arrival<Packed<W>>]>,
    ) -> bool {
        let lasts = self.recording.end(self.facts.learnt.changes());
        let Some(arrivals) = arrivals.filter(|_| lasts) else { return false };
        let start = (thread, self.node(state, thread), cuts);
        self.memory.borrow_mut().remember(state, start, &self.recording, arrivals);
        true
    }

    fn independent(&self, state: &Packed<W>, thread: usize, others: u64) -> u64 {
        if others == 0 {
            return 0;
        }
        let mut looked_at = self.looked_at();
        // A property may ask whether they were started.
        for (i, slot) in self.layout.nodes.iter().enumerate() {
            if self.spec.threads[i].dormant {
                slot.set(&mut looked_at, u64::MAX);
            }
        }
        let node = |thread| self.node(state, thread);
        self.memory.borrow().independent(thread, others, &looked_at, node)
    }

    fn unmet(&self, state: &Packed<W>) -> PropertySet {
        self.judge(state, true).0
    }

    fn report(&self, before: &Packed<W>, thread: usize, after: &Packed<W>) -> StepReport {
        let number = self.node(before, thread);
        let mut report = StepReport {
            changes: self.changes(before, after),
            held: (0..self.thread_count()).map(|t| self.held_names(after, t)).collect(),
            ..StepReport::default()
        };
        if let Some(observed) = self.observed(before, after, thread) {
            let nodes = self.facts.nodes[thread].borrow();
            report.notes = nodes.edge(number, observed).map_or_else(Vec::new, |e| e.notes.clone());
            report.observed = match nodes.get(number).op {
                Op::Read(slot) => Some(self.spec.value_name(slot.into(), observed)),
                Op::Choose(_) | Op::TryLock(_) | Op::Update(_) => Some(observed.to_string()),
                _ => None,
            };
        }
        report
    }
}

impl<const W: usize> Machine<'_, W> {
    /// The same machine; facts that it learns do not end the search.
    pub(crate) fn without_relearning(&self) -> Self {
        let layout = self.layout.clone();
        let judge = self.judge.as_ref().map(|_| Judge::new());
        Self {
            spec: self.spec,
            facts: self.facts,
            equal: self.equal.clone(),
            layout,
            learn: self.learn,
            relearn: false,
            judge,
            memory: RefCell::new(Memory::new(self.spec.threads.len())),
            recording: Recording::new(),
        }
    }

    /// A state in words and numbers that do not depend on the order in which local states were met.
    pub(crate) fn end_state(&self, state: &Packed<W>) -> EndState {
        let place = |thread: usize| {
            let label = self.label(state, thread);
            let function = label.functions.join(" > ");
            let held: Vec<String> =
                self.held_names(state, thread).iter().map(Object::to_string).collect();
            format!("{function}: {} ({}) [{}]", label.what(), label.reason(), held.join(", "))
        };
        EndState {
            fields: self.layout.fields.iter().map(|slot| slot.get(&state.0)).collect(),
            threads: (0..self.thread_count()).map(place).collect(),
        }
    }

    fn operation(&self, node: &Node) -> Operation {
        let field = |slot: u16| self.spec.fields[usize::from(slot)].name.clone();
        let mutex = |m: u8| self.spec.mutexes[usize::from(m)].clone();
        match node.op {
            Op::Read(slot) => Operation::Read(field(slot)),
            Op::Write(slot, value) => {
                Operation::Write(field(slot), self.spec.value_name(slot.into(), value))
            }
            Op::Lock(m) => Operation::Lock(mutex(m)),
            Op::TryLock(m) => Operation::TryLock(mutex(m)),
            Op::Unlock(m) => Operation::Unlock(mutex(m)),
            Op::Choose(n) => Operation::Choose(n),
            Op::Start(t) => Operation::Start(self.spec.threads[usize::from(t)].name.clone()),
            Op::Update(_) => Operation::Update,
            Op::Wait { .. } => Operation::Wait,
            Op::Finished => Operation::Finished,
        }
    }

    fn changes(&self, before: &Packed<W>, after: &Packed<W>) -> Vec<Change> {
        let fields = self.spec.fields.iter().zip(&self.layout.fields).enumerate();
        fields
            .filter_map(|(slot, (field, place))| {
                let (old, new) = (place.get(&before.0), place.get(&after.0));
                let by_bits = self
                    .spec
                    .fields
                    .iter()
                    .any(|f| f.whole.is_some_and(|w| usize::from(w) == slot));
                (old != new && !by_bits).then(|| Change {
                    field: field.name.clone(),
                    before: self.spec.value_name(slot, old),
                    after: self.spec.value_name(slot, new),
                })
            })
            .collect()
    }

    /// What the step from `before` to `after` observed: that which leads to the same place.
    fn observed(&self, before: &Packed<W>, after: &Packed<W>, thread: usize) -> Option<u64> {
        let number = self.node(before, thread);
        let nodes = self.facts.nodes[thread].borrow();
        let node = nodes.get(number);
        if let Op::Choose(n) = node.op {
            let there = |c: &u64| {
                nodes.child(number, *c).is_some_and(|(child, _)| child == self.node(after, thread))
            };
            return (0..u64::from(n)).find(there);
        }
        let mut words = before.0;
        self.take(&mut words, node, &mut Steps::new()).map(|taken| taken.observed)
    }
}

/// The thread's own bit in a set of locks.
pub(crate) fn own_bit(thread: usize) -> u64 {
    1 << (THREAD_BIT as usize + thread)
}
