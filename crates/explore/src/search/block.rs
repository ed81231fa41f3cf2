//! Running a block: the steps of one thread that can be taken as one.

use super::{Fault, Model, Mover, PropertySet, Steps};

/// A block is `(right | both)* non? (left | both)*`: see [`crate::reduction`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing taken yet.
    Start,
    /// Only right and both movers so far.
    Before,
    /// A non-mover or a left mover was taken.
    After,
}

impl Phase {
    /// The phase after a step of this kind, or `None` if the block ends before it.
    fn then(self, mover: Mover) -> Option<Self> {
        match (self, mover) {
            (Self::Start, Mover::Boundary) => Some(Self::Before),
            (_, Mover::Boundary) | (Self::After, Mover::Right | Mover::Non) => None,
            (Self::Start | Self::Before, Mover::Right | Mover::Both) => Some(Self::Before),
            (Self::Start | Self::Before, Mover::Left | Mover::Non)
            | (Self::After, Mover::Left | Mover::Both) => Some(Self::After),
        }
    }
}

/// A place at which a block ended.
#[derive(Debug, Clone)]
pub struct Arrival<S> {
    /// The state there.
    pub state: S,
    /// Properties hit on the way.
    pub hits: PropertySet,
    /// Steps of the block.
    pub steps: u32,
    /// The thread could have gone on.
    pub cut: bool,
}

/// A state inside a block in which properties may say something else than in the one before.
#[derive(Debug, Clone)]
pub struct Look<S> {
    /// The state.
    pub state: S,
    /// Properties that the step to it hits itself.
    pub hits: PropertySet,
    /// Steps from the beginning of the block.
    pub steps: u32,
}

/// A property that a block hit, and how.
#[derive(Debug)]
pub(crate) struct Hit {
    pub(crate) property: usize,
    /// The choices up to and with the step that hit it.
    pub(crate) path: Vec<u16>,
}

/// What is known of a block where a walk through it begins.
#[derive(Debug, Clone, Copy)]
struct Begin {
    phase: Phase,
    /// The step before may be the last one that other threads need.
    needed: bool,
    hits: PropertySet,
}

/// What a [`Runner`] remembers of the path it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    Nothing,
    /// The choices that lead to the arrival of this number.
    Arrival(usize),
    /// The choices that lead to the first hit of this property.
    Hit(usize),
}

/// A block may be cut anywhere without harm, so an endless one is cut here.
const LONGEST: usize = 10_000;

/// Runs blocks; keeps its buffers between calls.
pub(crate) struct Runner<S> {
    pub(crate) arrivals: Vec<Arrival<S>>,
    pub(crate) fault: Option<Fault>,
    spare: Vec<Steps<S>>,
    path: Vec<u16>,
    want: Want,
    wanted: Option<Vec<u16>>,
    /// Whether blocks are cut, too.
    pub(crate) cuts: bool,
    /// A block that the model remembers: what to look at on the way.
    looks: Vec<Look<S>>,
    /// The block went more than one way.
    branched: bool,
    /// The model remembers the block.
    pub(crate) remembered: bool,
    /// Properties whose hits are to be kept in `seen`.
    pub(crate) watched: PropertySet,
    pub(crate) seen: Vec<Hit>,
}

impl<S: Clone> Runner<S> {
    pub(crate) fn new() -> Self {
        Self {
            arrivals: Vec::new(),
            fault: None,
            spare: Vec::new(),
            path: Vec::new(),
            want: Want::Nothing,
            wanted: None,
            cuts: false,
            looks: Vec::new(),
            branched: false,
            remembered: false,
            watched: PropertySet::EMPTY,
            seen: Vec::new(),
        }
    }

    /// A runner that also arrives inside a block: after its commit, and after each left mover behind that.
    pub(crate) fn with_cuts() -> Self {
        Self { cuts: true, ..Self::new() }
    }

    /// Fills `arrivals` with the ends of the blocks of `thread` that begin in `state`.
    pub(crate) fn run<M: Model<State = S>>(&mut self, model: &M, state: &S, thread: usize) {
        self.arrivals.clear();
        self.seen.clear();
        self.path.clear();
        let begin = Begin { phase: Phase::Start, needed: false, hits: PropertySet::EMPTY };
        if self.want != Want::Nothing {
            self.walk(model, state.clone(), thread, begin);
        } else if model.recall(state, thread, self.cuts, &mut self.arrivals, &mut self.looks) {
            self.look(model);
            self.remembered = true;
        } else {
            self.branched = false;
            self.walk(model, state.clone(), thread, begin);
            let whole = !self.branched && self.fault.is_none();
            let arrivals = whole.then_some(self.arrivals.as_slice());
            self.remembered = model.remember(state, thread, self.cuts, arrivals);
        }
    }

