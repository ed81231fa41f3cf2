use super::*;
use crate::Format;
use alloc::format;

const K4: PageSize = PageSize::SIZE_4K;
const K16: PageSize = PageSize::SIZE_16K;
const K64: PageSize = PageSize::SIZE_64K;

fn params(granule: PageSize, input_bits: u8, output_bits: u8) -> TableParams {
    TableParams {
        granule,
        input_bits,
        output_bits,
        leaf_sizes: PageSizes::ALL,
        force_snoop: false,
        coherent: true,
    }
}

/// Start level and entries of the root.
fn shape<F: Format>(params: &TableParams) -> (i8, usize) {
    let (format, geometry) = F::new(params).expect("supported");
    let root = format.root(&geometry, PhysAddr::new(0), geometry.levels());
    let TableRoot::Arm { start_level, .. } = root else { panic!("{root:?}") };
    (start_level, geometry.root_entries())
}

/// Worked out by hand from DDI 0487 D8.2 for 48 output bits.
#[test]
fn start_levels_and_roots() {
    // (granule, input bits, stage 1 level, entries, stage 2 level, entries)
    let cases = [
        (K4, 32, 1, 4, 1, 4),
        (K4, 36, 1, 64, 1, 64),
        (K4, 39, 1, 512, 1, 512),
        (K4, 40, 0, 2, 1, 1024),
        (K4, 42, 0, 8, 1, 4096),
        (K4, 43, 0, 16, 1, 8192),
        (K4, 44, 0, 32, 0, 32),
        (K4, 48, 0, 512, 0, 512),
        (K16, 32, 2, 128, 2, 128),
        (K16, 36, 2, 2048, 2, 2048),
        (K16, 37, 1, 2, 1, 2),
        (K16, 47, 1, 2048, 1, 2048),
        (K16, 48, 0, 2, 1, 4096),
        (K64, 32, 2, 8, 2, 8),
        (K64, 42, 2, 8192, 2, 8192),
        (K64, 43, 1, 2, 1, 2),
        (K64, 48, 1, 64, 1, 64),
    ];
    for (granule, bits, level1, entries1, level2, entries2) in cases {
        let params = params(granule, bits, 48);
        assert_eq!(shape::<ArmLpaeStage1>(&params), (level1, entries1), "{granule} {bits}");
        assert_eq!(shape::<ArmLpaeStage2>(&params), (level2, entries2), "{granule} {bits}");
    }
}

/// The initial lookup levels that stage 2 may use, by granule and output size: DDI 0487 D8.2, rules SRKBC and DXBSH, typed as their table reads. QEMU
/// refuses the same ones (`check_s2_mmu_setup`: 4 KiB level 0 up to 42 bits; 16 KiB level 0, and level 1 up to 40; 64 KiB level 0, and level 1 up to 42).
const STAGE2_LOWEST_LEVELS: [(PageSize, [(u8, i8); 6]); 3] = [
    (K4, [(32, 1), (36, 1), (40, 1), (42, 1), (44, 0), (48, 0)]),
    (K16, [(32, 2), (36, 2), (40, 2), (42, 1), (44, 1), (48, 1)]),
    (K64, [(32, 2), (36, 2), (40, 2), (42, 2), (44, 1), (48, 1)]),
];

/// Input bits that one table at `level` and the levels below it resolve (DDI 0487 D8.2: 9, 11 or 13 bits a level above a page of 12, 14 or 16 bits).
fn resolved(granule: PageSize, level: i8) -> u8 {
    let (page, each) = match granule {
        K4 => (12, 9),
        K16 => (14, 11),
        _ => (16, 13),
    };
    page + each * (4 - level) as u8
}

