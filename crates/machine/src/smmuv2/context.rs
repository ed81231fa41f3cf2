//! What a context bank's registers mean.

use super::profile::{SmmuV2Profile, size_bits};
use super::registers::{Bank, RegisterFile};
use crate::vmsa::{Regime, Stage, Table, Tag};
use portcullis_spec::smmuv2::bank::{TCR_EAE, sctlr, tcr, tcr_stage2, tcr2, ttbr0};
use portcullis_spec::smmuv2::global1::cbar;
use portcullis_spec::smmuv2::{cbar_type, granule0, sep};

/// Where a bank sends an access.
#[derive(Clone, Copy, Debug)]
pub(super) enum Context {
    /// Unchanged: the bank is disabled.
    Pass,
    /// Nowhere: the bank's registers say so, or they contradict each other.
    Invalid,
    /// Through this table, at this input address. `None`: no table covers the address.
    Translate { tag: Tag, input: u64, table: Option<Table> },
}

/// `FSR.FORMAT` of what a bank walks.
pub(super) fn format(bank: &Bank) -> u64 {
    if bank.is_aarch64() { 2 } else { 1 }
}

/// Decodes bank `index` for an access to `address`.
pub(super) fn decode(
    file: &RegisterFile,
    profile: &SmmuV2Profile,
    index: usize,
    address: u64,
) -> Context {
    let bank = &file.banks[index];
    let vmid = file.vmid(bank);
    match cbar::TYPE.get(bank.cbar.into()) {
        cbar_type::STAGE2 if profile.stage2 => {
            let tag = Tag { regime: Regime::Stage2, vmid, asid: None };
            let table = stage2(bank, profile).filter(|table| table.covers(address, false));
            enabled(bank, Context::Translate { tag, input: address, table })
        }
        // The first banks can do stage 2 only.
        cbar_type::STAGE1_BYPASS if profile.stage1 && index >= profile.stage2_banks.into() => {
            enabled(bank, stage1(bank, profile, vmid, address))
        }
        _ => Context::Invalid,
    }
}

fn enabled(bank: &Bank, context: Context) -> Context {
    if bank.has(sctlr::M) { context } else { Context::Pass }
}

fn stage1(bank: &Bank, profile: &SmmuV2Profile, vmid: u16, address: u64) -> Context {
    let control = u64::from(bank.tcr);
    let (input, upper) = sign_extended(bank, profile, address);
    let tables = if bank.is_aarch64() {
        aarch64_stage1(bank, profile, upper)
    } else {
        aarch32_stage1(bank, profile).filter(|_| !upper)
    };
    let table = tables.filter(|table| table.covers(input, upper));
    let ttbr = bank.ttbr[usize::from(tcr::A1.is_set(control) && bank.is_aarch64())];
    let asid = bank.asid(ttbr0::ASID.get(ttbr));
    let tag = Tag { regime: Regime::Stage1, vmid, asid: Some(asid) };
    Context::Translate { tag, input, table }
}

/// The address as stage 1 sees it, and whether it belongs to the upper range.
fn sign_extended(bank: &Bank, profile: &SmmuV2Profile, address: u64) -> (u64, bool) {
    if !bank.is_aarch64() {
        return (address, false);
    }
    let position = match tcr2::SEP.get(bank.tcr2.into()) {
        sep::BIT_31 => 31,
        sep::BIT_35 => 35,
        sep::BIT_39 => 39,
        sep::BIT_41 => 41,
        sep::BIT_43 => 43,
        sep::BIT_47 => 47,
        _ if profile.ubs_bits == 49 => 48,
        _ => return (address, false),
    };
    let shift = 63 - position;
    let extended = ((address << shift) as i64 >> shift) as u64;
    (extended, extended >> 63 == 1)
}

fn granule(code: u64, profile: &SmmuV2Profile) -> Option<u32> {
    let log2 = match code {
        granule0::K4 => 12,
        granule0::K64 => 16,
        granule0::K16 => 14,
        _ => return None,
    };
    profile.has_granule(log2).then_some(log2)
}

