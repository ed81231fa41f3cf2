//! I/O page tables: one engine, many formats.
//!
//! Scope: [`PageTable`] is what a domain maps into; [`IoPageTable`] implements it for any [`Format`]; a hardware's driver makes one with the format
//! that its hardware walks. Mapping and unmapping work on disjoint ranges from several threads at once without a lock. An unmap does not
//! invalidate anything: it records what hardware may still hold in an [`IotlbGather`], a debt that only an invalidation pays.
//!
//! How it keeps its promises:
//!
//! - A call checks its whole range and takes the memory that it needs before it stores anything that hardware can see, so a failing call
//!   leaves leaves, tables and counters as they were and owes no invalidation.
//! - Every change that hardware can see is one 64-bit store; a table's contents are published before the pointer to it.
//! - A table page leaves the tree only when one call owns the whole range below it: an unmap that covers all of it, or
//!   [`PageTable::reclaim`]. It then waits in the gather, and its memory is freed by [`PageTable::retire`] after the invalidation was
//!   confirmed, or kept by [`PageTable::quarantine`]. Tables that several smaller unmaps emptied stay in the tree until one of the two, or the
//!   drop of the table.
//! - Unmapping never allocates.
//!
//! Not supported: 52-bit addresses (LPA, LPA2) and the upper half of the address space (`TTBR1`); the contiguous hint; hardware-managed access and
//! dirty flags; splitting a block on a partial unmap (refused with [`UnmapError::SplitsLeaf`]); changing the protection of a mapping in place.
//!
//! Dependency rule: uses `addr` and `platform`. Knows no driver, no device, no register. `no_std` + `alloc`, no `unsafe`.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod arm_lpae;
mod engine;
mod format;
mod gather;
mod params;
mod table;

pub use arm_lpae::{ArmLpaeStage1, ArmLpaeStage2};
pub use engine::IoPageTable;
pub use format::{Format, Geometry};
pub use gather::{FlushRange, Flushed, IotlbGather};
pub use params::{TableError, TableParams};
pub use table::{MapError, PageTable, TableConfig, TableFormat, UnmapError};
