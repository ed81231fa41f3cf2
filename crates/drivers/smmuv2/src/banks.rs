//! Translation context banks: address spaces.
//!
//! A bank's number plus one is its ASID (stage 1) or VMID (stage 2), counted from the unit's first tag, so a [`SpaceTag`] names both and no two spaces share one. A bank is used again only after the unit has confirmed that nothing
//! with its tag is cached; until then it stays in quarantine together with its table.

use crate::hooks::{Safeguard, omitted};
use crate::identify::{Features, GRANULES, Granule, address_size_code};
use crate::unit::Unit;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use portcullis::{AddressSpace, OpsError, SpaceTag};
use portcullis_pgtable::{ArmLpaeStage1, TableConfig, TableFormat, TableRoot};
use portcullis_platform::{Lock, LockLabel, Platform, RawAtomic, Registers};
use portcullis_spec::Field;
use portcullis_spec::smmuv2::bank::{self, TCR_EAE, sctlr, tcr, tcr_stage2, tcr2, ttbr0};
use portcullis_spec::smmuv2::global1::{self, cba2r, cbar};
use portcullis_spec::smmuv2::{cbar_type, sep};

/// What a tag says by itself, so that the hot path looks nothing up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) bank: u8,
    pub(crate) stage2: bool,
    pub(crate) aarch64: bool,
}

const STAGE_2: u32 = 1 << 8;
const AARCH64: u32 = 1 << 9;

impl Name {
    fn tag(self) -> SpaceTag {
        let stage = if self.stage2 { STAGE_2 } else { 0 };
        let format = if self.aarch64 { AARCH64 } else { 0 };
        SpaceTag(u32::from(self.bank) | stage | format)
    }

    fn of(tag: SpaceTag) -> Option<Self> {
        let known = tag.0 & !(STAGE_2 | AARCH64 | 0x7f) == 0;
        let (stage2, aarch64) = (tag.0 & STAGE_2 != 0, tag.0 & AARCH64 != 0);
        known.then_some(Self { bank: tag.0 as u8 & 0x7f, stage2, aarch64 })
    }

    pub(crate) fn index(self) -> usize {
        self.bank.into()
    }
}

impl Features {
    /// The ASID or VMID of a space. 0 is nobody's: VMID 0 tags all that stage 1 does.
    pub(crate) fn tag_of(&self, name: Name) -> u16 {
        self.first_tag + u16::from(name.bank) + 1
    }
}

#[derive(Debug)]
struct Space {
    name: Name,
    /// The unit walks it, so it lives as long as the bank leads there.
    _space: Arc<dyn AddressSpace>,
    /// An unbind was not confirmed: nothing may attach any more.
    quarantined: bool,
}

/// A bank through which a stream goes on as firmware set it up.
#[derive(Clone, Copy, Debug)]
struct FirmwareBank {
    bank: u8,
    /// Every ASID and VMID that its registers name. No space of ours may have one of them meanwhile.
    tags: [u16; 4],
}

impl FirmwareBank {
    fn excludes<P: Platform>(&self, bank: usize, first_tag: u16) -> bool {
        let tag = first_tag + bank as u16 + 1;
        let tagged = self.tags.contains(&tag) && !omitted::<P>(Safeguard::AvoidFirmwareTags);
        usize::from(self.bank) == bank || tagged
    }
}

#[derive(Debug, Default)]
struct Records {
    spaces: Vec<Option<Space>>,
    firmware: Vec<FirmwareBank>,
}

#[derive(Debug)]
pub(crate) struct Banks<P: Platform> {
    /// One bit a bank: in use or in quarantine. Written under the lock, read without it.
    used: [P::Atomic; 2],
    records: Lock<P, Records>,
    features: Features,
}

impl<P: Platform> Banks<P> {
    pub(crate) fn new(features: &Features, label: u64) -> Self {
        let spaces = (0..features.banks).map(|_| None).collect();
        let records = Records { spaces, firmware: Vec::new() };
        Self {
            used: [0, 1].map(|_| P::Atomic::new(LockLabel::new("smmu2.used", label), 0)),
            records: Lock::<P, _>::new(LockLabel::new("smmu2.banks", label), records),
            features: *features,
        }
    }

