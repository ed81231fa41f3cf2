//! The machine as the [`Platform`] that the core and the drivers run on.

use crate::bus::Machine;
use crate::clock::MachineClock;
use crate::memory::PhysicalMemory;
use portcullis_platform::{Platform, Threads};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// A [`Machine`] whose CPUs are threads of kind `T`: `portcullis_platform::host::HostThreads` for a boot on OS threads, a schedule explorer's own for an
/// explored one.
pub struct MachinePlatform<T> {
    machine: Arc<Machine>,
    threads: PhantomData<fn() -> T>,
}

impl<T> MachinePlatform<T> {
    /// The platform that `machine` provides.
    pub fn new(machine: &Arc<Machine>) -> Self {
        Self { machine: Arc::clone(machine), threads: PhantomData }
    }

    /// The machine behind it.
    pub fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }
}

impl<T> Clone for MachinePlatform<T> {
    fn clone(&self) -> Self {
        Self::new(&self.machine)
    }
}

impl<T> fmt::Debug for MachinePlatform<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MachinePlatform").field("machine", &self.machine).finish()
    }
}

impl<T: Threads> Platform for MachinePlatform<T> {
    type Lock = T::Lock;
    type IrqLock = T::IrqLock;
    type Event = T::Event;
    type Atomic = T::Atomic;
    type Memory = PhysicalMemory;
    type Clock = MachineClock;

    fn memory(&self) -> &Arc<PhysicalMemory> {
        self.machine.memory()
    }

    fn clock(&self) -> &MachineClock {
        self.machine.clock()
    }

    fn cpus(&self) -> usize {
        T::cpus()
    }

    fn cpu(&self) -> usize {
        T::cpu()
    }

    fn thread(&self) -> usize {
        T::thread()
    }
}
