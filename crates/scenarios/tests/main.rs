//! Scenarios on the software machine and on QEMU. One program, so that it is linked once.

mod amdvi;
mod both;
mod core_on_qemu;
mod riscv;
mod virtio;
mod virtio_driver;
mod vtd;
