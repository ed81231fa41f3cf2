//! One access of a device, and what can be said of it afterwards.

use portcullis_addr::{PhysAddr, StreamId};
use std::fmt;

/// Number of a device on its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(pub u32);

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device {}", self.0)
    }
}

/// Who touched memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Agent {
    /// Software, through [`DmaMemory`](portcullis_platform::DmaMemory).
    Cpu,
    /// IOMMU number `.0`, on its own behalf: the second field says for what (`"STE"`, `"descriptor"`, `"command"`, ...).
    Iommu(u32, &'static str),
    /// A device's data.
    Device(DeviceId),
}

impl fmt::Display for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("the CPU"),
            Self::Iommu(index, what) => write!(f, "IOMMU {index} ({what})"),
            Self::Device(device) => write!(f, "{device}"),
        }
    }
}

/// Direction of a device's access, as the device sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessKind {
    /// Memory to device.
    Read,
    /// Device to memory.
    Write,
}

impl fmt::Display for AccessKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
        })
    }
}

/// Why an access was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Passage {
    /// The device is behind no IOMMU.
    Direct,
    /// The IOMMU is disabled and its global bypass lets everything through.
    GlobalBypass,
    /// The stream's configuration says bypass.
    StreamBypass,
    /// Translated; `cached` tells a TLB hit from a fresh walk.
    Translated {
        /// Address space tag of stage 1, if stage 1 took part.
        asid: Option<u32>,
        /// Tag of the virtual machine (0 without stage 2).
        vmid: u16,
        /// Whether the translation came from the TLB.
        cached: bool,
    },
}

impl fmt::Display for Passage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("behind no IOMMU"),
            Self::GlobalBypass => f.write_str("IOMMU disabled, global bypass"),
            Self::StreamBypass => f.write_str("stream bypasses"),
            Self::Translated { asid, vmid, cached } => {
                write!(f, "translated (asid {asid:?}, vmid {vmid}, cached {cached})")
            }
        }
    }
}

/// One access that reached memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessRecord {
    /// The device.
    pub device: DeviceId,
    /// IOMMU number and stream id; `None` for a device behind none.
    pub stream: Option<(u32, StreamId)>,
    /// The address that the device emitted.
    pub address: u64,
    /// Where it landed.
    pub physical: PhysAddr,
    /// Bytes.
    pub len: u32,
    /// Direction.
    pub kind: AccessKind,
    /// Why it was let through.
    pub passage: Passage,
}

impl fmt::Display for AccessRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, address, physical, len, kind, passage, .. } = self;
        write!(f, "{device} {kind} {len} bytes at {address:#x} -> {physical}: {passage}")?;
        match self.stream {
            Some((iommu, stream)) => write!(f, " [IOMMU {iommu}, stream {stream}]"),
            None => Ok(()),
        }
    }
}
