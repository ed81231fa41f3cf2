//! Drivers of three devices: DMA by registers (edu), by a well-known crate (virtio-rng), by queues of its own (NVMe).

pub mod edu;
pub mod nvme;
pub mod rng;

use alloc::string::ToString;
use portcullis_iommu::ProbeError;

/// Why a probe failed, in words.
fn failed(error: impl core::fmt::Display) -> ProbeError {
    ProbeError::Failed(error.to_string())
}
