//! Sets of 64 children, and 64 small numbers in eight words.

/// After halving step `s`, only bits at multiples of 2^(s+1) can stand for a whole group.
const KEEP: [u64; 6] = [
    0x5555_5555_5555_5555,
    0x1111_1111_1111_1111,
    0x0101_0101_0101_0101,
    0x0001_0001_0001_0001,
    0x0000_0001_0000_0001,
    0x0000_0000_0000_0001,
];

/// The first bits of the aligned groups of 2^`order` bits that are wholly in `set`. `order` is 0..=6.
pub(crate) fn groups(set: u64, order: u32) -> u64 {
    let steps = KEEP.iter().take(order as usize).enumerate();
    steps.fold(set, |groups, (step, keep)| groups & (groups >> (1 << step)) & keep)
}

/// The largest `order` for which an aligned group of 2^order bits is wholly in `set`, which is not empty.
pub(crate) fn largest_group(set: u64) -> u8 {
    let mut groups = set;
    for (step, keep) in (0u8..).zip(KEEP) {
        groups = groups & (groups >> (1 << step)) & keep;
        if groups == 0 {
            return step;
        }
    }
    6
}

/// Bits `first..=last` of a word.
pub(crate) fn span(first: u32, last: u32) -> u64 {
    (u64::MAX >> (63 - (last - first))) << first
}

/// Byte by byte the larger of two words of bytes below 128.
fn larger(a: u64, b: u64) -> u64 {
    let a_wins = (((a | HIGH) - b) & HIGH) >> 7;
    let mask = a_wins * 0xff;
    (a & mask) | (b & !mask)
}

const HIGH: u64 = 0x8080_8080_8080_8080;
const ONES: u64 = 0x0101_0101_0101_0101;

/// 64 numbers of 0..=127.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes([u64; 8]);

impl Bytes {
    pub(crate) fn filled(value: u8) -> Self {
        Self([ONES * u64::from(value); 8])
    }

    pub(crate) fn get(&self, index: usize) -> u8 {
        (self.0[index / 8] >> (index % 8 * 8)) as u8
    }

    // By shifts: a byte store followed by the search's word load would stall.
    pub(crate) fn set(&mut self, index: usize, value: u8) {
        let place = index % 8 * 8;
        let word = &mut self.0[index / 8];
        *word = *word & !(0xff << place) | u64::from(value) << place;
    }

    /// The largest of the numbers.
    pub(crate) fn largest(&self) -> u8 {
        let mut word = self.0.iter().fold(0, |largest, word| larger(largest, *word));
        for half in [32, 16, 8] {
            word = larger(word, word >> half);
        }
        word.to_le_bytes()[0]
    }

    /// The highest index below `end` (1..=64) whose number is at least `value`.
    pub(crate) fn last_at_least(&self, value: u8, end: usize) -> Option<usize> {
        let threshold = ONES * u64::from(value);
        let mut inside = u64::MAX >> (64 - ((end - 1) % 8 + 1) * 8);
        for word in (0..=(end - 1) / 8).rev() {
            // A byte's high bit survives the subtraction exactly if the byte is not below `value`; nothing borrows from its neighbour.
            let hits = ((self.0[word] | HIGH) - threshold) & HIGH & inside;
            if hits != 0 {
                return Some(word * 8 + hits.ilog2() as usize / 8);
            }
            inside = u64::MAX;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_equal_a_slow_reading() {
        let mut set = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..3000 {
            set = set.wrapping_mul(0xbf58_476d_1ce4_e5b9).rotate_left(17) ^ round;
            let dense = set | set.rotate_left(7) | set.rotate_left(19) | set.rotate_left(31);
            for set in [set, dense, dense | dense << 1, u64::MAX, u64::MAX << 1, 1, 1 << 63] {
                let whole = |start: u32, order: u32| {
                    (start..start + (1 << order)).all(|bit| set >> bit & 1 == 1)
                };
                for order in 0..=6 {
                    let slow = (0..64)
                        .step_by(1 << order)
                        .filter(|start| whole(*start, order))
                        .fold(0, |groups, start| groups | 1u64 << start);
                    assert_eq!(groups(set, order), slow, "{set:#x} {order}");
                }
                if set != 0 {
                    let slow = (0..=6).rev().find(|order| groups(set, *order) != 0);
                    assert_eq!(Some(u32::from(largest_group(set))), slow);
                }
            }
        }
        assert_eq!(span(0, 63), u64::MAX);
        assert_eq!(span(3, 3), 8);
    }

    #[test]
    fn bytes_are_found_from_above() {
        let mut bytes = Bytes::filled(0);
        for (index, value) in [(0, 5), (9, 127), (31, 7), (63, 6)] {
            bytes.set(index, value);
        }
        assert_eq!(bytes.get(9), 127);
        assert_eq!(bytes.largest(), 127);
        for place in 0..64 {
            let mut bytes = Bytes::filled(3);
            bytes.set((place * 7 + 5) % 64, 100);
            assert_eq!(bytes.largest(), 100);
            bytes.set(place, 101);
            assert_eq!(bytes.largest(), 101);
        }
        for end in 1..=64 {
            for value in [1, 5, 6, 7, 8, 127] {
                let slow = (0..end).rev().find(|index| bytes.get(*index) >= value);
                assert_eq!(bytes.last_at_least(value, end), slow, "{value} below {end}");
            }
        }
    }
}
