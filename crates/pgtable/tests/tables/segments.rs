//! Several physical ranges mapped in one call: all of them or none.

use super::{RW, Rng, Stage1, TestMemory, lookup, params, table, unmap, walker};
use portcullis_addr::{Iova, PageSize, PhysAddr, PhysRange};
use portcullis_pgtable::{ArmLpaeStage1, MapError, PageTable};

const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;

fn segment(start: u64, len: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new(start), len).expect("a range")
}

#[test]
fn segments_stand_one_behind_the_other() {
    let (memory, table) = table::<ArmLpaeStage1>(PageSize::SIZE_4K);
    let mut rng = Rng(11);
    for _ in 0..100 {
        let list: Vec<PhysRange> = (0..1 + rng.below(20))
            .map(|_| segment(rng.below(1 << 24) * PAGE, (1 + rng.below(40)) * PAGE))
            .collect();
        let start = rng.below(1024) * PAGE;
        table.map_segments(Iova::new(start), &list, RW).expect("free");
        let mut at = start;
        for part in &list {
            for offset in [0, part.len() - 1] {
                let expected = part.start().raw() + offset;
                assert_eq!(lookup(&table, at + offset), Some(expected));
                let walked = walker::both(&memory, table.config(), at + offset);
                assert_eq!(walked.map(|leaf| leaf.translate(at + offset)), Ok(expected));
            }
            at += part.len();
        }
        assert_eq!(lookup(&table, at), None);
        unmap(&table, start, at - start);
        assert_eq!(walker::all_leaves(&memory, table.config()), []);
    }
}

/// Neighbours in memory make one large leaf, as one range would.
#[test]
fn neighbours_are_taken_together() {
    let (memory, table) = table::<ArmLpaeStage1>(PageSize::SIZE_4K);
    let list = [segment(4 * MIB, MIB / 2), segment(4 * MIB + MIB / 2, 3 * MIB / 2)];
    table.map_segments(Iova::new(2 * MIB), &list, RW).expect("free");
    let leaves = walker::all_leaves(&memory, table.config());
    assert_eq!(leaves.iter().map(|leaf| leaf.size).collect::<Vec<_>>(), [2 * MIB]);
}

#[test]
fn a_list_that_cannot_be_mapped_changes_nothing() {
    let memory = TestMemory::new();
    let table = Stage1::new(&memory, params(PageSize::SIZE_4K, 39, 40)).expect("supported");
    let state = || {
        let leaves = walker::all_leaves(&memory, table.config());
        (leaves, table.table_pages(), memory.live())
    };
    table.map(Iova::new(6 * MIB), PhysAddr::new(0), PAGE, RW).expect("free");
    let before = state();
    let map = |iova, list: &[PhysRange]| table.map_segments(Iova::new(iova), list, RW);
    let good = [segment(0, MIB), segment(8 * MIB, 2 * MIB), segment(PAGE, MIB)];
    // The last page of the list is in use.
    let result = map(6 * MIB + PAGE - 4 * MIB, &good);
    assert_eq!(result, Err(MapError::Occupied { iova: Iova::new(6 * MIB) }));
    assert_eq!(state(), before);
    // One segment of the list is wrong.
    let refused = |iova, list: &[PhysRange]| {
        let error = map(iova, list).expect_err("must be refused");
        assert_eq!(state(), before, "{error}");
        error
    };
    let unaligned = |error| matches!(error, MapError::Unaligned { .. });
    assert!(unaligned(refused(0, &[])));
    assert!(unaligned(refused(0, &[good[0], segment(1, PAGE)])));
    assert!(unaligned(refused(0, &[good[0], segment(0, 1)])));
    let above = refused(0, &[good[0], segment(1 << 40, PAGE)]);
    assert!(matches!(above, MapError::PhysOutOfRange { .. }));
    for iova in [(1 << 39) - MIB, u64::MAX - MIB + 1] {
        assert!(matches!(refused(iova, &good), MapError::OutOfRange { .. }), "{iova:#x}");
    }
    // Memory runs out at each point.
    for allowed in 0.. {
        memory.allow(allowed);
        let result = map(14 * MIB, &good);
        memory.allow(usize::MAX);
        if result.is_ok() {
            assert_eq!(allowed, 2, "two leaf tables");
            break;
        }
        assert!(matches!(result, Err(MapError::NoMemory(_))), "{result:?}");
        assert_eq!(state(), before);
    }
    unmap(&table, 14 * MIB, 4 * MIB);
}
