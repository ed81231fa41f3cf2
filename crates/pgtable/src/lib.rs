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
//! Formats: Arm long descriptors of stage 1 and 2 with 48 bits, with 52 bits (LPA, LPA2) and of AArch32; VT-d second stage and first stage; AMD v1, whose
//! trees grow, and v2; RISC-V Sv39 to Sv57 of both stages; x86-64. Leaves of several entries (contiguous hint, Svnapot, AMD's encoded sizes) are used where
//! the parameters allow their size.
//!
//! ```
//! use portcullis_addr::{Iova, PageSize, PageSizes, PhysAddr, Prot};
//! use portcullis_pgtable::{ArmLpaeStage1, IoPageTable, IotlbGather, PageTable, TableParams};
//! use portcullis_platform::host::HostMemory;
//! use std::sync::Arc;
//!
//! let memory = Arc::new(HostMemory::default());
//! let table = IoPageTable::<ArmLpaeStage1, HostMemory>::new(
//!     &memory,
//!     TableParams {
//!         granule: PageSize::SIZE_4K,
//!         input_bits: 48,
//!         output_bits: 48,
//!         leaf_sizes: PageSizes::ALL,
//!         force_snoop: false,
//!         coherent: true,
//!     },
//! )?;
//! table.map(Iova::new(0x20_0000), PhysAddr::new(0x8000_0000), 0x20_0000, Prot::READ | Prot::WRITE)?;
//! assert_eq!(table.look_up(Iova::new(0x20_1234)), Some(PhysAddr::new(0x8000_1234)));
//! assert_eq!(table.table_pages(), 3, "one 2 MiB block: no table of 4 KiB pages is needed");
//!
//! // The gather is what hardware must still forget before the memory may be used again.
//! let mut debt = IotlbGather::new();
//! table.unmap(Iova::new(0x20_0000), 0x20_0000, &mut debt)?;
//! assert!(!debt.is_empty());
//! # debt.confirm();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Not supported: the upper half of the address space (`TTBR1`, negative x86-64 and RISC-V addresses); hardware-managed access and dirty flags; Svpbmt; splitting a block on a partial unmap or protection change (refused with
//! [`UnmapError::SplitsLeaf`]; [`PageTable::unmap_whole_leaves`] removes the whole block and says so).
//!
//! Dependency rule: uses `addr`, `platform` and `spec`. Knows no driver, no device, no register. `no_std` + `alloc`; no `unsafe` block, one `unsafe` method ([`PageTable::free_retired`]).
#![no_std]

extern crate alloc;

mod engine;
mod format;
mod formats;
mod gather;
mod geometry;
mod params;
mod table;

pub use engine::IoPageTable;
pub use format::{Format, Level};
pub use formats::*;
pub use gather::{FlushRange, Flushed, IotlbGather};
pub use geometry::Geometry;
pub use params::{TableError, TableParams};
pub use table::{
    Dump, MapError, PageTable, ProtectError, TableConfig, TableFormat, TableRoot, UnmapError,
};
