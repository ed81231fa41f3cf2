//! Address spaces: which domain ids and entries stand for a table.
//!
//! A space is named by a domain id and its stage. What passes unchanged has a domain id of its own, because hardware caches that too.

use crate::entry::{Entry, identity, translated};
use crate::identify::Features;
use alloc::sync::Arc;
use core::ops::{Deref, DerefMut};
use portcullis::{AddressSpace, OpsError, SpaceTag, Unsupported};
use portcullis_pgtable::{TableConfig, TableFormat, TableRoot};
use portcullis_platform::Platform;

/// The spaces of a unit, and what its tables must be.
#[derive(Debug)]
pub(crate) struct Spaces<P: Platform> {
    named: portcullis_driver_parts::Spaces<P, Entry>,
    features: Features,
    address_bits: u8,
    /// What passes addresses unchanged.
    identity: Option<Entry>,
}

impl<P: Platform> Spaces<P> {
    /// No space yet; at most `limit` at the same time, besides the unit's own limit.
    pub(crate) fn new(features: &Features, address_bits: u8, limit: u32, label: u64) -> Self {
        let limit = limit.saturating_add(1);
        let named = portcullis_driver_parts::Spaces::new(limit, features.domain_bits, label);
        let identity = named.reserve().and_then(|domain| identity(features, domain));
        Self { named, features: *features, address_bits, identity }
    }

    /// Bits of a physical address.
    pub(crate) fn address_bits(&self) -> u8 {
        self.address_bits
    }

    /// The entry that passes addresses unchanged.
    pub(crate) fn identity(&self) -> Result<Entry, OpsError> {
        self.identity.ok_or(OpsError::Unsupported(Unsupported::Identity))
    }

    /// Names a table.
    pub(crate) fn bind(&self, space: &Arc<dyn AddressSpace>) -> Result<SpaceTag, OpsError> {
        let config = space.table().ok_or(OpsError::IncompatibleSpace)?.config();
        let (second, root, levels) = self.check(&config)?;
        self.named.bind(space, second, |name| translated(&self.features, name, root, levels))
    }

    /// Whether this unit can walk the table; which stage, where it begins, and how many levels it has.
    fn check(&self, config: &TableConfig) -> Result<(bool, u64, u8), OpsError> {
        let (second, address, levels) = match (config.format, config.root) {
            (TableFormat::VtdSecondStage, TableRoot::Vtd { address, levels }) => {
                (true, address, levels)
            }
            (TableFormat::VtdFirstStage, TableRoot::X86 { address, levels }) => {
                (false, address, levels)
            }
            _ => return Err(OpsError::IncompatibleSpace),
        };
        let deep = match second {
            true => self.features.second_stage.get(usize::from(levels).wrapping_sub(3)).copied(),
            false => (levels <= self.features.first_stage).then_some(config.input_bits),
        };
        let fits = deep.is_some_and(|bits| bits > 0 && config.input_bits <= bits)
            && config.output_bits <= self.address_bits
            && (!config.force_snoop || self.features.snoop_control)
            && (self.features.coherent_walk || !config.coherent_walk);
        if fits { Ok((second, address.raw(), levels)) } else { Err(OpsError::IncompatibleSpace) }
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
