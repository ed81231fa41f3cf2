//! Access Control Services: what keeps transactions between functions from passing by the IOMMU.

use crate::bdf::Bdf;
use crate::config::ConfigSpace;
use crate::config::Width;
use crate::function::{Function, Kind};
use crate::quirks::{self, AcsQuirk};

/// Extended capability id (PCI Express Base 6.0, 7.7.11).
pub(crate) const CAPABILITY: u16 = 0x0d;
/// Its registers, where they are dwords.
pub(crate) const LEN: u16 = 12;

/// Bits of the capability and of the control register (7.7.11.2, 7.7.11.3).
pub(crate) const SOURCE_VALIDATION: u16 = 1 << 0;
pub(crate) const REQUEST_REDIRECT: u16 = 1 << 2;
pub(crate) const COMPLETION_REDIRECT: u16 = 1 << 3;
pub(crate) const UPSTREAM_FORWARDING: u16 = 1 << 4;

/// What isolates: no id is spoofed, no request or completion goes to a peer, all of it goes up (Linux 7.3, `REQ_ACS_FLAGS` in `drivers/iommu/iommu.c`).
pub(crate) const ISOLATING: u16 =
    SOURCE_VALIDATION | REQUEST_REDIRECT | COMPLETION_REDIRECT | UPSTREAM_FORWARDING;

/// The ACS capability of a function as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acs {
    /// Where it is in configuration space.
    pub offset: u16,
    /// What can be controlled.
    pub capability: u16,
    /// What is turned on.
    pub control: u16,
}

impl Acs {
    pub(crate) fn read<C: ConfigSpace>(
        config: &C,
        function: Bdf,
        offset: u16,
        wide: bool,
    ) -> Result<Self, C::Error> {
        let capability = config.read16(function, offset + 4)?;
        let control = config.read16(function, offset + Self::control_at(wide))?;
        Ok(Self { offset, capability, control })
    }

    /// Where the control register is, relative to the capability; Intel's 100 and 200 series have it where a dword for each register would put it.
    fn control_at(wide: bool) -> u16 {
        if wide { 8 } else { 6 }
    }

    /// Turns on what isolates, as far as the function can control it, and reads back what is on.
    pub(crate) fn enable<C: ConfigSpace>(
        &mut self,
        config: &C,
        function: Bdf,
        wide: bool,
    ) -> Result<(), C::Error> {
        let at = self.offset + Self::control_at(wide);
        let value = self.control | self.capability & ISOLATING;
        config.write(function, at, Width::Word, value.into())?;
        self.control = config.read16(function, at)?;
        Ok(())
    }

    /// Whether everything that isolates is on. What cannot be controlled is not needed there: the specification demands each control only of functions that could do the contrary (6.12.1).
    fn isolates(self) -> bool {
        let wanted = ISOLATING & self.capability;
        self.control & wanted == wanted
    }
}

/// Whether what `function` sends cannot reach a peer without passing the IOMMU (Linux 7.3: `pci_acs_enabled`). What could not be read does not isolate.
#[doc(alias = "pci_acs_enabled")]
pub(crate) fn isolates(function: &Function) -> bool {
    let by_acs = || function.acs.is_some_and(Acs::isolates);
    if function.defect.is_some() {
        return false;
    }
    match quirks::acs(function) {
        Some(AcsQuirk::Isolated) => return true,
        Some(AcsQuirk::NotIsolated) => return false,
        Some(AcsQuirk::WideRegisters) | None => {}
    }
    match function.kind {
        Kind::RootPort | Kind::DownstreamPort => by_acs(),
        // These have no peers but the other functions of the same device.
        Kind::Endpoint | Kind::LegacyEndpoint | Kind::UpstreamPort | Kind::IntegratedEndpoint => {
            !function.multifunction || by_acs()
        }
        // On a shared bus everybody sees everything; ACS is excluded for these (6.12.1).
        Kind::Conventional
        | Kind::ExpressToConventional
        | Kind::ConventionalToExpress
        | Kind::EventCollector
        | Kind::Unknown(_) => false,
    }
}
