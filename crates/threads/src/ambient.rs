//! What the code of a world, and the software machine under it, may call from inside an execution.

use crate::op::{Kind, Op};
use crate::report::Note;
use crate::runtime::{HOST, try_with, with};
use portcullis_platform::LockLabel;
use std::borrow::Cow;

/// One access to state that several threads share without a lock: a register, a table that hardware reads, an atomic.
///
/// The access itself follows this call and precedes the next one. Two steps on the same `(object, index)`, at least one of them a `write`, are explored in both orders;
/// all other steps are treated as independent. Outside an exploration, and while a world is being built, the call does nothing.
///
/// Code under test that shares state through atomics without calling this function is not explored faithfully.
pub fn step(object: &'static str, index: u64, what: &'static str, write: bool) {
    try_with(|rt| {
        if rt.current.get() == HOST || rt.abandoning.get() {
            return;
        }
        let kind = if write { Kind::Write } else { Kind::Read };
        rt.point(Op {
            kind,
            object: rt.named(object, index),
            label: LockLabel::new(object, index),
            what,
        });
    });
}

/// Whether the execution is being given up: its threads are unwound one after the other, so nothing that one of them waits for will happen.
pub fn is_abandoned() -> bool {
    try_with(|rt| rt.abandoning.get()).unwrap_or(false)
}

/// A choice of the environment, one of `0..n`; every value is explored. 0 outside of an exploration.
///
/// # Panics
///
/// When `n` is 0.
pub fn choose(n: u8) -> u8 {
    assert!(n > 0, "a choice among no alternatives");
    try_with(|rt| {
        if rt.abandoning.get() {
            return 0;
        }
        let value = rt.tape.borrow_mut().choose(n);
        if rt.recording.get() {
            rt.notes.borrow_mut().push(Note::Chose { value, of: n });
        }
        value
    })
    .unwrap_or(0)
}

/// Tells that state changed in the step under way, for the picture. `change` gives the state's name and its values before and after, in words; it is asked only
/// while a run is written down, and two equal values are no change.
pub fn changed(change: impl FnOnce() -> (String, String, String)) {
    try_with(|rt| {
        if rt.current.get() == HOST || rt.abandoning.get() || !rt.recording.get() {
            return;
        }
        let (field, before, after) = change();
        if before != after {
            rt.notes.borrow_mut().push(Note::Changed { field, before, after });
        }
    });
}

/// Starts another thread from inside a thread.
///
/// # Panics
///
/// Outside of an exploration, or with 32 threads already started in this execution.
pub fn spawn(name: impl Into<Cow<'static, str>>, body: impl FnOnce() + 'static) {
    with(|rt| rt.spawn(name.into(), false, body));
}

/// Reports that `property` does not hold. The execution ends at the caller's next step; the first report of an execution counts.
pub fn violation(property: impl Into<Cow<'static, str>>, message: impl Into<String>) {
    with(|rt| {
        if !rt.abandoning.get() {
            rt.fail(property, message.into());
        }
    });
}

/// Notes that a good state was reached in this execution (a `sometimes` property). It shows that a world does not pass merely because nothing happened in it.
pub fn reached(goal: &'static str) {
    try_with(|rt| {
        if !rt.abandoning.get() {
            *rt.reached.borrow_mut().entry(goal).or_insert(0) += 1;
        }
    });
}

/// Adds `what` to the set of everything that any execution observed.
pub fn observe(what: impl Into<String>) {
    try_with(|rt| {
        if !rt.abandoning.get() {
            rt.observed.borrow_mut().insert(what.into());
        }
    });
}

/// The number of the calling thread of the code under test, from 0 in order of creation; `None` outside of one.
pub fn current() -> Option<usize> {
    try_with(|rt| rt.current.get()).filter(|&thread| thread != HOST).map(usize::from)
}
