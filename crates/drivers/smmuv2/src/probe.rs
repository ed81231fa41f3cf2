//! Taking a unit over, and stopping it.

use crate::banks::Banks;
use crate::error::{BringUpCause, BringUpError};
use crate::firmware::{Left, Plans};
use crate::groups::{Destination, Groups};
use crate::hooks::{Safeguard, omitted};
use crate::identify::{Features, identify};
use crate::unit::Unit;
use crate::{Options, Smmu};
use alloc::sync::Arc;
use alloc::vec::Vec;
use portcullis::{Blocking, OpsError};
use portcullis_platform::{Platform, Registers};
use portcullis_spec::Field;
use portcullis_spec::smmuv2::bank;
use portcullis_spec::smmuv2::global0::{self, s2cr, scr0, smr};
use portcullis_spec::smmuv2::s2cr_type;

/// Bits of an MMU-500's `sACR` that keep in the TLB that a stream passes (Arm DDI 0517, auxiliary configuration: SMTNMB_TLBEN, S2CRB_TLBEN).
const KEEPS_PASSING: u32 = 1 << 8 | 1 << 10;

/// `sACR.CACHE_LOCK` of an MMU-500: `CBn_ACTLR` takes no writes.
const CACHE_LOCK: u32 = 1 << 26;

/// `CBn_ACTLR.CPRE` of an MMU-500: the bank prefetches.
const PREFETCHES: u32 = 1 << 1;

/// A value that no reset leaves behind.
const PATTERN: u32 = 0x0015_5a5a & !0x3f;

impl<P: Platform, R: Registers> Smmu<P, R> {
    /// Takes the unit over: every stream faults from then on, no address space is there, nothing is cached.
    ///
    /// # Errors
    ///
    /// [`BringUpError`], which says whether the unit has confirmed that its devices are blocked.
    pub fn bring_up(
        platform: Arc<P>,
        registers: R,
        options: Options,
    ) -> Result<Self, BringUpError> {
        Self::bring_up_mirrored(platform, registers, Vec::new(), options)
    }

    /// As [`bring_up`](Self::bring_up), for a unit of several register blocks that must be programmed alike, because a client's accesses go now to one, now to another (NVIDIA's Tegra194 and
    /// Tegra234): each write goes to `registers` and to all of `mirrors`, a wait is over when all say so, and faults are collected from each.
    ///
    /// # Errors
    ///
    /// As [`bring_up`](Self::bring_up); also where the blocks are not alike.
    pub fn bring_up_mirrored(
        platform: Arc<P>,
        registers: R,
        mirrors: Vec<R>,
        options: Options,
    ) -> Result<Self, BringUpError> {
        let unknown = |cause| BringUpError { cause, blocking: Blocking::Unknown };
        let unit = Unit::new(platform, registers, mirrors, &options).map_err(unknown)?;
        let mut features = identify(&unit, &options).map_err(unknown)?;
        let left = Left::read(&unit, &features);
        let plans = left.plan(&features, &options.firmware_streams);
        // Where the unit is off, it stays so until the streams that are to go on can.
        let waits = left.off && !plans.adopt.is_empty();
        control(&unit, &features, waits).map_err(unknown)?;
        learn(&unit, &mut features, &options, &plans);
        let groups = Groups::new(&features, options.index);
        block_all(&unit, &groups, &features, &plans).map_err(unknown)?;
        unit.sync().map_err(|error| unknown(BringUpCause::Sync(error)))?;
        // Only now: firmware's streams may have used the banks until here.
        let all = features.banks;
        features.banks = usable_banks(&unit, &features, &plans);
        features.kept_banks = all - features.banks;
        // A unit that has vanished keeps nothing either, and confirms nothing.
        if unit.read(global0::SCR0) == u32::MAX {
            return Err(unknown(BringUpCause::Gone { register: global0::SCR0.name }));
        }
        if options.quirks.mmu500 {
            stop_prefetching(&unit, features.banks, &plans);
        }
        if features.banks <= features.stage2_banks && !features.stage2 || features.banks == 0 {
            let cause =
                BringUpCause::Refused { register: global0::IDR1.name, needs: "a context bank" };
            return Err(BringUpError { cause, blocking: Blocking::Confirmed });
        }
        let banks = Banks::new(&features, options.index);
        let firmware = Vec::new();
        let mut smmu = Self { unit, index: options.index, features, groups, banks, firmware };
        smmu.adopt(plans).map_err(|error| unknown(BringUpCause::Sync(error)))?;
        if waits {
            control(&smmu.unit, &features, false).map_err(unknown)?;
        }
        Ok(smmu)
    }

    /// Has every stream fault and every bank off.
    pub(crate) fn stop(&self) -> Result<(), OpsError> {
        let stopped = block_all(&self.unit, &self.groups, &self.features, &Plans::default());
        stopped.map_err(|cause| match cause {
            BringUpCause::Stuck { found, .. } => crate::error::refused(found),
            _ => crate::error::gone(),
        })?;
        self.unit.write(global0::TLBIALLNSNH, 0);
        self.unit.sync()
    }
}

