//! Who owns which part of an I/O address space.
//!
//! Scope: [`IovaAllocator`] hands out ranges of one aperture, aligned as hardware and drivers want them, below a request's DMA mask, around reserved
//! ranges; takes exactly those ranges back; and lists the live ones, which unbinding needs. There is no lock inside: the caller wraps it. [`IovaSlabs`]
//! stands in front of a locked one where many ranges come and go: one atomic instruction each way, no lock.
//!
//! Structure: a radix tree over page numbers, 64 children a node, created where needed. A node knows which children are wholly free and, for each
//! other child, the largest naturally aligned free block in it. A search is one descent (a second one along the limit's edge), whatever the
//! fragmentation; memory is about 0.4 bytes a page where ranges are dense. Freeing never needs memory; allocating takes nodes
//! from a pool that is refilled before anything changes.
//!
//! Policy, all of it deterministic:
//!
//! - A range of `n` pages is aligned to the next power of two of `n` while a whole block of that size and alignment is free (the block's tail stays
//!   free), else to the largest power of two that divides `n`; and to the request's own alignment always.
//! - The highest fitting address is taken. By default addresses below 4 GiB are tried first, because many devices and some bridges handle only
//!   32 bits well, whatever they claim; [`Placement::Anywhere`] opts out.
//! - A length that is a power of two costs one descent or two. Any other length that finds no naturally aligned hole is looked for once more, hole
//!   by hole among those that hold a block of at least a quarter of it.
//!
//! ```
//! use portcullis_addr::{Iova, IovaRange, PageSize};
//! use portcullis_iova::{IovaAllocator, IovaRequest};
//!
//! let aperture = IovaRange::new(Iova::new(0), 1 << 48)?;
//! let mut addresses = IovaAllocator::new(PageSize::SIZE_4K, aperture)?;
//! addresses.reserve(IovaRange::new(Iova::new(0x800_0000), 0x10_0000)?)?; // where MSIs go
//!
//! // A device with a 32-bit DMA mask.
//! let ring = addresses.allocate(IovaRequest::new(0x4000).up_to(Iova::new(0xffff_ffff)))?;
//! assert!(ring.is_aligned(0x4000), "aligned to its size");
//! addresses.free(ring)?;
//! assert!(addresses.free(ring).is_err(), "a second time is refused, and nothing changes");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Not supported: taking a reservation back; growing an aperture.
//!
//! Dependency rule: uses `addr`, and `platform` for atomics and locks. `no_std` + `alloc`, no `unsafe`.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod allocator;
mod bits;
mod chunk;
mod error;
mod node;
mod slabs;
mod tree;

pub use allocator::{FreeRanges, IovaAllocator, IovaRequest, LiveRanges, Placement};
pub use error::{AllocateError, FreeError, NewError, ReserveError};
pub use slabs::IovaSlabs;
