//! A client of the gdb remote protocol, as far as steering a kernel needs it. Every wait has a bound.

mod client;
mod packet;
mod target;

pub(crate) use client::{Client, CoreRegisters, Stop};
#[cfg(test)]
pub(crate) use packet::{Parsed, frame, from_hex, parse, to_hex};