/// Translates instead of letting pass (unless it `waits`), and has streams that match nothing fault. From here on only what a group leads somewhere gets there.
fn control<P: Platform, R: Registers>(
    unit: &Unit<P, R>,
    features: &Features,
    waits: bool,
) -> Result<(), BringUpCause> {
    let on = [
        scr0::GFRE,
        scr0::GFIE,
        scr0::GCFGFRE,
        scr0::GCFGFIE,
        scr0::STALLD,
        scr0::USFCFG,
        scr0::VMIDPNE,
        scr0::PTM,
    ];
    let wide = scr0::VMID16EN.of(features.wide_vmids.into());
    let other =
        wide | scr0::EXIDENABLE.of(features.extended_ids.into()) | scr0::CLIENTPD.of(waits.into());
    let word = on.iter().fold(other, |word, field: &Field| word | field.of(1)) as u32;
    unit.write(global0::SCR0, word);
    let found = unit.read(global0::SCR0);
    let matters = (scr0::CLIENTPD.mask() | scr0::USFCFG.mask() | scr0::EXIDENABLE.mask()) as u32;
    if found == u32::MAX {
        return Err(BringUpCause::Gone { register: global0::SCR0.name });
    }
    if (found ^ word) & matters != 0 {
        let register = global0::SCR0.name;
        return Err(BringUpCause::Stuck { register, wanted: word, found });
    }
    Ok(())
}

/// Finds out by trying what the id registers do not say.
fn learn<P: Platform, R: Registers>(
    unit: &Unit<P, R>,
    features: &mut Features,
    options: &Options,
    plans: &Plans,
) {
    if options.quirks.mmu500 {
        unit.write(global0::SACR, unit.read(global0::SACR) & !KEEPS_PASSING);
    }
    let spare = (0..usize::from(features.groups)).rev().find(|group| !plans.keeps_group(*group));
    if let Some(last) = spare.filter(|_| features.stream_matching) {
        // It matches nothing meanwhile.
        if features.extended_ids {
            unit.write_group(global0::S2CR, last, 0);
        }
        unit.write_group(global0::SMR, last, 0);
        if !features.extended_ids {
            let try_out = |field: Field| {
                unit.write_group(global0::SMR, last, field.mask() as u32);
                field.get(unit.read_group(global0::SMR, last).into()) as u16
            };
            let (ids, masks) = (try_out(smr::ID), try_out(smr::MASK));
            unit.write_group(global0::SMR, last, 0);
            features.id_bits = features.id_bits.min((16 - ids.leading_zeros()) as u8);
            features.mask_bits &= masks;
        }
        if options.quirks.may_trap_s2cr {
            let bypass = s2cr::TYPE.of(s2cr_type::BYPASS) as u32;
            unit.write_group(global0::S2CR, last, bypass);
            let found = unit.read_group(global0::S2CR, last);
            features.s2cr_is_trapped = s2cr::TYPE.get(found.into()) == s2cr_type::FAULT;
        }
    }
}

/// Errata 841119 and 826419 of the MMU-500 and others are avoided with the prefetcher of every bank off, as `arm_mmu500_reset` in Linux 6.12's `arm-smmu-impl.c` does; from r2p0 on
/// its switch is locked at first.
fn stop_prefetching<P: Platform, R: Registers>(unit: &Unit<P, R>, banks: u8, plans: &Plans) {
    unit.write(global0::SACR, unit.read(global0::SACR) & !CACHE_LOCK);
    for index in (0..usize::from(banks)).filter(|index| !plans.keeps_bank(*index)) {
        let kept = unit.read_bank(bank::ACTLR, index);
        unit.write_bank(bank::ACTLR, index, kept & !PREFETCHES);
    }
}

/// Banks that firmware keeps do not take what is written; those below the first one that does not are ours.
fn usable_banks<P: Platform, R: Registers>(
    unit: &Unit<P, R>,
    features: &Features,
    plans: &Plans,
) -> u8 {
    let takes = |index: &u8| {
        if plans.keeps_bank(usize::from(*index)) {
            return true;
        }
        // A register that both kinds of bank have.
        unit.write_bank(bank::TTBR0, usize::from(*index), PATTERN);
        unit.read_bank(bank::TTBR0, usize::from(*index)) == PATTERN
    };
    (0..features.banks).take_while(takes).count() as u8
}

/// Each group faults before it matches nothing; then each bank is off and its TLB entries are dropped. Only what goes on by `plans` is left as it is.
fn block_all<P: Platform, R: Registers>(
    unit: &Unit<P, R>,
    groups: &Groups<P>,
    features: &Features,
    plans: &Plans,
) -> Result<(), BringUpCause> {
    for group in (0..usize::from(features.groups)).filter(|group| !plans.keeps_group(*group)) {
        let wanted = groups.word(Destination::Fault);
        if omitted::<P>(Safeguard::DestinationBeforeMatch) {
            groups.unmatch(unit, group);
            continue;
        }
        groups.lead(unit, group, Destination::Fault).map_err(|found| match found {
            u32::MAX => BringUpCause::Gone { register: global0::S2CR.name },
            _ => BringUpCause::Stuck { register: global0::S2CR.name, wanted, found },
        })?;
        groups.unmatch(unit, group);
    }
    for index in (0..usize::from(features.banks)).filter(|index| !plans.keeps_bank(*index)) {
        unit.write_bank(bank::SCTLR, index, 0);
        unit.write_bank(bank::FSR, index, u32::MAX);
    }
    unit.write(global0::SGFSR, u32::MAX);
    unit.write(global0::TLBIALLH, 0);
    unit.write(global0::TLBIALLNSNH, 0);
    Ok(())
}

impl<P: Platform, R: Registers> Drop for Smmu<P, R> {
    fn drop(&mut self) {
        if (self.banks.count() > 0 || self.banks.is_firmwares()) && self.stop().is_err() {
            self.banks.leak();
        }
    }
}
