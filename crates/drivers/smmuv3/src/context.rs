//! Address spaces: which ids and entries stand for a table (§3.3.2, §5.4).
//!
//! One context descriptor (stage 1) or one set of stage 2 fields per space, shared by all streams attached to it. A space is named by its ASID or VMID;
//! the name carries what an invalidation needs, so that the hot path looks nothing up. An id is reused only after hardware has
//! confirmed that nothing tagged with it is cached; until then it stays in quarantine together with its descriptor and its table.

use crate::entry::{self, Entry};
use crate::identify::{Features, GRANULES, Granule, address_size_code};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use portcullis::{AddressSpace, OpsError, SpaceTag};
use portcullis_addr::PhysAddr;
use portcullis_driver_parts::{HardwarePages, Ids, Running, Search};
use portcullis_pgtable::{ArmLpaeStage1, TableConfig, TableFormat, TableRoot};
use portcullis_platform::{DmaMemory, Lock, LockLabel, Platform};
use portcullis_spec::smmuv3::{cacheability, cd, shareability, ste};

/// What a tag says by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    /// ASID or VMID.
    pub(crate) id: u16,
    pub(crate) stage2: bool,
    /// Index into [`GRANULES`].
    granule: u8,
}

const STAGE_2: u32 = 1 << 16;
const GRANULE_SHIFT: u32 = 17;

impl Name {
    fn tag(self) -> SpaceTag {
        let stage = if self.stage2 { STAGE_2 } else { 0 };
        SpaceTag(u32::from(self.id) | stage | u32::from(self.granule) << GRANULE_SHIFT)
    }

    pub(crate) fn of(tag: SpaceTag) -> Option<Self> {
        let granule = u8::try_from(tag.0 >> GRANULE_SHIFT).ok()?;
        let stage2 = tag.0 & STAGE_2 != 0;
        let known = usize::from(granule) < GRANULES.len();
        known.then_some(Self { id: tag.0 as u16, stage2, granule })
    }

    pub(crate) fn granule(self) -> &'static Granule {
        &GRANULES[usize::from(self.granule)]
    }
}

#[derive(Debug)]
pub(crate) struct Spaces<P: Platform> {
    /// In use or in quarantine. Written under the lock, read without it.
    ids: Ids<P::Atomic>,
    records: Lock<P, Records<P::Memory>>,
    features: Features,
    coherent: bool,
    running: Running,
}

#[derive(Debug)]
struct Records<M: DmaMemory> {
    /// By id.
    spaces: BTreeMap<u16, Space<M>>,
    search: Search,
}

#[derive(Debug)]
struct Space<M: DmaMemory> {
    name: Name,
    /// The stream table entry that leads here.
    entry: Entry,
    /// Hardware walks it, so it lives as long as the space.
    _space: Arc<dyn AddressSpace>,
    /// Stage 1 only.
    _descriptor: Option<HardwarePages<M>>,
    /// An unbind was not confirmed: nothing may attach any more.
    quarantined: bool,
}

impl<P: Platform> Spaces<P> {
    /// No space yet; at most `limit` at the same time.
    pub(crate) fn new(
        features: &Features,
        coherent: bool,
        running: &Running,
        limit: u32,
        label: u64,
    ) -> Self {
        let stage1 = if features.stage1 { features.asid_bits } else { 16 };
        let stage2 = if features.stage2 { features.vmid_bits } else { 16 };
        // Id 0 is never given out: VMID 0 tags the stage 1 streams.
        let ids = (1usize << stage1.min(stage2)).min((limit as usize).saturating_add(1));
        let records = Records { spaces: BTreeMap::new(), search: Search::START };
        Self {
            ids: Ids::new(ids, LockLabel::new("smmu.used", label)),
            records: Lock::<P, _>::new(LockLabel::new("smmu.asids", label), records),
            features: *features,
            coherent,
            running: running.clone(),
        }
    }

