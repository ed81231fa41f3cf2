//! How each state was first reached, at ten bits a state.
//!
//! A breadth-first search numbers states in the order in which it finds them, so the parents of consecutive
//! states ascend. That makes the tree of first arrivals a level-order unary degree sequence (Jacobson, 1989):
//! for each expanded state, one `1` per new child and then a `0`. The label on an edge is a byte: which of
//! its parent's successors the child was.

use std::collections::HashMap;

/// The tree of first arrivals.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// The degree sequence; bits from low to high.
    bits: Vec<u64>,
    bit_len: usize,
    /// For each state but the root, its number among its parent's successors; [`ESCAPE`] if in `large`.
    ordinals: Vec<u8>,
    large: HashMap<usize, u32>,
}

const ESCAPE: u8 = u8::MAX;

impl Tree {
    fn push(&mut self, bit: bool) {
        if self.bit_len.is_multiple_of(64) {
            self.bits.push(0);
        }
        if bit {
            self.bits[self.bit_len / 64] |= 1 << (self.bit_len % 64);
        }
        self.bit_len += 1;
    }

    /// The state being expanded has a new child, its `ordinal`-th successor. Returns the child's number.
    pub(crate) fn child(&mut self, ordinal: u32) -> usize {
        self.push(true);
        self.ordinals.push(u8::try_from(ordinal).unwrap_or(ESCAPE));
        let number = self.ordinals.len();
        if ordinal >= u32::from(ESCAPE) {
            self.large.insert(number, ordinal);
        }
        number
    }

    /// The state being expanded has no more children; the next one follows.
    pub(crate) fn close(&mut self) {
        self.push(false);
    }

    /// The ordinals on the path from the root (number 0) to `state`.
    pub(crate) fn path(&self, state: usize) -> Vec<u32> {
        let mut path = Vec::new();
        let mut state = state;
        // One pass downwards over the bits: parents have lower numbers than their children.
        let mut ones = self.ordinals.len();
        let mut zeros = self.bit_len - ones;
        for at in (0..self.bit_len).rev() {
            if state == 0 {
                break;
            }
            if self.bits[at / 64] >> (at % 64) & 1 == 0 {
                zeros -= 1;
            } else {
                if ones == state {
                    path.push(self.ordinal(state));
                    state = zeros;
                }
                ones -= 1;
            }
        }
        path.reverse();
        path
    }

    fn ordinal(&self, state: usize) -> u32 {
        match self.ordinals[state - 1] {
            ESCAPE => self.large[&state],
            small => u32::from(small),
        }
    }

    /// Bytes allocated.
    pub(crate) fn bytes(&self) -> usize {
        self.bits.capacity() * 8 + self.ordinals.capacity() + self.large.capacity() * 24
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_agree_with_plain_parent_pointers() {
        let mut tree = Tree::default();
        let mut parents = vec![(0_usize, 0_u32)];
        let mut seed = 12345_u64;
        for parent in 0..2_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
            for k in 0..=(seed >> 61) {
                let ordinal = (k * 60) as u32;
                let child = tree.child(ordinal);
                assert_eq!(child, parents.len());
                parents.push((parent, ordinal));
            }
            tree.close();
        }
        for start in (0..parents.len()).step_by(97) {
            let (mut at, mut expected) = (start, Vec::new());
            while at != 0 {
                expected.push(parents[at].1);
                at = parents[at].0;
            }
            expected.reverse();
            assert_eq!(tree.path(start), expected);
        }
    }
}
