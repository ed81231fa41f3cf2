//! Changing an entry of eight words that hardware may read at any moment.
//!
//! Hardware reads an entry in single 64-bit words, in any order and at any time, and ignores the bits that the rest of the entry makes meaningless. Between two
//! confirmed invalidations (a CFGI command and a CMD_SYNC) it may combine any values that the words have had. A [`Plan`] splits a change into
//! at most three phases, each followed by such a confirmation, so that every combination reads as the old entry, the new one, or an invalid one:
//!
//! 1. fill in the bits that the old entry ignores and the new one needs,
//! 2. store the one word in which the two really differ,
//! 3. clear what the new entry ignores;
//!
//! or, where more than one word differs: clear the valid bit, store all other words, store the word with the valid bit.
//!
//! The rejected alternative is to go through "invalid" always: shorter, but a device that shares the stream, or whose DMA goes on (identity to translated,
//! translated to the same addresses in another table), would be refused on the way.

use portcullis_spec::Field;
use portcullis_spec::smmuv3::{cd, ste};

#[cfg(test)]
#[path = "entry_tests.rs"]
pub(crate) mod tests;

/// An STE or a CD: eight 64-bit words.
pub(crate) type Entry = [u64; 8];

/// What the engine must know of a kind of entry. The valid bit is in word 0 in both.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    /// The bits that hardware looks at, given the entry's contents.
    used: fn(&Entry) -> Entry,
    /// Bits that may change at any moment: they do not affect how ordinary transactions are translated.
    free: Entry,
}

/// Stream table entries (§5.2). `EATS` and `MEV` may change at any moment: the first only concerns ATS requests, the second only the number of event records.
pub(crate) const STE: Kind =
    Kind { used: used_of_ste, free: with_bits([0; 8], &[ste::EATS, ste::MEV]) };

/// Context descriptors (§5.4).
pub(crate) const CD: Kind = Kind { used: used_of_cd, free: [0; 8] };

/// One group of stores that need a confirmation after them: the words with a bit in `words`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Phase {
    words: u8,
    values: Entry,
}

impl Phase {
    /// The words of `to`, out of `candidates`, that differ from `from`.
    fn between(from: &Entry, to: &Entry, candidates: u8) -> Self {
        Self { words: candidates & words(|i| from[i] ^ to[i]), values: *to }
    }

    /// Whether there is nothing to store, and so nothing to confirm.
    pub(crate) fn is_empty(&self) -> bool {
        self.words == 0
    }

    /// The stores: word index and value.
    pub(crate) fn stores(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        (0..8).filter(|i| self.words >> i & 1 == 1).map(|i| (i, self.values[i]))
    }
}

/// The phases of one change, in order. Empty ones need no confirmation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan(pub(crate) [Phase; 3]);

const ALL: u8 = 0xff;

/// How to get from what is in memory to `target`.
pub(crate) fn plan(kind: &Kind, now: &Entry, target: &Entry) -> Plan {
    let (used_now, used_target) = ((kind.used)(now), (kind.used)(target));
    // Where bits that both entries look at differ.
    let critical = words(|i| (now[i] ^ target[i]) & used_now[i] & used_target[i] & !kind.free[i]);
    if critical.count_ones() > 1 {
        return through_invalid(now, target);
    }
    // The critical word is stored once, whole: its ignored bits need no phase of their own.
    let needed = !critical & words(|i| (now[i] ^ target[i]) & used_target[i] & !used_now[i]);
    // If there must be a first phase it takes all that it can, so that perhaps there need not be a third.
    let filled = if needed == 0 { *now } else { fill(kind, now, &used_now, target) };
    let first = Phase::between(now, &filled, !critical);
    let second = Phase::between(now, target, critical);
    let after =
        core::array::from_fn(|i| if critical >> i & 1 == 1 { target[i] } else { filled[i] });
    Plan([first, second, Phase::between(&after, target, ALL)])
}

/// The words for which `bits` gives any.
fn words(bits: impl Fn(usize) -> u64) -> u8 {
    (0..8).filter(|i| bits(*i) != 0).fold(0, |set, i| set | 1 << i)
}

/// `now` with the bits that it ignores taken from `target`; free bits follow where the word changes anyway.
fn fill(kind: &Kind, now: &Entry, used: &Entry, target: &Entry) -> Entry {
    core::array::from_fn(|i| {
        let filled = now[i] & used[i] | target[i] & !used[i];
        if filled == now[i] { filled } else { filled & !kind.free[i] | target[i] & kind.free[i] }
    })
}

