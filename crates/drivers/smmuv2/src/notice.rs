//! What a take-over found that whoever brings a machine up should know.

use crate::Smmu;
use crate::firmware::{Fate, FirmwareStream};
use core::fmt;
use portcullis_platform::{Platform, Registers};

/// Something about a unit that its registers or its firmware showed when it was taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Firmware had left a stream running.
    FirmwareStream(FirmwareStream),
    /// Firmware, or a hypervisor, keeps context banks for itself.
    KeptBanks {
        /// How many.
        kept: u8,
        /// How many `IDR1` counts.
        all: u8,
    },
    /// Firmware rewrites what is written to `S2CR`.
    FakedS2cr,
}

impl Notice {
    /// A stable word for its kind.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::FirmwareStream(FirmwareStream { fate: Fate::Blocked(_), .. }) => {
                "firmware-stream-blocked"
            }
            Self::FirmwareStream(_) => "firmware-stream-adopted",
            Self::KeptBanks { .. } => "banks-kept",
            Self::FakedS2cr => "s2cr-faked",
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirmwareStream(stream) => write!(f, "{stream}"),
            Self::KeptBanks { kept, all } => write!(
                f,
                "a hypervisor keeps {kept} of {all} context banks for itself: {} address spaces are left; groups beyond them stay blocked (have clients share a group, or start the kernel at EL2 without the hypervisor)",
                all - kept
            ),
            Self::FakedS2cr => f.write_str(
                "firmware rewrites S2CR (\"bypass\" becomes \"fault\", \"fault\" is ignored): identity domains are refused (use dma domains for all clients, or start the kernel at EL2 without the hypervisor)",
            ),
        }
    }
}

impl<P: Platform, R: Registers> Smmu<P, R> {
    /// What the take-over found, with remedies.
    pub fn notices(&self) -> impl Iterator<Item = Notice> {
        let (kept, usable) = (self.features.kept_banks, self.features.banks);
        let all = usable.saturating_add(kept);
        let banks = (kept > 0).then_some(Notice::KeptBanks { kept, all });
        let s2cr = self.features.s2cr_is_trapped.then_some(Notice::FakedS2cr);
        let streams = self.firmware.iter().copied().map(Notice::FirmwareStream);
        banks.into_iter().chain(s2cr).chain(streams)
    }
}
