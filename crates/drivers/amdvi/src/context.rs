//! Address spaces: which domain and entry stand for a table (§2.2.2).
//!
//! A space is named by its domain. Domain 0 is that of blocked devices, 1 of those that pass; a domain is reused only after hardware has confirmed that nothing under it is cached, until then it stays in quarantine
//! together with its table.

use crate::entry::{BLOCKED, Entry};
use crate::growth::GrowingSpace;
use crate::identify::Features;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use portcullis::{AddressSpace, OpsError, SpaceTag};
use portcullis_driver_parts::{Ids, Search};
use portcullis_pgtable::{TableConfig, TableFormat, TableRoot};
use portcullis_platform::{Lock, LockLabel, Platform};
use portcullis_spec::amdvi::dte;

/// The domain of devices that pass.
const PASSING: u16 = 1;

#[derive(Debug)]
pub(crate) struct Spaces<P: Platform> {
    /// In use or in quarantine. Written under the lock, read without it.
    ids: Ids<P::Atomic>,
    records: Lock<P, Records>,
    features: Features,
    output_bits: u8,
    coherent: bool,
}

#[derive(Debug)]
struct Records {
    /// By domain.
    spaces: BTreeMap<u16, Space>,
    search: Search,
}

#[derive(Debug)]
struct Space {
    /// The entry that leads here.
    entry: Entry,
    /// Levels of the table that hardware is confirmed to walk from.
    told: u8,
    /// Hardware walks it, so it lives as long as the space.
    space: Arc<dyn AddressSpace>,
    /// An unbind was not confirmed: nothing may attach any more.
    quarantined: bool,
}

/// A table that has grown since hardware was told of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Growth {
    /// What leads to its new root.
    pub(crate) entry: Entry,
    levels: u8,
}

impl<P: Platform> Spaces<P> {
    /// No space yet; at most `limit` at the same time.
    pub(crate) fn new(
        features: &Features,
        coherent: bool,
        output_bits: u8,
        limit: u32,
        label: u64,
    ) -> Self {
        // The one domain more is that of devices that pass.
        let count = (limit as usize).saturating_add(2).min(1 << 16);
        let records = Records { spaces: BTreeMap::new(), search: Search::START };
        let ids = Ids::new(count, LockLabel::new("amdvi.used", label));
        ids.reserve(PASSING);
        Self {
            ids,
            records: Lock::<P, _>::new(LockLabel::new("amdvi.spaces", label), records),
            features: *features,
            output_bits,
            coherent,
        }
    }

    /// Keeps a domain for entries that were taken over from firmware; whether it is fit for that.
    pub(crate) fn adopt(&self, domain: u16) -> bool {
        let reserved = self.ids.reserve(domain);
        domain > PASSING && (reserved || self.is_adopted(domain))
    }

    /// Whether the domain is in use without a space of ours.
    fn is_adopted(&self, domain: u16) -> bool {
        self.ids.is_used(domain) && !self.records.lock().spaces.contains_key(&domain)
    }

    /// Names a table.
    pub(crate) fn bind(&self, space: &Arc<dyn AddressSpace>) -> Result<SpaceTag, OpsError> {
        let config = space.table().ok_or(OpsError::IncompatibleSpace)?.config();
        let (root, told) = self.check(&config)?;
        let mut records = self.records.lock();
        let domain = self.ids.take(&mut records.search).ok_or(OpsError::OutOfTags)?;
        if let Some(growing) = GrowingSpace::<P>::of(&**space) {
            growing.bound(told);
        }
        let entry = translating(domain, root, told);
        let space = Arc::clone(space);
        records.spaces.insert(domain, Space { entry, told, space, quarantined: false });
        Ok(SpaceTag(domain.into()))
    }

    /// The domain, if its space exists.
    pub(crate) fn domain(&self, tag: SpaceTag) -> Result<u16, OpsError> {
        let domain = u16::try_from(tag.0).ok().filter(|domain| *domain != PASSING);
        let used = domain.filter(|domain| self.ids.is_used(*domain));
        used.ok_or(OpsError::UnknownSpace { tag })
    }