    /// Names a table.
    pub(crate) fn bind(
        &self,
        memory: &Arc<P::Memory>,
        space: &Arc<dyn AddressSpace>,
    ) -> Result<SpaceTag, OpsError> {
        let config = space.table().ok_or(OpsError::IncompatibleSpace)?.config();
        let granule = self.check(&config)?;
        let stage2 = config.format == TableFormat::ArmLpaeStage2;
        let descriptor = if stage2 {
            None
        } else {
            let bits = self.features.output_bits;
            Some(HardwarePages::new(memory, &self.running, cd::BYTES, bits)?)
        };
        let mut records = self.records.lock();
        let Some(id) = self.ids.take(&mut records.search) else {
            drop(records);
            if let Some(pages) = descriptor {
                pages.release();
            }
            return Err(OpsError::OutOfTags);
        };
        let name = Name { id, stage2, granule };
        let entry = match &descriptor {
            Some(pages) => {
                write_descriptor(pages, &self.descriptor(name, &config));
                self.stage1_entry(pages.address())
            }
            None => self.stage2_entry(name, &config),
        };
        let (_space, _descriptor) = (Arc::clone(space), descriptor);
        let space = Space { name, entry, _space, _descriptor, quarantined: false };
        records.spaces.insert(id, space);
        Ok(name.tag())
    }

    /// What the tag says, if its space exists.
    pub(crate) fn name(&self, tag: SpaceTag) -> Result<Name, OpsError> {
        let unknown = OpsError::UnknownSpace { tag };
        let name = Name::of(tag).ok_or(unknown)?;
        if self.ids.is_used(name.id) { Ok(name) } else { Err(unknown) }
    }

    /// The stream table entry that leads to the space.
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

    /// Frees the id and the descriptor: hardware has confirmed that it holds nothing of the space.
    pub(crate) fn free(&self, name: Name) {
        let space = {
            let mut records = self.records.lock();
            let space = records.spaces.remove(&name.id);
            self.ids.free(name.id);
            space
        };
        if let Some(Space { _descriptor: Some(pages), .. }) = space {
            pages.release();
        }
    }

    /// Keeps for ever what hardware may still walk.
    pub(crate) fn leak(&mut self) {
        core::mem::forget(core::mem::take(&mut self.records.get_mut().spaces));
    }

    /// How many ids are taken, those in quarantine included.
    pub(crate) fn count(&self) -> usize {
        self.records.lock().spaces.len()
    }

    /// Whether this unit can walk the table; gives the index of its granule.
    fn check(&self, config: &TableConfig) -> Result<u8, OpsError> {
        let stage = match config.format {
            TableFormat::ArmLpaeStage1 => self.features.stage1 && config.input_bits <= 48,
            TableFormat::ArmLpaeStage2 => {
                self.features.stage2
                    && config.input_bits <= self.features.output_bits
                    && start_level_code(config).is_some()
            }
            _ => false,
        };
        let fits = stage
            && (16..=48).contains(&config.input_bits)
            && config.output_bits <= self.features.output_bits
            && self.features.granules.contains(config.granule)
            && (self.coherent || !config.coherent_walk);
        let granule = GRANULES.iter().position(|granule| granule.size == config.granule);
        let index = granule.filter(|_| fits).ok_or(OpsError::IncompatibleSpace)?;
        u8::try_from(index).map_err(|_| OpsError::IncompatibleSpace)
    }

    /// Cacheability and shareability of walks and fetches.
    fn attributes(&self) -> (u64, u64) {
        walk_attributes(self.coherent)
    }

    fn descriptor(&self, name: Name, config: &TableConfig) -> Entry {
        let (cache, share) = self.attributes();
        let mut entry = [0; cd::WORDS];
        cd::T0SZ.write(&mut entry, 64 - u64::from(config.input_bits));
        cd::TG0.write(&mut entry, name.granule().entry_code);
        cd::IR0.write(&mut entry, cache);
        cd::OR0.write(&mut entry, cache);
        cd::SH0.write(&mut entry, share);
        cd::EPD1.write(&mut entry, 1);
        cd::V.write(&mut entry, 1);
        cd::IPS.write(&mut entry, address_size_code(config.output_bits).unwrap_or(0));
        cd::AA64.write(&mut entry, 1);
        cd::R.write(&mut entry, 1);
        cd::A.write(&mut entry, 1);
        cd::ASET.write(&mut entry, 1);
        cd::ASID.write(&mut entry, u64::from(name.id));
        entry[cd::TTB0.word()] |= cd::TTB0.in_place(config.root.address().raw());
        cd::MAIR0.write(&mut entry, ArmLpaeStage1::MAIR & cd::MAIR0.max());
        cd::MAIR1.write(&mut entry, ArmLpaeStage1::MAIR >> 32);
        entry
    }

