//! What a driver answers the core where its unit does not do what it should.

use alloc::vec::Vec;
use portcullis::{Awaited, Breakage, GlobalErrors, OpsError, Serviced, StreamSpec, Unsupported};
use portcullis_addr::StreamId;
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

/// Adds what is wrong with a unit; the first status that is not 0 stays, since the errors come in the order of their weight.
pub fn tell(serviced: &mut Serviced, errors: GlobalErrors, status: u64) {
    serviced.errors |= errors;
    if serviced.status == 0 {
        serviced.status = status;
    }
}

/// The same, of a unit that answered one of its queues or registers with `error`.
pub fn tell_broken(serviced: &mut Serviced, error: &OpsError) {
    let (errors, status) = match *error {
        OpsError::Hardware { breakage: Breakage::Gone, status } => (GlobalErrors::GONE, status),
        OpsError::Hardware { status, .. } => (GlobalErrors::COMMAND, status),
        _ => (GlobalErrors::COMMAND, 0),
    };
    tell(serviced, errors, status);
}

/// The ids of `streams`, for hardware that looks them up one by one.
///
/// # Errors
///
/// [`Unsupported::StreamMask`] for one that is compared under a mask.
pub fn exact(streams: &[StreamSpec]) -> Result<Vec<StreamId>, OpsError> {
    let id = |stream: &StreamSpec| match stream.mask {
        0 => Ok(stream.id),
        _ => Err(OpsError::Unsupported(Unsupported::StreamMask(*stream))),
    };
    streams.iter().map(id).collect()
}
