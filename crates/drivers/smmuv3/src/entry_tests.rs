//! Every store and every confirmation of a change is watched, and between two confirmations every mixture of the values that each word had is decoded.
//!
//! The transitions and the limits are those of Linux's `arm-smmu-v3-test.c` (as of 2025); the decoder below is typed from §5.2 and §5.4 on its own.

use super::*;
use portcullis_spec::smmuv3::ste::{config, s1dss};
use std::collections::BTreeSet;
use std::string::String;
use std::vec::Vec;
use std::{format, vec};

/// What an entry makes hardware do, as text; `None` for an invalid entry or one that aborts.
pub(crate) type Meaning = Option<String>;

/// The meaning of an STE for ordinary (not ATS) transactions.
pub(crate) fn meaning_of_ste(entry: &Entry) -> Meaning {
    let get = |field: Field| field.read(entry);
    if get(ste::V) == 0 || get(ste::CONFIG) < 4 {
        return None;
    }
    let mut meaning = format!("config {}", get(ste::CONFIG));
    let mut add = |fields: &[Field]| {
        for field in fields {
            meaning += &format!(" {}={:#x}", field.name(), field.read(entry));
        }
    };
    let first = get(ste::CONFIG) & 1 != 0;
    let second = get(ste::CONFIG) & 2 != 0;
    add(&[ste::ALLOCCFG, ste::PRIVCFG, ste::INSTCFG, ste::NSCFG, ste::DRE, ste::DCP]);
    if first {
        add(&[ste::S1FMT, ste::S1_CONTEXT_PTR, ste::S1CDMAX, ste::S1DSS, ste::S1CIR]);
        add(&[ste::S1COR, ste::S1CSH, ste::S1STALLD, ste::STRW, ste::S2VMID]);
    }
    if !first || get(ste::S1DSS) == s1dss::BYPASS {
        add(&[ste::SHCFG, ste::MTCFG, ste::MEM_ATTR]);
    }
    if second {
        add(&[ste::S2VMID, ste::S2T0SZ, ste::S2SL0, ste::S2IR0, ste::S2OR0, ste::S2SH0]);
        add(&[ste::S2TG, ste::S2PS, ste::S2AA64, ste::S2ENDI, ste::S2PTW, ste::S2S, ste::S2R]);
        add(&[ste::S2FWB, ste::S2TTB]);
    }
    Some(meaning)
}

fn meaning_of_cd(entry: &Entry) -> Meaning {
    if cd::V.read(entry) == 0 {
        return None;
    }
    let mut meaning = String::new();
    let mut add = |fields: &[Field]| {
        for field in fields {
            meaning += &format!(" {}={:#x}", field.name(), field.read(entry));
        }
    };
    add(&[cd::AA64, cd::ASID, cd::ASET, cd::IPS, cd::R, cd::A, cd::S, cd::EPD0, cd::EPD1]);
    add(&[cd::MAIR0, cd::MAIR1, cd::TBI0, cd::AFFD, cd::HA, cd::HD]);
    if cd::EPD0.read(entry) == 0 {
        add(&[cd::T0SZ, cd::TG0, cd::IR0, cd::OR0, cd::SH0, cd::TTB0, cd::HAD0]);
    }
    if cd::EPD1.read(entry) == 0 {
        add(&[cd::T1SZ, cd::TG1, cd::IR1, cd::OR1, cd::SH1, cd::TTB1]);
    }
    Some(meaning)
}

/// What was seen during one change.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) confirmations: usize,
    /// Whether a device could have been refused although neither end refuses it, or meet an entry that was made invalid on the way.
    pub(crate) made_invalid: bool,
}

/// Watches an entry: one value set per word since the last confirmation.
pub(crate) struct Watch {
    now: Entry,
    possible: [BTreeSet<u64>; 8],
    ends: [Meaning; 2],
    meaning: fn(&Entry) -> Meaning,
    pub(crate) seen: Seen,
}

