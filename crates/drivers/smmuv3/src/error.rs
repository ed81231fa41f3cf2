//! Why a unit could not be brought up.

use core::fmt;
use portcullis::{Awaited, Breakage, OpsError};
use portcullis_platform::{AllocError, Timeout};

/// Why a unit could not be brought up. It is left disabled and aborting, as far as it still answers, and everything that was taken is given back
/// (except memory that hardware may still read, which is kept for ever).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BringUpError {
    /// The register block does not hold the two pages of the architecture (§6.1).
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
    /// A control register did not take effect in time.
    Stuck {
        /// The register that was watched.
        register: &'static str,
        /// What it should have read.
        wanted: u32,
        /// What it last read.
        found: u32,
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

impl fmt::Display for BringUpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BlockTooSmall { len } => write!(
                f,
                "SMMUv3: the register block has {len:#x} bytes, two pages of 64 KiB are needed (check `reg`)"
            ),
            Self::Gone { register } => write!(
                f,
                "SMMUv3: {register} reads as all ones: no unit answers (check its clock and power, and `reg`)"
            ),
            Self::Refused { register, field, value, needs } => write!(
                f,
                "SMMUv3: {register}.{field} is {value:#x}; this driver needs {needs}; its devices stay blocked"
            ),
            Self::Stuck { register, wanted, found, timeout } => write!(
                f,
                "SMMUv3: {register} reads {found:#x} instead of {wanted:#x}: {timeout}; its devices stay blocked"
            ),
            Self::NoMemory { what, error } => write!(f, "SMMUv3: {what}: {error}"),
            Self::Commands(error) => write!(f, "SMMUv3: first invalidation: {error}"),
        }
    }
}

impl core::error::Error for BringUpError {}

impl BringUpError {
    /// The same, as an answer to the core: what stopping a unit can meet.
    pub(crate) fn as_ops_error(self) -> OpsError {
        match self {
            Self::Stuck { register, timeout, .. } => {
                OpsError::Timeout { awaited: Awaited::Register(register), timeout }
            }
            Self::Commands(error) => error,
            _ => OpsError::Hardware { breakage: Breakage::Gone, status: u64::from(u32::MAX) },
        }
    }
}
