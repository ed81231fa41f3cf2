//! The driver on the software machine: ordinary life, broken hardware, planted bugs.

mod basic;
mod world;
