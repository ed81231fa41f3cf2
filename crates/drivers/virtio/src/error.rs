//! Why a device could not be brought up.

use alloc::string::ToString;
use core::fmt;
use portcullis::{Awaited, Blocking, NodeFailure, OpsError};
use portcullis_driver_parts::answer;
use portcullis_platform::{AllocError, Timeout};

/// A device could not be brought up. Everything that was taken is given back, except memory that the device may still read, which is kept for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BringUpError {
    /// Why.
    pub cause: BringUpCause,
    /// What the endpoints behind the device can reach now.
    pub blocking: Blocking,
}

/// Why a device could not be brought up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BringUpCause {
    /// The register block is smaller than what the transport has there.
    BlockTooSmall {
        /// Its length in bytes.
        len: usize,
        /// What is needed.
        needed: usize,
    },
    /// The registers read as all ones: no device answers there.
    Gone,
    /// A register says that it is another device, or none.
    NotOurs {
        /// The register.
        register: &'static str,
        /// What it reads.
        found: u32,
        /// What it should read.
        wanted: u32,
    },
    /// The device does not offer something that the driver cannot do without.
    Lacks {
        /// The feature.
        feature: &'static str,
    },
    /// The device does not take the features that it offers.
    FeaturesRefused {
        /// What the driver accepted.
        accepted: u64,
    },
    /// A field of the configuration says what cannot be.
    Configuration {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// The configuration changes whenever it is read.
    Restless,
    /// The device does not reset.
    NoReset {
        /// Its status.
        found: u32,
        /// The bound that passed.
        timeout: Timeout,
    },
    /// The field `bypass` of the configuration does not keep 0: endpoints that are attached to nothing reach all memory.
    BypassOpen {
        /// What it reads.
        found: u8,
    },
    /// The device says that it cannot go on (`DEVICE_NEEDS_RESET`), as soon as it was started.
    NeedsReset,
    /// No memory for `what`.
    NoMemory {
        /// What the memory was for.
        what: &'static str,
        /// The request that failed.
        error: AllocError,
    },
}

impl fmt::Display for BringUpCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BlockTooSmall { len, needed } => {
                write!(f, "the register block has {len:#x} bytes, {needed:#x} are needed")
            }
            Self::Gone => f.write_str("its registers read as all ones: no device answers"),
            Self::NotOurs { register, found, wanted } => {
                write!(f, "{register} reads {found:#x}, and {wanted:#x} would be a virtio-iommu")
            }
            Self::Lacks { feature } => write!(f, "it does not offer {feature}"),
            Self::FeaturesRefused { accepted } => {
                write!(f, "it does not take features {accepted:#x}, which it offers")
            }
            Self::Configuration { field, value } => {
                write!(f, "{field} of its configuration is {value:#x}")
            }
            Self::Restless => f.write_str("its configuration changes whenever it is read"),
            Self::NoReset { found, timeout } => {
                write!(f, "it does not reset: its status reads {found:#x}, {timeout}")
            }
            Self::BypassOpen { found } => {
                write!(f, "`bypass` of its configuration reads {found:#x} after 0 was written")
            }
            Self::NeedsReset => f.write_str("it asks for a reset as soon as it was started"),
            Self::NoMemory { what, error } => write!(f, "{what}: {error}"),
        }
    }
}

impl fmt::Display for BringUpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "virtio-iommu: {}; {}", self.cause, self.blocking)
    }
}

impl core::error::Error for BringUpError {}

impl From<BringUpError> for NodeFailure {
    fn from(error: BringUpError) -> Self {
        Self { words: error.to_string(), blocking: error.blocking }
    }
}

impl BringUpCause {
    /// The same, after the device has confirmed that its bypass is closed and stays so over a reset. One that has vanished since confirms nothing.
    pub(crate) fn blocked(self) -> BringUpError {
        match self {
            Self::Gone => self.unknown(),
            _ => BringUpError { cause: self, blocking: Blocking::Confirmed },
        }
    }

    /// The same, when it has not.
    pub(crate) fn unknown(self) -> BringUpError {
        BringUpError { cause: self, blocking: Blocking::Unknown }
    }

    /// The same, as an answer to the core: what a reset can meet.
    pub(crate) fn as_ops_error(self) -> OpsError {
        match self {
            Self::NoReset { timeout, .. } => {
                OpsError::Timeout { awaited: Awaited::Register("device status"), timeout }
            }
            Self::NeedsReset => answer::stopped(0),
            _ => answer::gone(),
        }
    }
}
