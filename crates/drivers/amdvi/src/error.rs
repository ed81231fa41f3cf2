//! Why a unit could not be brought up.

use alloc::string::ToString;
use core::fmt;
use portcullis::{Awaited, Blocking, NodeFailure, OpsError};
use portcullis_driver_parts::answer;
use portcullis_platform::{AllocError, Timeout};

/// A unit could not be brought up. Everything that was taken is given back, except memory that hardware may still read, which is kept for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BringUpError {
    /// Why.
    pub cause: BringUpCause,
    /// What the devices behind the unit can reach now.
    pub blocking: Blocking,
}

/// Why a unit could not be brought up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BringUpCause {
    /// The register block is smaller than that of the architecture.
    BlockTooSmall {
        /// Its length in bytes.
        len: usize,
    },
    /// A register reads as all ones: no unit answers there.
    Gone {
        /// The register.
        register: &'static str,
    },
    /// The unit works in a way that this driver does not.
    Refused {
        /// The register that says so.
        register: &'static str,
        /// Its field.
        field: &'static str,
        /// The field's value.
        value: u64,
        /// What the driver needs.
        needs: &'static str,
    },
    /// A control register did not take effect in time, or not at all.
    Stuck {
        /// The register that was watched.
        register: &'static str,
        /// What it should have read, under the bits that count.
        wanted: u64,
        /// What it last read.
        found: u64,
        /// The bound that passed.
        timeout: Timeout,
    },
    /// No memory for `what`, or only memory beyond the unit's addresses.
    NoMemory {
        /// What the memory was for.
        what: &'static str,
        /// The request that failed.
        error: AllocError,
    },
    /// The first invalidations were not confirmed.
    Commands(OpsError),
}

impl fmt::Display for BringUpCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BlockTooSmall { len } => {
                write!(f, "the register block has {len:#x} bytes, 16 KiB are needed")
            }
            Self::Gone { register } => write!(
                f,
                "{register} reads as all ones: no unit answers (check the IVRS table, and that the PCI capability enables the registers)"
            ),
            Self::Refused { register, field, value, needs } => {
                write!(f, "{register}.{field} is {value:#x}; this driver needs {needs}")
            }
            Self::Stuck { register, wanted, found, timeout } => {
                write!(f, "{register} reads {found:#x} instead of {wanted:#x}: {timeout}")
            }
            Self::NoMemory { what, error } => write!(f, "{what}: {error}"),
            Self::Commands(error) => write!(f, "first invalidation: {error}"),
        }
    }
}

impl fmt::Display for BringUpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AMD IOMMU: {}; {}", self.cause, self.blocking)
    }
}

impl core::error::Error for BringUpError {}

impl From<BringUpError> for NodeFailure {
    fn from(error: BringUpError) -> Self {
        Self { words: error.to_string(), blocking: error.blocking }
    }
}

impl BringUpCause {
    /// The same, after the unit has confirmed that everything is blocked. One that has vanished since confirms nothing.
    pub(crate) fn blocked(self) -> BringUpError {
        match self {
            Self::Gone { .. } => self.unknown(),
            _ => BringUpError { cause: self, blocking: Blocking::Confirmed },
        }
    }

    /// The same, when the unit has not confirmed that.
    pub(crate) fn unknown(self) -> BringUpError {
        BringUpError { cause: self, blocking: Blocking::Unknown }
    }

    /// The same, as an answer to the core: what stopping a unit can meet.
    pub(crate) fn as_ops_error(self) -> OpsError {
        match self {
            Self::Stuck { register, timeout, .. } => {
                OpsError::Timeout { awaited: Awaited::Register(register), timeout }
            }
            Self::Commands(error) => error,
            _ => answer::gone(),
        }
    }
}
