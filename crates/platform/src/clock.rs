//! Time, and waits that end.

use alloc::sync::Arc;
use core::fmt;

/// Nanoseconds since some fixed point, or a duration in nanoseconds.
pub type Nanos = u64;

/// A monotonic clock.
pub trait Clock: Send + Sync + 'static {
    /// Nanoseconds since a fixed point; never goes back.
    fn now(&self) -> Nanos;
    /// Called between two looks at a condition: a pause instruction, a yield, or a step of virtual time.
    ///
    /// On a platform with virtual time each call must move [`now`](Self::now) on, or a bounded wait would not end.
    fn relax(&self);
}

impl<C: Clock> Clock for Arc<C> {
    fn now(&self) -> Nanos {
        (**self).now()
    }

    fn relax(&self) {
        (**self).relax();
    }
}

/// A wait for hardware reached its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeout {
    /// The bound, in nanoseconds.
    pub after: Nanos,
}

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no answer within {} us", self.after / 1000)
    }
}

impl core::error::Error for Timeout {}

/// Looks at `condition` until it holds, for at most `bound` nanoseconds.
///
/// The condition is looked at once more after the bound has passed, so a thread that was not scheduled for long does not mistake that for silence.
///
/// # Errors
///
/// [`Timeout`] when the condition did not hold within the bound.
pub fn wait_for<C: Clock + ?Sized>(
    clock: &C,
    bound: Nanos,
    mut condition: impl FnMut() -> bool,
) -> Result<(), Timeout> {
    if condition() {
        return Ok(());
    }
    let start = clock.now();
    loop {
        let expired = clock.now().saturating_sub(start) >= bound;
        if condition() {
            return Ok(());
        }
        if expired {
            return Err(Timeout { after: bound });
        }
        clock.relax();
    }
}