    /// The entry that leads to the space.
    pub(crate) fn entry(&self, tag: SpaceTag) -> Result<Entry, OpsError> {
        let domain = self.domain(tag)?;
        let records = self.records.lock();
        let space = records.spaces.get(&domain).filter(|space| !space.quarantined);
        space.map(|space| space.entry).ok_or(OpsError::UnknownSpace { tag })
    }

    /// Whether the table has grown beyond what hardware was told; from now on entries lead to its new root.
    pub(crate) fn growth(&self, domain: u16) -> Option<Growth> {
        let mut records = self.records.lock();
        let space = records.spaces.get_mut(&domain)?;
        let config = space.space.table()?.config();
        let TableRoot::Amd { address, mode: levels } = config.root else { return None };
        if levels <= space.told {
            return None;
        }
        space.entry = translating(domain, address.raw(), levels);
        Some(Growth { entry: space.entry, levels })
    }

    /// Hardware walks from the new root, and has forgotten the old one.
    pub(crate) fn grown(&self, domain: u16, growth: &Growth) {
        let mut records = self.records.lock();
        let Some(space) = records.spaces.get_mut(&domain) else { return };
        if growth.levels <= space.told {
            return;
        }
        if let Some(growing) = GrowingSpace::<P>::of(&*space.space) {
            growing.walked(space.told, growth.levels);
        }
        space.told = growth.levels;
    }

    /// Stops new attachments before the space's translations are invalidated.
    pub(crate) fn quarantine(&self, tag: SpaceTag) -> Result<u16, OpsError> {
        let domain = self.domain(tag)?;
        let mut records = self.records.lock();
        let space = records.spaces.get_mut(&domain);
        space.ok_or(OpsError::UnknownSpace { tag })?.quarantined = true;
        Ok(domain)
    }

    /// The spaces whose unbinding was not confirmed.
    pub(crate) fn quarantined(&self) -> Vec<u16> {
        let records = self.records.lock();
        let spaces = records.spaces.iter().filter(|(_, space)| space.quarantined);
        spaces.map(|(domain, _)| *domain).collect()
    }

    /// Frees the domain: hardware has confirmed that it holds nothing of the space.
    pub(crate) fn free(&self, domain: u16) {
        let space = {
            let mut records = self.records.lock();
            let space = records.spaces.remove(&domain);
            if let Some(space) = &space
                && let Some(growing) = GrowingSpace::<P>::of(&*space.space)
            {
                growing.unbound(space.told);
            }
            self.ids.free(domain);
            space
        };
        // Tables are freed without the lock.
        drop(space);
    }

    /// Keeps for ever what hardware may still walk.
    pub(crate) fn leak(&mut self) {
        core::mem::forget(core::mem::take(&mut self.records.get_mut().spaces));
    }

    /// How many domains are taken, those in quarantine included.
    pub(crate) fn count(&self) -> usize {
        self.records.lock().spaces.len()
    }

    /// Whether this unit can walk the table; where it begins, and its levels.
    fn check(&self, config: &TableConfig) -> Result<(u64, u8), OpsError> {
        let TableRoot::Amd { address, mode } = config.root else {
            return Err(OpsError::IncompatibleSpace);
        };
        let fits = config.format == TableFormat::AmdV1
            && config.input_bits <= self.features.input_bits()
            && config.output_bits <= self.output_bits
            && (self.coherent || !config.coherent_walk);
        if fits { Ok((address.raw(), mode)) } else { Err(OpsError::IncompatibleSpace) }
    }
}

/// An entry that leads to a table.
fn translating(domain: u16, root: u64, levels: u8) -> Entry {
    let mut entry = permitting(domain);
    dte::MODE.write(&mut entry, levels.into());
    dte::ROOT.write(&mut entry, root >> 12);
    entry
}

/// An entry that passes addresses unchanged.
pub(crate) fn identity() -> Entry {
    permitting(PASSING)
}

fn permitting(domain: u16) -> Entry {
    let mut entry = BLOCKED;
    dte::IR.write(&mut entry, 1);
    dte::IW.write(&mut entry, 1);
    dte::DOMAIN.write(&mut entry, domain.into());
    entry
}