    /// Notes what properties say on the way through a block that the model remembers.
    fn look<M: Model<State = S>>(&mut self, model: &M) {
        let mut looks = std::mem::take(&mut self.looks);
        let mut arrivals = std::mem::take(&mut self.arrivals);
        let (mut hits, mut passed) = (PropertySet::EMPTY, 0);
        for look in &looks {
            let new = look.hits.with(model.hits(&look.state)).without(hits);
            while arrivals[passed].steps < look.steps {
                arrivals[passed].hits = hits;
                passed += 1;
            }
            // A block that is remembered has not branched.
            self.path.resize(look.steps as usize, 0);
            self.note(new);
            hits = hits.with(new);
        }
        arrivals[passed..].iter_mut().for_each(|arrival| arrival.hits = hits);
        looks.clear();
        (self.looks, self.arrivals) = (looks, arrivals);
    }

    /// The choices of `thread` that lead from `state` to the arrival of this number.
    pub(crate) fn path_to<M: Model<State = S>>(
        &mut self,
        model: &M,
        state: &S,
        thread: usize,
        arrival: usize,
    ) -> Option<Vec<u16>> {
        self.find(model, state, thread, Want::Arrival(arrival))
    }

    /// The choices of `thread` that lead from `state` to the first hit of a property.
    pub(crate) fn path_to_hit<M: Model<State = S>>(
        &mut self,
        model: &M,
        state: &S,
        thread: usize,
        property: usize,
    ) -> Option<Vec<u16>> {
        self.find(model, state, thread, Want::Hit(property))
    }

    fn find<M: Model<State = S>>(
        &mut self,
        model: &M,
        state: &S,
        thread: usize,
        want: Want,
    ) -> Option<Vec<u16>> {
        self.want = want;
        self.run(model, state, thread);
        self.want = Want::Nothing;
        self.wanted.take()
    }

    fn walk<M: Model<State = S>>(&mut self, model: &M, mut state: S, thread: usize, begin: Begin) {
        let Begin { mut phase, mut needed, mut hits } = begin;
        let mut steps = self.spare.pop().unwrap_or_default();
        loop {
            steps.clear();
            model.step(&state, thread, &mut steps);
            if steps.fault.is_some() {
                self.fault = steps.fault.take();
                break;
            }
            let mover = combined(&steps);
            match mover.and_then(|mover| phase.then(mover)) {
                Some(next) if self.path.len() < LONGEST => {
                    if needed && self.cuts {
                        self.arrive(state.clone(), hits, true);
                    }
                    phase = next;
                }
                _ if phase == Phase::Start => break,
                _ => {
                    self.arrive(state, hits, false);
                    break;
                }
            }
            needed = matches!(mover, Some(Mover::Left | Mover::Non));
            if steps.taken.len() > 1 {
                self.branch(model, &mut steps, thread, Begin { phase, needed, hits });
                break;
            }
            let Some(only) = steps.taken.pop() else { break };
            self.path.push(0);
            model.stepped(&only.state, only.hits);
            let new = only.hits.with(model.hits(&only.state)).without(hits);
            self.note(new);
            hits = hits.with(new);
            state = only.state;
        }
        self.spare.push(steps);
    }

    fn branch<M: Model<State = S>>(
        &mut self,
        model: &M,
        steps: &mut Steps<S>,
        thread: usize,
        begin: Begin,
    ) {
        self.branched = true;
        let length = self.path.len();
        for (choice, taken) in steps.taken.drain(..).enumerate() {
            self.path.push(choice as u16);
            let new = taken.hits.with(model.hits(&taken.state)).without(begin.hits);
            self.note(new);
            let begin = Begin { hits: begin.hits.with(new), ..begin };
            self.walk(model, taken.state, thread, begin);
            self.path.truncate(length);
        }
    }

    fn arrive(&mut self, state: S, hits: PropertySet, cut: bool) {
        if self.want == Want::Arrival(self.arrivals.len()) {
            self.wanted = Some(self.path.clone());
        }
        self.arrivals.push(Arrival { state, hits, steps: self.path.len() as u32, cut });
    }

    /// The step that `path` ends with was the first of the block to hit these.
    fn note(&mut self, new: PropertySet) {
        if new.is_empty() || (self.want == Want::Nothing && self.watched.is_empty()) {
            return;
        }
        if let Want::Hit(property) = self.want
            && self.wanted.is_none()
            && new.contains(property)
        {
            self.wanted = Some(self.path.clone());
        }
        let watched = self.watched;
        for property in new.iter().filter(|&i| watched.contains(i)) {
            self.seen.push(Hit { property, path: self.path.clone() });
        }
    }
}

/// How alternatives commute together: as each of them does, or not at all.
fn combined<S>(steps: &Steps<S>) -> Option<Mover> {
    let mut movers = steps.taken.iter().map(|t| t.mover);
    let first = movers.next()?;
    Some(if movers.all(|m| m == first) { first } else { Mover::Non })
}
