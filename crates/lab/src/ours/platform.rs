//! The software machine as the core's platform, with the lock and event seam under the scheduler.

use crate::ours::family::Family;
use portcullis::Safeguard;
use portcullis_addr::PhysAddr;
use portcullis_machine::{Machine, MachineClock, PhysicalMemory, StepHook};
use portcullis_platform::{DmaMemory, MemoryWatch, PageLayout, Platform, Threads, WatchedMemory};
use portcullis_threads::{
    LabAtomic, LabEvent, LabIrqLock, LabLock, LabThreads, changed, choose, current, is_abandoned,
    step,
};
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The machine's RAM under the scheduler.
pub type LabMemory = WatchedMemory<PhysicalMemory, LabWatch>;

/// Lets allocations fail where the environment so chooses, and makes accesses steps.
#[derive(Debug)]
pub struct LabWatch {
    failing: bool,
    fine: bool,
    /// The threads whose one failure has happened.
    failed: AtomicU32,
    /// For the values before a change.
    ram: Arc<PhysicalMemory>,
}

impl LabWatch {
    /// Tables and queues are shared without a lock: each access is a step, so that no order of two of them is overlooked.
    fn touch(&self, address: PhysAddr, what: &'static str, write: bool) {
        if self.fine {
            step("ram", address.raw(), what, write);
        }
    }

    /// The word at `address` is about to change: no other thread runs before it does.
    fn tell(&self, address: PhysAddr, new: impl FnOnce(u64) -> u64) {
        let word = |value: u64| format!("{value:#x}");
        changed(|| {
            let old = self.ram.load64(address);
            (format!("word {:#x}", address.raw()), word(old), word(new(old)))
        });
    }
}

impl MemoryWatch for LabWatch {
    /// Whether this is not the allocation that fails in its thread. Counted for each thread, so that allocations of two threads stay independent.
    fn allocates(&self, _: PageLayout) -> bool {
        let Some(thread) = current().filter(|_| self.failing) else { return true };
        let bit = 1 << thread;
        if self.failed.load(Ordering::Relaxed) & bit != 0 || choose(2) == 0 {
            return true;
        }
        self.failed.fetch_or(bit, Ordering::Relaxed);
        false
    }

    fn loads(&self, address: PhysAddr) {
        self.touch(address, "load", false);
    }

    fn stores(&self, address: PhysAddr, value: u64) {
        self.touch(address, "store", true);
        self.tell(address, |_| value);
    }

    fn exchanges(&self, address: PhysAddr, old: u64, new: u64) {
        self.touch(address, "compare and exchange", true);
        self.tell(address, |now| if now == old { new } else { now });
    }
}

/// The platform of the shipped code under exploration.
pub struct LabPlatform {
    machine: Arc<Machine>,
    memory: Arc<LabMemory>,
    /// Whether all threads run on one CPU, so that they meet in what each CPU has for itself.
    one_cpu: bool,
}

impl LabPlatform {
    /// On `machine`; `failing` lets each thread meet one failed allocation, anywhere; `fine` makes each access to memory a step. A CPU for each thread, up to four.
    pub fn new(machine: &Arc<Machine>, failing: bool, fine: bool) -> Self {
        let ram = Arc::clone(machine.memory());
        let watch = LabWatch { failing, fine, failed: AtomicU32::new(0), ram: Arc::clone(&ram) };
        let memory = Arc::new(LabMemory::new(ram, watch));
        Self { machine: Arc::clone(machine), memory, one_cpu: false }
    }

    /// With all threads on one CPU.
    #[must_use]
    pub fn on_one_cpu(self) -> Self {
        Self { one_cpu: true, ..self }
    }

    /// Whether allocations fail in this world.
    pub fn may_fail(&self) -> bool {
        self.memory.watch().failing
    }

    /// Whether the calling thread has met its failed allocation.
    pub fn has_failed(&self) -> bool {
        let failed = self.memory.watch().failed.load(Ordering::Relaxed);
        current().is_some_and(|thread| failed & 1 << thread != 0)
    }
}

impl fmt::Debug for LabPlatform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LabPlatform").field("memory", &self.memory).finish_non_exhaustive()
    }
}

thread_local! {
    /// The safeguard that core or driver leave out on this thread's platforms.
    static OMITTED: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Leaves `safeguard` out of the core in every world that this thread explores while the returned value lives: a bug on purpose, to show that it is found.
pub fn omit(safeguard: Safeguard) -> Omitted {
    omit_named(safeguard.name())
}

/// As [`omit`], for a safeguard of a driver, by the name that [`Platform::omits`] is asked.
pub fn omit_named(safeguard: &'static str) -> Omitted {
    OMITTED.set(Some(safeguard));
    Omitted(PhantomData)
}

/// See [`omit`].
#[must_use = "the safeguard is back as soon as this is dropped"]
#[derive(Debug)]
pub struct Omitted(PhantomData<*const ()>);

impl Drop for Omitted {
    fn drop(&mut self) {
        OMITTED.set(None);
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

    fn omits(safeguard: &'static str) -> bool {
        // An execution that is given up unwinds its threads: no driver has panicked, and what ending a bind would wait for never comes.
        let given_up = safeguard == Safeguard::EndAfterPanic.name() && is_abandoned();
        given_up || OMITTED.get() == Some(safeguard)
    }

    fn cpus(&self) -> usize {
        if self.one_cpu { 1 } else { LabThreads::cpus() }
    }

    fn cpu(&self) -> usize {
        if self.one_cpu { 0 } else { LabThreads::cpu() }
    }

    fn thread(&self) -> usize {
        LabThreads::thread()
    }
}

/// Makes the machine's steps the exploration's.
#[derive(Clone, Copy, Debug)]
pub struct LabHook {
    /// All of them; otherwise only what devices do.
    pub fine: bool,
    /// Whose registers they are.
    pub family: Family,
    /// Whether a device's transaction comes before or after each register access, where the hardware tells of it.
    pub transactions: bool,
}

impl StepHook for LabHook {
    fn step(&self, object: &'static str, index: u64, what: &'static str, write: bool) {
        if !self.fine && object != "device" {
            return;
        }
        if object == "smmu" || object == "iommu" {
            if what != "transaction" || self.transactions {
                self.family.step(index, what, write);
            }
            return;
        }
        // A look at the clock moves virtual time on and lets lazy hardware work: it is a change, whatever it is called.
        step(object, index, what, write || object == "clock");
    }
}
