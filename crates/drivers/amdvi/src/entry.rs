//! Changing a device table entry that hardware may read at any moment.
//!
//! Hardware reads the 32 bytes of an entry in pieces of 16 (or of 8; nothing here depends on which), at any time, and keeps what it read until it is told to forget it. An entry with V = 0 lets everything
//! pass, so an entry that changes cannot go through "not valid", as those of other families do. It goes through "permits nothing" (V, TV, neither IR nor IW), which is the first word alone, one store:
//!
//! 1. the first word is made to permit nothing, and hardware forgets the entry and all translations of its domain;
//! 2. the other words are stored (the domain is in the second), and hardware forgets the entry again: a read that began before cannot go on past this point;
//! 3. the first word is stored as wanted, and hardware forgets the entry that permitted nothing.
//!
//! Where only the first word differs, one store does it. A blocked device has domain 0, which no entry that permits anything ever has, so no translation under it is ever cached: step 2 of blocking sees to that.

use portcullis_spec::amdvi::dte;

/// A device table entry.
pub(crate) type Entry = [u64; dte::WORDS];

/// What permits nothing.
pub(crate) const BLOCKED: Entry = [dte::V.of(1) | dte::TV.of(1), 0, 0, 0];

/// The domain of blocked devices.
pub(crate) const NO_DOMAIN: u16 = 0;

/// One group of stores, after which hardware must have forgotten the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Phase {
    /// Bit `i`: word `i` is stored.
    words: u8,
    values: Entry,
    /// The domain that the entry leaves: all of its translations must be forgotten too.
    pub(crate) leaves: Option<u16>,
}

impl Phase {
    /// The words of `to`, out of `candidates`, that differ from `from`.
    fn between(from: &Entry, to: &Entry, candidates: u8, leaves: Option<u16>) -> Self {
        let differs = |word: &usize| from[*word] != to[*word] && candidates >> word & 1 == 1;
        let words = (0..dte::WORDS).filter(differs).fold(0, |set, word| set | 1 << word);
        Self { words, values: *to, leaves }
    }

    /// Whether there is nothing to store, and so nothing to confirm.
    pub(crate) fn is_empty(&self) -> bool {
        self.words == 0
    }

    /// The stores: word index and value.
    pub(crate) fn stores(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        (0..dte::WORDS)
            .filter(|word| self.words >> word & 1 == 1)
            .map(|word| (word, self.values[word]))
    }
}

/// The phases of one change, in order.
pub(crate) type Plan = [Phase; 3];

const FIRST: u8 = 1;

/// Whether the device may do nothing.
pub(crate) fn is_blocked(entry: &Entry) -> bool {
    let permits = dte::IR.is_set(entry[0]) || dte::IW.is_set(entry[0]);
    dte::V.is_set(entry[0]) && dte::TV.is_set(entry[0]) && !permits
}

/// The domain of an entry.
pub(crate) fn domain(entry: &Entry) -> u16 {
    dte::DOMAIN.read(entry) as u16
}

