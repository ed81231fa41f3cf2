//! RISC-V IOMMU Architecture, version 1.0 (ratified, June 2023). Sections are those of its PDF, in which registers are chapter 5, as Linux's `iommu-bits.h` cites them; later printings number the preface too
//! and so add one.
//!
//! Fields of the extensions that came later (QoS ids, non-leaf and range invalidation, reserved software bits) are left out: a unit that reports one works without it.

pub mod command;
pub mod fault;
mod registers;
mod tables;

pub use registers::*;
pub use tables::*;
