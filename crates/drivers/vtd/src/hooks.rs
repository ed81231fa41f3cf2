//! The driver's safeguards by name, so that a test can leave one out and show that its checks notice: see [`Platform::omits`].

use core::fmt;
#[cfg(doc)]
use portcullis_platform::Platform;

/// Something that the driver does for safety alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Safeguard {
    /// Has an entry forgotten before its device counts as blocked.
    ForgetContext,
    /// Waits for the status that a wait descriptor stores, not for the head.
    WaitForStatus,
    /// Makes an entry not present before it changes more than one word of it.
    AbsentBetween,
    /// Has the words of an entry seen before it becomes present.
    PresentLast,
    /// Goes on translating while the root table is exchanged.
    StayOn,
    /// Tells hardware that caches it of entries that were not present.
    ForgetAbsent,
    /// Flushes write buffers.
    FlushWriteBuffer,
}

impl Safeguard {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::ForgetContext,
        Self::WaitForStatus,
        Self::AbsentBetween,
        Self::PresentLast,
        Self::StayOn,
        Self::ForgetAbsent,
        Self::FlushWriteBuffer,
    ];

    /// Its name, as [`Platform::omits`] is asked.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ForgetContext => "vtd: forget an entry before its device is blocked",
            Self::WaitForStatus => "vtd: wait for the status of a wait descriptor",
            Self::AbsentBetween => "vtd: not present between two entries",
            Self::PresentLast => "vtd: present last",
            Self::StayOn => "vtd: go on translating while the root table is exchanged",
            Self::ForgetAbsent => "vtd: forget what was not present",
            Self::FlushWriteBuffer => "vtd: flush write buffers",
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
