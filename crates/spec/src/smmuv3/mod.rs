//! Arm System Memory Management Unit, architecture version 3: Arm IHI 0070, revision G.a. Section numbers ("§6.3.1") are of that document.
//!
//! Non-secure programming interface. Names are the document's; bit positions are those of the whole structure, as it prints them.

pub mod command;
pub mod event;
mod registers;
mod tables;

pub use registers::*;
pub use tables::{cd, l1cd, l1std, ste};

/// Every structure in memory, for comparison with an independent table.
pub const LAYOUTS: &[crate::Layout] = &[
    l1std::LAYOUT,
    ste::LAYOUT,
    l1cd::LAYOUT,
    cd::LAYOUT,
    command::prefetch::LAYOUT,
    command::cfgi::LAYOUT,
    command::tlbi::LAYOUT,
    command::atc_inv::LAYOUT,
    command::pri_resp::LAYOUT,
    command::resume::LAYOUT,
    command::sync::LAYOUT,
    event::LAYOUT,
];
