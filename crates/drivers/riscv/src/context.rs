//! Address spaces: which tags and contexts stand for a table (§2.1.3).
//!
//! A space is named by its PSCID (first stage) or GSCID (second stage); the name carries what an invalidation needs, so that the hot path looks nothing up. A tag is reused only after hardware has confirmed that
//! nothing under it is cached; until then it stays in quarantine together with its table.

use crate::entry::{Entry, INVALID};
use crate::identify::Features;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use portcullis::{AddressSpace, OpsError, SpaceTag};
use portcullis_driver_parts::{Ids, Search};
use portcullis_pgtable::{TableConfig, TableFormat, TableRoot};
use portcullis_platform::{Lock, LockLabel, Platform};
use portcullis_spec::riscv::dc;

/// What a tag says by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    /// PSCID or GSCID.
    pub(crate) id: u16,
    pub(crate) second: bool,
}

const SECOND: u32 = 1 << 16;

impl Name {
    fn tag(self) -> SpaceTag {
        SpaceTag(u32::from(self.id) | if self.second { SECOND } else { 0 })
    }

    fn of(tag: SpaceTag) -> Option<Self> {
        let known = tag.0 >> 17 == 0;
        known.then_some(Self { id: tag.0 as u16, second: tag.0 & SECOND != 0 })
    }
}

#[derive(Debug)]
pub(crate) struct Spaces<P: Platform> {
    /// In use or in quarantine. Written under the lock, read without it.
    ids: Ids<P::Atomic>,
    records: Lock<P, Records>,
    features: Features,
    coherent: bool,
}

#[derive(Debug)]
struct Records {
    /// By id.
    spaces: BTreeMap<u16, Space>,
    search: Search,
}

#[derive(Debug)]
struct Space {
    name: Name,
    /// The context that leads here.
    entry: Entry,
    /// Hardware walks it, so it lives as long as the space.
    _space: Arc<dyn AddressSpace>,
    /// An unbind was not confirmed: nothing may attach any more.
    quarantined: bool,
}

impl<P: Platform> Spaces<P> {
    /// No space yet; at most `limit` at the same time. Both kinds of tag come from one range, 16 bits of a GSCID.
    pub(crate) fn new(features: &Features, coherent: bool, limit: u32, label: u64) -> Self {
        let count = (limit as usize).saturating_add(1).min(1 << 16);
        let records = Records { spaces: BTreeMap::new(), search: Search::START };
        Self {
            ids: Ids::new(count, LockLabel::new("riscv.used", label)),
            records: Lock::<P, _>::new(LockLabel::new("riscv.spaces", label), records),
            features: *features,
            coherent,
        }
    }

    /// Names a table.
    pub(crate) fn bind(&self, space: &Arc<dyn AddressSpace>) -> Result<SpaceTag, OpsError> {
        let config = space.table().ok_or(OpsError::IncompatibleSpace)?.config();
        let (second, root, mode) = self.check(&config)?;
        let mut records = self.records.lock();
        let id = self.ids.take(&mut records.search).ok_or(OpsError::OutOfTags)?;
        let name = Name { id, second };
        let entry = context(name, root, mode);
        let _space = Arc::clone(space);
        records.spaces.insert(id, Space { name, entry, _space, quarantined: false });
        Ok(name.tag())
    }

    /// What the tag says, if its space exists.
    pub(crate) fn name(&self, tag: SpaceTag) -> Result<Name, OpsError> {
        let name = Name::of(tag).filter(|name| self.ids.is_used(name.id));
        name.ok_or(OpsError::UnknownSpace { tag })
    }

    /// The context that leads to the space.
    pub(crate) fn entry(&self, tag: SpaceTag) -> Result<Entry, OpsError> {
        let unknown = OpsError::UnknownSpace { tag };
        let name = self.name(tag)?;
        let records = self.records.lock();
        let space = records.spaces.get(&name.id).filter(|space| space.name == name);
        space.filter(|space| !space.quarantined).map(|space| space.entry).ok_or(unknown)
    }

    /// Stops new attachments before the space's translations are invalidated.
    pub(crate) fn quarantine(&self, tag: SpaceTag) -> Result<Name, OpsError> {
        let unknown = OpsError::UnknownSpace { tag };
        let name = self.name(tag)?;
        let mut records = self.records.lock();
        let space = records.spaces.get_mut(&name.id).filter(|space| space.name == name);
        space.ok_or(unknown)?.quarantined = true;
        Ok(name)
    }

    /// The spaces whose unbinding was not confirmed.
    pub(crate) fn quarantined(&self) -> Vec<Name> {
        let records = self.records.lock();
        let spaces = records.spaces.values().filter(|space| space.quarantined);
        spaces.map(|space| space.name).collect()
    }

    /// Frees the tag: hardware has confirmed that it holds nothing of the space.
    pub(crate) fn free(&self, name: Name) {
        let space = {
            let mut records = self.records.lock();
            self.ids.free(name.id);
            records.spaces.remove(&name.id)
        };
        // Tables are freed without the lock.
        drop(space);
    }

    /// Keeps for ever what hardware may still walk.
    pub(crate) fn leak(&mut self) {
        core::mem::forget(core::mem::take(&mut self.records.get_mut().spaces));
    }

    /// How many tags are taken, those in quarantine included.
    pub(crate) fn count(&self) -> usize {
        self.records.lock().spaces.len()
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
