//! The seams of [`portcullis-platform`](portcullis_platform) for a kernel on a bare machine, so that it does not have to write them.
//!
//! Scope: [`Mmio`] registers, [`LinearMemory`] over the kernel's allocator, spin locks ([`SpinLock`], [`IrqSpinLock`]), [`SpinEvent`], [`CounterClock`], the barriers and
//! cache maintenance of AArch64, riscv64 and x86-64 ([`arch`]), and [`BarePlatform`], which joins them with the few things that only the kernel knows: [`Kernel`].
//!
//! ```
//! use portcullis_bare::{BarePlatform, Kernel, LinearMap, LinearMemory};
//! use portcullis_addr::PhysRange;
//! use portcullis_platform::Platform;
//! # use std::alloc::{GlobalAlloc, Layout, System};
//! # struct FrameAllocator;
//! # unsafe impl GlobalAlloc for FrameAllocator {
//! #     unsafe fn alloc(&self, layout: Layout) -> *mut u8 { unsafe { System.alloc(layout) } }
//! #     unsafe fn dealloc(&self, at: *mut u8, layout: Layout) { unsafe { System.dealloc(at, layout) } }
//! # }
//! # mod percpu { pub fn frequency() -> u64 { 62_500_000 } pub fn count() -> usize { 1 } pub fn current() -> usize { 0 } pub fn task() -> usize { 1 } }
//! # fn ram() -> PhysRange { PhysRange::new(portcullis_addr::PhysAddr::new(0x4000_0000), 1 << 30).unwrap() }
//!
//! struct MyKernel;
//!
//! impl Kernel for MyKernel {
//!     type Frames = FrameAllocator;
//!
//!     fn cpus() -> usize {
//!         percpu::count()
//!     }
//!     fn cpu() -> usize {
//!         percpu::current()
//!     }
//!     // The current task's address does: any number but 0 that no other live thread has.
//!     fn thread() -> usize {
//!         percpu::task()
//!     }
//!     // AArch64: `arch::counter_frequency()`; riscv64: the devicetree's `timebase-frequency`.
//!     fn counter_frequency() -> u64 {
//!         percpu::frequency()
//!     }
//! }
//!
//! // RAM is mapped 1:1, cached, readable and writable, and the allocator's memory lies in it.
//! let map = unsafe { LinearMap::new(ram(), 0) };
//! let platform = BarePlatform::<MyKernel>::new(LinearMemory::new(FrameAllocator, map));
//! assert_eq!(platform.cpus(), 1);
//! ```
//!
//! # Contexts
//!
//! [`SpinLock`] is the long lock. A thread that waits for it spins and calls [`Kernel::relax`], which a kernel with a scheduler overrides in order to yield.
//! A thread that waits for work calls [`Kernel::idle`]. [`IrqSpinLock`] is the short lock; it masks
//! interrupts on its CPU while it is held. [`SpinEvent::notify_all`](portcullis_platform::RawEvent::notify_all) may be called from an interrupt handler.
//!
//! Not supported: other architectures (this crate does not build there; implement the seams yourself); highmem, that is RAM which is not mapped all the time; NUMA
//! placement; asking the allocator for memory below a limit (memory that comes back too high is refused, see [`LinearMemory`]); big-endian CPUs.
//!
//! Dependency rule: uses `addr` and `platform` only. `no_std` + `alloc`. This is where `unsafe` belongs: each module that has some says why.
#![no_std]

extern crate alloc;

pub mod arch;
mod clock;
mod event;
mod lock;
mod memory;
mod pages;
mod platform;
mod registers;

pub use clock::CounterClock;
pub use event::SpinEvent;
pub use lock::{IrqSpinLock, SpinLock};
pub use memory::{LinearMap, LinearMemory};
pub use platform::{BarePlatform, Kernel};
pub use registers::Mmio;
