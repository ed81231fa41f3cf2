//! What the data path costs: workloads, what they run on, and the floor that they are compared with.
//!
//! Scope: page tables ([`tables`]: A to H), addresses ([`spaces`]: I1 to I6), the whole of `map` and `unmap` ([`dma`]), the command queue ([`queue`]); [`report`] prints them, for
//! `portcullis bench`, and `portcullis-count` runs one of them bare under an instruction counter, for `cargo xtask counts`. The other crates that do the same work are measured on the same workloads in
//! `benches/table-peers`, which has a lock file of its own.
//!
//! ```
//! use portcullis_bench::tables::{Inlined, Ours, map_all, unmap_all, workload};
//!
//! // 64 pages in ascending order, in our table and in the least that any table must do.
//! let ascending = workload('A', 64);
//! let (mut ours, mut floor) = (Ours::new(), Inlined::new());
//! let ratio = map_all(&mut ours, &ascending) / map_all(&mut floor, &ascending);
//! assert!(ratio > 0.0);
//! # unmap_all(&mut ours, &ascending);
//! # unmap_all(&mut floor, &ascending);
//! ```
//!
//! Times are the measuring thread's processor time, best of several rounds, and say little alone: compare within a run. With two threads it is wall time. Instruction counts are stable.
//!
//! Not supported: real hardware's share (registers here act at once); processors of which two threads share a core.
//!
//! Dependency rule: uses the core, the SMMUv3 driver and everything below. `unsafe` only in `pool` (memory without a check) and `clock` (a thread's processor time).

pub mod cacheless;
pub mod clock;
pub mod count;
pub mod dma;
pub mod floor;
pub mod instant;
pub mod pool;
pub mod queue;
pub mod random;
pub mod report;
pub mod spaces;
pub mod tables;
