//! Machines that are made up: what QEMU cannot build, and what no machine should be.

mod ecam;
mod hostile;
mod ids;
mod support;
