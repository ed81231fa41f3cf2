//! Why a unit could not be brought up, and what hardware's silence means for the core.

use core::fmt;
use portcullis::{Awaited, Blocking, Breakage, NodeFailure, OpsError};
use portcullis_platform::{Nanos, Timeout};

/// A unit could not be brought up. Everything that was taken is given back.
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
    /// The register block is smaller than `IDR1` says.
    BlockTooSmall {
        /// Its length in bytes.
        len: usize,
        /// What `IDR1` says.
        needed: usize,
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
        /// What the driver needs.
        needs: &'static str,
    },
    /// A register does not take what is written.
    Stuck {
        /// The register.
        register: &'static str,
        /// What it should have read.
        wanted: u32,
        /// What it read.
        found: u32,
    },
    /// The register blocks that must be programmed alike are not alike.
    Unlike {
        /// The register in which they differ.
        register: &'static str,
        /// What the first block has.
        first: u32,
        /// What another has.
        other: u32,
    },
    /// The first wait for TLB maintenance was in vain.
    Sync(OpsError),
}

impl fmt::Display for BringUpCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BlockTooSmall { len, needed } => {
                write!(
                    f,
                    "the register block has {len:#x} bytes, IDR1 says {needed:#x} (check `reg`)"
                )
            }
            Self::Gone { register } => write!(
                f,
                "{register} reads as all ones: no unit answers (check its clock and power, and `reg`)"
            ),
            Self::Refused { register, needs } => write!(f, "{register}: this driver needs {needs}"),
            Self::Stuck { register, wanted, found } => {
                write!(f, "{register} reads {found:#x} instead of {wanted:#x}")
            }
            Self::Unlike { register, first, other } => write!(
                f,
                "{register} is {first:#x} in one register block and {other:#x} in its mirror (check `reg`)"
            ),
            Self::Sync(error) => write!(f, "first TLB sync: {error}"),
        }
    }
}

impl fmt::Display for BringUpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SMMUv2: {}; {}", self.cause, self.blocking)
    }
}

impl core::error::Error for BringUpError {}

impl From<BringUpError> for NodeFailure {
    fn from(error: BringUpError) -> Self {
        Self { words: alloc::string::ToString::to_string(&error), blocking: error.blocking }
    }
}

/// The unit's registers read as all ones.
pub(crate) fn gone() -> OpsError {
    OpsError::Hardware { breakage: Breakage::Gone, status: u32::MAX.into() }
}

/// A TLB sync did not complete for so long.
pub(crate) fn unconfirmed(after: Nanos) -> OpsError {
    OpsError::Timeout { awaited: Awaited::Confirmation, timeout: Timeout { after } }
}

/// A register did not take what was written.
pub(crate) fn refused(found: u32) -> OpsError {
    OpsError::Hardware { breakage: Breakage::CommandRefused, status: found.into() }
}
