//! What an execution starts from.

use crate::runtime::with;
use std::borrow::Cow;
use std::fmt;

/// A fresh world: a closure fills it with threads and with what must hold at the end, anew for each execution.
///
/// Everything that the threads share must be made inside that closure and must not depend on anything outside that changes (time, random seeds, statics):
/// the explorer re-executes, and the same decisions must lead to the same run.
pub struct World {
    _private: (),
}

impl World {
    pub(crate) const fn new() -> Self {
        Self { _private: () }
    }

    /// Adds a thread. One that blocks for ever is a violation.
    ///
    /// # Panics
    ///
    /// With 32 threads already added.
    pub fn thread(&mut self, name: impl Into<Cow<'static, str>>, body: impl FnOnce() + 'static) {
        with(|rt| rt.spawn(name.into(), false, body));
    }

    /// Adds a thread that may still be waiting for an event when all others have ended: a worker.
    ///
    /// # Panics
    ///
    /// With 32 threads already added.
    pub fn daemon(&mut self, name: impl Into<Cow<'static, str>>, body: impl FnOnce() + 'static) {
        with(|rt| rt.spawn(name.into(), true, body));
    }

    /// Adds a property of the end state: `check` runs when all threads have ended (daemons may be waiting), on a quiet world.
    pub fn at_end(
        &mut self,
        property: impl Into<Cow<'static, str>>,
        check: impl FnOnce() -> Result<(), String> + 'static,
    ) {
        with(|rt| rt.endings.borrow_mut().push((property.into(), Box::new(check))));
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").finish_non_exhaustive()
    }
}
