//! Changing what mappings allow.

use super::IoPageTable;
use super::unmap::{Run, Span, owe};
use super::walk::entry_at;
use crate::geometry::leaf_size;
use crate::{Format, IotlbGather, ProtectError};
use portcullis_addr::{Iova, Prot};
use portcullis_platform::DmaMemory;

/// What hardware must not see change under a translation that it has cached (Arm DDI 0487 D8.16 names the memory type and the output address).
const MEMORY_TYPE: Prot = Prot::CACHE.union(Prot::MMIO);

impl<F: Format, M: DmaMemory> IoPageTable<F, M> {
    pub(super) fn protect_range(
        &self,
        iova: Iova,
        len: u64,
        prot: Prot,
        gather: &mut IotlbGather,
    ) -> Result<(), ProtectError> {
        self.check_range(iova, len)?;
        let bits = self.leaf_bits[usize::from(prot.bits() & 63)];
        if bits == 0 {
            return Err(ProtectError::BadProt { prot });
        }
        let span = Span { first: iova.raw(), last: iova.raw() + (len - 1) };
        let mut other_type = None;
        self.for_each_run(span, |run, first| {
            other_type = other_type.or_else(|| self.entry_of_other_type(run, first, bits));
        })?;
        if let Some(iova) = other_type {
            return Err(ProtectError::MemoryType { iova });
        }
        self.for_each_run(span, |run, first| {
            self.rewrite(run, bits);
            let leaf = leaf_size(run.slot.level.shift);
            owe(gather, Span { first, last: run.last(first) }, leaf, false);
        })?;
        Ok(())
    }

    /// The address of the first entry of `run`, which begins at `first`, whose memory type is not that of leaves with `bits`.
    fn entry_of_other_type(&self, run: &Run, first: u64, bits: u64) -> Option<Iova> {
        let other = |offset: &usize| {
            let old = self.load_at(run.slot.address, *offset);
            let new = self.with_bits(run, *offset, old, bits);
            let types = [old, new].map(|leaf| self.format.prot(leaf) & MEMORY_TYPE);
            types[0] != types[1]
        };
        let offset = (0..run.entries).find(other)?;
        Some(Iova::new(first + ((offset as u64) << run.slot.level.shift)))
    }

    /// The leaf entry `old`, which is `offset` entries behind the start of `run`, with other `bits`.
    fn with_bits(&self, run: &Run, offset: usize, old: u64, bits: u64) -> u64 {
        let level = run.slot.level;
        let size = self.format.leaf_size(old, level);
        // Runs begin with a leaf's first entry.
        let part = offset & ((1 << (size - level.shift)) - 1);
        let phys = self.format.leaf_address(old, level) + ((part as u64) << level.shift);
        self.format.leaf(bits, phys, level, size)
    }

    fn rewrite(&self, run: &Run, bits: u64) {
        for offset in 0..run.entries {
            let address = entry_at(run.slot.address, offset);
            let old = self.memory.load64(address);
            if self.format.is_leaf(old, run.slot.level) {
                let new = self.with_bits(run, offset, old, bits);
                // An entry that somebody, against the rules, removes at the same time stays removed: its frame may be another's soon.
                let _ = self.memory.compare_exchange64(address, old, new);
            }
        }
        self.publish(run.slot.address, run.entries * 8);
    }
}
