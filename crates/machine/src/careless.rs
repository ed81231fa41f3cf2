//! The machine's platform, on which a test leaves one safeguard of a driver out.

use crate::bus::Machine;
use crate::clock::MachineClock;
use crate::memory::PhysicalMemory;
use crate::platform::MachinePlatform;
use portcullis_platform::{Platform, Threads};
use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

thread_local! {
    static LEFT_OUT: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// A [`MachinePlatform`] that [omits](Platform::omits) what [`without`] names: so a test shows that each safeguard of a driver is missed where it is not there.
pub struct Careless<T>(MachinePlatform<T>);

impl<T> Careless<T> {
    /// The platform that `machine` provides.
    pub fn new(machine: &Arc<Machine>) -> Self {
        Self(MachinePlatform::new(machine))
    }
}

/// Runs `story` while drivers on a [`Careless`] platform that are called by this thread do without the safeguard of that name; with all of them for `None`.
pub fn without<R>(safeguard: Option<&'static str>, story: impl FnOnce() -> R) -> R {
    /// Also when the story panics.
    struct Restore(Option<&'static str>);
    impl Drop for Restore {
        fn drop(&mut self) {
            LEFT_OUT.set(self.0);
        }
    }
    let _restore = Restore(LEFT_OUT.replace(safeguard));
    story()
}

impl<T: Threads> Platform for Careless<T> {
    type Lock = T::Lock;
    type IrqLock = T::IrqLock;
    type Event = T::Event;
    type Atomic = T::Atomic;
    type Memory = PhysicalMemory;
    type Clock = MachineClock;

    fn memory(&self) -> &Arc<PhysicalMemory> {
        self.0.memory()
    }

    fn clock(&self) -> &MachineClock {
        self.0.clock()
    }

    fn omits(safeguard: &'static str) -> bool {
        LEFT_OUT.get() == Some(safeguard)
    }

    fn cpus(&self) -> usize {
        self.0.cpus()
    }

    fn cpu(&self) -> usize {
        self.0.cpu()
    }

    fn thread(&self) -> usize {
        self.0.thread()
    }
}

impl<T> fmt::Debug for Careless<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Careless").field(&self.0).finish()
    }
}
