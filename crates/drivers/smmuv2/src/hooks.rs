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
    /// A stream that firmware left running goes on until its group leads to its client's address space. Left out, accesses of the time between are lost.
    GoOnUntilReplaced,
    /// A stream that firmware let pass is adopted through a table of its client's regions. Left out, it goes on reaching all of memory.
    OnlyItsRegions,
    /// No space gets a tag that firmware's own bank has while that goes on. Left out, one finds the other's translations.
    AvoidFirmwareTags,
    /// What is written to one register block is written to its mirrors too. Left out, they stay as they were found.
    ProgramMirrors,
    /// A wait is over when all register blocks say so. Left out, "forgotten" is said while a mirror still translates.
    WaitForMirrors,
}

impl Safeguard {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::DestinationBeforeMatch,
        Self::TlbSync,
        Self::CleanBeforeReuse,
        Self::KeepMask,
        Self::GoOnUntilReplaced,
        Self::OnlyItsRegions,
        Self::AvoidFirmwareTags,
        Self::ProgramMirrors,
        Self::WaitForMirrors,
    ];

    /// Its name, as [`Platform::omits`] is asked.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DestinationBeforeMatch => "smmuv2-destination-before-match",
            Self::TlbSync => "smmuv2-tlb-sync",
            Self::CleanBeforeReuse => "smmuv2-clean-before-reuse",
            Self::KeepMask => "smmuv2-keep-mask",
            Self::GoOnUntilReplaced => "smmuv2-go-on-until-replaced",
            Self::OnlyItsRegions => "smmuv2-only-its-regions",
            Self::AvoidFirmwareTags => "smmuv2-avoid-firmware-tags",
            Self::ProgramMirrors => "smmuv2-program-mirrors",
            Self::WaitForMirrors => "smmuv2-wait-for-mirrors",
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