/// How to get from what is in memory to `target`. `between` is false only where a test leaves the way through "permits nothing" out, `last` where it lets the permission come with the rest.
pub(crate) fn plan(now: &Entry, target: &Entry, between: bool, last: bool) -> Plan {
    let nothing = Phase { words: 0, values: *target, leaves: None };
    let leaves = (!is_blocked(now)).then(|| domain(now));
    let all = Phase::between(now, target, u8::MAX, leaves);
    if all.words <= FIRST || !between {
        return [all, nothing, nothing];
    }
    let mut closed = *now;
    if !is_blocked(now) {
        closed[0] = BLOCKED[0];
    }
    let close = Phase::between(now, &closed, FIRST, leaves);
    if !last {
        return [close, Phase::between(&closed, target, u8::MAX, None), nothing];
    }
    let rest = Phase::between(&closed, target, !FIRST, None);
    [close, rest, Phase::between(&closed, target, FIRST, None)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn translated(root: u64, mode: u64, domain: u64) -> Entry {
        let mut entry = BLOCKED;
        dte::ROOT.write(&mut entry, root);
        dte::MODE.write(&mut entry, mode);
        dte::IR.write(&mut entry, 1);
        dte::IW.write(&mut entry, 1);
        dte::DOMAIN.write(&mut entry, domain);
        entry
    }

    /// Entries of every shape that the driver writes, and what it may take over from firmware.
    fn shapes() -> Vec<(&'static str, Entry)> {
        let mut identity = translated(0, 0, 1);
        dte::MODE.write(&mut identity, 0);
        let mut half_blocked = translated(0x1234, 3, 5);
        half_blocked[0] = BLOCKED[0];
        let mut from_firmware = translated(0x777, 4, 9);
        dte::IV.write(&mut from_firmware, 1);
        dte::INT_CTL.write(&mut from_firmware, 2);
        let mut read_only = translated(0x888, 4, 10);
        dte::IW.write(&mut read_only, 0);
        std::vec![
            ("blocked", BLOCKED),
            ("blocked, domain left", half_blocked),
            ("identity", identity),
            ("three levels", translated(0x1234, 3, 5)),
            ("the same, grown", translated(0x4321, 4, 5)),
            ("another space", translated(0x5555, 3, 6)),
            ("another space with the same table", translated(0x1234, 3, 7)),
            ("firmware's, with interrupts", from_firmware),
            ("firmware's, read only", read_only),
        ]
    }

    /// Every mixture that hardware can have read in pieces of `chunk` words: of each piece any value since the last confirmation.
    fn mixtures(seen: &[Vec<Entry>], chunk: usize) -> Vec<Entry> {
        let mut all = std::vec![[0; dte::WORDS]];
        for (piece, values) in seen.iter().enumerate() {
            let words = piece * chunk..(piece + 1) * chunk;
            all = all
                .into_iter()
                .flat_map(|entry| {
                    values.iter().map({
                        let words = words.clone();
                        move |value| {
                            let mut entry = entry;
                            entry[words.clone()].copy_from_slice(&value[words.clone()]);
                            entry
                        }
                    })
                })
                .collect();
        }
        all
    }

    /// Whether some store of the change lets hardware, reading in pieces of `chunk` words, read what is neither the old entry, nor the new one, nor one that permits nothing. "Not valid" is never right. An entry that
    /// permits something under the domain of blocked devices is not either.
    fn is_torn(from: &Entry, to: &Entry, chunk: usize, between: bool, last: bool) -> bool {
        let mut memory = *from;
        let pieces = dte::WORDS / chunk;
        let mut seen = std::vec![std::vec![memory]; pieces];
        for phase in plan(from, to, between, last) {
            for (word, value) in phase.stores() {
                memory[word] = value;
                seen[word / chunk].push(memory);
                let bad = |entry: &Entry| {
                    let known = entry == from || entry == to || is_blocked(entry);
                    let open = !is_blocked(entry) && domain(entry) == NO_DOMAIN;
                    !dte::V.is_set(entry[0]) || !known || open
                };
                if mixtures(&seen, chunk).iter().any(bad) {
                    return true;
                }
            }
            if !phase.is_empty() {
                seen = std::vec![std::vec![memory]; pieces];
            }
        }
        assert_eq!(memory, *to);
        false
    }

    #[test]
    fn no_ordered_pair_of_entries_is_ever_read_mixed() {
        let shapes = shapes();
        let mut pairs = 0;
        for (from_name, from) in &shapes {
            for (to_name, to) in &shapes {
                for chunk in [2, 1] {
                    let torn = is_torn(from, to, chunk, true, true);
                    assert!(!torn, "{from_name} to {to_name} in pieces of {chunk} words");
                }
                pairs += 1;
            }
        }
        assert_eq!(pairs, 81);
    }

    /// The check bites: without either safeguard some pair is read mixed, also in pieces of 16 bytes.
    #[test]
    fn without_a_safeguard_some_pair_is_read_mixed() {
        let shapes = shapes();
        let torn = |chunk, between, last| {
            let pairs =
                shapes.iter().flat_map(|(_, from)| shapes.iter().map(move |(_, to)| (from, to)));
            pairs.filter(|(from, to)| is_torn(from, to, chunk, between, last)).count()
        };
        assert_eq!(torn(2, true, true), 0);
        assert!(torn(2, false, true) > 0, "in place");
        assert!(torn(2, true, false) > 0, "the permission together with the rest");
        assert!(torn(1, true, false) > 0, "the same in pieces of 8 bytes");
    }

    #[test]
    fn blocking_takes_the_permission_first_and_then_the_domain() {
        for (name, from) in shapes() {
            let plan = plan(&from, &BLOCKED, true, true);
            let stores: Vec<_> =
                plan.iter().map(|it| it.stores().map(|it| it.0).collect::<Vec<_>>()).collect();
            let first = if is_blocked(&from) { 0 } else { 1 };
            assert_eq!(stores[0].len(), first, "{name}");
            assert!(stores[2].is_empty(), "{name}");
            assert_eq!(plan[0].leaves.is_some(), !is_blocked(&from), "{name}");
        }
    }

    /// A table that grows changes root and mode, which are in one word.
    #[test]
    fn growing_is_one_store() {
        let plan = plan(&translated(0x1234, 3, 5), &translated(0x4321, 4, 5), true, true);
        assert_eq!(plan[0].stores().count(), 1);
        assert!(plan[1].is_empty() && plan[2].is_empty());
    }
}
