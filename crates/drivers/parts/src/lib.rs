//! What hardware drivers have in common whose units read tables and queues in memory by themselves: SMMUv3, RISC-V, VT-d and AMD-Vi so far.
//!
//! Nothing here knows a register, a bit or a command.
//!
//! - [`HardwarePages`]: memory that a unit reads or writes on its own, and that is not freed before the unit has stopped.
//! - [`Claims`]: whose streams are whose, who changes an entry, and of which entries hardware has not confirmed that they block.
//! - [`Ids`], [`Spaces`]: the tags of address spaces, and the spaces that have one.
//! - [`entry`]: how an entry changes while hardware reads it.
//! - [`CommandQueue`]: a queue of commands that several threads fill and one unit empties, but for the form of the commands and the registers ([`Consumer`]); [`Ring`] is its memory.
//! - [`Line`], [`Failures`]: of such a queue: who waits for room, and whose command was refused.
//! - [`answer`]: what the core is told where a unit does not do what it should.
//!
//! ```
//! use portcullis_driver_parts::{Ids, Search};
//! use portcullis_platform::{LockLabel, NativeAtomic};
//!
//! // A unit with 16 tags for what it caches; 0 stays unused.
//! let ids = Ids::<NativeAtomic>::new(16, LockLabel::new("asids", 0));
//! let mut search = Search::START;
//! let first = ids.take(&mut search);
//! assert_eq!(first, Some(1));
//! ids.free(1);
//! assert_eq!(ids.take(&mut search), Some(2), "an id is used again as late as possible");
//! ```
//!
//! Not supported: units that keep their state in registers (SMMUv2), and those that are told everything by requests (virtio-iommu), beyond [`Claims`] and [`Ids`].
//!
//! Dependency rule: uses `addr`, `platform` and the interfaces of the core. Knows no driver. `no_std` + `alloc`, no `unsafe`.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod answer;
mod claims;
mod command_queue;
pub mod entry;
mod failures;
mod ids;
mod line;
mod memory;
mod ring;
mod spaces;

pub use claims::{Claims, Held, Stream};
pub use command_queue::{CommandQueue, Consumer, Standing};
pub use failures::{Failures, Submitted};
pub use ids::{Ids, Search};
pub use line::Line;
pub use memory::{HardwarePages, Running};
pub use ring::{Ring, Words};
pub use spaces::{Name, Spaces};
