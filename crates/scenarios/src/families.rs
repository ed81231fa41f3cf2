//! Scenarios about any family of IOMMUs whose unit has registers, a queue of commands of two words, and devices behind it: on the software machine and on QEMU, and compared.
//!
//! A family says in [`Family`] how its unit is found on both platforms and how its driver is started, and in [`ByHand`] how a unit is programmed without a driver. What is left to write are its
//! scenarios ([`Scenario`]), QEMU's departures ([`Difference`]) and its broken drivers ([`Action`]).

mod by_hand;
mod driven;
mod platforms;
mod tamper;

pub use by_hand::{
    ByHand, Desk, Difference, Later, Scenario, assert_qemu_does, assert_software_does, page_of,
};
pub use driven::{Mutant, assert_invalidations, slips};
pub use platforms::{Emulated, Hardware, Software};
pub use tamper::{Action, Ring};

use portcullis::IommuOps;
use portcullis_addr::PhysAddr;
use portcullis_machine::{IommuModel, Machine, RegisterModel};
use portcullis_platform::{Platform, Registers};
use portcullis_qemu::Virt;
use std::sync::Arc;

/// A family of IOMMUs, as far as a scenario's platform must know it.
pub trait Family: 'static {
    /// Its unit on the software machine.
    type Model: IommuModel + RegisterModel;
    /// How its units are programmed by hand.
    type Rig: ByHand;
    /// The ids of the three devices, the same on both platforms: function 0 of three devices of the root bus (device << 3).
    const DEVICES: [u32; 3];
    /// Where the software machine's RAM of 64 MiB begins.
    const RAM: PhysAddr;
    /// A command without an effect: it stands for one that is not sent.
    const NOTHING: [u64; 2];

    /// Puts a unit like QEMU's onto the software machine.
    fn software(machine: &Machine) -> Arc<Self::Model>;

    /// QEMU's board with such a unit, without endpoints.
    fn qemu() -> Virt;

    /// Starts the driver. It must have room for exactly one address space at a time, so that each has the tag of the one before.
    fn bring_up<P: Platform, R: Registers>(platform: Arc<P>, registers: R) -> Box<dyn IommuOps>;

    /// Follows a register write of `bytes` (4 or 8) through which the command queue is moved or commands are shown. Returns the new tail, as an index, where it shows commands.
    fn follow(ring: &mut Ring, offset: usize, bytes: usize, value: u64) -> Option<u32>;
}
