//! Finding and decoding the stream table entry of a transaction (§3.3.1, §5.1, §5.2).

use super::caches::Fill;
use super::events::Refusal;
use super::profile::size_bits;
use super::{Profile, translate::Transit};
use crate::oracle::Violation;
use crate::vmsa::{Stage, Table};
use portcullis_spec::smmuv3::event::number;
use portcullis_spec::smmuv3::ste::{self, config, granule0, s1dss, s1fmt};
use portcullis_spec::smmuv3::{l1std, strtab_base_cfg, strtab_fmt};

/// What an entry makes of a transaction.
#[derive(Clone, Copy, Debug)]
pub(super) enum Route {
    /// Refused, and no event is recorded.
    Abort,
    /// To the same address.
    Bypass,
    /// Translated.
    Translate(Stages),
}

/// Which stages take part, and where they begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stages {
    pub(super) contexts: Option<ContextTable>,
    pub(super) stage2: Option<Table>,
    pub(super) vmid: u16,
}

/// The context descriptors of a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct ContextTable {
    pub(super) address: u64,
    pub(super) format: u64,
    /// log2 of how many there are; 0: no substreams.
    pub(super) log2: u32,
    pub(super) without_substream: u64,
}

const BAD_STREAM: Refusal = Refusal::Configuration(number::C_BAD_STREAMID);
const BAD_ENTRY: Refusal = Refusal::Configuration(number::C_BAD_STE);

impl Transit<'_> {
    /// The stream's entry, cached or fetched.
    pub(super) fn stream_entry(&mut self) -> Result<[u64; 8], Refusal> {
        let stream = self.subject.stream;
        if let Some(entry) = self.cached(|caches| caches.stream(stream)) {
            return Ok(entry);
        }
        let address = self.stream_entry_address()?;
        let entry = self
            .entry("STE", address)
            .map_err(|address| Refusal::Fetch { number: number::F_STE_FETCH, address })?;
        self.check_reserved(&entry);
        if ste::V.read(&entry) == 1 || self.keeps_invalid() {
            self.fills.push(Fill::Stream { stream, entry });
        }
        Ok(entry)
    }

    /// Records what is set although it is reserved on this unit (§5.2); the transaction goes on with its own attributes.
    fn check_reserved(&self, entry: &[u64; 8]) {
        if ste::V.read(entry) == 0 || self.smmu.profile.attribute_overrides {
            return;
        }
        for field in [ste::SHCFG, ste::MTCFG, ste::MEM_ATTR] {
            if field.read(entry) != 0 {
                let (iommu, field) = (self.smmu.index, ("STE", field.name()));
                self.smmu.oracle.violated(Violation::ReservedField { iommu, field });
            }
        }
    }

    fn stream_entry_address(&mut self) -> Result<u64, Refusal> {
        let stream = self.subject.stream;
        let unknown = if self.control.records_bad_streams { BAD_STREAM } else { Refusal::Silent };
        let (base, cfg) = (self.control.strtab_base, u64::from(self.control.strtab_cfg));
        let most = u64::from(self.smmu.profile.sid_bits);
        let log2 = strtab_base_cfg::LOG2SIZE.get(cfg).min(most);
        if u64::from(stream) >= 1 << log2 {
            return Err(unknown);
        }
        let two_level = strtab_base_cfg::FMT.get(cfg) == strtab_fmt::TWO_LEVEL;
        if !two_level || !self.smmu.profile.two_level {
            let base = base & !((ste::BYTES as u64) << log2).wrapping_sub(1);
            return Ok(base + u64::from(stream) * ste::BYTES as u64);
        }
        let split = match strtab_base_cfg::SPLIT.get(cfg) as u32 {
            split @ (8 | 10) => split,
            _ => 6,
        };
        let word = self.level1_descriptor(base, log2 as u32, split)?;
        let span = l1std::SPAN.get(word) as u32;
        let index = stream & ((1 << split) - 1);
        if span == 0 || span > split + 1 || index >= 1 << (span - 1) {
            return Err(unknown);
        }
        let size = (ste::BYTES as u64) << (span - 1);
        let table = l1std::L2PTR.in_place(word) & !(size - 1);
        Ok(table + u64::from(index) * ste::BYTES as u64)
    }

    fn level1_descriptor(&mut self, base: u64, log2: u32, split: u32) -> Result<u64, Refusal> {
        let index = self.subject.stream >> split;
        if let Some(word) = self.cached(|caches| caches.stream_descriptor(index)) {
            return Ok(word);
        }
        let size = (l1std::BYTES as u64) << log2.saturating_sub(split);
        let address = (base & !(size.max(64) - 1)) + u64::from(index) * l1std::BYTES as u64;
        let word = self
            .word(address, "L1STD")
            .map_err(|_| Refusal::Fetch { number: number::F_STE_FETCH, address })?;
        if l1std::SPAN.get(word) != 0 || self.keeps_invalid() {
            self.split = split;
            self.fills.push(Fill::StreamDescriptor { index, word });
        }
        Ok(word)
    }
}

