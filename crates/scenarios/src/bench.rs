//! Where a scenario runs: an SMMUv3, four devices behind it, memory; seen the same way on every platform.

mod qemu;
mod software;

pub use qemu::QemuBench;
pub use software::SoftwareBench;

use crate::driver::Setup;
use portcullis::IommuOps;
use portcullis::StreamSpec;
use portcullis_addr::{Iova, PhysAddr, StreamId};
use portcullis_platform::{DmaMemory, Registers};
use std::fmt;

/// Which stages the SMMU must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Board {
    /// At least stage 1.
    StageOne,
    /// Stage 1 and nothing else.
    OnlyStageOne,
    /// Stage 2 and nothing else.
    OnlyStageTwo,
    /// Both.
    Nested,
}

impl fmt::Display for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StageOne => "stage 1",
            Self::OnlyStageOne => "stage 1 only",
            Self::OnlyStageTwo => "stage 2 only",
            Self::Nested => "both stages",
        })
    }
}

/// A device with a DMA engine and a buffer of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    /// On the root bus.
    First,
    /// On the root bus.
    Second,
    /// Behind a PCI Express port, so on another bus.
    Bridged,
    /// Behind a bridge to conventional PCI, which takes over its id.
    TwinA,
    /// The same bridge, so the same id.
    TwinB,
}

impl Client {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::First, Self::Second, Self::Bridged, Self::TwinA, Self::TwinB];

    /// The id with which its transactions arrive, the same on every platform (bus << 8 | device << 3 | function).
    pub const fn stream(self) -> StreamId {
        StreamId::new(match self {
            Self::First => 0x10,
            Self::Second => 0x18,
            Self::Bridged => 0x100,
            Self::TwinA | Self::TwinB => 0x200,
        })
    }

    /// The same, as a hardware driver takes it.
    pub const fn spec(self) -> StreamSpec {
        StreamSpec::exact(self.stream())
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::First => "first",
            Self::Second => "second",
            Self::Bridged => "bridged",
            Self::TwinA => "twin A",
            Self::TwinB => "twin B",
        })
    }
}

/// An interrupt output of the SMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Line {
    /// Events were recorded.
    EventQueue,
    /// A `CMD_SYNC` that asks for it has completed.
    CommandSync,
    /// `GERROR` has changed.
    GlobalError,
}

/// The platform failed, as opposed to the SMMU doing something unexpected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(pub String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// Gives a [`Failure`] its context.
pub(crate) fn failing<E: fmt::Display>(what: &'static str) -> impl Fn(E) -> Failure {
    move |error| Failure(format!("{what}: {error}"))
}

/// A machine to run one scenario on.
pub trait Bench {
    /// A word for reports.
    fn name(&self) -> String;
    /// Memory for tables, queues and buffers.
    fn memory(&self) -> &dyn DmaMemory;
    /// Copies memory out.
    fn read_bytes(&self, address: PhysAddr, bytes: &mut [u8]);
    /// Copies into memory.
    fn write_bytes(&self, address: PhysAddr, bytes: &[u8]);
    /// The SMMU's registers.
    fn smmu(&self) -> &dyn Registers;
    /// Lets a device read `len` bytes at `iova` into its buffer at `offset`. The caller is not told whether they arrived: no bus reports that.
    ///
    /// # Errors
    ///
    /// When the device does not finish.
    fn device_reads(
        &self,
        client: Client,
        iova: Iova,
        offset: usize,
        len: usize,
    ) -> Result<(), Failure>;
    /// Lets a device write `len` bytes of its buffer at `offset` to `iova`.
    ///
    /// # Errors
    ///
    /// When the device does not finish.
    fn device_writes(
        &self,
        client: Client,
        iova: Iova,
        offset: usize,
        len: usize,
    ) -> Result<(), Failure>;
    /// The interrupts since the last call, in order.
    ///
    /// # Errors
    ///
    /// When the platform does not answer.
    fn take_interrupts(&self) -> Result<Vec<Line>, Failure>;
    /// Brings the SMMU up with the real driver.
    ///
    /// # Errors
    ///
    /// The driver's reason.
    fn start_driver(&self, setup: &Setup) -> Result<Box<dyn IommuOps>, Failure>;
    /// Whether event records tell what was being accessed (`Class`, IHI 0070 §7.3). QEMU's do since 8.0.
    fn records_class(&self) -> bool;
    /// Offences of the driver or the scenario that the platform noticed by itself.
    fn offences(&self) -> Vec<String>;
}
