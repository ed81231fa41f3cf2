//! Intel Virtualization Technology for Directed I/O, architecture specification, order number D51397, revision 4.1. The document itself was not at hand. Offsets, fields and numbers were read off OpenBSD's `dmarreg.h`, Intel's register
//! descriptions of its 14th generation processors, and Linux's and QEMU's headers, which the golden table names row by row; sections are cited as these programs cite them.
//!
//! Scope: the registers, structures and descriptors of DMA remapping in legacy and in scalable mode. Interrupt remapping, page requests, device TLBs, performance monitoring, virtual commands and advanced fault logging are left out but for
//! the capability bits that announce them.

pub mod descriptor;
pub mod fault;
mod registers;
pub mod tables;

pub use registers::*;
