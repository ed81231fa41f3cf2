//! AMD I/O Virtualization Technology (IOMMU), document 48882, revision 3. Sections are those of its revision 3.05; page tables are in [`page_table::amd`](crate::page_table::amd).
//!
//! The document's own text could not be had; names, offsets and bits were taken from two readers of it who cite it field by field, VirtualBox's `VBox/iommu-amd.h` (revision 3.05) and Linux's
//! `amd_iommu_types.h`. Performance counters, the guest virtual APIC, SMI filters, MARC, and secure nested paging are left out.

pub mod command;
pub mod event;
mod registers;
mod tables;

pub use registers::*;
pub use tables::*;
