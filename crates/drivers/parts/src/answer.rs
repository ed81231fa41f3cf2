//! What a driver answers the core where its unit does not do what it should.

use portcullis::{Awaited, Breakage, OpsError};
use portcullis_platform::{Nanos, Timeout};

/// The unit's registers read as all ones.
pub fn gone() -> OpsError {
    broken(Breakage::Gone, u32::MAX.into())
}

/// The unit was stopped by its driver.
pub fn shut_down() -> OpsError {
    broken(Breakage::ShutDown, 0)
}

/// Nothing was queued: there was no room for so many nanoseconds.
pub fn no_room(after: Nanos) -> OpsError {
    OpsError::Timeout { awaited: Awaited::Room, timeout: Timeout { after } }
}

/// What was queued was not confirmed for so many nanoseconds.
pub fn unconfirmed(after: Nanos) -> OpsError {
    OpsError::Timeout { awaited: Awaited::Confirmation, timeout: Timeout { after } }
}

/// The unit refused a command; `status` is what its register says of the reason.
pub fn refused(status: u64) -> OpsError {
    broken(Breakage::CommandRefused, status)
}

/// The queue stops at the same index again and again.
pub fn stopped(index: u32) -> OpsError {
    broken(Breakage::QueueStopped, index.into())
}

/// The queue's index reads as something that it cannot be.
pub fn bad_index(index: u32) -> OpsError {
    broken(Breakage::BadIndex, index.into())
}

fn broken(breakage: Breakage, status: u64) -> OpsError {
    OpsError::Hardware { breakage, status }
}