    /// Takes a bank for `space`. The bank is not set up yet.
    pub(crate) fn take(&self, space: &Arc<dyn AddressSpace>) -> Result<Name, OpsError> {
        let config = space.table().ok_or(OpsError::IncompatibleSpace)?.config();
        let (stage2, aarch64) = self.check(&config).ok_or(OpsError::IncompatibleSpace)?;
        let mut records = self.records.lock();
        // The first banks can do stage 2 only, so stage 2 takes the lowest free one and stage 1 one above them.
        let first = if stage2 { 0 } else { self.features.stage2_banks.into() };
        let free = |index: &usize| {
            records.spaces[*index].is_none()
                && !records
                    .firmware
                    .iter()
                    .any(|kept| kept.excludes::<P>(*index, self.features.first_tag))
        };
        let index = (first..records.spaces.len()).find(free).ok_or(OpsError::OutOfTags)?;
        let name = Name { bank: index as u8, stage2, aarch64 };
        records.spaces[index] = Some(Space { name, _space: Arc::clone(space), quarantined: false });
        self.mark_used(index);
        Ok(name)
    }

    fn mark_used(&self, bank: usize) {
        self.used[bank / 64].fetch_or(1 << (bank % 64), Ordering::Release);
    }

    fn mark_free(&self, bank: usize) {
        self.used[bank / 64].fetch_and(!(1 << (bank % 64)), Ordering::Release);
    }

    /// Leaves a bank as firmware set it up, but for its faults: they are told like those of any bank, and do not hold up what comes after.
    pub(crate) fn leave_to_firmware<R: Registers>(&self, unit: &Unit<P, R>, bank: u8) {
        let index = usize::from(bank);
        let asid = |register| ttbr0::ASID.get(unit.read_bank64(register, index)) as u16;
        let context = unit.read_bank(bank::CONTEXTIDR, index) as u16 & 0xff;
        let vmid = cbar::VMID.get(unit.read_attribute(global1::CBAR, index).into()) as u16;
        let tags = [asid(bank::TTBR0), asid(bank::TTBR1), context, vmid];
        self.records.lock().firmware.push(FirmwareBank { bank, tags });
        let control = u64::from(unit.read_bank(bank::SCTLR, index));
        let control = FAULTS.iter().fold(control, |word, field| field.with(word, 1));
        unit.write_bank(bank::SCTLR, index, control as u32);
        unit.write_bank(bank::FSR, index, u32::MAX);
        self.mark_used(index);
    }

    /// Takes a bank over that firmware's streams have left; the unit has confirmed that nothing of it is cached.
    pub(crate) fn take_from_firmware(&self, bank: u8) {
        let mut records = self.records.lock();
        records.firmware.retain(|kept| kept.bank != bank);
        self.mark_free(bank.into());
    }

    /// Whether a bank is used as firmware set it up.
    pub(crate) fn is_firmwares(&self) -> bool {
        !self.records.lock().firmware.is_empty()
    }

    /// The tag of a space whose bank is set up.
    pub(crate) fn tag(name: Name) -> SpaceTag {
        name.tag()
    }

    /// What the tag says, if its space exists.
    pub(crate) fn name(&self, tag: SpaceTag) -> Result<Name, OpsError> {
        let name = Name::of(tag).ok_or(OpsError::UnknownSpace { tag })?;
        if self.is_used(name.index()) { Ok(name) } else { Err(OpsError::UnknownSpace { tag }) }
    }

    pub(crate) fn is_used(&self, bank: usize) -> bool {
        self.used[bank / 64].load(Ordering::Acquire) >> (bank % 64) & 1 == 1
    }

