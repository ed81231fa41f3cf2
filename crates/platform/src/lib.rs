//! The seams: everything that the core and the drivers need from the system they run on.
//!
//! Scope: locks and waiting ([`RawLock`], [`RawEvent`], [`Mutex`]), memory that hardware can read ([`DmaMemory`], [`DmaPages`]),
//! register blocks ([`Registers`]), and time ([`Clock`], [`wait_for`]); [`Platform`] bundles them. They are *type parameters*, not
//! cargo features: one binary holds the real boot (OS threads) and the explored one (scheduled coroutines) side by side. No lock lives in a `static`.
//!
//! Not supported: NUMA placement of table memory; interrupts as objects (whoever owns the line calls the driver's interrupt entry).
//!
//! Dependency rule: uses `addr` only. The core, the drivers and every platform use it. `no_std` + `alloc`; the feature `std` adds
//! [`host`], the implementation on top of the standard library. `unsafe` only in `sync`.
#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

mod clock;
#[cfg(feature = "std")]
pub mod host;
mod memory;
mod registers;
mod sync;

pub use clock::{Clock, Nanos, Timeout, wait_for};
pub use memory::{AllocError, DmaMemory, DmaPages, PageLayout};
pub use registers::Registers;
pub use sync::{LockLabel, Mutex, MutexGuard, RawEvent, RawLock};

use alloc::sync::Arc;
use core::fmt;

/// The system that the subsystem runs on: its locks, its memory, its clock.
pub trait Platform: fmt::Debug + Send + Sync + Sized + 'static {
    /// The mutual exclusion behind every [`Mutex`].
    type Lock: RawLock;
    /// How a thread sleeps until something happens.
    type Event: RawEvent;
    /// Memory that IOMMUs walk and devices reach.
    type Memory: DmaMemory;
    /// Monotonic time.
    type Clock: Clock;

    /// The memory.
    fn memory(&self) -> &Arc<Self::Memory>;
    /// The clock.
    fn clock(&self) -> &Self::Clock;
}

/// A [`Mutex`] on the locks of platform `P`.
pub type Lock<P, T> = Mutex<T, <P as Platform>::Lock>;
