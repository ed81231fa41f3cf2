//! Driver for Arm's System MMU version 2 and the MMU-500: Arm IHI 0062, revision D.c. Non-secure interface.
//!
//! [`Smmu::bring_up`] takes a unit over in whatever state it is found, has every stream fault first, and returns an instance that serves. Through [`IommuOps`] the core then claims
//! streams (ids under a mask), names page tables, attaches, invalidates, and collects faults.
//!
//! - `unit`, `block`: its register blocks and bounded waits.
//! - `identify`: id registers to [`Features`], refusal of what this driver cannot drive.
//! - `quirks`: what integrations did to the unit.
//! - `probe`: take-over, blocking, stopping.
//! - `firmware`: what firmware left running, and what is to become of it; `adopt`: what goes on, and its end.
//! - `groups`: who is who: stream mapping groups.
//! - `banks`: address spaces: translation context banks.
//! - `ops`: what the core asks.
//! - `interrupt`: faults.
//! - `notice`: what the take-over found, in words.
//! - `hooks`: safeguards that a test can leave out.
//!
//! A stream is blocked when its group says "fault", and that is confirmed by a global TLB sync, which waits for what the unit has under way. A stream that matches no group faults
//! too: [`USFCFG`](portcullis_spec::smmuv2::global0::scr0::USFCFG) is set before anything else and never cleared.
//!
//! Streams that firmware left running (the display's, which shows the boot picture) are blocked with all others, or adopted, by [`Options::firmware_streams`]. Firmware's match register and our
//! group for the stream are one and the same then, so that it changes its destination by one store; what it let pass it reaches through a table of its client's reserved regions from the bring-up
//! on. [`Smmu::firmware_streams`] says what there was and what became of it.
//!
//! A unit of several register blocks that must be programmed alike is one to everybody above ([`Smmu::bring_up_mirrored`]).
//!
//! Every wait has a bound ([`SYNC_BOUND`]), after which the unit counts as dead until it is seen idle again. Locks: `smmu2.groups`, `smmu2.banks`; neither is held while hardware is waited for,
//! nor taken inside the other.
//!
//! ```
//! use portcullis::IommuOps;
//! use portcullis_machine::{Machine, MachinePlatform, SmmuV2Profile};
//! use portcullis_platform::host::HostThreads;
//! use portcullis_smmuv2::{Options, Smmu};
//! use std::sync::Arc;
//!
//! let machine = Machine::builder().build();
//! let registers = machine.add_smmuv2(SmmuV2Profile::mmu500()).registers();
//! let platform = Arc::new(MachinePlatform::<HostThreads>::new(&machine));
//! let smmu = Smmu::bring_up(platform, registers, Options::default())?;
//! // It is ready to be handed to `Subsystem::register`; until a device is attached, everything faults.
//! assert!(smmu.capabilities().id_bits >= 15);
//! # Ok::<(), portcullis_smmuv2::BringUpError>(())
//! ```
//!
//! # Not supported
//!
//! Nested translation; short descriptors; stalls (`sCR0.STALLD` is set); streams that bypass where
//! Qualcomm's firmware rewrites `S2CR` (identity domains are refused); the stream id overrides of NVIDIA's memory controller, which a kernel's driver of that controller must set; SMMUv1; address translation
//! operations; the performance monitor; broadcast TLB maintenance (`sCR0.PTM` is set); PASIDs, which the architecture does not have.
//!
//! Dependency rule: uses `addr`, `platform`, `spec`, `pgtable` and the interfaces of the core. Knows no other driver and no machine. `no_std` + `alloc`, no `unsafe`.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod adopt;
mod banks;
mod block;
mod error;
mod firmware;
mod groups;
mod hooks;
mod identify;
mod interrupt;
mod notice;
mod ops;
mod probe;
mod quirks;
mod unit;

pub use error::{BringUpCause, BringUpError};
pub use firmware::{Adoptable, Fate, FirmwareStream, FirmwareStreams, Ran, WhyBlocked};
pub use hooks::Safeguard;
pub use identify::Features;
pub use notice::Notice;
pub use quirks::{COMPATIBLE, Quirks};
pub use unit::SYNC_BOUND;

use crate::banks::Banks;
use crate::groups::Groups;
use crate::unit::Unit;
use alloc::vec::Vec;
use core::fmt;
#[cfg(doc)]
use portcullis::IommuOps;
use portcullis_platform::{Platform, Registers};

/// How a unit is to be driven: what its registers do not say.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Tells the locks of two units apart in reports.
    pub index: u64,
    /// What firmware says of coherency; overrides `IDR0.CTTW`.
    #[doc(alias = "dma-coherent")]
    pub coherent: Option<bool>,
    /// What the integration is known for: [`Quirks::of`] its `compatible` strings.
    pub quirks: Quirks,
    /// The lowest ASID and VMID minus one of this unit's address spaces: 0, but where units share them ([`Quirks::shares_tags`]). Each of those needs as many of its own as it has context banks: 128
    /// are enough for any.
    pub first_tag: u16,
    /// What becomes of streams that firmware left running: blocked, if nothing else is said.
    pub firmware_streams: FirmwareStreams,
}

/// One unit that serves.
///
/// Dropping it stops the unit; where the unit does not confirm that, the tables that it may still walk are leaked.
#[doc(alias = "arm_smmu_device")]
pub struct Smmu<P: Platform, R: Registers> {
    unit: Unit<P, R>,
    index: u64,
    features: Features,
    groups: Groups<P>,
    banks: Banks<P>,
    firmware: Vec<FirmwareStream>,
}

impl<P: Platform, R: Registers> Smmu<P, R> {
    /// What the unit can do.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// The streams that firmware had left running when the unit was taken over, and what became of each then.
    pub fn firmware_streams(&self) -> &[FirmwareStream] {
        &self.firmware
    }

    /// Address spaces that are bound, those in quarantine included.
    pub fn spaces(&self) -> usize {
        self.banks.count()
    }
}

impl<P: Platform, R: Registers> fmt::Debug for Smmu<P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Smmu")
            .field("index", &self.index)
            .field("features", &self.features)
            .finish_non_exhaustive()
    }
}
