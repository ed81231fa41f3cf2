//! Finding and decoding the context descriptor of a transaction (§3.3.2, §5.3, §5.4).

use super::Profile;
use super::caches::Fill;
use super::events::Refusal;
use super::profile::size_bits;
use super::stream::{ContextTable, Stages, granule_of};
use super::translate::Transit;
use crate::access::AccessKind;
use crate::vmsa::{Stage, Table};
use portcullis_spec::smmuv3::event::{class, number};
use portcullis_spec::smmuv3::ste::{s1dss, s1fmt};
use portcullis_spec::smmuv3::{cd, l1cd};

/// What stage 1 does with a transaction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context {
    pub(super) asid: u16,
    /// The tables of the lower and the upper range.
    pub(super) tables: [Table; 2],
    /// The top byte of an address is ignored, for each range.
    pub(super) top_byte_ignored: [bool; 2],
}

const BAD_CONTEXT: Refusal = Refusal::Configuration(number::C_BAD_CD);
const BAD_SUBSTREAM: Refusal = Refusal::Configuration(number::C_BAD_SUBSTREAMID);

impl Transit<'_> {
    /// Which descriptor the transaction uses; `None` where stage 1 is skipped.
    pub(super) fn context_index(&self, table: &ContextTable) -> Result<Option<u32>, Refusal> {
        let disabled = Err(Refusal::Configuration(number::F_STREAM_DISABLED));
        match self.subject.substream {
            None if table.log2 == 0 => Ok(Some(0)),
            None => match table.without_substream {
                s1dss::BYPASS => Ok(None),
                s1dss::SSID0 => Ok(Some(0)),
                _ => disabled,
            },
            Some(_) if table.log2 == 0 => Err(BAD_SUBSTREAM),
            Some(id) if u64::from(id) >= 1 << table.log2 => Err(BAD_SUBSTREAM),
            Some(0) if table.without_substream == s1dss::SSID0 => disabled,
            Some(id) => Ok(Some(id)),
        }
    }

    /// The descriptor, cached or fetched (through stage 2 where there is one).
    pub(super) fn context_entry(
        &mut self,
        table: &ContextTable,
        stages: &Stages,
        index: u32,
    ) -> Result<[u64; 8], Refusal> {
        let stream = self.subject.stream;
        if let Some(entry) = self.cached(|caches| caches.context(stream, index)) {
            return Ok(entry);
        }
        let bytes = cd::BYTES as u64;
        let leaf_log2 = match table.format {
            s1fmt::TWO_LEVEL_4K => 6,
            s1fmt::TWO_LEVEL_64K => 10,
            _ => 20,
        };
        let address = if table.log2 == 0 || table.format == s1fmt::LINEAR {
            table.address + u64::from(index) * bytes
        } else {
            let word = self.level1_context(table, stages, index >> leaf_log2)?;
            if l1cd::V.get(word) == 0 {
                return Err(BAD_SUBSTREAM);
            }
            l1cd::L2PTR.in_place(word) + u64::from(index & ((1 << leaf_log2) - 1)) * bytes
        };
        let physical = self.physical_of(stages, address, class::CD)?;
        let entry = self
            .entry("CD", physical)
            .map_err(|address| Refusal::Fetch { number: number::F_CD_FETCH, address })?;
        if cd::V.read(&entry) == 1 || self.keeps_invalid() {
            self.fills.push(Fill::Context { stream, substream: index, entry });
        }
        Ok(entry)
    }

    fn level1_context(
        &mut self,
        table: &ContextTable,
        stages: &Stages,
        index: u32,
    ) -> Result<u64, Refusal> {
        let stream = self.subject.stream;
        if let Some(word) = self.cached(|caches| caches.context_table(stream, index)) {
            return Ok(word);
        }
        let address = table.address + u64::from(index) * l1cd::BYTES as u64;
        let address = self.physical_of(stages, address, class::CD)?;
        let word = self
            .word(address, "L1CD")
            .map_err(|_| Refusal::Fetch { number: number::F_CD_FETCH, address })?;
        if l1cd::V.get(word) == 1 || self.keeps_invalid() {
            self.fills.push(Fill::ContextDescriptorTable { stream, index, word });
        }
        Ok(word)
    }

    /// Where an address of the configuration or of a stage 1 table really is.
    pub(super) fn physical_of(
        &mut self,
        stages: &Stages,
        address: u64,
        class: u64,
    ) -> Result<u64, Refusal> {
        let Some(table) = &stages.stage2 else { return Ok(address) };
        let found = self.stage2(stages, table, address, class, AccessKind::Read)?;
        Ok(found.physical)
    }
}

/// Reads a descriptor the way hardware does (§5.4, §5.4.2); what is ILLEGAL is C_BAD_CD.
pub(super) fn decode(entry: &[u64; 8], profile: &Profile) -> Result<Context, Refusal> {
    let set = |field: portcullis_spec::Field| field.read(entry) == 1;
    let illegal = !set(cd::V)
        || !set(cd::AA64)
        || set(cd::HA)
        || set(cd::HD)
        || set(cd::S)
        || profile.term_model && !set(cd::A)
        || (!set(cd::EPD0) || !set(cd::EPD1)) && set(cd::ENDI);
    if illegal {
        return Err(BAD_CONTEXT);
    }
    let asid = cd::ASID.read(entry) as u16;
    let ips = size_bits(cd::IPS.read(entry)).min(u32::from(profile.oas_bits));
    let af_faults = !set(cd::AFFD);
    // TG1 has an encoding of its own (§5.4): 1 is 16 KiB, 2 is 4 KiB, 3 is 64 KiB.
    let granule1 = [None, Some(14), Some(12), Some(16)][cd::TG1.read(entry) as usize];
    let granule1 = granule1.filter(|log2| profile.has_granule(*log2));
    let half = |granule: Option<u32>, tsz: u64, ttb: u64, had: bool, epd: bool| {
        let (granule, tsz) = match (granule, epd) {
            (_, true) => (12, 25),
            (Some(granule), false) => (granule, tsz as u32),
            (None, false) => return Err(BAD_CONTEXT),
        };
        let least = if granule == 16 && profile.va_52 { 12 } else { 16 };
        let output_bits = if granule == 16 { ips } else { ips.min(48) };
        if !(least..=39).contains(&tsz) || !epd && ttb >> output_bits != 0 {
            return Err(BAD_CONTEXT);
        }
        let input_bits = 64 - tsz;
        let start = 4 - (input_bits - granule).div_ceil(granule - 3);
        let root_entries = input_bits - (granule + (granule - 3) * (3 - start));
        Ok(Table {
            stage: Stage::One,
            root: ttb & !((8u64 << root_entries).max(64) - 1),
            granule,
            input_bits,
            start,
            output_bits,
            access_flag_faults: af_faults,
            hierarchical: !(profile.had && had),
            disabled: epd,
            record: set(cd::R),
        })
    };
    let granule0 = granule_of(cd::TG0.read(entry), profile);
    let (ttb0, ttb1) = (cd::TTB0.in_place(entry[1]), cd::TTB1.in_place(entry[2]));
    Ok(Context {
        asid: if profile.asid16 { asid } else { asid & 0xff },
        tables: [
            half(granule0, cd::T0SZ.read(entry), ttb0, set(cd::HAD0), set(cd::EPD0))?,
            half(granule1, cd::T1SZ.read(entry), ttb1, set(cd::HAD1), set(cd::EPD1))?,
        ],
        top_byte_ignored: [set(cd::TBI0), set(cd::TBI1)],
    })
}
