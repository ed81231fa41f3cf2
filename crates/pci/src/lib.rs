//! PCI as an IOMMU sees it: which functions there are, with which requester ids each reaches memory, and which of them nothing isolates from each other.
//!
//! A kernel that finds PCI devices has a name for each, bus, device and function. An IOMMU needs more, and leaves a hole where it is not told: a
//! function's requests may arrive under other names ([`Segment::requester_ids`]), and functions may reach each other without passing the IOMMU at all, so that giving
//! one of them to somebody gives all of them ([`Segment::groups`]).
//!
//! ```text
//!  ConfigSpace (ECAM, ports, a recording)
//!       |  enumerate: functions, bridges, bus numbers, virtual functions
//!       v
//!  Segment -- enable_acs --> requester_ids(function), groups(rule)
//! ```
//!
//! The seam is one trait, [`ConfigSpace`]: [`Ecam`] is one over registers that a kernel has mapped, [`Recorded`] one over the text of `lspci -xxxx`, and `portcullis-qemu` has one over qtest. `portcullis-firmware` turns the result into what the core is told (`DescribedDevice::enumerated`).
//!
//! ```
//! use portcullis_pci::{Bdf, Isolation, Numbering, Recorded, enumerate};
//!
//! // A kernel has an `Ecam`; this is what `lspci -xxxx` printed of a network card with two functions.
//! let header = "86 80 d3 10 00 00 10 00 00 00 00 02 00 00 80 00";
//! let config = Recorded::parse(&format!("00:03.0 x\n00: {header}\n\n00:03.1 x\n00: {header}\n"), 0)?;
//! let segment = enumerate(&config, &[0], 0..=255, Numbering::Keep)?;
//!
//! // Each reaches memory by its own id, and nothing says that they do not reach each other: one group.
//! let ids: Vec<_> = segment.functions().iter().map(|function| segment.requester_ids(function)).collect();
//! assert_eq!(ids, [[Bdf::new(0, 3, 0)], [Bdf::new(0, 3, 1)]]);
//! assert_eq!(segment.groups(Isolation::Linux), [0, 0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is promised
//!
//! - Bounded on hostile configuration space: each bus is looked at once, lists of capabilities end, numbers that cannot be are not followed. So at most 65536 functions are found, and as many virtual ones,
//!   and each costs a bounded number of accesses.
//! - What cannot be understood is not isolated: it makes a group larger, never smaller ([`Function::defect`]).
//! - Groups are formed from everything that is there, so no order of discovery changes them. Which rule is followed, and how it compares with Linux: [`Isolation`].
//!
//! # Not supported
//!
//! BARs, interrupts, hot-plug (enumerate again), CardBus; the registers by which Intel's PCH ports (before the 100 series) and Switchtec's NTBs say more; Intel's VMD, whose functions use the ids of
//! another; ACS Enhanced Capability bits (Linux does not ask for them either).
//!
//! Dependency rule: uses `portcullis-platform` for registers, and knows nothing else of the project, IOMMUs included. `no_std` + `alloc`, no `unsafe`.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod acs;
mod bdf;
mod config;
mod ecam;
mod enumerate;
mod function;
mod quirks;
mod recorded;
mod segment;
mod sets;
mod virtual_functions;

pub use acs::Acs;
pub use bdf::Bdf;
pub use config::{ConfigSpace, Width};
pub use ecam::Ecam;
pub use enumerate::{Numbering, enable_acs, enumerate};
pub use function::{BusesBelow, Defect, Function, Kind};
pub use recorded::{ReadOnly, RecordError, Recorded};
pub use segment::{Isolation, Segment};
pub use virtual_functions::enable_virtual_functions;
