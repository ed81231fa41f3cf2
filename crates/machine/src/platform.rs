//! The machine as the [`Platform`] that the core and the drivers run on.

use crate::bus::Machine;
use crate::clock::MachineClock;
use crate::memory::PhysicalMemory;
use portcullis_platform::{Platform, RawEvent, RawLock};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// A [`Machine`] with locks of kind `L` and events of kind `E`: those of `portcullis_platform::host` for a boot on OS threads, a schedule
/// explorer's own for an explored one.
pub struct MachinePlatform<L, E> {
    machine: Arc<Machine>,
    locks: PhantomData<fn() -> (L, E)>,
}

impl<L, E> MachinePlatform<L, E> {
    /// The platform that `machine` is.
    pub fn new(machine: &Arc<Machine>) -> Self {
        Self { machine: Arc::clone(machine), locks: PhantomData }
    }

    /// The machine behind it.
    pub fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }
}

impl<L, E> Clone for MachinePlatform<L, E> {
    fn clone(&self) -> Self {
        Self::new(&self.machine)
    }
}

impl<L, E> fmt::Debug for MachinePlatform<L, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MachinePlatform").field("machine", &self.machine).finish()
    }
}

impl<L: RawLock, E: RawEvent> Platform for MachinePlatform<L, E> {
    type Lock = L;
    type Event = E;
    type Memory = PhysicalMemory;
    type Clock = MachineClock;

    fn memory(&self) -> &Arc<PhysicalMemory> {
        self.machine.memory()
    }

    fn clock(&self) -> &MachineClock {
        self.machine.clock()
    }
}