impl Watch {
    pub(crate) fn new(meaning: fn(&Entry) -> Meaning, from: Entry, to: &Entry) -> Self {
        let ends = [meaning(&from), meaning(to)];
        let possible = from.map(|word| BTreeSet::from([word]));
        Self { now: from, possible, ends, meaning, seen: Seen::default() }
    }

    pub(crate) fn store(&mut self, word: usize, value: u64) {
        self.now[word] = value;
        self.possible[word].insert(value);
        self.check_every_mixture();
    }

    pub(crate) fn confirm(&mut self) {
        self.seen.confirmations += 1;
        self.possible = self.now.map(|word| BTreeSet::from([word]));
    }

    fn check_every_mixture(&mut self) {
        let mut mixtures: Vec<Entry> = vec![[0; 8]];
        for (word, values) in self.possible.iter().enumerate() {
            let with = |mixture: &Entry, value: &u64| {
                let mut mixture = *mixture;
                mixture[word] = *value;
                mixture
            };
            mixtures = mixtures
                .iter()
                .flat_map(|mixture| values.iter().map(move |value| with(mixture, value)))
                .collect();
        }
        for mixture in mixtures {
            let meaning = (self.meaning)(&mixture);
            if meaning.is_none() {
                self.seen.made_invalid |= self.ends.iter().all(Option::is_some);
            } else {
                assert!(self.ends.contains(&meaning), "{meaning:?} is neither of {:?}", self.ends);
            }
        }
    }
}

/// Carries a plan out under a watch.
fn change(kind: &Kind, meaning: fn(&Entry) -> Meaning, from: &Entry, to: &Entry) -> Seen {
    let mut watch = Watch::new(meaning, *from, to);
    for phase in plan(kind, from, to).0 {
        for (word, value) in phase.stores() {
            watch.store(word, value);
        }
        if !phase.is_empty() {
            watch.confirm();
        }
    }
    assert_eq!(&watch.now, to, "the change ends at its target, bit for bit");
    watch.seen
}

fn entry(fields: &[(Field, u64)]) -> Entry {
    let mut entry = [0; 8];
    for (field, value) in fields {
        field.write(&mut entry, *value);
    }
    entry
}

fn bypass() -> Entry {
    entry(&[(ste::V, 1), (ste::CONFIG, config::BYPASS), (ste::SHCFG, 1)])
}

fn abort() -> Entry {
    entry(&[(ste::V, 1), (ste::CONFIG, config::ABORT)])
}

/// Stage 1 with a context descriptor table.
fn stage1(table: u64, dss: u64, ats: bool, stall_off: bool) -> Entry {
    entry(&[
        (ste::V, 1),
        (ste::CONFIG, config::S1),
        (ste::S1FMT, ste::s1fmt::TWO_LEVEL_64K),
        (ste::S1_CONTEXT_PTR, table >> 6),
        (ste::S1CDMAX, 6),
        (ste::S1DSS, dss),
        (ste::S1CIR, 1),
        (ste::S1COR, 1),
        (ste::S1CSH, 3),
        (ste::S1STALLD, u64::from(stall_off)),
        (ste::EATS, u64::from(ats)),
        (ste::SHCFG, u64::from(dss == s1dss::BYPASS)),
    ])
}

fn stage2(ats: bool, stall: bool) -> Entry {
    entry(&[
        (ste::V, 1),
        (ste::CONFIG, config::S2),
        (ste::EATS, u64::from(ats)),
        (ste::SHCFG, 1),
        // As stage 1 streams have it; with another VMID the change from stage 1 is one of two words, see the driver's own shapes.
        (ste::S2VMID, 0),
        (ste::S2T0SZ, 25),
        (ste::S2SL0, 1),
        (ste::S2IR0, 1),
        (ste::S2OR0, 1),
        (ste::S2SH0, 3),
        (ste::S2PS, 5),
        (ste::S2AA64, 1),
        (ste::S2PTW, 1),
        (ste::S2S, u64::from(stall)),
        (ste::S2R, 1),
        (ste::S2TTB, 0x8765_4000 >> 4),
    ])
}

