//! The driver's safeguards by name, so that a test can leave one out and show that its checks notice: see [`Platform::omits`].

use core::fmt;
#[cfg(doc)]
use portcullis_platform::Platform;

/// Something that the driver does for safety alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Safeguard {
    /// Has a context forgotten before its device counts as blocked.
    ForgetContext,
    /// Waits for the fence behind commands.
    WaitForFence,
    /// Makes a context invalid before it changes more than one word of it.
    InvalidBetween,
    /// Has the words of a context seen before it becomes valid.
    ValidLast,
    /// Waits until the unit says that it is off.
    WaitUntilOff,
}

impl Safeguard {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::ForgetContext,
        Self::WaitForFence,
        Self::InvalidBetween,
        Self::ValidLast,
        Self::WaitUntilOff,
    ];

    /// Its name, as [`Platform::omits`] is asked.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ForgetContext => "riscv: forget a context before its device is blocked",
            Self::WaitForFence => "riscv: wait for the fence",
            Self::InvalidBetween => "riscv: invalid between two contexts",
            Self::ValidLast => "riscv: valid last",
            Self::WaitUntilOff => "riscv: wait until the unit is off",
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
