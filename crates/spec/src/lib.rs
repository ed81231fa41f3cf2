//! Bit layouts of registers, queue entries and tables, as the documents print them.
//!
//! Scope: one module per document; [`amdvi`] is AMD 48882, [`riscv`] is the RISC-V IOMMU 1.0, [`smmuv2`] is Arm IHI 0062, [`smmuv3`] is Arm IHI 0070, [`virtio`] is what a virtio-iommu needs of Virtual I/O Device 1.3, [`vtd`] is Intel's VT-d. Everything here is data: offsets, fields, numbers. No algorithm may move in. Every
//! item cites its section, every field can be reached by name ([`Layout::fields`]), so that an independently typed table can be compared with it.
//!
//! ```
//! use portcullis_spec::smmuv3::GBPA;
//!
//! // §6.3.14: what happens to transactions while the SMMU is disabled.
//! let abort = portcullis_spec::smmuv3::gbpa::ABORT;
//! assert_eq!((GBPA.offset, abort.lo(), abort.width()), (0x44, 20, 1));
//! assert_eq!(abort.name(), "ABORT");
//! ```
//!
//! Not supported: the Secure, Realm and Root register pages; fields of extensions that nobody here uses (MPAM ids, DPT, ECMDQ, MECID).
//!
//! Dependency rule: depends on nothing. A driver and the software model of its hardware share this crate and nothing else. `no_std`, no `unsafe`.
#![no_std]
#![forbid(unsafe_code)]

pub mod amdvi;
mod layout;
pub mod page_table;
pub mod riscv;
pub mod smmuv2;
pub mod smmuv3;
pub mod virtio;
pub mod vtd;

pub use layout::{Code, Field, Layout, Register};
