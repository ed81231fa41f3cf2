//! Registers that drop or alter commands between the driver and the unit, whatever the family.

use super::Family;
use portcullis_addr::PhysAddr;
use portcullis_platform::{Coherency, DmaMemory, Registers};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

/// What is done to the driver's commands of one kind on their way to the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    /// The bits of a command by which its kind is told.
    pub mask: [u64; 2],
    /// What they are in that kind.
    pub kind: [u64; 2],
    /// Added to the first word and to the second; `None`: it is not sent.
    pub change: Option<[u64; 2]>,
}

impl Action {
    fn apply(&self, words: [u64; 2], nothing: [u64; 2]) -> [u64; 2] {
        if [0, 1].iter().any(|at| words[*at] & self.mask[*at] != self.kind[*at]) {
            return words;
        }
        let Some(change) = self.change else { return nothing };
        [words[0].wrapping_add(change[0]), words[1].wrapping_add(change[1])]
    }
}

/// A command queue, as far as register writes tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ring {
    /// Where it is.
    pub base: u64,
    /// How many commands of two words it holds, a power of two; 0 before anybody said.
    pub entries: u32,
    /// The tail as it was shown last, as an index.
    pub tail: u32,
}

/// A unit's registers; commands are altered where they stand when the tail shows them.
pub(super) struct Tampering<F, R, M> {
    inner: R,
    memory: Arc<M>,
    action: Option<Action>,
    ring: Mutex<Ring>,
    family: PhantomData<fn() -> F>,
}

impl<F: Family, R: Registers, M: DmaMemory> Tampering<F, R, M> {
    pub(super) fn new(inner: R, memory: Arc<M>, action: Option<Action>) -> Self {
        Self { inner, memory, action, ring: Mutex::default(), family: PhantomData }
    }

    fn written(&self, offset: usize, bytes: usize, value: u64) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(tail) = F::follow(&mut ring, offset, bytes, value) else { return };
        while ring.tail != tail && ring.entries > 0 {
            if let Some(action) = &self.action {
                let at = ring.base + 16 * u64::from(ring.tail);
                let [low, high] = [PhysAddr::new(at), PhysAddr::new(at + 8)];
                let words = [self.memory.load64(low), self.memory.load64(high)];
                let words = action.apply(words, F::NOTHING);
                self.memory.store64(low, words[0]);
                self.memory.store64(high, words[1]);
                self.memory.publish(low, 16, Coherency::NonCoherent);
            }
            ring.tail = (ring.tail + 1) & (ring.entries - 1);
        }
    }
}

impl<F: Family, R: Registers, M: DmaMemory> Registers for Tampering<F, R, M> {
    fn read32(&self, offset: usize) -> u32 {
        self.inner.read32(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        self.written(offset, 4, value.into());
        self.inner.write32(offset, value);
    }

    fn read64(&self, offset: usize) -> u64 {
        self.inner.read64(offset)
    }

    fn write64(&self, offset: usize, value: u64) {
        self.written(offset, 8, value);
        self.inner.write64(offset, value);
    }

    fn len(&self) -> usize {
        self.inner.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_meets_its_kind_and_no_other() {
        let drop = Action { mask: [0xf, 0], kind: [3, 0], change: None };
        assert_eq!(drop.apply([0x13, 7], [9, 9]), [9, 9]);
        assert_eq!(drop.apply([0x14, 7], [9, 9]), [0x14, 7]);
        let by_second = Action { mask: [0xf, 1], kind: [3, 0], change: Some([0x10, 1 << 12]) };
        assert_eq!(by_second.apply([3, 2], [9, 9]), [0x13, 2 | 1 << 12]);
        assert_eq!(by_second.apply([3, 1], [9, 9]), [3, 1]);
    }
}
