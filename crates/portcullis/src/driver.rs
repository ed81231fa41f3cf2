//! What a device's driver gives the core.

use crate::description::{DeviceDescription, FwNode};
use crate::dma::DmaHandle;
use crate::error::DmaError;
use crate::member::DeviceId;
use crate::ops::Fault;
use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;
use portcullis_platform::Platform;

/// A driver: makes a device work.
///
/// # What a callback may call
///
/// `probe`, `remove` and `on_fault` run while the core holds the device: nobody else binds or unbinds it meanwhile. So the calls that would bind or unbind *this* device
/// ([`bind`](crate::Subsystem::bind), [`unbind`](crate::Subsystem::unbind), [`remove_device`](crate::Subsystem::remove_device)) answer
/// [`BindError::WithinCallback`](crate::BindError::WithinCallback) at once, and [`run_deferred`](crate::Subsystem::run_deferred) leaves its retry for later. Everything else works,
/// looking at the device too: [`Device::stage`](crate::Device::stage) says where it stood before the callback. About *other* devices everything works; drivers
/// that bind and unbind each other's devices must agree on an order (a bus before what is on it), as they must with locks.
///
/// # Panics
///
/// A driver that panics where panics unwind loses its device: its handle is void, what it mapped is removed, the device's streams are blocked, and its stage is
/// [`Failed`](crate::DeviceStage::Failed) with [`FailedReason::Panicked`](crate::FailedReason::Panicked). Other devices are not affected. The panic goes on to whoever called the core.
#[doc(alias = "device_driver")]
pub trait Driver<P: Platform>: Send + Sync {
    /// Its name in reports.
    fn name(&self) -> &str;

    /// Takes `device` over. `dma` is its final way to memory; it stays valid until [`BoundDriver::remove`] returns.
    ///
    /// May be called again after it failed or deferred, never while it runs for the same device.
    ///
    /// # Errors
    ///
    /// [`ProbeError::Defer`] to be called again when that node's supplier has been registered, [`ProbeError::Failed`] or [`ProbeError::Dma`] to give up. `dma` is void
    /// then, and mappings that were made through it and not given back are removed.
    fn probe(
        &self,
        device: &ProbeContext<'_>,
        dma: DmaHandle<P>,
    ) -> Result<Box<dyn BoundDriver>, ProbeError>;
}

/// The device that a driver is to take over.
#[derive(Clone, Copy, Debug)]
pub struct ProbeContext<'a> {
    id: DeviceId,
    description: &'a DeviceDescription,
}

impl<'a> ProbeContext<'a> {
    pub(crate) fn new(id: DeviceId, description: &'a DeviceDescription) -> Self {
        Self { id, description }
    }

    /// Its number.
    pub fn id(&self) -> DeviceId {
        self.id
    }

    /// What the machine's description says of it.
    pub fn description(&self) -> &'a DeviceDescription {
        self.description
    }

    /// The name that reports use.
    pub fn path(&self) -> &'a str {
        &self.description.path
    }
}

/// A driver's hold on one device. Dropped after [`remove`](Self::remove). What its callbacks may call: see [`Driver`].
pub trait BoundDriver: Send {
    /// Quiesces the device: no DMA is in flight any more when this returns. Then the driver's handle is void, and the core removes what is left mapped, with one
    /// invalidation; buffers that `self` still has can be unmapped when it is dropped, which costs nothing more.
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
    /// The DMA handle could not do what the driver needs. In a probe, `?` makes it of every failure of the handle and of an allocation of DMA memory.
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

/// So that `?` works in a probe on whatever a [`DmaHandle`] and an allocation of DMA memory refuse. A buffer in the failure is dropped: its memory goes back if nothing was mapped, and is leaked if it is in quarantine.
impl<E: Into<DmaError>> From<E> for ProbeError {
    fn from(error: E) -> Self {
        Self::Dma(error.into())
    }
}
