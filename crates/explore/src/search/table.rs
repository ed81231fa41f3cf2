//! The set of states seen, as 64-bit fingerprints.

use std::hash::{Hash, Hasher};

/// A set of fingerprints at 10 to 12.5 bytes each, growing in place.
///
/// Open addressing, but kept in ascending order: the home of a fingerprint is monotone in its value and a
/// run of occupied slots is sorted. So the whole table is sorted, a search ends at the first greater value,
/// and growth is two sequential passes over one allocation instead of a second table beside the first.
#[derive(Debug)]
pub(crate) struct Table {
    slots: Vec<u64>,
    /// Number of home slots; `slots` has [`SLACK`] more for runs that begin near the end.
    homes: usize,
    len: usize,
    limit: usize,
}

const EMPTY: u64 = 0;
/// A run of this length does not occur at a load of 0.8: the expected longest run at 2^32 entries is below 2^10.
const SLACK: usize = 4096;

impl Table {
    pub(crate) fn new() -> Self {
        let homes = 1 << 12;
        Self { slots: vec![EMPTY; homes + SLACK], homes, len: 0, limit: limit(homes) }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The most bytes that it has had.
    pub(crate) fn bytes(&self) -> usize {
        (self.homes + SLACK) * size_of::<u64>()
    }

    /// Gives the memory back; only the number of states stays known.
    pub(crate) fn release(&mut self) {
        self.slots = Vec::new();
    }

    fn home(&self, fingerprint: u64) -> usize {
        ((u128::from(fingerprint) * self.homes as u128) >> 64) as usize
    }

    /// Looks at the places of many fingerprints, so that they are in the cache when these are added.
    pub(crate) fn touch(&self, prints: impl Iterator<Item = u64>) {
        let seen = prints.fold(0, |seen, print| seen ^ self.slots[self.home(print)]);
        std::hint::black_box(seen);
    }

    /// Adds a fingerprint; false if it was there.
    pub(crate) fn insert(&mut self, fingerprint: u64) -> bool {
        let fingerprint = fingerprint.max(1);
        let mut i = self.home(fingerprint);
        loop {
            let slot = self.slots[i];
            if slot == fingerprint {
                return false;
            }
            if slot == EMPTY || slot > fingerprint {
                break;
            }
            i += 1;
        }
        self.place(i, fingerprint);
        self.len += 1;
        if self.len > self.limit {
            self.grow();
        }
        true
    }

    /// Puts `fingerprint` at `i`, moving the rest of the run up by one.
    fn place(&mut self, i: usize, fingerprint: u64) {
        if self.slots[i] != EMPTY {
            let run = self.slots[i..]
                .iter()
                .position(|&s| s == EMPTY)
                .expect("the slack behind the last home is never full at this load");
            self.slots.copy_within(i..i + run, i + 1);
        }
        self.slots[i] = fingerprint;
    }

    fn grow(&mut self) {
        let homes = if self.homes < 1 << 20 { self.homes * 2 } else { self.homes / 4 * 5 };
        let old = self.slots.len();
        let total = homes + SLACK;
        self.slots.reserve_exact(total - old);
        self.slots.resize(total, EMPTY);
        // First pass, downwards: pack everything against the end, still ascending.
        let mut to = total;
        for from in (0..old).rev() {
            let slot = std::mem::replace(&mut self.slots[from], EMPTY);
            if slot != EMPTY {
                to -= 1;
                self.slots[to] = slot;
            }
        }
        self.homes = homes;
        self.limit = limit(homes);
        // Second pass, upwards: spread out. The place of an entry is never beyond where it is read from, for
        // else the entries still to come would not fit before the end.
        let mut free = 0;
        for from in to..total {
            let slot = std::mem::replace(&mut self.slots[from], EMPTY);
            let place = self.home(slot).max(free);
            assert!(place <= from, "fingerprints are far from uniform: a run beyond the slack");
            self.slots[place] = slot;
            free = place + 1;
        }
    }
}

fn limit(homes: usize) -> usize {
    homes / 5 * 4
}

/// The fingerprint of a state: 64 bits in which every input bit takes part.
pub(crate) fn fingerprint<S: Hash>(state: &S) -> u64 {
    let mut fold = Fold(0x243f_6a88_85a3_08d3);
    state.hash(&mut fold);
    fold.finish()
}

/// A multiply-and-fold hash: each word is mixed by a 64x64->128 bit product whose halves are joined.
struct Fold(u64);

impl Fold {
    fn mix(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * 0x9e37_79b9_7f4a_7c15_u128;
        self.0 = (product as u64 ^ (product >> 64) as u64).rotate_left(23) ^ 0x1319_8a2e_0370_7344;
    }
}

impl Hasher for Fold {
    fn finish(&self) -> u64 {
        let mut end = Self(self.0);
        end.mix(0xa409_3822_299f_31d0);
        let x = end.0;
        let x = (x ^ x >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
        let x = (x ^ x >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
        x ^ x >> 32
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, i: u8) {
        self.mix(u64::from(i));
    }

    fn write_u16(&mut self, i: u16) {
        self.mix(u64::from(i));
    }

    fn write_u32(&mut self, i: u32) {
        self.mix(u64::from(i));
    }

    fn write_u64(&mut self, i: u64) {
        self.mix(i);
    }

    fn write_usize(&mut self, i: usize) {
        self.mix(i as u64);
    }
}

/// Fingerprints are hashes already.
#[derive(Debug, Default)]
pub(crate) struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.0 = self.0.rotate_left(8) ^ u64::from(byte));
    }

    fn write_u64(&mut self, print: u64) {
        self.0 = print;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn agrees_with_a_hash_set_through_many_growths() {
        let mut table = Table::new();
        let mut reference = HashSet::new();
        let mut x = 1_u64;
        for i in 0..1_500_000_u64 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Every third one repeats an earlier value or is small, so that hits and edges occur.
            let value = if i % 3 == 0 { fingerprint(&(i / 7)) } else { fingerprint(&(x >> 20)) };
            assert_eq!(table.insert(value), reference.insert(value));
        }
        assert_eq!(table.len(), reference.len());
        assert!(reference.iter().all(|&v| !table.insert(v)));
        let sorted: Vec<u64> = table.slots.iter().copied().filter(|&s| s != EMPTY).collect();
        assert!(sorted.windows(2).all(|w| w[0] < w[1]));
        assert!(table.bytes() as f64 / table.len() as f64 <= 12.6);
    }

    #[test]
    fn one_changed_bit_changes_about_half_of_the_fingerprint() {
        let mut total = 0;
        for bit in 0..128 {
            let a = fingerprint(&[7_u64, 9]);
            let mut words = [7_u64, 9];
            words[bit / 64] ^= 1 << (bit % 64);
            let differing = (a ^ fingerprint(&words)).count_ones();
            assert!((10..=54).contains(&differing), "bit {bit}: {differing}");
            total += differing;
        }
        assert!((28 * 128..36 * 128).contains(&total), "{total}");
    }
}
