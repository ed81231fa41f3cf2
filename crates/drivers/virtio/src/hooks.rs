//! The driver's safeguards by name, so that a test can leave one out and show that its checks notice: see [`Platform::omits`].

use core::fmt;
#[cfg(doc)]
use portcullis_platform::Platform;

/// Something that the driver does for safety alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Safeguard {
    /// Closes the bypass of endpoints that are attached to nothing.
    CloseBypass,
    /// Waits for the answers to requests.
    WaitForAnswers,
    /// Detaches an endpoint before it counts as blocked.
    DetachBlocked,
    /// Sends the mappings of a space again when it is attached.
    ReplayMappings,
}

impl Safeguard {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::CloseBypass, Self::WaitForAnswers, Self::DetachBlocked, Self::ReplayMappings];

    /// Its name, as [`Platform::omits`] is asked.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CloseBypass => "virtio: close the bypass",
            Self::WaitForAnswers => "virtio: wait for answers",
            Self::DetachBlocked => "virtio: detach before an endpoint is blocked",
            Self::ReplayMappings => "virtio: send mappings again at an attach",
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