/// Every granule, output size and input width: the start level is one that the document allows, the input fits with at most 16 tables side by side, no
/// table is superfluous, and hardware is told of exactly the tables that there are.
#[test]
fn stage_2_starts_where_the_document_allows() {
    let mut concatenated = 0;
    for (granule, outputs) in STAGE2_LOWEST_LEVELS {
        for (output, lowest) in outputs {
            for input in 32..=output {
                let params = params(granule, input, output);
                let (format, geometry) = ArmLpaeStage2::new(&params).expect("supported");
                let root = format.root(&geometry, PhysAddr::new(0), geometry.levels());
                let TableRoot::Arm { start_level, tables, .. } = root else { panic!("{root:?}") };
                let place = format!("{granule} {input} -> {output}: level {start_level}");
                assert!((lowest..=2).contains(&start_level), "{place}");
                let extra = input.saturating_sub(resolved(granule, start_level));
                assert!(extra <= 4, "{place}: more than 16 tables");
                assert_eq!(1 << extra, tables, "{place}");
                let below = resolved(granule, start_level + 1);
                assert_eq!(geometry.root_entries(), 1 << (input - below), "{place}");
                concatenated += usize::from(tables > 1);
            }
        }
    }
    assert_eq!(shape::<ArmLpaeStage2>(&params(K16, 40, 40)), (2, 16 * 2048), "rule SRKBC");
    // 4 KiB with 40 bits up at every output size (1 + 3 + 4 + 4), 16 KiB with 37..=40 at 40 (4) and with 48 at 48.
    assert_eq!(concatenated, 1 + 3 + 4 + 4 + 4 + 1);
}

#[test]
fn leaf_sizes_of_each_granule() {
    let sizes = |granule, bits, leaf_sizes| {
        let params = TableParams { leaf_sizes, ..params(granule, bits, 48) };
        ArmLpaeStage1::new(&params).expect("supported").1.leaf_sizes()
    };
    let plain = [
        (K4, PageSizes::from_bitmap(0x4020_1000), "4K/2M/1G"),
        (K16, PageSizes::from_bitmap(0x0200_4000), "16K/32M"),
        (K64, PageSizes::from_bitmap(0x2001_0000), "64K/512M"),
    ];
    for bits in 32..=48 {
        for (granule, plain, shown) in plain {
            assert_eq!(sizes(granule, bits, plain), plain, "{shown}");
        }
    }
    // With the contiguous hint (D8.6: 16 entries of 4 KiB tables; 128 at level 3 and 32 at level 2 of 16 KiB tables; 32 of 64 KiB tables).
    assert_eq!(sizes(K4, 48, PageSizes::ALL).bitmap(), 0x4_4221_1000);
    assert_eq!(sizes(K16, 48, PageSizes::ALL).bitmap(), 0x4220_4000);
    assert_eq!(sizes(K64, 48, PageSizes::ALL).bitmap(), 0x4_2021_0000);
    // 16 GiB do not fit into the 4 entries that 32 bits have at level 1.
    assert_eq!(sizes(K4, 32, PageSizes::ALL).bitmap(), 0x4221_1000);
    assert_eq!(sizes(K4, 48, PageSizes::NONE).bitmap(), 0x1000, "the page always is");
}

#[test]
fn what_the_format_has_not_is_refused() {
    let good = params(K4, 48, 48);
    let refused = |params| ArmLpaeStage2::new(&params).expect_err("must be refused");
    let granule = PageSize::SIZE_2M;
    assert_eq!(refused(TableParams { granule, ..good }), TableError::Granule { granule });
    for bits in [0, 31, 49, 52, 64, 255] {
        let params = TableParams { input_bits: bits, ..good };
        assert_eq!(refused(params), TableError::InputBits { bits });
    }
    for bits in [0, 31, 33, 47, 52, 255] {
        let params = TableParams { input_bits: 32, output_bits: bits, ..good };
        assert_eq!(refused(params), TableError::OutputBits { bits });
    }
    let params = TableParams { input_bits: 41, output_bits: 40, ..good };
    assert_eq!(refused(params), TableError::InputAboveOutput { input: 41, output: 40 });
    assert!(ArmLpaeStage1::new(&params).is_ok(), "stage 1 has no such rule");
}