    fn stage1_entry(&self, descriptor: PhysAddr) -> Entry {
        let (cache, share) = self.attributes();
        let mut entry = [0; ste::WORDS];
        ste::V.write(&mut entry, 1);
        ste::CONFIG.write(&mut entry, ste::config::S1);
        entry[0] |= ste::S1_CONTEXT_PTR.in_place(descriptor.raw());
        ste::S1DSS.write(&mut entry, ste::s1dss::SSID0);
        ste::S1CIR.write(&mut entry, cache);
        ste::S1COR.write(&mut entry, cache);
        ste::S1CSH.write(&mut entry, share);
        // Ignored here, but the same as in a bypass entry: one phase less between the two.
        ste::SHCFG.write(&mut entry, incoming_shareability(&self.features));
        entry
    }

    fn stage2_entry(&self, name: Name, config: &TableConfig) -> Entry {
        let (cache, share) = self.attributes();
        let mut entry = [0; ste::WORDS];
        ste::V.write(&mut entry, 1);
        ste::CONFIG.write(&mut entry, ste::config::S2);
        ste::SHCFG.write(&mut entry, incoming_shareability(&self.features));
        ste::S2VMID.write(&mut entry, u64::from(name.id));
        ste::S2T0SZ.write(&mut entry, 64 - u64::from(config.input_bits));
        ste::S2SL0.write(&mut entry, start_level_code(config).unwrap_or(0));
        ste::S2IR0.write(&mut entry, cache);
        ste::S2OR0.write(&mut entry, cache);
        ste::S2SH0.write(&mut entry, share);
        ste::S2TG.write(&mut entry, name.granule().entry_code);
        ste::S2PS.write(&mut entry, address_size_code(config.output_bits).unwrap_or(0));
        ste::S2AA64.write(&mut entry, 1);
        ste::S2R.write(&mut entry, 1);
        entry[ste::S2TTB.word()] |= ste::S2TTB.in_place(config.root.address().raw());
        entry
    }
}

/// An entry that passes addresses unchanged, with the transaction's own attributes.
pub(crate) fn bypass_entry(features: &Features) -> Entry {
    let mut entry = [0; ste::WORDS];
    ste::V.write(&mut entry, 1);
    ste::CONFIG.write(&mut entry, ste::config::BYPASS);
    ste::SHCFG.write(&mut entry, incoming_shareability(features));
    entry
}

/// The `SHCFG` that leaves a transaction as it came: the field is reserved, and must be 0, where attributes cannot be overridden (§5.2).
fn incoming_shareability(features: &Features) -> u64 {
    if features.attribute_overrides { shareability::USE_INCOMING } else { 0 }
}

/// Cacheability and shareability with which hardware reads tables.
pub(crate) fn walk_attributes(coherent: bool) -> (u64, u64) {
    if coherent {
        (cacheability::WRITE_BACK, shareability::INNER)
    } else {
        (cacheability::NON_CACHEABLE, shareability::OUTER)
    }
}

/// `S2SL0` (§5.2): counts down from the level that the granule's encoding begins with.
fn start_level_code(config: &TableConfig) -> Option<u64> {
    let TableRoot::Arm { start_level, .. } = config.root else { return None };
    let first = if config.granule == portcullis_addr::PageSize::SIZE_4K { 2 } else { 3 };
    let start_level = u64::try_from(start_level).ok()?;
    u64::checked_sub(first, start_level).filter(|code| *code <= 2)
}

/// Writes a descriptor that no stream leads to yet: hardware cannot have fetched it (§3.21.3.1), so nothing has to be confirmed in between.
fn write_descriptor<M: DmaMemory>(pages: &HardwarePages<M>, descriptor: &Entry) {
    for phase in entry::plan(&entry::CD, &[0; cd::WORDS], descriptor).0 {
        for (word, value) in phase.stores() {
            pages.memory().store64(pages.at(word as u64 * 8), value);
        }
    }
    pages.publish(pages.address(), cd::BYTES);
}
