//! Changing a device context that hardware may read at any moment.
//!
//! Hardware reads a context in single 64-bit words, in any order and at any time (§2.1.2, §2.9), and ignores the rest of one that is not valid. Between two confirmed invalidations it may combine any values that the
//! words have had. So a change of more than one word goes through "not valid":
//!
//! 1. `tc` is cleared, and hardware forgets the context;
//! 2. the other words are stored, and hardware is made to see them: a read that began before may not go on past this point;
//! 3. `tc` is stored with its valid bit. Hardware keeps no invalid context (§2.8), so nothing need be forgotten after that.
//!
//! A change of one word is one store. Steps that change nothing are left out: a context that is not valid begins with the second.

use portcullis_spec::riscv::dc;

/// A device context; of the base format the first four words count.
pub(crate) type Entry = [u64; dc::WORDS];

/// What is ignored.
pub(crate) const INVALID: Entry = [0; dc::WORDS];

/// One group of stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Phase {
    /// Bit `i`: word `i` is stored.
    words: u8,
    values: Entry,
    /// Hardware must confirm it before the next phase, or before the change counts.
    pub(crate) confirm: bool,
}

impl Phase {
    /// The words of `to`, out of `candidates`, that differ from `from`.
    fn between(from: &Entry, to: &Entry, candidates: u8, confirm: bool) -> Self {
        let differs = |word: &usize| from[*word] != to[*word] && candidates >> word & 1 == 1;
        let words = (0..dc::WORDS).filter(differs).fold(0, |set, word| set | 1 << word);
        Self { words, values: *to, confirm }
    }

    /// Whether there is nothing to store, and so nothing to confirm.
    pub(crate) fn is_empty(&self) -> bool {
        self.words == 0
    }

    /// The stores: word index and value.
    pub(crate) fn stores(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        (0..dc::WORDS)
            .filter(|word| self.words >> word & 1 == 1)
            .map(|word| (word, self.values[word]))
    }
}

/// The phases of one change, in order.
pub(crate) type Plan = [Phase; 3];

const TC: u8 = 1;

fn is_valid(entry: &Entry) -> bool {
    dc::V.is_set(entry[0])
}

/// How to get from what is in memory to `target`. `between` is false only where a test leaves the way through "not valid" out, `last` where it lets the valid bit come with the rest.
pub(crate) fn plan(now: &Entry, target: &Entry, between: bool, last: bool) -> Plan {
    let nothing = Phase { words: 0, values: *target, confirm: false };
    let all = Phase::between(now, target, u8::MAX, true);
    if !is_valid(target) {
        // What else is in it does not matter.
        return [
            Phase::between(now, &INVALID, if is_valid(now) { TC } else { 0 }, true),
            nothing,
            nothing,
        ];
    }
    if is_valid(now) && (all.words.count_ones() <= 1 || !between) {
        return [all, nothing, nothing];
    }
    // An invalid context may have anything in `tc` besides its valid bit: 0 is stored only over a valid one.
    let mut gone = *now;
    if is_valid(now) {
        gone[0] = 0;
    }
    let away = Phase::between(now, &gone, TC, true);
    if !last {
        return [away, nothing, Phase::between(&gone, target, u8::MAX, false)];
    }
    let rest = Phase::between(&gone, target, !TC, true);
    [away, rest, Phase::between(&gone, target, TC, false)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// Contexts of every shape that the driver writes, and what firmware may have left in an invalid one.
    fn shapes() -> Vec<(&'static str, Entry)> {
        let translated = |root: u64, tag: u64| {
            let mut entry = INVALID;
            dc::V.write(&mut entry, 1);
            dc::PSCID.write(&mut entry, tag);
            dc::FSC_PPN.write(&mut entry, root);
            dc::FSC_MODE.write(&mut entry, 9);
            entry
        };
        let second = |root: u64, tag: u64| {
            let mut entry = INVALID;
            dc::V.write(&mut entry, 1);
            dc::IOHGATP_PPN.write(&mut entry, root);
            dc::GSCID.write(&mut entry, tag);
            dc::IOHGATP_MODE.write(&mut entry, 8);
            entry
        };
        let mut identity = INVALID;
        dc::V.write(&mut identity, 1);
        let mut remains = translated(0x777, 99);
        dc::V.write(&mut remains, 0);
        std::vec![
            ("blocked", INVALID),
            ("remains", remains),
            ("identity", identity),
            ("first stage", translated(0x1234, 5)),
            ("another first stage", translated(0x4321, 6)),
            ("the same tag", translated(0x4321, 5)),
            ("second stage", second(0x1000, 7)),
            ("another second stage", second(0x2000, 8)),
        ]
    }

    /// Every mixture that hardware can have read: of each word any value since the last confirmation.
    fn mixtures(seen: &[Vec<u64>]) -> Vec<Entry> {
        let mut all = std::vec![INVALID];
        for (word, values) in seen.iter().enumerate() {
            all = all
                .into_iter()
                .flat_map(|entry| {
                    values.iter().map(move |value| {
                        let mut entry = entry;
                        entry[word] = *value;
                        entry
                    })
                })
                .collect();
        }
        all
    }

    /// Whether some store of the change lets hardware read what is neither the old context, nor the new one, nor invalid.
    fn is_torn(from: &Entry, to: &Entry, between: bool, last: bool) -> bool {
        let mut memory = *from;
        let mut seen: Vec<Vec<u64>> = memory.iter().map(|word| std::vec![*word]).collect();
        for phase in plan(from, to, between, last) {
            for (word, value) in phase.stores() {
                memory[word] = value;
                seen[word].push(value);
                let bad = |entry: &Entry| is_valid(entry) && entry != from && entry != to;
                if mixtures(&seen).iter().any(bad) {
                    return true;
                }
            }
            if phase.confirm {
                seen = memory.iter().map(|word| std::vec![*word]).collect();
            }
        }
        assert!(memory == *to || !is_valid(&memory) && !is_valid(to));
        false
    }

    #[test]
    fn no_ordered_pair_of_contexts_is_ever_read_mixed() {
        let shapes = shapes();
        for (from_name, from) in &shapes {
            for (to_name, to) in &shapes {
                assert!(!is_torn(from, to, true, true), "{from_name} to {to_name}");
            }
        }
    }

    /// The check bites: without either safeguard some pair is read mixed.
    #[test]
    fn without_a_safeguard_some_pair_is_read_mixed() {
        let shapes = shapes();
        let torn = |between, last| {
            let pairs =
                shapes.iter().flat_map(|(_, from)| shapes.iter().map(move |(_, to)| (from, to)));
            pairs.filter(|(from, to)| is_torn(from, to, between, last)).count()
        };
        assert_eq!(torn(true, true), 0);
        assert!(torn(false, true) > 0, "in place");
        assert!(torn(true, false) > 0, "valid together with the rest");
    }

    #[test]
    fn blocking_is_one_store_and_what_is_blocked_stays_untouched() {
        for (name, from) in shapes() {
            let stores: usize =
                plan(&from, &INVALID, true, true).iter().map(|it| it.stores().count()).sum();
            assert_eq!(stores, usize::from(is_valid(&from)), "{name}");
        }
    }
}