/// `TG1` numbers granules differently from `TG0`.
fn granule1(code: u64, profile: &SmmuV2Profile) -> Option<u32> {
    let log2 = match code {
        1 => 14,
        2 => 12,
        3 => 16,
        _ => return None,
    };
    profile.has_granule(log2).then_some(log2)
}

fn table(bank: &Bank, stage: Stage, root: u64, granule: u32, input_bits: u32, start: u32) -> Table {
    Table {
        stage,
        root,
        granule,
        input_bits,
        start,
        output_bits: 0,
        access_flag_faults: !bank.has(sctlr::AFFD),
        hierarchical: stage == Stage::One,
        disabled: false,
        record: true,
    }
}

/// Cuts the low bits of a root address that the table's size forbids, and the output size.
fn finished(mut table: Table, output_bits: u32, profile: &SmmuV2Profile) -> Option<Table> {
    let entries = table.input_bits.checked_sub(table.shift(table.start))?;
    table.output_bits = output_bits.min(profile.oas_bits.into());
    table.root &= !((8u64 << entries).max(64) - 1);
    Some(table)
}

fn aarch64_stage1(bank: &Bank, profile: &SmmuV2Profile, upper: bool) -> Option<Table> {
    let control = u64::from(bank.tcr);
    let (size, disabled, granule) = if upper {
        (tcr::T1SZ, tcr::EPD1, granule1(tcr::TG1.get(control), profile)?)
    } else {
        (tcr::T0SZ, tcr::EPD0, granule(tcr::TG0.get(control), profile)?)
    };
    let size = size.get(control) as u32;
    if disabled.is_set(control) || !(16..=39).contains(&size) {
        return None;
    }
    let input_bits = 64 - size;
    let start = 4 - (input_bits - granule).div_ceil(granule - 3);
    let root = ttbr0::ADDRESS.in_place(bank.ttbr[usize::from(upper)]);
    let output = size_bits(tcr2::PASIZE.get(bank.tcr2.into()));
    finished(table(bank, Stage::One, root, granule, input_bits, start), output, profile)
}

/// Long descriptors, lower range.
fn aarch32_stage1(bank: &Bank, profile: &SmmuV2Profile) -> Option<Table> {
    let control = u64::from(bank.tcr);
    if !profile.aarch32 || !TCR_EAE.is_set(control) || tcr::EPD0.is_set(control) {
        return None;
    }
    let input_bits = 32 - (tcr::T0SZ.get(control) as u32 & 7);
    let start = if input_bits > 30 { 1 } else { 2 };
    let root = ttbr0::ADDRESS.in_place(bank.ttbr[0]);
    finished(table(bank, Stage::One, root, 12, input_bits, start), 40, profile)
}

fn stage2(bank: &Bank, profile: &SmmuV2Profile) -> Option<Table> {
    let control = u64::from(bank.tcr);
    let root = ttbr0::ADDRESS.in_place(bank.ttbr[0]);
    let level = tcr_stage2::SL0.get(control) as u32;
    let (granule, input_bits, output_bits) = if bank.is_aarch64() {
        let size = tcr_stage2::T0SZ.get(control) as u32;
        let granule = granule(tcr_stage2::TG0.get(control), profile)?;
        (granule, 64 - size, size_bits(tcr_stage2::PASIZE.get(control)))
    } else if profile.aarch32 {
        // Four bits and a sign: 2^24 to 2^40 addresses.
        let size = (control << 60) as i64 >> 60;
        (12, u32::try_from(32 - size).ok()?, 40)
    } else {
        return None;
    };
    let start = if granule == 12 { 2u32 } else { 3 }.checked_sub(level)?;
    let table = table(bank, Stage::Two, root, granule, input_bits, start);
    // Up to 16 tables side by side; a range that the first level cannot index is refused.
    let index = input_bits.checked_sub(table.shift(start))?;
    if index == 0 || index > granule - 3 + 4 || input_bits > u32::from(profile.ias_bits) {
        return None;
    }
    finished(table, output_bits, profile)
}
