//! Devices that do DMA, and just enough of a driver for each to aim it at any bus address.

mod edu;
mod nvme;
mod virtio_pci;
mod virtio_rng;

pub use edu::Edu;
pub use nvme::{BLOCK_LEN, Nvme, NvmeBuffers, NvmeIdentity};
pub use virtio_pci::{VirtioBlocks, VirtioPci};
pub use virtio_rng::{VirtioRng, VirtioRngBuffers};

use portcullis_addr::{Iova, PhysAddr};

/// Memory that a device is told about: where the CPU finds it, and the address that the device emits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaBuffer {
    /// For the CPU.
    pub phys: PhysAddr,
    /// For the device. Equal to `phys` where no IOMMU translates.
    pub iova: Iova,
    /// Bytes.
    pub len: usize,
}
