//! The software machine as the core's platform, with the lock and event seam under the scheduler.

use portcullis_addr::PhysAddr;
use portcullis_machine::{Machine, MachineClock, PhysicalMemory, StepHook};
use portcullis_platform::{AllocError, DmaMemory, PageLayout, Platform, Threads};
use portcullis_threads::{
    LabAtomic, LabEvent, LabIrqLock, LabLock, LabThreads, choose, current, step,
};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The machine's RAM, whose allocations fail where the environment so chooses.
#[derive(Debug)]
pub struct LabMemory {
    ram: Arc<PhysicalMemory>,
    failing: bool,
    fine: bool,
    /// The threads whose one failure has happened.
    failed: AtomicU32,
}

impl LabMemory {
    /// Whether this allocation is the one that fails in its thread. Counted for each thread, so that allocations of two threads stay independent.
    fn fails(&self) -> bool {
        let Some(thread) = current().filter(|_| self.failing) else { return false };
        let bit = 1 << thread;
        if self.failed.load(Ordering::Relaxed) & bit != 0 || choose(2) == 0 {
            return false;
        }
        self.failed.fetch_or(bit, Ordering::Relaxed);
        true
    }

    /// Tables and queues are shared without a lock: each access is a step, so that no order of two of them is overlooked.
    fn touch(&self, address: PhysAddr, what: &'static str, write: bool) {
        if self.fine {
            step("ram", address.raw(), what, write);
        }
    }
}

impl DmaMemory for LabMemory {
    fn allocate(&self, layout: PageLayout) -> Result<PhysAddr, AllocError> {
        if self.fails() {
            return Err(AllocError { layout });
        }
        self.ram.allocate(layout)
    }

    fn free(&self, address: PhysAddr, layout: PageLayout) {
        self.ram.free(address, layout);
    }

    fn load64(&self, address: PhysAddr) -> u64 {
        self.touch(address, "load", false);
        self.ram.load64(address)
    }

    fn store64(&self, address: PhysAddr, value: u64) {
        self.touch(address, "store", true);
        self.ram.store64(address, value);
    }

    fn compare_exchange64(&self, address: PhysAddr, old: u64, new: u64) -> Result<(), u64> {
        self.touch(address, "compare and exchange", true);
        self.ram.compare_exchange64(address, old, new)
    }

    fn publish(&self, address: PhysAddr, len: usize) {
        self.ram.publish(address, len);
    }

    fn refresh(&self, address: PhysAddr, len: usize) {
        self.ram.refresh(address, len);
    }
}

/// The platform of the shipped code under exploration.
pub struct LabPlatform {
    machine: Arc<Machine>,
    memory: Arc<LabMemory>,
}

impl LabPlatform {
    /// On `machine`; `failing` lets each thread meet one failed allocation, anywhere; `fine` makes each access to memory a step.
    pub fn new(machine: &Arc<Machine>, failing: bool, fine: bool) -> Self {
        let ram = Arc::clone(machine.memory());
        let memory = LabMemory { ram, failing, fine, failed: AtomicU32::new(0) };
        Self { machine: Arc::clone(machine), memory: Arc::new(memory) }
    }

    /// Whether allocations fail in this world.
    pub fn may_fail(&self) -> bool {
        self.memory.failing
    }

    /// Whether the calling thread has met its failed allocation.
    pub fn has_failed(&self) -> bool {
        let failed = self.memory.failed.load(Ordering::Relaxed);
        current().is_some_and(|thread| failed & 1 << thread != 0)
    }
}

impl fmt::Debug for LabPlatform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LabPlatform").field("memory", &self.memory).finish_non_exhaustive()
    }
}

impl Platform for LabPlatform {
    type Lock = LabLock;
    type IrqLock = LabIrqLock;
    type Event = LabEvent;
    type Atomic = LabAtomic;
    type Memory = LabMemory;
    type Clock = MachineClock;

    fn memory(&self) -> &Arc<LabMemory> {
        &self.memory
    }

    fn clock(&self) -> &MachineClock {
        self.machine.clock()
    }

    fn cpus(&self) -> usize {
        LabThreads::cpus()
    }

    fn cpu(&self) -> usize {
        LabThreads::cpu()
    }
}

/// Makes the machine's steps the exploration's.
#[derive(Clone, Copy, Debug)]
pub struct LabHook {
    /// All of them; otherwise only what devices do.
    pub fine: bool,
}

impl StepHook for LabHook {
    fn step(&self, object: &'static str, index: u64, what: &'static str, write: bool) {
        if !self.fine && object != "device" {
            return;
        }
        // A look at the clock moves virtual time on and lets lazy hardware work: it is a change, whatever it is called.
        step(object, index, what, write || object == "clock");
    }
}
