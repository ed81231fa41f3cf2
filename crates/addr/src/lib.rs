//! Addresses and ids as types that cannot be mixed up.
//!
//! Scope: the two address spaces on either side of an IOMMU ([`Iova`] in, [`PhysAddr`] out), ranges of them,
//! page sizes, the id with which a device's transactions arrive ([`StreamId`]), and what an access may do ([`Prot`]).
//! An [`Iova`] becomes a [`PhysAddr`] only through a domain; there is deliberately no conversion here.
//!
//! ```
//! use portcullis_addr::{Iova, IovaRange, PageSize};
//!
//! let ring = IovaRange::new(Iova::new(0x1_0000), 2 * PageSize::SIZE_4K.bytes())?;
//! assert_eq!(ring.last(), Iova::new(0x1_1fff)); // inclusive, so that a range can end at the last address there is
//! assert!(ring.contains(Iova::new(0x1_1000)));
//! assert!(IovaRange::new(Iova::new(u64::MAX), 2).is_err());
//! # Ok::<(), portcullis_addr::RangeError>(())
//! ```
//!
//! Not supported: addresses wider than 64 bits; PASIDs (a later crate version).
//!
//! Dependency rule: depends on nothing but `bitflags`; every other crate may use it. `no_std`, no `alloc`, no `unsafe`.
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::cast_possible_truncation)]

mod page;
mod prot;
mod range;
mod space;

pub use page::{PageSize, PageSizes};
pub use prot::Prot;
pub use range::{IovaRange, PhysRange, Range, RangeError};
pub use space::{Address, Iova, PhysAddr, StreamId};