    /// What the tag says, if streams may be led there.
    pub(crate) fn open(&self, tag: SpaceTag) -> Result<Name, OpsError> {
        let name = self.name(tag)?;
        let records = self.records.lock();
        let space = records.spaces.get(name.index()).and_then(Option::as_ref);
        let open = space.is_some_and(|space| space.name == name && !space.quarantined);
        open.then_some(name).ok_or(OpsError::UnknownSpace { tag })
    }

    /// Stops new attachments before the space's translations are invalidated.
    pub(crate) fn quarantine(&self, tag: SpaceTag) -> Result<Name, OpsError> {
        let name = self.name(tag)?;
        let mut records = self.records.lock();
        let space = records.spaces.get_mut(name.index()).and_then(Option::as_mut);
        let space = space.filter(|space| space.name == name);
        space.ok_or(OpsError::UnknownSpace { tag })?.quarantined = true;
        Ok(name)
    }

    /// The spaces whose unbinding was not confirmed.
    pub(crate) fn quarantined(&self) -> Vec<Name> {
        let records = self.records.lock();
        let spaces = records.spaces.iter().flatten().filter(|space| space.quarantined);
        spaces.map(|space| space.name).collect()
    }

    /// Frees the bank: the unit has confirmed that it holds nothing of the space.
    pub(crate) fn free(&self, name: Name) {
        // The table is dropped without the lock.
        let _space = {
            let mut records = self.records.lock();
            let space = records.spaces[name.index()].take();
            self.mark_free(name.index());
            space
        };
    }

    /// Keeps for ever what the unit may still walk.
    pub(crate) fn leak(&mut self) {
        core::mem::forget(core::mem::take(self.records.get_mut()));
    }

    pub(crate) fn count(&self) -> usize {
        self.records.lock().spaces.iter().flatten().count()
    }

    /// Whether this unit can walk the table: stage 2 or not, AArch64 or not.
    fn check(&self, config: &TableConfig) -> Option<(bool, bool)> {
        let features = &self.features;
        let (stage2, aarch64) = match config.format {
            TableFormat::ArmLpaeStage1 => (false, true),
            TableFormat::ArmLpaeStage2 => (true, true),
            TableFormat::Aarch32LpaeStage1 => (false, false),
            TableFormat::Aarch32LpaeStage2 => (true, false),
            _ => return None,
        };
        let format = if aarch64 {
            features.granules.contains(config.granule)
        } else {
            features.aarch32 && !features.aarch64()
        };
        let stage = if stage2 { features.stage2 } else { features.stage1 };
        let most = if stage2 { features.intermediate_bits } else { features.upstream_bits };
        let fits = config.input_bits <= most
            && (!stage2 || first_level(config, aarch64).is_some())
            && config.output_bits <= features.output_bits
            && (features.coherent || !config.coherent_walk);
        (format && stage && fits).then_some((stage2, aarch64))
    }
}

/// `SL0` of a stage 2 table.
fn first_level(config: &TableConfig, aarch64: bool) -> Option<u64> {
    let TableRoot::Arm { start_level, .. } = config.root else { return None };
    let granule = GRANULES.iter().find(|granule| granule.size == config.granule)?;
    let last = if granule.code == GRANULES[0].code || !aarch64 { 2 } else { 3 };
    let code = i64::from(last) - i64::from(start_level);
    u64::try_from(code).ok().filter(|code| *code <= 2)
}

/// A fault is answered, tells, and does not hold up the other devices of the space.
const FAULTS: [Field; 3] = [sctlr::CFRE, sctlr::CFIE, sctlr::HUPCF];

/// Inner and outer cacheability, and shareability, of walks.
fn attributes(coherent: bool) -> (u64, u64) {
    // Write-back, read- and write-allocate, inner shareable; otherwise non-cacheable, which is outer shareable whatever the field says.
    if coherent { (1, 3) } else { (0, 2) }
}

