//! I/O page tables: one engine, many formats.
//!
//! Scope: [`PageTable`] is what a domain maps into; a table of a concrete format is made by the hardware's driver, because the format is the hardware's.
//! Mapping and unmapping work on disjoint ranges from several threads at once without a lock. An unmap does not invalidate anything: it
//! records what hardware may still hold in an [`IotlbGather`], a debt that only an invalidation pays.
//!
//! Dependency rule: uses `addr` and `platform`. Knows no driver, no device, no register. `no_std` + `alloc`, no `unsafe`.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod gather;
mod table;

pub use gather::{FlushRange, IotlbGather};
pub use table::{MapError, PageTable, TableConfig, TableFormat, UnmapError};
