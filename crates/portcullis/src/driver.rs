//! What a device's driver gives the core.

use crate::description::FwNode;
use crate::device::Device;
use crate::dma::DmaHandle;
use crate::error::DmaError;
use crate::ops::Fault;
use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;
use portcullis_platform::Platform;

/// A driver: makes a device work.
#[doc(alias = "device_driver")]
pub trait Driver<P: Platform>: Send + Sync {
    /// A word for reports.
    fn name(&self) -> &str;

    /// Takes `device` over. `dma` is its final way to memory; it stays valid until [`BoundDriver::remove`] returns.
    ///
    /// May be called again after it failed or deferred, never while it runs for the same device.
    ///
    /// # Errors
    ///
    /// [`ProbeError::Defer`] to be called again when that node's supplier has been registered, [`ProbeError::Failed`] or [`ProbeError::Dma`] to give up. Mappings that
    /// were made through `dma` and not given back are removed then, or, where another device of the group has a driver, with the group's last driver.
    fn probe(
        &self,
        device: &Device<P>,
        dma: DmaHandle<P>,
    ) -> Result<Box<dyn BoundDriver>, ProbeError>;
}

/// A driver's hold on one device. Dropped after [`remove`](Self::remove).
pub trait BoundDriver: Send {
    /// Quiesces the device: no DMA is in flight any more when this returns. Mappings that are left over when `self` has been dropped are removed by
    /// the core when the group has no driver any more; memory behind them must not be reused before.
    fn remove(&mut self) {}

    /// An IOMMU refused one of the device's accesses.
    fn on_fault(&mut self, fault: &Fault) {
        let _ = fault;
    }
}

/// Why a probe did not bind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeError {
    /// Something that the device needs is not there yet: call again when the supplier at that node was registered.
    #[doc(alias = "EPROBE_DEFER")]
    Defer(FwNode),
    /// The DMA handle could not do what the driver needs.
    Dma(DmaError),
    /// The device cannot be used.
    Failed(String),
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Defer(node) => write!(f, "waits for {node}"),
            Self::Dma(error) => write!(f, "{error}"),
            Self::Failed(reason) => f.write_str(reason),
        }
    }
}

impl core::error::Error for ProbeError {}

impl From<DmaError> for ProbeError {
    fn from(error: DmaError) -> Self {
        Self::Dma(error)
    }
}
