//! The driver's safeguards by name, so that a test can leave one out and show that its checks notice: see [`Platform::omits`].

use core::fmt;
#[cfg(doc)]
use portcullis_platform::Platform;

/// Something that the driver does for safety alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Safeguard {
    /// Has every entry of the device table say "nothing" before the unit is enabled.
    BlockBeforeEnable,
    /// Has an entry forgotten before its device counts as blocked.
    ForgetEntry,
    /// Has the translations of the domain that an entry leaves forgotten too.
    ForgetDomain,
    /// Waits for the store of COMPLETION_WAIT.
    WaitForCompletion,
    /// Has an entry permit nothing while more than its first word changes.
    BlockedBetween,
    /// Has the other words of an entry seen before it permits anything.
    PermitLast,
    /// Turns off the exclusion range that firmware left.
    NoExclusion,
    /// Leaves the unit on when it is stopped.
    StayOn,
    /// Tells hardware of the growth of tables one thread after the other.
    GrowOneByOne,
}

impl Safeguard {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::BlockBeforeEnable,
        Self::ForgetEntry,
        Self::ForgetDomain,
        Self::WaitForCompletion,
        Self::BlockedBetween,
        Self::PermitLast,
        Self::NoExclusion,
        Self::StayOn,
        Self::GrowOneByOne,
    ];

    /// Its name, as [`Platform::omits`] is asked.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BlockBeforeEnable => "amdvi: entries that permit nothing before the unit is on",
            Self::ForgetEntry => "amdvi: forget an entry before its device is blocked",
            Self::ForgetDomain => "amdvi: forget the domain that an entry leaves",
            Self::WaitForCompletion => "amdvi: wait for the completion",
            Self::BlockedBetween => "amdvi: permit nothing between two entries",
            Self::PermitLast => "amdvi: permit last",
            Self::NoExclusion => "amdvi: no exclusion range",
            Self::StayOn => "amdvi: stay on when stopped",
            Self::GrowOneByOne => "amdvi: tables grow one thread after the other",
        }
    }
}

impl fmt::Display for Safeguard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether a test leaves `safeguard` out on this platform.
#[inline]
pub(crate) fn omitted<P: portcullis_platform::Platform>(safeguard: Safeguard) -> bool {
    P::omits(safeguard.name())
}