fn through_invalid(now: &Entry, target: &Entry) -> Plan {
    let mut gone = *now;
    gone[0] = 0;
    let mut ready = *target;
    ready[0] = 0;
    Plan([
        Phase::between(now, &gone, 1),
        Phase::between(&gone, &ready, !1),
        Phase::between(&ready, target, 1),
    ])
}

const fn with_bits(mut bits: Entry, fields: &[Field]) -> Entry {
    let mut i = 0;
    while i < fields.len() {
        bits[fields[i].word()] |= fields[i].mask();
        i += 1;
    }
    bits
}

/// How incoming attributes are replaced where no stage 1 gives them.
const BYPASS_ATTRIBUTES: &[Field] = &[ste::MEM_ATTR, ste::MTCFG, ste::SHCFG];

/// Replacements that apply whatever follows.
const INPUT_ATTRIBUTES: &[Field] =
    &[ste::DRE, ste::CONT, ste::DCP, ste::ALLOCCFG, ste::NSCFG, ste::PRIVCFG, ste::INSTCFG];

const STAGE_1: &[Field] = &[
    ste::S1FMT,
    ste::S1_CONTEXT_PTR,
    ste::S1CDMAX,
    ste::S1DSS,
    ste::S1CIR,
    ste::S1COR,
    ste::S1CSH,
    ste::S1MPAM,
    ste::S1STALLD,
    ste::STRW,
    ste::PPAR,
    ste::MEV,
    ste::EATS,
    // TLB entries carry the VMID even where stage 2 is off.
    ste::S2VMID,
];

const STAGE_2: &[Field] = &[
    ste::S2HWU59,
    ste::S2HWU60,
    ste::S2HWU61,
    ste::S2HWU62,
    ste::S2FWB,
    ste::MEV,
    ste::EATS,
    ste::S2VMID,
    ste::S2T0SZ,
    ste::S2SL0,
    ste::S2IR0,
    ste::S2OR0,
    ste::S2SH0,
    ste::S2TG,
    ste::S2PS,
    ste::S2AA64,
    ste::S2ENDI,
    ste::S2AFFD,
    ste::S2PTW,
    ste::S2HD,
    ste::S2HA,
    ste::S2S,
    ste::S2R,
    ste::S2TTB,
];

/// The bits of an STE that hardware looks at (§5.2).
fn used_of_ste(entry: &Entry) -> Entry {
    let mut used = with_bits([0; 8], &[ste::V]);
    if !ste::V.is_set(entry[0]) {
        return used;
    }
    used = with_bits(used, &[ste::CONFIG]);
    let config = ste::CONFIG.read(entry);
    if config < ste::config::BYPASS {
        return used;
    }
    used = with_bits(used, INPUT_ATTRIBUTES);
    let (stage1, stage2) = (config & 1 != 0, config & 2 != 0);
    if !stage1 || ste::S1DSS.read(entry) == ste::s1dss::BYPASS {
        used = with_bits(used, BYPASS_ATTRIBUTES);
    }
    if stage1 {
        used = with_bits(used, STAGE_1);
    }
    if stage2 {
        used = with_bits(used, STAGE_2);
    }
    used
}

const CD_ALWAYS: &[Field] = &[
    cd::V,
    cd::ENDI,
    cd::EPD0,
    cd::EPD1,
    cd::IPS,
    cd::AFFD,
    cd::WXN,
    cd::UWXN,
    cd::TBI0,
    cd::TBI1,
    cd::PAN,
    cd::AA64,
    cd::HD,
    cd::HA,
    cd::S,
    cd::R,
    cd::A,
    cd::ASET,
    cd::ASID,
    cd::MAIR0,
    cd::MAIR1,
    cd::AMAIR0,
    cd::AMAIR1,
];

const CD_TABLE_0: &[Field] =
    &[cd::T0SZ, cd::TG0, cd::IR0, cd::OR0, cd::SH0, cd::NSCFG0, cd::HAD0, cd::E0PD0, cd::TTB0];

const CD_TABLE_1: &[Field] =
    &[cd::T1SZ, cd::TG1, cd::IR1, cd::OR1, cd::SH1, cd::NSCFG1, cd::HAD1, cd::E0PD1, cd::TTB1];

/// The bits of a CD that hardware looks at (§5.4): a table whose walks are off is ignored.
fn used_of_cd(entry: &Entry) -> Entry {
    let mut used = with_bits([0; 8], &[cd::V]);
    if !cd::V.is_set(entry[0]) {
        return used;
    }
    used = with_bits(used, CD_ALWAYS);
    if !cd::EPD0.is_set(entry[0]) {
        used = with_bits(used, CD_TABLE_0);
    }
    if !cd::EPD1.is_set(entry[0]) {
        used = with_bits(used, CD_TABLE_1);
    }
    used
}
