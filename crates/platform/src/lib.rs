//! The seams: everything that the core and the drivers need from the system that they run on.
//!
//! Scope: long locks and waiting ([`RawLock`], [`RawEvent`], [`Mutex`]), short locks that interrupt handlers may take ([`RawIrqLock`], [`IrqMutex`]), words that are
//! shared without a lock ([`RawAtomic`]), per-CPU data ([`PerCpu`]), memory that hardware can read ([`DmaMemory`], [`DmaPages`]),
//! register blocks ([`Registers`]), and time ([`Clock`], [`wait_for`]); [`Platform`] bundles them. They are *type parameters*, not
//! cargo features: one binary holds the real boot (OS threads) and the explored one (scheduled coroutines) side by side. No lock lives in a `static`.
//!
//! Every wait for hardware has a bound:
//!
//! ```
//! use portcullis_platform::{Clock, Nanos, wait_for};
//! use core::sync::atomic::{AtomicU64, Ordering};
//!
//! /// A clock that moves when it is looked at.
//! struct Ticks(AtomicU64);
//!
//! impl Clock for Ticks {
//!     fn now(&self) -> Nanos {
//!         self.0.fetch_add(10, Ordering::Relaxed)
//!     }
//!
//!     fn relax(&self) {}
//! }
//!
//! let clock = Ticks(AtomicU64::new(0));
//! let silent = wait_for(&clock, 1_000, || false);
//! assert!(silent.is_err(), "hardware that never answers costs its bound, not more");
//! ```
//!
//! Not supported: NUMA placement of table memory; interrupts as objects (the owner of the interrupt line calls the driver's interrupt entry).
//!
//! Dependency rule: uses `addr` only. The core, the drivers and every platform use it. `no_std` + `alloc`; the feature `std` adds
//! [`host`], the implementation on top of the standard library. `unsafe` only in `sync` and `irq` (exclusion), `memory` and `watch` (the contract of DMA memory) and
//! the two of `host`.
#![cfg_attr(not(feature = "std"), no_std)]
#![cfg_attr(docsrs, feature(doc_cfg))]

extern crate alloc;

mod atomic;
mod clock;
mod cpu;
#[cfg(feature = "std")]
pub mod host;
#[cfg(feature = "std")]
mod host_memory;
mod irq;
mod lending;
#[cfg(feature = "lock_api")]
mod lock_api;
mod memory;
mod registers;
mod sync;
mod watch;

#[cfg(target_has_atomic = "64")]
pub use atomic::NativeAtomic;
pub use atomic::RawAtomic;
pub use clock::{Clock, Nanos, Timeout, wait_for};
pub use cpu::PerCpu;
pub use irq::{IrqMutex, RawIrqLock};
pub use lending::{LendingBook, LendingWatch, Misuse};
#[cfg(feature = "lock_api")]
pub use lock_api::LockApi;
pub use memory::{AllocError, Coherency, DmaMemory, DmaPages, PageLayout};
pub use registers::Registers;
pub use sync::{LockLabel, Mutex, MutexGuard, RawEvent, RawLock};
pub use watch::{MemoryWatch, WatchedMemory};

use alloc::sync::Arc;
use core::fmt;

/// The system that the subsystem runs on: its locks, its memory, its clock.
pub trait Platform: fmt::Debug + Send + Sync + Sized + 'static {
    /// Long locks, the mutual exclusion behind every [`Mutex`].
    type Lock: RawLock;
    /// Short locks, which interrupt handlers may take, behind every [`IrqMutex`].
    type IrqLock: RawIrqLock;
    /// How a thread sleeps until something happens.
    type Event: RawEvent;
    /// Words that are shared without a lock.
    type Atomic: RawAtomic;
    /// Memory that IOMMUs walk and devices reach.
    type Memory: DmaMemory;
    /// Monotonic time.
    type Clock: Clock;

    /// The memory.
    fn memory(&self) -> &Arc<Self::Memory>;
    /// The clock.
    fn clock(&self) -> &Self::Clock;

    /// How many CPUs there can be: the number of copies of a [`PerCpu`]. At least 1, and the same at every call.
    fn cpus(&self) -> usize {
        1
    }

    /// The CPU that the caller runs on, below [`cpus`](Self::cpus). A hint: the thread may move at any time.
    fn cpu(&self) -> usize {
        0
    }

    /// A number for the calling thread of execution: the same at each of its calls, different from that of every other thread that has not ended, and not 0. On a kernel this may be the
    /// address of the current task. By it the core notices a callback of a driver that asks for what would wait for the callback itself.
    fn thread(&self) -> usize;

    /// Who is told of memory that is lent to devices; nobody, unless somebody debugs. Asked at each map and unmap, and removed by the compiler where the answer is this default.
    #[inline]
    fn lending(&self) -> Option<&dyn LendingWatch> {
        None
    }

    /// Whether the code above leaves out the protective step of that name: for tests that show that a check notices. Asked on hot paths, and removed by the compiler where
    /// the answer is this default, `false`.
    #[inline]
    #[must_use]
    fn omits(safeguard: &'static str) -> bool {
        let _ = safeguard;
        false
    }
}

/// The part of a [`Platform`] that threads synchronise with, for platforms that run on more than one kind of thread: the software machine runs on OS threads
/// ([`host::HostThreads`]) and on a schedule explorer's.
pub trait Threads: 'static {
    /// As [`Platform::Lock`].
    type Lock: RawLock;
    /// As [`Platform::IrqLock`].
    type IrqLock: RawIrqLock;
    /// As [`Platform::Event`].
    type Event: RawEvent;
    /// As [`Platform::Atomic`].
    type Atomic: RawAtomic;

    /// As [`Platform::cpus`].
    fn cpus() -> usize;
    /// As [`Platform::cpu`].
    fn cpu() -> usize;
    /// As [`Platform::thread`].
    fn thread() -> usize;
}

/// A [`Mutex`] on the long locks of platform `P`.
pub type Lock<P, T> = Mutex<T, <P as Platform>::Lock>;

/// An [`IrqMutex`] on the short locks of platform `P`.
pub type IrqLock<P, T> = IrqMutex<T, <P as Platform>::IrqLock>;
