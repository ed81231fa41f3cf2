//! aarch64-paging as a second author: for the same mappings its leaf descriptors and ours are the same bits at the same places.

use crate::pool;
use crate::tables::ArmPages;
use aarch64_paging::descriptor::{El1Attributes, PhysicalAddress};
use aarch64_paging::paging::{Constraints, El1And0, MemoryRegion, RootTable, VaRange};
use portcullis_addr::{Iova, PageSize, PageSizes, PhysAddr, Prot};
use portcullis_pgtable::{ArmLpaeStage1, IoPageTable, PageTable, TableParams};
use portcullis_platform::DmaMemory;
use std::collections::BTreeMap;
use std::sync::Arc;

/// First address and level of a leaf, and its descriptor.
type Leaves = BTreeMap<(u64, usize), u64>;

/// The leaves of our table, read without the engine.
fn ours(memory: &pool::FastMemory, table: u64, level: usize, base: u64, found: &mut Leaves) {
    for index in 0..512 {
        let entry = memory.load64(PhysAddr::new(table + index * 8));
        let at = base + (index << (39 - 9 * level));
        if entry & 1 == 0 {
            continue;
        }
        if level < 3 && entry & 2 != 0 {
            ours(memory, entry & 0xffff_ffff_f000, level + 1, at, found);
        } else {
            found.insert((at, level), entry);
        }
    }
}

#[test]
fn the_same_bits_as_aarch64_paging() {
    let memory = Arc::new(pool::FastMemory::<true>::new());
    let params = TableParams {
        granule: PageSize::SIZE_4K,
        input_bits: 48,
        output_bits: 48,
        leaf_sizes: PageSizes::from_bitmap(0x4020_1000),
        force_snoop: false,
        coherent: true,
    };
    let table = IoPageTable::<ArmLpaeStage1, _>::new(&memory, params).expect("supported");
    let pages = ArmPages(pool::offset());
    let mut other = RootTable::with_va_range(pages, 0, El1And0, VaRange::Lower);
    let (mib, gib) = (1u64 << 20, 1u64 << 30);
    let read_write = El1Attributes::empty();
    let cached = El1Attributes::ATTRIBUTE_INDEX_1 | El1Attributes::INNER_SHAREABLE;
    let uncached = El1Attributes::ATTRIBUTE_INDEX_0 | El1Attributes::OUTER_SHAREABLE;
    let never = El1Attributes::UXN | El1Attributes::PXN;
    let rw = Prot::READ | Prot::WRITE;
    let cases = [
        (4096, 0x8000_0000, 4096, rw | Prot::CACHE, read_write | cached | El1Attributes::USER),
        (2 * mib - 8192, 0x4000_0000 + 2 * mib - 8192, 6 * mib, rw, uncached | El1Attributes::USER),
        (
            gib,
            3 * gib,
            2 * gib,
            Prot::READ | Prot::NOEXEC,
            uncached | never | El1Attributes::READ_ONLY | El1Attributes::USER,
        ),
        (512 * gib - mib, 7 * gib - mib, 2 * mib, rw | Prot::PRIV | Prot::CACHE, cached),
    ];
    let always = El1Attributes::VALID | El1Attributes::ACCESSED | El1Attributes::NON_GLOBAL;
    for (iova, phys, len, prot, flags) in cases {
        table.map(Iova::new(iova), PhysAddr::new(phys), len, prot).expect("free");
        let region = MemoryRegion::new(iova as usize, (iova + len) as usize);
        let phys = PhysicalAddress(phys as usize);
        let plain = Constraints::NO_CONTIGUOUS_HINT;
        other.map_range(&region, phys, flags | always, plain).expect("free");
    }
    let mut theirs = Leaves::new();
    for (iova, _, len, _, _) in cases {
        let region = MemoryRegion::new(iova as usize, (iova + len) as usize);
        let mut note =
            |range: &MemoryRegion, entry: &aarch64_paging::descriptor::Descriptor<_>, level| {
                let flags: El1Attributes = entry.flags();
                let bits = flags.bits() | entry.output_address().0;
                theirs.insert((range.start().0 as u64, level), bits as u64);
                Ok(())
            };
        other.walk_range(&region, &mut note).expect("in range");
    }
    let mut found = Leaves::new();
    ours(&memory, table.config().root.address().raw(), 0, 0, &mut found);
    assert_eq!(found, theirs);
    assert!(found.len() > 500 && found.keys().any(|leaf| leaf.1 == 1));
}
