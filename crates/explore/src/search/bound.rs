//! Every schedule with a bounded number of preemptions (Musuvathi and Qadeer, PLDI 2007).

use std::hash::Hash;

use super::breadth::Breadth;
use super::{
    Broken, Control, Label, Mode, Model, Outcome, Property, PropertySet, StepReport, Steps,
    ThreadStatus,
};

/// A model in which a thread that can go on is interrupted at most so often.
#[derive(Debug)]
pub struct Bounded<'m, M> {
    inner: &'m M,
    preemptions: u8,
}

impl<'m, M: Model> Bounded<'m, M> {
    /// `inner` with at most `preemptions` interruptions in a schedule.
    #[must_use]
    pub fn new(inner: &'m M, preemptions: u8) -> Self {
        Self { inner, preemptions }
    }

    fn can_step(&self, state: &M::State, thread: usize) -> bool {
        self.inner.status(state, thread) == ThreadStatus::Runnable
    }
}

/// A state, the thread that ran last and the preemptions spent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BoundedState<S> {
    state: S,
    last: u8,
    spent: u8,
}

const NOBODY: u8 = u8::MAX;

impl<M: Model> Model for Bounded<'_, M> {
    type State = BoundedState<M::State>;

    fn initial(&self) -> Self::State {
        BoundedState { state: self.inner.initial(), last: NOBODY, spent: 0 }
    }

    fn thread_count(&self) -> usize {
        self.inner.thread_count()
    }

    fn step(&self, state: &Self::State, thread: usize, out: &mut Steps<Self::State>) {
        let last = usize::from(state.last);
        let preempts = state.last != NOBODY && last != thread && self.can_step(&state.state, last);
        if preempts && state.spent == self.preemptions {
            return;
        }
        let spent = state.spent + u8::from(preempts);
        let mut steps = Steps::new();
        self.inner.step(&state.state, thread, &mut steps);
        if let Some(fault) = steps.fault.take() {
            out.fail(fault);
        }
        for taken in steps.taken {
            let next = BoundedState { state: taken.state, last: thread as u8, spent };
            out.add(next, taken.mover, taken.hits);
        }
    }

    fn status(&self, state: &Self::State, thread: usize) -> ThreadStatus {
        self.inner.status(&state.state, thread)
    }

    fn label(&self, state: &Self::State, thread: usize) -> Label {
        self.inner.label(&state.state, thread)
    }

    fn thread_name(&self, thread: usize) -> String {
        self.inner.thread_name(thread)
    }

    fn properties(&self) -> Vec<Property> {
        self.inner.properties()
    }

    fn hits(&self, state: &Self::State) -> PropertySet {
        self.inner.hits(&state.state)
    }

    fn unmet(&self, state: &Self::State) -> PropertySet {
        self.inner.unmet(&state.state)
    }

    fn report(&self, before: &Self::State, thread: usize, after: &Self::State) -> StepReport {
        self.inner.report(&before.state, thread, &after.state)
    }
}

pub(crate) fn search<M: Model>(
    model: &M,
    world: &str,
    preemptions: u8,
    control: &mut Control<'_>,
) -> Result<Outcome, Broken> {
    let bounded = Bounded::new(model, preemptions);
    let mode = Mode::Bounded(preemptions);
    let mut breadth = Breadth::new(&bounded, mode);
    let complete = breadth.run(world, control, &mut |_| {})?;
    Ok(breadth.into_outcome(world, complete))
}
