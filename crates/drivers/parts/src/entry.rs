//! Changing an entry in memory that hardware may read at any moment.
//!
//! The entries that this is for have their valid bit in bit 0 of word 0, and the rest of one that is not valid is ignored. Hardware reads them in pieces as small as one 64-bit word, in any order: between two confirmed
//! invalidations it may combine any values that the words have had. So a change of more than one word goes through "not valid":
//!
//! 1. word 0 is cleared, and hardware forgets the entry;
//! 2. the other words are stored, and hardware is made to see them: a read that began before may not go on past this point;
//! 3. word 0 is stored with its valid bit.
//!
//! A change of one word is one store. Steps that change nothing are left out: an entry that is not valid begins with the second.

use alloc::vec;
use alloc::vec::Vec;

/// One group of stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase<const N: usize> {
    /// Bit `i`: word `i` is stored.
    words: u8,
    values: [u64; N],
    /// Hardware must confirm it before the next phase, or before the change counts.
    pub confirm: bool,
}

impl<const N: usize> Phase<N> {
    /// The words of `to`, out of `candidates`, that differ from `from`.
    fn between(from: &[u64; N], to: &[u64; N], candidates: u8, confirm: bool) -> Self {
        let differs = |word: &usize| from[*word] != to[*word] && candidates >> word & 1 == 1;
        let words = (0..N).filter(differs).fold(0, |set, word| set | 1 << word);
        Self { words, values: *to, confirm }
    }

    /// Whether there is nothing to store, and so nothing to confirm.
    pub fn is_empty(&self) -> bool {
        self.words == 0
    }

    /// The stores: word index and value.
    pub fn stores(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        (0..N).filter(|word| self.words >> word & 1 == 1).map(|word| (word, self.values[word]))
    }
}

/// The phases of one change, in order.
pub type Plan<const N: usize> = [Phase<N>; 3];

/// The word with the valid bit.
const FIRST: u8 = 1;

/// Which parts of [`plan`] a test leaves out; none anywhere else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shortcuts {
    /// From one valid entry to another in place.
    pub in_place: bool,
    /// The valid bit comes together with the rest.
    pub valid_with_rest: bool,
}

/// Whether hardware looks at more than word 0.
pub fn is_valid<const N: usize>(entry: &[u64; N]) -> bool {
    entry[0] & 1 == 1
}

/// How to get from what is in memory to `target`. At most eight words.
pub fn plan<const N: usize>(now: &[u64; N], target: &[u64; N], shortcuts: Shortcuts) -> Plan<N> {
    const { assert!(N <= 8, "a phase has one bit for each word") }
    let nothing = Phase { words: 0, values: *target, confirm: false };
    let all = Phase::between(now, target, u8::MAX, true);
    if !is_valid(target) {
        // What else is in it does not matter.
        let cleared = if is_valid(now) { FIRST } else { 0 };
        return [Phase::between(now, &[0; N], cleared, true), nothing, nothing];
    }
    if is_valid(now) && (all.words.count_ones() <= 1 || shortcuts.in_place) {
        return [all, nothing, nothing];
    }
    // An invalid entry may have anything in word 0 besides its valid bit: 0 is stored only over a valid one.
    let mut gone = *now;
    if is_valid(now) {
        gone[0] = 0;
    }
    let away = Phase::between(now, &gone, FIRST, true);
    if shortcuts.valid_with_rest {
        return [away, nothing, Phase::between(&gone, target, u8::MAX, false)];
    }
    let rest = Phase::between(&gone, target, !FIRST, true);
    [away, rest, Phase::between(&gone, target, FIRST, false)]
}

/// For the tests of drivers, each with its own shapes of entries: whether some store of the change from `from` to `to` lets hardware that reads pieces of `chunk` words read what is neither the old entry, nor the new one, nor invalid.
pub fn is_torn<const N: usize>(
    from: &[u64; N],
    to: &[u64; N],
    shortcuts: Shortcuts,
    chunk: usize,
) -> bool {
    let mut memory = *from;
    // What each piece can have been read as since the last confirmation.
    let snapshot = |memory: &[u64; N]| -> Vec<Vec<[u64; N]>> {
        (0..N.div_ceil(chunk)).map(|_| vec![*memory]).collect()
    };
    let mut seen = snapshot(&memory);
    for phase in plan(from, to, shortcuts) {
        for (word, value) in phase.stores() {
            memory[word] = value;
            seen[word / chunk].push(memory);
            let mixed = |entry: &[u64; N]| is_valid(entry) && entry != from && entry != to;
            if mixtures(&seen, chunk).iter().any(mixed) {
                return true;
            }
        }
        if phase.confirm {
            seen = snapshot(&memory);
        }
    }
    !(memory == *to || !is_valid(&memory) && !is_valid(to))
}

/// Every combination of what the pieces can have been read as.
fn mixtures<const N: usize>(seen: &[Vec<[u64; N]>], chunk: usize) -> Vec<[u64; N]> {
    let mut all = vec![[0; N]];
    for (piece, values) in seen.iter().enumerate() {
        let mut next = Vec::new();
        for entry in &all {
            for value in values {
                let mut entry = *entry;
                let words = piece * chunk..(piece * chunk + chunk).min(N);
                entry[words.clone()].copy_from_slice(&value[words]);
                next.push(entry);
            }
        }
        all = next;
    }
    all
}
