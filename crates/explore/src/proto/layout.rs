//! Where each field, lock and thread position lies in the packed state.

use std::cell::Cell;
use std::hash::{Hash, Hasher};

use super::learnt::Locks;

/// A packed state: `W` words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packed<const W: usize>(pub(crate) [u64; W]);

impl<const W: usize> Hash for Packed<W> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for &word in &self.0 {
            state.write_u64(word);
        }
    }
}

/// Some bits of one word.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    word: u16,
    shift: u8,
    mask: u64,
}

impl Slot {
    pub(crate) fn get(self, words: &[u64]) -> u64 {
        words[usize::from(self.word)] >> self.shift & self.mask
    }

    /// Stores the low bits of `value`.
    pub(crate) fn set(self, words: &mut [u64], value: u64) {
        let word = &mut words[usize::from(self.word)];
        *word = *word & !(self.mask << self.shift) | (value & self.mask) << self.shift;
    }

    /// Adds the bits of this slot to a set of bits.
    pub(crate) fn add_to(self, bits: &[Cell<u64>]) {
        let word = &bits[usize::from(self.word)];
        word.set(word.get() | self.mask << self.shift);
    }

    /// The largest value that fits.
    pub(crate) fn max(self) -> u64 {
        self.mask
    }

    /// One bit of this slot.
    pub(crate) fn bit(self, bit: u32) -> Self {
        Self { word: self.word, shift: self.shift + bit as u8, mask: 1 }
    }
}

/// Gives out bits, first fit; nothing straddles two words.
#[derive(Debug, Default)]
pub(crate) struct Packer {
    used: Vec<u32>,
}

impl Packer {
    pub(crate) fn place(&mut self, bits: u32) -> Slot {
        let word = self.used.iter().position(|&used| used + bits <= 64).unwrap_or_else(|| {
            self.used.push(0);
            self.used.len() - 1
        });
        let shift = self.used[word];
        self.used[word] += bits;
        Slot { word: word as u16, shift: shift as u8, mask: u64::MAX >> (64 - bits) }
    }

    pub(crate) fn words(&self) -> usize {
        self.used.len()
    }
}

/// The whole state.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) fields: Vec<Slot>,
    pub(crate) locks: Vec<Slot>,
    pub(crate) nodes: Vec<Slot>,
    pub(crate) words: usize,
}

impl Layout {
    /// The bits of these fields and mutexes in each word.
    pub(crate) fn bits_of<const W: usize>(
        &self,
        (fields, locks): (impl Iterator<Item = usize>, Locks),
    ) -> [u64; W] {
        let mut bits = [0; W];
        fields.for_each(|field| self.fields[field].set(&mut bits, u64::MAX));
        let locks = self.locks.iter().enumerate().filter(|(i, _)| locks >> i & 1 == 1);
        locks.for_each(|(_, slot)| slot.set(&mut bits, u64::MAX));
        bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_do_not_overlap() {
        let mut packer = Packer::default();
        let slots: Vec<Slot> = [1, 16, 64, 7, 40, 16, 1, 32].map(|b| packer.place(b)).into();
        let mut words = vec![0; packer.words()];
        for (i, slot) in slots.iter().enumerate() {
            slot.set(&mut words, u64::MAX);
            assert_eq!(slot.get(&words), slot.max());
            for later in &slots[i + 1..] {
                assert_eq!(later.get(&words), 0);
            }
        }
        slots[3].set(&mut words, 0x55);
        assert_eq!(slots[3].get(&words), 0x55);
        assert_eq!(slots[1].bit(3).get(&words), 1);
        assert_eq!(packer.words(), 3);
    }
}
