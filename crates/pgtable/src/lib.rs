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
//! - No table page is freed while a thread may stand in it. Unmapping leaves emptied tables in the tree. [`PageTable::reclaim`] takes them out, the
//!   gather carries them until the invalidation is confirmed, and their memory goes back in two places only: the drop of the table, which nobody else
//!   can be using, and the `unsafe` [`PageTable::free_retired`], whose caller has stopped everybody else. So walkers need neither a lock nor a counter.
//! - Unmapping never allocates.
//!
//! Not supported: 52-bit addresses (LPA, LPA2) and the upper half of the address space (`TTBR1`); hardware-managed access and
//! dirty flags; splitting a block on a partial unmap (refused with [`UnmapError::SplitsLeaf`]); changing the protection of a mapping in place.
//!
//! Dependency rule: uses `addr` and `platform`. Knows no driver, no device, no register. `no_std` + `alloc`; no `unsafe` block, one `unsafe` method ([`PageTable::free_retired`]).
#![no_std]

extern crate alloc;

mod arm_lpae;
mod engine;
mod format;
mod gather;
mod geometry;
mod params;
mod table;

pub use arm_lpae::{ArmLpaeStage1, ArmLpaeStage2};
pub use engine::IoPageTable;
pub use format::{Format, Level};
pub use gather::{FlushRange, Flushed, IotlbGather};
pub use geometry::Geometry;
pub use params::{TableError, TableParams};
pub use table::{MapError, PageTable, TableConfig, TableFormat, TableRoot, UnmapError};