/// Sets the bank up and enables it. Nothing leads there yet, and nothing with its tag is cached.
pub(crate) fn set_up<P: Platform, R: Registers>(
    unit: &Unit<P, R>,
    features: &Features,
    name: Name,
    config: &TableConfig,
) {
    let index = name.index();
    unit.write_bank(bank::SCTLR, index, 0);
    let id = features.tag_of(name).into();
    let format = cba2r::VA64.of(name.aarch64.into());
    let wide = name.stage2 && features.wide_vmids;
    let format = if wide { format | cba2r::VMID16.of(id) } else { format };
    unit.write_attribute(global1::CBA2R, index, format as u32);
    // Stage 1: the weakest attributes at the second stage, so that the first one's count.
    let kind = if name.stage2 {
        cbar::TYPE.of(cbar_type::STAGE2) | cbar::VMID.of(if wide { 0 } else { id })
    } else {
        cbar::TYPE.of(cbar_type::STAGE1_BYPASS) | cbar::MEM_ATTR.of(0xf) | cbar::BPSHCFG.of(3)
    };
    unit.write_attribute(global1::CBAR, index, kind as u32);
    let root = config.root.address().raw();
    if name.stage2 {
        unit.write_bank(bank::TCR, index, stage2_control(features, name, config) as u32);
        unit.write_bank64(bank::TTBR0, index, ttbr0::ADDRESS.in_place(root));
    } else {
        let size = tcr2::PASIZE.of(address_size_code(config.output_bits));
        let second = size | tcr2::SEP.of(sep::UPSTREAM) | tcr2::AS.of(1);
        unit.write_bank(bank::TCR2, index, second as u32);
        unit.write_bank(bank::TCR, index, stage1_control(features, name, config) as u32);
        let asid = ttbr0::ASID.of(id);
        unit.write_bank64(bank::TTBR0, index, ttbr0::ADDRESS.in_place(root) | asid);
        unit.write_bank(bank::MAIR0, index, ArmLpaeStage1::MAIR as u32);
        unit.write_bank(bank::MAIR1, index, (ArmLpaeStage1::MAIR >> 32) as u32);
    }
    unit.write_bank(bank::FSR, index, u32::MAX);
    let on = sctlr::M.of(1) | sctlr::ASIDPNE.of(1);
    let on = FAULTS.iter().fold(on, |word, field| word | field.of(1));
    unit.write_bank(bank::SCTLR, index, on as u32);
}

fn code(config: &TableConfig) -> u64 {
    let granule: Option<&Granule> = GRANULES.iter().find(|it| it.size == config.granule);
    granule.map_or(0, |granule| granule.code)
}

fn stage1_control(features: &Features, name: Name, config: &TableConfig) -> u64 {
    let (cache, share) = attributes(features.coherent);
    let walks = tcr::IRGN0.of(cache) | tcr::ORGN0.of(cache) | tcr::SH0.of(share) | tcr::EPD1.of(1);
    if name.aarch64 {
        let size = 64 - u64::from(config.input_bits);
        walks | tcr::T0SZ.of(size) | tcr::TG0.of(code(config))
    } else {
        walks | TCR_EAE.of(1) | tcr::T0SZ.of(32 - u64::from(config.input_bits.min(32)))
    }
}

fn stage2_control(features: &Features, name: Name, config: &TableConfig) -> u64 {
    let (cache, share) = attributes(features.coherent);
    let walks =
        tcr_stage2::IRGN0.of(cache) | tcr_stage2::ORGN0.of(cache) | tcr_stage2::SH0.of(share);
    let level = tcr_stage2::SL0.of(first_level(config, name.aarch64).unwrap_or(0));
    if name.aarch64 {
        let size = 64 - u64::from(config.input_bits);
        let output = tcr_stage2::PASIZE.of(address_size_code(config.output_bits));
        walks | level | output | tcr_stage2::T0SZ.of(size) | tcr_stage2::TG0.of(code(config))
    } else {
        // Four bits and a sign, which is bit 4 (S): 2^(32 - this) addresses.
        let size = (32 - i64::from(config.input_bits)) as u64 & 0x1f;
        walks | level | TCR_EAE.of(1) | tcr_stage2::T0SZ.of(size)
    }
}
