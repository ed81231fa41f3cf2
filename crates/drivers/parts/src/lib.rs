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
