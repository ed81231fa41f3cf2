//! Changing what mappings allow, and reading a table as a person.

use super::shapes::on_all;
use super::{RW, Stage1, Stage2, TestMemory, lookup, map, params, unmap, walker};
use portcullis_addr::{Iova, PageSize, PageSizes, PhysAddr, Prot};
use portcullis_pgtable::{Dump, IotlbGather, PageTable, ProtectError, TableParams, UnmapError};

/// Every shape: pages and blocks, a part of the mapping, both ways; each address leads where it led, and the debt covers what changed.
#[test]
fn permissions_change_and_addresses_do_not() {
    on_all(|shape, memory, table| {
        let (page, block) = (shape.page(), shape.page() * (shape.page() / 8));
        let (start, len) = (block - 3 * page, block + 6 * page);
        map(table, start, 3 * block - 3 * page, len);
        memory.allow_rewrites(true);
        let sizes = || {
            let leaves = walker::all_leaves(memory, table.config());
            leaves.into_iter().map(|leaf| (leaf.iova, leaf.size, leaf.phys)).collect::<Vec<_>>()
        };
        let before = sizes();
        for (first, bytes, prot) in [
            (start, 2 * page, Prot::READ),
            (block, block, Prot::READ),
            (start, len, RW),
            (block, block + 3 * page, Prot::READ),
        ] {
            let mut gather = IotlbGather::new();
            let changed = table.protect(Iova::new(first), bytes, prot, &mut gather);
            if shape.params.leaf_sizes == PageSizes::ALL && changed.is_err() {
                // The range cuts a leaf of several entries: nothing has changed.
                assert!(matches!(changed, Err(ProtectError::Range(UnmapError::SplitsLeaf { .. }))));
                assert!(gather.is_empty());
                continue;
            }
            assert_eq!(changed, Ok(()), "{first:#x}+{bytes:#x}");
            let covers = gather.is_everything()
                || gather.range().is_some_and(|range| {
                    range.start.raw() == first && range.last.raw() == first + bytes - 1
                });
            assert!(covers, "{gather:?}");
            for at in [first, first + bytes - page] {
                let leaf = walker::both(memory, table.config(), at).expect("mapped");
                assert_eq!((leaf.readable, leaf.writable), (true, prot.contains(Prot::WRITE)));
                let (_, kept) = table.translate(Iova::new(at)).expect("mapped");
                assert_eq!(kept & RW, prot);
            }
            assert_eq!(sizes(), before, "every address leads where it led");
        }
        memory.allow_rewrites(false);
        unmap(table, start, len);
    });
}

#[test]
fn what_cannot_change_changes_nothing() {
    let memory = TestMemory::new();
    let table = Stage2::new(&memory, params(PageSize::SIZE_4K, 40, 40)).expect("supported");
    let block = 2u64 << 20;
    let cached = RW | Prot::CACHE;
    table.map(Iova::new(block), PhysAddr::new(0), block, cached).expect("free");
    table.map(Iova::new(2 * block), PhysAddr::new(0), 8192, RW).expect("free");
    let before = walker::all_leaves(&memory, table.config());
    let mut gather = IotlbGather::new();
    let mut protect = |iova, len, prot| {
        table.protect(Iova::new(iova), len, prot, &mut gather).expect_err("refused")
    };
    let splits = UnmapError::SplitsLeaf { leaf: Iova::new(block), size: PageSize::SIZE_2M };
    assert_eq!(protect(block, 4096, cached), ProtectError::Range(splits));
    let hole = UnmapError::NotMapped { iova: Iova::new(2 * block + 8192) };
    assert_eq!(protect(2 * block, 3 * 4096, RW), ProtectError::Range(hole));
    let other = ProtectError::MemoryType { iova: Iova::new(2 * block) };
    assert_eq!(protect(block, block + 8192, Prot::READ | Prot::CACHE), other);
    let none = Prot::CACHE;
    assert_eq!(protect(block, block, none), ProtectError::BadProt { prot: none });
    let unaligned = protect(block + 1, block, cached);
    assert!(matches!(unaligned, ProtectError::Range(UnmapError::Unaligned { .. })));
    assert!(gather.is_empty());
    assert_eq!(walker::all_leaves(&memory, table.config()), before);
}

/// A mapping that somebody removes while its protection changes stays removed: its frame may be another's by then.
#[test]
fn a_removed_mapping_does_not_come_back() {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, OnceLock, Weak};
    let memory = TestMemory::new();
    let table = Stage1::new(&memory, params(PageSize::SIZE_4K, 39, 40)).expect("supported");
    let table = Arc::new(table);
    map(&*table, 0, 0x1000, 4096);
    let leaf = 0x1000 | 1;
    let other: OnceLock<Weak<Stage1>> = OnceLock::from(Arc::downgrade(&table));
    let (looks, once) = (std::sync::atomic::AtomicUsize::new(0), AtomicBool::new(false));
    memory.watch_loads(move |_, _, value| {
        // The last look at the leaf before it is replaced: two of the survey, one of the second pass, one of the change.
        let is_leaf = value & 0x0000_ffff_ffff_f001 == leaf;
        if is_leaf
            && looks.fetch_add(1, Ordering::SeqCst) == 3
            && !once.swap(true, Ordering::SeqCst)
        {
            unmap(&*other.get().and_then(Weak::upgrade).expect("alive"), 0, 4096);
        }
    });
    let mut gather = IotlbGather::new();
    let _ = table.protect(Iova::new(0), 4096, Prot::READ, &mut gather);
    assert_eq!(lookup(&*table, 0), None);
}

#[test]
fn a_person_can_read_it() {
    let memory = TestMemory::new();
    let plain = params(PageSize::SIZE_4K, 39, 40);
    let params = TableParams { leaf_sizes: PageSizes::ALL, ..plain };
    let table = Stage1::new(&memory, params).expect("supported");
    let block = 2u64 << 20;
    map(&table, 0x1000, 0x8000_5000, 3 * 4096);
    table
        .map(Iova::new(block), PhysAddr::new(4 * block), block, Prot::READ | Prot::CACHE)
        .expect("free");
    table
        .map(Iova::new(2 * block), PhysAddr::new(5 * block), 0x2_0000, Prot::READ | Prot::NOEXEC)
        .expect("free");
    let text = Dump(&table).to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "ArmLpaeStage1: pages of 4K, 39 bits in, 40 out, 3 levels, 4 table pages");
    let said: Vec<&str> =
        lines[1..].iter().copied().filter(|line| !line.contains("table")).collect();
    assert_eq!(
        said,
        [
            "      0x1000..=0x3fff -> 0x80005000  3 x 4K  rw",
            "    0x200000..=0x3fffff -> 0x800000  1 x 2M  r- cached",
            "      0x400000..=0x41ffff -> 0xa00000  2 x 64K  r- no-exec",
        ]
    );
    assert_eq!(lines.len() - 1 - said.len(), 4, "a line for each table");
}
