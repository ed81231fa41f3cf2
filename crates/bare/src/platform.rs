//! The seams joined.

use crate::arch;
use crate::clock::CounterClock;
use crate::event::SpinEvent;
use crate::lock::{IrqSpinLock, SpinLock};
use crate::memory::LinearMemory;
use alloc::sync::Arc;
use core::alloc::GlobalAlloc;
use core::fmt;
use portcullis_platform::{NativeAtomic, Platform};

/// What only the kernel knows. Functions without `self`: there is one kernel.
pub trait Kernel: 'static {
    /// Where memory for tables, queues and buffers comes from: the kernel's frame allocator, or its heap.
    type Frames: GlobalAlloc + Send + Sync + 'static;

    /// How many CPUs there can be, at least 1; the same at every call.
    fn cpus() -> usize;

    /// The CPU that the caller runs on, below [`cpus`](Self::cpus).
    fn cpu() -> usize;

    /// A number for the thread that calls, not 0: the address of its task, or 1 + [`cpu`](Self::cpu) where each CPU runs one thread. See [`Platform::thread`].
    fn thread() -> usize;

    /// How often [`arch::counter`] counts, in Hz; the same at every call.
    fn counter_frequency() -> u64;

    /// Called again and again by whoever waits for a long lock. Yields in a kernel with a scheduler.
    fn relax() {
        core::hint::spin_loop();
    }

    /// Called again and again by whoever waits for work, until something was signalled. May return early. A kernel with a scheduler yields or sleeps.
    fn idle() {
        arch::wait_for_event();
    }
}

/// A bare machine as a [`Platform`].
pub struct BarePlatform<K: Kernel> {
    memory: Arc<LinearMemory<K::Frames>>,
    clock: CounterClock,
}

impl<K: Kernel> BarePlatform<K> {
    /// The machine whose RAM is `memory`.
    ///
    /// # Panics
    ///
    /// When the kernel says that its counter counts 0 times a second.
    pub fn new(memory: LinearMemory<K::Frames>) -> Self {
        Self { memory: Arc::new(memory), clock: CounterClock::new(K::counter_frequency()) }
    }
}

impl<K: Kernel> Platform for BarePlatform<K> {
    type Lock = SpinLock<K>;
    type IrqLock = IrqSpinLock;
    type Event = SpinEvent<K>;
    type Atomic = NativeAtomic;
    type Memory = LinearMemory<K::Frames>;
    type Clock = CounterClock;

    fn memory(&self) -> &Arc<LinearMemory<K::Frames>> {
        &self.memory
    }

    fn clock(&self) -> &CounterClock {
        &self.clock
    }

    fn cpus(&self) -> usize {
        K::cpus()
    }

    fn cpu(&self) -> usize {
        K::cpu()
    }

    fn thread(&self) -> usize {
        K::thread()
    }
}

impl<K: Kernel> fmt::Debug for BarePlatform<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BarePlatform").field("memory", &self.memory).finish_non_exhaustive()
    }
}
