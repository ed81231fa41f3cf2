//! Address spaces: which tags and entries stand for a table.
//!
//! The name carries what an invalidation needs, so that the hot path looks nothing up. A tag is reused only after hardware has confirmed that nothing under it is cached; until then it stays in quarantine together with its table.

use crate::{Ids, Search};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use portcullis::{AddressSpace, OpsError, SpaceTag};
use portcullis_platform::{Lock, LockLabel, Platform};

/// What a tag says by itself: the number under which hardware caches, and which stage the table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// PSCID, GSCID, domain id.
    pub id: u16,
    /// The second stage.
    pub second: bool,
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

/// The address spaces of one unit; `E` is the entry that leads a device to one.
#[derive(Debug)]
pub struct Spaces<P: Platform, E> {
    /// In use or in quarantine. Written under the lock, read without it.
    ids: Ids<P::Atomic>,
    records: Lock<P, Records<E>>,
}

#[derive(Debug)]
struct Records<E> {
    /// By id.
    spaces: BTreeMap<u16, Space<E>>,
    search: Search,
}

#[derive(Debug)]
struct Space<E> {
    name: Name,
    /// What leads here.
    entry: E,
    /// Hardware walks it, so it lives as long as the space.
    _space: Arc<dyn AddressSpace>,
    /// An unbind was not confirmed: nothing may attach any more.
    quarantined: bool,
}

impl<P: Platform, E: Copy> Spaces<P, E> {
    /// No space yet; at most `limit` at the same time, with ids below `2^id_bits`. `label` tells two units apart.
    pub fn new(limit: u32, id_bits: u8, label: u64) -> Self {
        let count = (limit as usize).saturating_add(1).min(1 << id_bits.min(16));
        let records = Records { spaces: BTreeMap::new(), search: Search::START };
        Self {
            ids: Ids::new(count, LockLabel::new("iommu.tags", label)),
            records: Lock::<P, _>::new(LockLabel::new("iommu.spaces", label), records),
        }
    }

    /// Takes an id out of use for ever, for the driver's own purposes; `None` where there is none.
    pub fn reserve(&self) -> Option<u16> {
        self.ids.take(&mut self.records.lock().search)
    }

    /// Names a table; `entry` is the one that leads to it under that name.
    ///
    /// # Errors
    ///
    /// [`OpsError::OutOfTags`].
    pub fn bind(
        &self,
        space: &Arc<dyn AddressSpace>,
        second: bool,
        entry: impl FnOnce(Name) -> E,
    ) -> Result<SpaceTag, OpsError> {
        let mut records = self.records.lock();
        let id = self.ids.take(&mut records.search).ok_or(OpsError::OutOfTags)?;
        let name = Name { id, second };
        let (entry, _space) = (entry(name), Arc::clone(space));
        records.spaces.insert(id, Space { name, entry, _space, quarantined: false });
        Ok(name.tag())
    }

    /// What the tag says, if its space exists.
    ///
    /// # Errors
    ///
    /// [`OpsError::UnknownSpace`].
    pub fn name(&self, tag: SpaceTag) -> Result<Name, OpsError> {
        let name = Name::of(tag).filter(|name| self.ids.is_used(name.id));
        name.ok_or(OpsError::UnknownSpace { tag })
    }

    /// The entry that leads to the space.
    ///
    /// # Errors
    ///
    /// [`OpsError::UnknownSpace`], also for one in quarantine.
    pub fn entry(&self, tag: SpaceTag) -> Result<E, OpsError> {
        let unknown = OpsError::UnknownSpace { tag };
        let name = self.name(tag)?;
        let records = self.records.lock();
        let space = records.spaces.get(&name.id).filter(|space| space.name == name);
        space.filter(|space| !space.quarantined).map(|space| space.entry).ok_or(unknown)
    }

    /// Stops new attachments before the space's translations are invalidated.
    ///
    /// # Errors
    ///
    /// [`OpsError::UnknownSpace`].
    pub fn quarantine(&self, tag: SpaceTag) -> Result<Name, OpsError> {
        let unknown = OpsError::UnknownSpace { tag };
        let name = self.name(tag)?;
        let mut records = self.records.lock();
        let space = records.spaces.get_mut(&name.id).filter(|space| space.name == name);
        space.ok_or(unknown)?.quarantined = true;
        Ok(name)
    }

    /// The spaces whose unbinding was not confirmed.
    pub fn quarantined(&self) -> Vec<Name> {
        let records = self.records.lock();
        let spaces = records.spaces.values().filter(|space| space.quarantined);
        spaces.map(|space| space.name).collect()
    }

    /// Frees the tag: hardware has confirmed that it holds nothing of the space.
    pub fn free(&self, name: Name) {
        let space = {
            let mut records = self.records.lock();
            self.ids.free(name.id);
            records.spaces.remove(&name.id)
        };
        // Tables are freed without the lock.
        drop(space);
    }

    /// Keeps for ever what hardware may still walk.
    pub fn leak(&mut self) {
        core::mem::forget(core::mem::take(&mut self.records.get_mut().spaces));
    }

    /// How many tags are taken, those in quarantine included.
    pub fn count(&self) -> usize {
        self.records.lock().spaces.len()
    }
}
