//! Other authors: for the same mappings aarch64-paging's leaf descriptors and ours are the same bits at the same places, page_table_multiarch's x86-64 leaves and ours stand at the same places,
//! lead to the same memory and allow the same, and the `x86_64` crate's reader finds in our tables what we mapped.

use crate::tables::{ArmPages, Multiarch};
use aarch64_paging::descriptor::{El1Attributes, PhysicalAddress};
use aarch64_paging::paging::{Constraints, El1And0, MemoryRegion, RootTable, VaRange};
use portcullis_addr::{Iova, PageSize, PageSizes, PhysAddr, Prot};
use portcullis_bench::pool;
use portcullis_pgtable::{ArmLpaeStage1, IoPageTable, PageTable, TableParams};
use portcullis_platform::DmaMemory;
use std::collections::BTreeMap;
use std::sync::Arc;

fn memory() -> Arc<pool::FastMemory> {
    // SAFETY: the tables and their reader use addresses of tables only.
    Arc::new(unsafe { pool::FastMemory::new() })
}

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
    let memory = memory();
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

/// The `x86_64` crate as a second author: its own page-table reader finds in our tables what we mapped, with size and permissions.
#[test]
fn x86_64_reads_our_tables() {
    use portcullis_pgtable::{IotlbGather, X86_64};
    use x86_64::VirtAddr;
    use x86_64::structures::paging::mapper::{MappedFrame, Translate, TranslateResult};
    use x86_64::structures::paging::{OffsetPageTable, PageTable as X86Table, PageTableFlags};

    let memory = memory();
    let params =
        TableParams { input_bits: 47, output_bits: 52, ..portcullis_bench::tables::PARAMS };
    let table = IoPageTable::<X86_64, _>::new(&memory, params).expect("supported");
    let (mib, gib) = (1u64 << 20, 1u64 << 30);
    let cases = [
        (0x1000, 0x7_0000_0000, 0x5000, Prot::READ),
        (2 * mib, 0x9_4020_0000, 2 * mib, Prot::READ | Prot::WRITE),
        (3 * gib, 0x8_c000_0000, gib, Prot::READ | Prot::WRITE | Prot::PRIV),
        ((1 << 47) - 0x3000, 0xf_ffff_ffff_d000, 0x3000, Prot::WRITE),
        (5 * gib - mib, 7 * gib + 0x1000, 2 * mib, Prot::READ | Prot::PRIV),
    ];
    for (iova, phys, len, prot) in cases {
        table.map(Iova::new(iova), PhysAddr::new(phys), len, prot).expect("free");
    }
    let offset = pool::offset();
    let root = offset.wrapping_add(table.config().root.address().raw() as usize);
    // SAFETY: the root is a page of the pool, which stays, and nobody else uses the table here.
    let root = unsafe { &mut *(root as *mut X86Table) };
    // SAFETY: the pool's pages are seen at their addresses plus `offset`, which is what the crate asks for.
    let theirs = unsafe { OffsetPageTable::new(root, VirtAddr::new_truncate(offset as u64)) };
    let mut read = 0;
    for (iova, phys, len, prot) in cases {
        for at in (0..len).step_by(if len > mib { 0x1_f000 } else { 0x1000 }) {
            let found = theirs.translate(VirtAddr::new(iova + at));
            let TranslateResult::Mapped { frame, offset, flags } = found else {
                panic!("{:#x} is {found:?}", iova + at)
            };
            assert_eq!(frame.start_address().as_u64() + offset, phys + at);
            assert_eq!(flags.contains(PageTableFlags::WRITABLE), prot.contains(Prot::WRITE));
            assert_eq!(flags.contains(PageTableFlags::USER_ACCESSIBLE), !prot.contains(Prot::PRIV));
            let whole = iova % (2 * mib) == 0 && phys % (2 * mib) == 0;
            assert_eq!(matches!(frame, MappedFrame::Size4KiB(_)), !whole, "{iova:#x}");
            read += 1;
        }
    }
    assert!(read > 8000, "{read}");
    for (iova, _, len, _) in cases {
        table.unmap(Iova::new(iova), len, &mut IotlbGather::new()).expect("mapped");
        assert!(matches!(theirs.translate(VirtAddr::new(iova)), TranslateResult::NotMapped));
    }
}

/// The present leaves of an x86-64 table (SDM volume 3A, 4.5) of four levels, by first address and level from the root: where they lead, and bits 1 and 2 (writable, user).
fn x86_leaves(memory: &pool::FastMemory, table: u64, level: usize, base: u64, found: &mut Leaves) {
    for index in 0..512 {
        let entry = memory.load64(PhysAddr::new(table + index * 8));
        let at = base + (index << (39 - 9 * level));
        if entry & 1 == 0 {
            continue;
        }
        if level < 3 && entry & 1 << 7 == 0 {
            x86_leaves(memory, entry & 0xf_ffff_ffff_f000, level + 1, at, found);
        } else {
            found.insert((at, level), entry & 0xf_ffff_ffff_f006);
        }
    }
}

#[test]
fn the_same_leaves_as_page_table_multiarch() {
    use page_table_multiarch::MappingFlags;
    use portcullis_pgtable::X86_64;

    let memory = memory();
    let params =
        TableParams { input_bits: 47, output_bits: 48, ..portcullis_bench::tables::PARAMS };
    let table = IoPageTable::<X86_64, _>::new(&memory, params).expect("supported");
    let mut other = Multiarch::new();
    let (mib, gib) = (1u64 << 20, 1u64 << 30);
    let (rw, user) = (Prot::READ | Prot::WRITE, MappingFlags::READ | MappingFlags::USER);
    let cases = [
        (0x1000, 0x7_0000_0000, 0x5000, Prot::READ, user),
        (2 * mib, 0x9_4020_0000, 6 * mib, rw, user | MappingFlags::WRITE),
        (3 * gib, 0x8_c000_0000, gib, rw | Prot::PRIV, MappingFlags::READ | MappingFlags::WRITE),
        (5 * gib - mib, 7 * gib + 0x1000, 2 * mib, Prot::READ | Prot::PRIV, MappingFlags::READ),
        ((1 << 47) - 4 * mib, 9 * gib, 4 * mib, rw, user | MappingFlags::WRITE),
    ];
    for (iova, phys, len, prot, flags) in cases {
        table.map(Iova::new(iova), PhysAddr::new(phys), len, prot).expect("free");
        other.map_all(iova, phys, len, flags);
    }
    let (mut found, mut theirs) = (Leaves::new(), Leaves::new());
    x86_leaves(&memory, table.config().root.address().raw(), 0, 0, &mut found);
    x86_leaves(&memory, other.root(), 0, 0, &mut theirs);
    assert_eq!(found, theirs);
    assert_eq!(
        [1, 2, 3].map(|level| found.keys().filter(|leaf| leaf.1 == level).count()),
        [1, 5, 517]
    );
}