/// Reads an entry the way hardware does (§5.2, §5.2.2); what is ILLEGAL is C_BAD_STE.
pub(super) fn decode(entry: &[u64; 8], profile: &Profile) -> Result<Route, Refusal> {
    if ste::V.read(entry) == 0 {
        return Err(BAD_ENTRY);
    }
    let (stage1, stage2) = match ste::CONFIG.read(entry) {
        config::BYPASS => return Ok(Route::Bypass),
        config::S1 => (true, false),
        config::S2 => (false, true),
        config::NESTED => (true, true),
        _ => return Ok(Route::Abort),
    };
    let vmid = ste::S2VMID.read(entry) as u16;
    let vmid_is_wide = profile.stage2 && !profile.vmid16 && vmid > 0xff;
    if stage1 && !profile.stage1 || stage2 && !profile.stage2 || vmid_is_wide {
        return Err(BAD_ENTRY);
    }
    let contexts = if stage1 { Some(context_table(entry, profile)?) } else { None };
    let stage2 = if stage2 { Some(stage2_table(entry, profile)?) } else { None };
    let vmid = if profile.stage2 { vmid } else { 0 };
    Ok(Route::Translate(Stages { contexts, stage2, vmid }))
}

fn context_table(entry: &[u64; 8], profile: &Profile) -> Result<ContextTable, Refusal> {
    let log2 = ste::S1CDMAX.read(entry) as u32;
    let format = ste::S1FMT.read(entry);
    let without_substream = ste::S1DSS.read(entry);
    let substreams = log2 > 0 && profile.ssid_bits > 0;
    let illegal = log2 > u32::from(profile.ssid_bits)
        || substreams && format != s1fmt::LINEAR && !profile.two_level_cd
        || substreams && format > s1fmt::TWO_LEVEL_64K
        || substreams && without_substream > s1dss::SSID0
        // No instance of this model can stall, so a stream must not ask to be exempt from it.
        || ste::S1STALLD.read(entry) == 1;
    if illegal {
        return Err(BAD_ENTRY);
    }
    let address = ste::S1_CONTEXT_PTR.in_place(entry[0]);
    Ok(ContextTable { address, format, log2, without_substream })
}

/// log2 of the granule of `S2TG` and `TG0`.
pub(super) fn granule_of(code: u64, profile: &Profile) -> Option<u32> {
    let log2 = match code {
        granule0::K4 => 12,
        granule0::K64 => 16,
        granule0::K16 => 14,
        _ => return None,
    };
    profile.has_granule(log2).then_some(log2)
}

fn stage2_table(entry: &[u64; 8], profile: &Profile) -> Result<Table, Refusal> {
    let granule = granule_of(ste::S2TG.read(entry), profile).ok_or(BAD_ENTRY)?;
    let output_bits = size_bits(ste::S2PS.read(entry)).min(u32::from(profile.oas_bits));
    let output_bits = if granule == 16 { output_bits } else { output_bits.min(48) };
    let t0sz = ste::S2T0SZ.read(entry) as u32;
    let input_bits = 64u32.saturating_sub(t0sz);
    let widest = if granule == 16 { 52 } else { 48 }.min(u32::from(profile.oas_bits));
    let start = match (granule, ste::S2SL0.read(entry) as u32) {
        (12, level @ 0..=2) => 2 - level,
        (14 | 16, level @ 0..=2) => 3 - level,
        _ => return Err(BAD_ENTRY),
    };
    let stride = granule - 3;
    let below = granule + stride * (3 - start);
    let root = ste::S2TTB.in_place(entry[3]);
    let illegal = ste::S2AA64.read(entry) == 0
        || ste::S2ENDI.read(entry) == 1
        || ste::S2HA.read(entry) == 1
        || ste::S2HD.read(entry) == 1
        || ste::S2S.read(entry) == 1
        || t0sz > 39
        || input_bits > widest
        // Up to sixteen tables may stand side by side at the start level.
        || input_bits <= below
        || input_bits > below + stride + 4
        || root >> output_bits != 0;
    if illegal {
        return Err(BAD_ENTRY);
    }
    let first_table = 8u64 << (input_bits - below);
    Ok(Table {
        stage: Stage::Two,
        root: root & !(first_table.max(64) - 1),
        granule,
        input_bits,
        start,
        output_bits,
        access_flag_faults: ste::S2AFFD.read(entry) == 0,
        hierarchical: false,
        disabled: false,
        record: ste::S2R.read(entry) == 1,
    })
}
