//! Entries that a unit reads in pieces.

use crate::faults::{ChunkOrder, ChunkPoint, Policy};
use crate::hook::Hook;
use crate::memory::BusAbort;
use crate::sight::Sight;

/// What reading an entry needs to know of a unit.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    pub(crate) index: u32,
    pub(crate) policy: &'a Policy,
    pub(crate) sight: &'a Sight,
    pub(crate) hook: &'a Hook,
}

impl Reader<'_> {
    /// Reads the `N` words of an entry of `words` words at `address` (the others stay 0), in the pieces and the order that the policy says, by `word`. Between two pieces anybody may store.
    pub(crate) fn read<const N: usize>(
        &self,
        structure: &'static str,
        address: u64,
        words: usize,
        mut word: impl FnMut(u64) -> Result<u64, BusAbort>,
    ) -> Result<[u64; N], BusAbort> {
        let chunks = &self.policy.chunks;
        let step = (chunks.bytes / 8).min(words);
        let count = words / step;
        let mut order: Vec<usize> = (0..count).collect();
        match chunks.order {
            ChunkOrder::Ascending => {}
            ChunkOrder::Descending => order.reverse(),
            ChunkOrder::Random => {
                for left in (1..count).rev() {
                    order.swap(left, (self.sight.draw() % (left as u64 + 1)) as usize);
                }
            }
        }
        let mut entry = [0; N];
        for (read, chunk) in order.into_iter().enumerate() {
            if read > 0 {
                self.hook.step("iommu", u64::from(self.index), structure, false);
                if let Some(between) = &chunks.between {
                    let (read, of) = (read as u32, count as u32);
                    between(ChunkPoint { structure, address, read, of });
                }
            }
            let first = chunk * step;
            for (at, value) in (first as u64..).zip(&mut entry[first..first + step]) {
                *value = word(address + 8 * at)?;
            }
        }
        Ok(entry)
    }
}
