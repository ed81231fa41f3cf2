//! Scenarios about an SMMUv3, each run on the software machine and on QEMU's emulation, and compared.
//!
//! A [`Scenario`] is written once over [`bench::Bench`]: it sets an SMMU up, by hand ([`raw`]) or with the real driver ([`driver`]), lets devices read and write
//! memory, and notes for each access what the specification (Arm IHI 0070) says beside what was seen: bytes landed or blocked; the event's
//! kind, address, direction and stage. [`compare`] runs it on both platforms. Where QEMU departs from the specification the departure is on record
//! ([`DIFFERENCES`]), so that a new one is noticed, and one that is gone too.
//!
//! [`MUTANTS`] are the driver with one kind of invalidation dropped or misdirected. Each must fail a scenario on QEMU.
//!
//! The other families' scenarios are told with [`families`], a bench that knows no family; each has a test of its own (`tests/riscv.rs`).
//!
//! Not supported here: what QEMU's SMMUv3 has not (ATS, PRI, stalls, substreams, late commands): the software machine's own tests cover those.
//!
//! [`virtio`] runs the drivers of the `virtio-drivers` crate behind the core's DMA handle.
//!
//! Dependency rule: tests only. Uses the core, the driver and both platforms; nobody uses it. `unsafe` only in `virtio`.

pub mod bench;
mod cases;
mod check;
mod compare;
pub mod driver;
pub mod families;
mod mutant;
mod pattern;
pub mod raw;
mod tamper;
pub mod virtio;

pub use cases::{Scenario, all, named};
pub use check::{Check, Class, Direction, Event, Spot};
pub use compare::{
    Comparison, DIFFERENCES, Difference, assert_told, compare, for_driver_test, run_on_qemu,
    run_on_software,
};
pub use mutant::{Action, MUTANTS, Mutant, issued, slipped_through};
pub use tamper::CommandFilter;
