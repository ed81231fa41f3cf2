//! The driver's safeguards by name, so that a test can leave one out and show that its checks notice: see [`Platform::omits`].

use core::fmt;
use portcullis_platform::Platform;

/// One step of the driver that keeps a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Safeguard {
    /// A group leads to "fault" before it matches a stream: at bring-up whatever it matches, and `S2CR` before `SMR` when it is set up. Left out, a stream goes where firmware or the
    /// group's last user left it between the two writes.
    DestinationBeforeMatch,
    /// TLB maintenance is waited for. Left out, "forgotten" is said while the unit still translates.
    TlbSync,
    /// A bank is given back only when nothing with its tag is cached. Left out, the next space finds the last one's tables.
    CleanBeforeReuse,
    /// The match register gets the mask. Left out, only one of the ids under it is matched.
    KeepMask,
}

impl Safeguard {
    /// All of them.
    pub const ALL: &[Self] =
        &[Self::DestinationBeforeMatch, Self::TlbSync, Self::CleanBeforeReuse, Self::KeepMask];

    /// Its name, as [`Platform::omits`] is asked.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DestinationBeforeMatch => "smmuv2-destination-before-match",
            Self::TlbSync => "smmuv2-tlb-sync",
            Self::CleanBeforeReuse => "smmuv2-clean-before-reuse",
            Self::KeepMask => "smmuv2-keep-mask",
        }
    }
}

impl fmt::Display for Safeguard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether a test leaves the safeguard out. `false` at compile time on any other platform.
#[inline]
pub(crate) fn omitted<P: Platform>(safeguard: Safeguard) -> bool {
    P::omits(safeguard.name())
}
