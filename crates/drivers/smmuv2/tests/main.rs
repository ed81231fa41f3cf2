//! The SMMUv2 driver on the software machine. One program, so that it is linked once.

mod driver;
mod firmware_streams;
mod integrations;