/// A guest's stage 1 over `stage2`, with merged events.
fn nested() -> Entry {
    let mut both = stage2(true, false);
    let first = stage1(0xf1_2340, s1dss::BYPASS, true, false);
    both[0] = first[0];
    both[1] |= first[1];
    ste::CONFIG.write(&mut both, config::NESTED);
    ste::MEV.write(&mut both, 1);
    both
}

const TABLE: u64 = 0xdead_bee0_0000;
const OTHER_TABLE: u64 = 0x4b4b_4b4b_0000;

/// From, to, most confirmations, and whether a passing "invalid" is accepted.
struct Transition(&'static str, Entry, Entry, usize, bool);

fn ste_transitions() -> Vec<Transition> {
    let ssid0 = stage1(TABLE, s1dss::SSID0, true, false);
    let dss_bypass = stage1(TABLE, s1dss::BYPASS, true, false);
    let elsewhere = stage1(OTHER_TABLE, s1dss::BYPASS, true, false);
    let stall1 = stage1(TABLE, s1dss::SSID0, false, true);
    let stall2 = stage2(false, true);
    let (ats2, plain2) = (stage2(true, false), stage2(false, false));
    let (bypass, abort, nested) = (bypass(), abort(), nested());
    vec![
        Transition("bypass to abort", bypass, abort, 2, true),
        Transition("abort to bypass", abort, bypass, 2, true),
        Transition("stage 1 to abort", ssid0, abort, 2, true),
        Transition("abort to stage 1", abort, ssid0, 2, true),
        Transition("stage 1 to bypass", ssid0, bypass, 3, false),
        Transition("bypass to stage 1", bypass, ssid0, 3, false),
        Transition("S1DSS SSID0 to bypass", ssid0, dss_bypass, 1, false),
        Transition("S1DSS bypass to SSID0", dss_bypass, ssid0, 1, false),
        Transition("S1DSS bypass to bypass", dss_bypass, bypass, 2, false),
        Transition("bypass to S1DSS bypass", bypass, dss_bypass, 2, false),
        Transition("stage 2 to abort", ats2, abort, 2, true),
        Transition("abort to stage 2", abort, ats2, 2, true),
        Transition("stage 2 to bypass", ats2, bypass, 2, false),
        Transition("bypass to stage 2", bypass, ats2, 2, false),
        Transition("stage 1 to stage 2 with ATS", ssid0, ats2, 3, false),
        Transition("stage 2 to stage 1 with ATS", ats2, ssid0, 3, false),
        Transition("stage 1 to stage 2 with stalls", stall1, stall2, 3, false),
        Transition("stage 2 to stage 1 with stalls", stall2, stall1, 3, false),
        Transition("nested to stage 2", nested, plain2, 3, false),
        Transition("stage 2 to nested", plain2, nested, 2, false),
        Transition("stage 1 to another table and S1DSS", ssid0, elsewhere, 3, true),
    ]
}

fn cd_transitions() -> Vec<Transition> {
    let kernel = |asid: u64| {
        entry(&[
            (cd::V, 1),
            (cd::AA64, 1),
            (cd::T0SZ, 16),
            (cd::IR0, 1),
            (cd::OR0, 1),
            (cd::SH0, 3),
            (cd::EPD1, 1),
            (cd::IPS, 5),
            (cd::R, 1),
            (cd::A, 1),
            (cd::ASET, 1),
            (cd::ASID, asid),
            (cd::TTB0, 0x1234_5000 >> 4),
            (cd::MAIR0, 0xf404_ff44),
        ])
    };
    let mut shared = kernel(444);
    cd::ASET.write(&mut shared, 0);
    let released = entry(&[
        (cd::V, 1),
        (cd::AA64, 1),
        (cd::EPD0, 1),
        (cd::EPD1, 1),
        (cd::IPS, 5),
        (cd::R, 1),
        (cd::A, 1),
        (cd::ASID, 444),
        (cd::MAIR0, 0xf404_ff44),
    ]);
    let (empty, first, second) = ([0; 8], kernel(778), kernel(1997));
    vec![
        Transition("empty to stage 1", empty, first, 2, true),
        Transition("stage 1 to empty", first, empty, 2, true),
        Transition("one ASID to another", first, second, 1, false),
        Transition("and back", second, first, 1, false),
        Transition("empty to shared", empty, shared, 2, true),
        Transition("shared to empty", shared, empty, 2, true),
        Transition("shared to released", shared, released, 2, false),
        Transition("released to shared", released, shared, 2, false),
    ]
}

#[test]
fn the_known_transitions_are_met_or_beaten() {
    let (ste_cases, cd_cases) = (ste_transitions(), cd_transitions());
    assert_eq!(ste_cases.len() + cd_cases.len(), 29);
    let stes = ste_cases.iter().map(|case| (&STE, meaning_of_ste as fn(&Entry) -> Meaning, case));
    let cds = cd_cases.iter().map(|case| (&CD, meaning_of_cd as fn(&Entry) -> Meaning, case));
    let mut beaten = Vec::new();
    for (kind, meaning, Transition(name, from, to, most, invalid)) in stes.chain(cds) {
        let seen = change(kind, meaning, from, to);
        assert!(seen.confirmations <= *most, "{name}: {} instead of {most}", seen.confirmations);
        assert!(!seen.made_invalid || *invalid, "{name}: refused on the way");
        if seen.confirmations < *most {
            beaten.push(*name);
        }
    }
    assert_eq!(beaten, ["nested to stage 2"], "one confirmation less than the anchor");
}

#[test]
fn only_a_change_of_two_words_goes_through_invalid() {
    for Transition(name, from, to, ..) in ste_transitions() {
        let seen = change(&STE, meaning_of_ste, &from, &to);
        assert_eq!(seen.made_invalid, name == "stage 1 to another table and S1DSS", "{name}");
    }
    for Transition(name, from, to, ..) in cd_transitions() {
        assert!(!change(&CD, meaning_of_cd, &from, &to).made_invalid, "{name}");
    }
}

#[test]
fn any_change_at_all_is_old_new_or_invalid() {
    let shapes: Vec<Entry> = ste_transitions().iter().flat_map(|case| [case.1, case.2]).collect();
    // Bits that a shape ignores may hold anything, left by whatever the entry was before.
    let noisy = |shape: &Entry| {
        let used = (STE.used)(shape);
        core::array::from_fn(|i| shape[i] | 0x5a5a_f0f0_1234_8765 & !used[i])
    };
    for from in &shapes {
        for to in &shapes {
            let clean = change(&STE, meaning_of_ste, from, to);
            assert!(clean.confirmations <= 3);
            let from_noise = change(&STE, meaning_of_ste, &noisy(from), to);
            assert!(from_noise.confirmations <= 3);
        }
    }
}

/// The checker must be able to fail: a plan whose phases are run without the confirmation in between shows a mixture.
#[test]
#[should_panic(expected = "is neither of")]
fn a_missing_confirmation_shows_as_a_mixture() {
    let (from, to) = (stage2(false, false), stage1(TABLE, s1dss::SSID0, false, false));
    let mut watch = Watch::new(meaning_of_ste, from, &to);
    for phase in plan(&STE, &from, &to).0 {
        phase.stores().for_each(|(word, value)| watch.store(word, value));
    }
}

/// And so must plain stores from the first word to the last.
#[test]
#[should_panic(expected = "is neither of")]
fn storing_the_words_in_order_shows_as_a_mixture() {
    let (from, to) = (bypass(), stage2(false, false));
    let mut watch = Watch::new(meaning_of_ste, from, &to);
    for (word, value) in to.into_iter().enumerate() {
        watch.store(word, value);
        watch.confirm();
    }
}
