//! The core's safeguards by name, so that a test can leave one out and show that its checks notice.
//!
//! The platform says which ones are left out ([`Platform::omits`]). A product's platform keeps the default, "none", and the compiler then removes
//! every question together with the code behind it.

use core::fmt;
use portcullis_platform::Platform;

macro_rules! safeguards {
    ($($(#[$doc:meta])+ $name:ident = $word:literal,)+) => {
        /// One step of the core that keeps a promise.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Safeguard {
            $($(#[$doc])+ $name,)+
        }

        impl Safeguard {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Its name, as [`Platform::omits`] is asked.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)+
                }
            }
        }
    };
}

safeguards! {
    /// Who finds a group's set-up under way waits for its end. Left out, "begun" is taken for "done" and the driver runs with direct DMA: the race that started this project.
    WaitForSetUp = "wait-for-set-up",
    /// A group shows its domain only when the streams lead there.
    AttachBeforeShowing = "attach-before-showing",
    /// The streams lead to the domain before the driver gets its handle.
    AttachBeforeProbe = "attach-before-probe",
    /// "Is it there?" and "then I wait" are one critical section. Left out, a registration between them wakes nobody.
    LookAndWaitTogether = "look-and-wait-together",
    /// The domain is made under the group lock.
    SetUpUnderGroupLock = "set-up-under-group-lock",
    /// Whoever takes the group lock to make a domain looks again whether there is one.
    LookAgain = "look-again",
    /// The device lock is held while the driver's probe runs.
    LockOverProbe = "lock-over-probe",
    /// Who waits when a registration fails is told of the one that succeeds later.
    WaitOnFailure = "wait-on-failure",
    /// A device behind several IOMMUs gets each one's instance.
    EachInstance = "each-instance",
    /// Who was woken leaves the list of waiters.
    WokenLeave = "woken-leave",
    /// An IOMMU is not taken out under bound drivers.
    RefuseWhileBound = "refuse-while-bound",
    /// Unbinding waits until nobody is inside an operation of the driver's handles before it removes what is left mapped.
    DrainHandles = "drain-handles",
    /// A bind whose driver panics is ended on the way of the unwinding.
    EndAfterPanic = "end-after-panic",
    /// "Not confirmed" is said to whoever asked for the device to be blocked, and kept in the reports.
    SayUnconfirmed = "say-unconfirmed",
    /// A refused unregistration gives the groups that it detached their domains back.
    RestoreAfterRefusal = "restore-after-refusal",
    /// Who began to wait while an unregistration was under way is tried again when that is refused.
    WakeAfterRefusal = "wake-after-refusal",
    /// A device stands once in a list of waiters, and leaves it when it no longer waits.
    WaitOnce = "wait-once",
    /// A group that its outside owner lets go gets its domain, and its devices their retry.
    WakeOnRelease = "wake-on-release",
    /// A range of addresses is taken out of a slab by one atomic instruction. Left out, two threads can be given the same one.
    TakeInOneStep = "take-in-one-step",
    /// Who is inside beside somebody else leaves alone what belongs to the CPU. Left out, two threads of one CPU can be given the same addresses.
    OwnSlot = "own-slot",
    /// A buffer whose mapping hardware may still hold comes back after an invalidation. Left out, a lazy unmap gives frames to others while the device reaches them.
    WaitForFlush = "wait-for-flush",
    /// The first mapping that is parked sets the time of the next flush. Left out, a driver that stops unmapping leaves its device what it has unmapped.
    FlushInTime = "flush-in-time",
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
