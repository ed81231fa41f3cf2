//! Address spaces: which tags and contexts stand for a table (§2.1.3).
//!
//! A space is named by its PSCID (first stage) or GSCID (second stage).

use crate::entry::{Entry, INVALID};
use crate::identify::Features;
use alloc::sync::Arc;
use core::ops::{Deref, DerefMut};
use portcullis::{AddressSpace, OpsError, SpaceTag};
use portcullis_driver_parts::Name;
use portcullis_pgtable::{TableConfig, TableFormat, TableRoot};
use portcullis_platform::Platform;
use portcullis_spec::riscv::dc;

/// The spaces of a unit, and what its tables must be.
#[derive(Debug)]
pub(crate) struct Spaces<P: Platform> {
    named: portcullis_driver_parts::Spaces<P, Entry>,
    features: Features,
    coherent: bool,
}

impl<P: Platform> Spaces<P> {
    /// No space yet; at most `limit` at the same time. Both kinds of tag come from one range, 16 bits of a GSCID.
    pub(crate) fn new(features: &Features, coherent: bool, limit: u32, label: u64) -> Self {
        let named = portcullis_driver_parts::Spaces::new(limit, 16, label);
        Self { named, features: *features, coherent }
    }

    /// Names a table.
    pub(crate) fn bind(&self, space: &Arc<dyn AddressSpace>) -> Result<SpaceTag, OpsError> {
        let config = space.table().ok_or(OpsError::IncompatibleSpace)?.config();
        let (second, root, mode) = self.check(&config)?;
        self.named.bind(space, second, |name| context(name, root, mode))
    }

    /// Whether this unit can walk the table; which stage, where it begins, and with which mode.
    fn check(&self, config: &TableConfig) -> Result<(bool, u64, u64), OpsError> {
        let second = match config.format {
            TableFormat::RiscvFirstStage => false,
            TableFormat::RiscvSecondStage => true,
            _ => return Err(OpsError::IncompatibleSpace),
        };
        let TableRoot::Riscv { address, mode } = config.root else {
            return Err(OpsError::IncompatibleSpace);
        };
        let fits = config.input_bits <= self.features.widest(second)
            && config.output_bits <= self.features.output_bits
            && (self.coherent || !config.coherent_walk);
        if fits {
            Ok((second, address.raw(), mode.into()))
        } else {
            Err(OpsError::IncompatibleSpace)
        }
    }
}

impl<P: Platform> Deref for Spaces<P> {
    type Target = portcullis_driver_parts::Spaces<P, Entry>;

    fn deref(&self) -> &Self::Target {
        &self.named
    }
}

impl<P: Platform> DerefMut for Spaces<P> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.named
    }
}

/// A context that leads to a table.
fn context(name: Name, root: u64, mode: u64) -> Entry {
    let mut entry = identity();
    let (ppn, modes) = match name.second {
        false => (dc::FSC_PPN, dc::FSC_MODE),
        true => (dc::IOHGATP_PPN, dc::IOHGATP_MODE),
    };
    ppn.write(&mut entry, root >> 12);
    modes.write(&mut entry, mode);
    let tag = if name.second { dc::GSCID } else { dc::PSCID };
    tag.write(&mut entry, name.id.into());
    entry
}

/// A context that passes addresses unchanged.
pub(crate) fn identity() -> Entry {
    let mut entry = INVALID;
    dc::V.write(&mut entry, 1);
    entry
}

/// Which space a context leads to, if any: what must be forgotten when it changes (§6.3.1).
pub(crate) fn leads_to(entry: &Entry) -> Option<Name> {
    if !dc::V.is_set(entry[0]) {
        return None;
    }
    if dc::IOHGATP_MODE.read(entry) != 0 {
        return Some(Name { id: dc::GSCID.read(entry) as u16, second: true });
    }
    let first = dc::FSC_MODE.read(entry) != 0;
    first.then(|| Name { id: dc::PSCID.read(entry) as u16, second: false })
}
