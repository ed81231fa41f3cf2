//! VMSAv8-64 descriptors, stage 1 and stage 2 (Arm DDI 0487, chapter D8: "The AArch64 Virtual Memory System Architecture").

use crate::{Format, Geometry, TableError, TableFormat, TableParams};
use portcullis_addr::{PageSize, PhysAddr, Prot};

/// Bit 0: the descriptor is valid (D8.3).
const VALID: u64 = 1;
/// Bit 1: a table above the last level, a page on it; clear for a block.
const TABLE_OR_PAGE: u64 = 1 << 1;
/// Bits 47:12, the output or table address of every granule at 48 bits.
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
/// Bit 55: ignored by hardware in table, block and page descriptors (D8.3, "reserved for software use").
const SOFTWARE: u64 = 1 << 55;
/// SH, bits 9:8: outer shareable.
const SH_OUTER: u64 = 0b10 << 8;
/// SH, bits 9:8: inner shareable.
const SH_INNER: u64 = 0b11 << 8;
/// AF, bit 10: no access fault on first use.
const ACCESS_FLAG: u64 = 1 << 10;

/// VMSAv8-64 stage 1, the lower half of the address space (what `TTBR0`/`CD.TTB0` points to).
///
/// Stage 1 cannot forbid reading a writable page, so [`Prot::WRITE`] implies [`Prot::READ`] here.
#[derive(Debug)]
#[doc(alias = "ARM_64_LPAE_S1")]
pub enum ArmLpaeStage1 {}

impl ArmLpaeStage1 {
    /// The memory attributes that the leaves' AttrIndx refers to (`MAIR_EL1` layout, 8 bits an index): 0 normal non-cacheable, 1 normal write-back,
    /// 2 Device-nGnRE. The driver puts it into the context descriptor.
    pub const MAIR: u64 = 0x04_ff_44;

    /// AttrIndx, bits 4:2.
    const ATTR_CACHE: u64 = 1 << 2;
    const ATTR_DEVICE: u64 = 2 << 2;
    const ATTR_MASK: u64 = 7 << 2;
    /// AP[1], bit 6: unprivileged accesses allowed.
    const AP_UNPRIVILEGED: u64 = 1 << 6;
    /// AP[2], bit 7: read only.
    const AP_READ_ONLY: u64 = 1 << 7;
    /// nG, bit 11: the translation belongs to one ASID.
    const NOT_GLOBAL: u64 = 1 << 11;
    /// PXN and UXN, bits 54:53.
    const EXECUTE_NEVER: u64 = 0b11 << 53;
}

impl Format for ArmLpaeStage1 {
    const FORMAT: TableFormat = TableFormat::ArmLpaeStage1;
    const SOFTWARE_BIT: u64 = SOFTWARE;

    fn geometry(params: &TableParams) -> Result<Geometry, TableError> {
        check(params)?;
        let levels = levels(params);
        geometry(params, levels)
    }

    fn leaf_bits(prot: Prot) -> Option<u64> {
        if !prot.intersects(Prot::READ | Prot::WRITE) {
            return None;
        }
        let mut bits = ACCESS_FLAG | Self::NOT_GLOBAL;
        if !prot.contains(Prot::WRITE) {
            bits |= Self::AP_READ_ONLY;
        }
        if !prot.contains(Prot::PRIV) {
            bits |= Self::AP_UNPRIVILEGED;
        }
        if prot.contains(Prot::NOEXEC) {
            bits |= Self::EXECUTE_NEVER;
        }
        bits |= match (prot.contains(Prot::MMIO), prot.contains(Prot::CACHE)) {
            (true, _) => Self::ATTR_DEVICE | SH_OUTER,
            (false, true) => Self::ATTR_CACHE | SH_INNER,
            (false, false) => SH_OUTER,
        };
        Some(bits)
    }

    fn leaf(bits: u64, phys: u64, last_level: bool) -> u64 {
        leaf(bits, phys, last_level)
    }

    fn table(table: PhysAddr) -> u64 {
        table.raw() | TABLE_OR_PAGE | VALID
    }

    fn is_table(entry: u64) -> bool {
        is_table(entry)
    }

    fn is_leaf(entry: u64, last_level: bool) -> bool {
        is_leaf(entry, last_level)
    }

    fn address(entry: u64) -> u64 {
        entry & ADDRESS
    }

    fn prot(leaf: u64) -> Prot {
        let mut prot = Prot::READ;
        prot.set(Prot::WRITE, leaf & Self::AP_READ_ONLY == 0);
        prot.set(Prot::PRIV, leaf & Self::AP_UNPRIVILEGED == 0);
        prot.set(Prot::NOEXEC, leaf & Self::EXECUTE_NEVER == Self::EXECUTE_NEVER);
        prot.set(Prot::CACHE, leaf & Self::ATTR_MASK == Self::ATTR_CACHE);
        prot.set(Prot::MMIO, leaf & Self::ATTR_MASK == Self::ATTR_DEVICE);
        prot
    }
}

/// VMSAv8-64 stage 2, with concatenated root tables where they save the level 0 (D8.2, "Concatenated translation tables").
///
/// Stage 2 knows no privilege: [`Prot::PRIV`] is refused.
#[derive(Debug)]
#[doc(alias = "ARM_64_LPAE_S2")]
pub enum ArmLpaeStage2 {}

impl ArmLpaeStage2 {
    /// MemAttr, bits 5:2: outer and inner write-back.
    const ATTR_CACHE: u64 = 0b1111 << 2;
    /// MemAttr: outer and inner non-cacheable.
    const ATTR_NON_CACHEABLE: u64 = 0b0101 << 2;
    /// MemAttr: Device-nGnRE.
    const ATTR_DEVICE: u64 = 0b0001 << 2;
    const ATTR_MASK: u64 = 0b1111 << 2;
    /// S2AP[0], bit 6: readable.
    const AP_READ: u64 = 1 << 6;
    /// S2AP[1], bit 7: writable.
    const AP_WRITE: u64 = 1 << 7;
    /// XN[1:0], bits 54:53, value 0b10: no execution at any exception level, with and without FEAT_XNX.
    const EXECUTE_NEVER: u64 = 1 << 54;
    /// How many root tables may stand side by side.
    const MAX_CONCATENATED: usize = 16;
}

impl Format for ArmLpaeStage2 {
    const FORMAT: TableFormat = TableFormat::ArmLpaeStage2;
    const SOFTWARE_BIT: u64 = SOFTWARE;

    fn geometry(params: &TableParams) -> Result<Geometry, TableError> {
        check(params)?;
        if params.input_bits > params.output_bits {
            let (input, output) = (params.input_bits, params.output_bits);
            return Err(TableError::InputAboveOutput { input, output });
        }
        let levels = levels(params);
        // A root at level 0 with at most 16 entries becomes that many level-1 tables: one step less for each walk, and for the 16 KiB granule the
        // only encoding that stage 2 has.
        let narrow = root_entries(params, levels) <= Self::MAX_CONCATENATED;
        geometry(params, if levels == 4 && narrow { 3 } else { levels })
    }

    fn leaf_bits(prot: Prot) -> Option<u64> {
        if !prot.intersects(Prot::READ | Prot::WRITE) || prot.contains(Prot::PRIV) {
            return None;
        }
        let mut bits = ACCESS_FLAG;
        if prot.contains(Prot::READ) {
            bits |= Self::AP_READ;
        }
        if prot.contains(Prot::WRITE) {
            bits |= Self::AP_WRITE;
        }
        if prot.contains(Prot::NOEXEC) {
            bits |= Self::EXECUTE_NEVER;
        }
        bits |= match (prot.contains(Prot::MMIO), prot.contains(Prot::CACHE)) {
            (true, _) => Self::ATTR_DEVICE | SH_OUTER,
            (false, true) => Self::ATTR_CACHE | SH_INNER,
            (false, false) => Self::ATTR_NON_CACHEABLE | SH_OUTER,
        };
        Some(bits)
    }

    fn leaf(bits: u64, phys: u64, last_level: bool) -> u64 {
        leaf(bits, phys, last_level)
    }

    fn table(table: PhysAddr) -> u64 {
        table.raw() | TABLE_OR_PAGE | VALID
    }

    fn is_table(entry: u64) -> bool {
        is_table(entry)
    }

    fn is_leaf(entry: u64, last_level: bool) -> bool {
        is_leaf(entry, last_level)
    }

    fn address(entry: u64) -> u64 {
        entry & ADDRESS
    }

    fn prot(leaf: u64) -> Prot {
        let mut prot = Prot::empty();
        prot.set(Prot::READ, leaf & Self::AP_READ != 0);
        prot.set(Prot::WRITE, leaf & Self::AP_WRITE != 0);
        prot.set(Prot::NOEXEC, leaf & Self::EXECUTE_NEVER != 0);
        prot.set(Prot::CACHE, leaf & Self::ATTR_MASK == Self::ATTR_CACHE);
        prot.set(Prot::MMIO, leaf & Self::ATTR_MASK == Self::ATTR_DEVICE);
        prot
    }
}

fn leaf(bits: u64, phys: u64, last_level: bool) -> u64 {
    phys | bits | VALID | if last_level { TABLE_OR_PAGE } else { 0 }
}

fn is_table(entry: u64) -> bool {
    entry & (VALID | TABLE_OR_PAGE) == VALID | TABLE_OR_PAGE
}

fn is_leaf(entry: u64, last_level: bool) -> bool {
    entry & (VALID | TABLE_OR_PAGE) == VALID | if last_level { TABLE_OR_PAGE } else { 0 }
}

/// The limits that both stages share.
fn check(params: &TableParams) -> Result<(), TableError> {
    if ![PageSize::SIZE_4K, PageSize::SIZE_16K, PageSize::SIZE_64K].contains(&params.granule) {
        return Err(TableError::Granule { granule: params.granule });
    }
    if !(32..=48).contains(&params.input_bits) {
        return Err(TableError::InputBits { bits: params.input_bits });
    }
    if ![32, 36, 40, 42, 44, 48].contains(&params.output_bits) {
        return Err(TableError::OutputBits { bits: params.output_bits });
    }
    Ok(())
}

/// Levels that resolve all input bits with a root of one table.
fn levels(params: &TableParams) -> u8 {
    let log2 = params.granule.log2();
    (params.input_bits - log2).div_ceil(log2 - 3)
}

fn root_entries(params: &TableParams, levels: u8) -> usize {
    let log2 = params.granule.log2();
    1 << (params.input_bits - log2 - (log2 - 3) * (levels - 1))
}

fn geometry(params: &TableParams, levels: u8) -> Result<Geometry, TableError> {
    // 4 KiB tables have blocks at levels 1 and 2, the larger granules at level 2 only (up to 48 output bits).
    let first_leaf_level = if params.granule == PageSize::SIZE_4K { 1 } else { 2 };
    Geometry::new(params.granule, levels, first_leaf_level, 3, root_entries(params, levels))
        .ok_or(TableError::InputBits { bits: params.input_bits })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(granule: PageSize, input_bits: u8) -> TableParams {
        TableParams { granule, input_bits, output_bits: 48, coherent: true }
    }

    /// Start level and number of root entries, worked out by hand from DDI 0487 D8.2.
    #[test]
    fn start_levels_and_roots() {
        let (k4, k16, k64) = (PageSize::SIZE_4K, PageSize::SIZE_16K, PageSize::SIZE_64K);
        // (granule, input bits, stage 1 level, entries, stage 2 level, entries)
        let cases = [
            (k4, 32, 1, 4, 1, 4),
            (k4, 36, 1, 64, 1, 64),
            (k4, 39, 1, 512, 1, 512),
            (k4, 40, 0, 2, 1, 1024),
            (k4, 42, 0, 8, 1, 4096),
            (k4, 43, 0, 16, 1, 8192),
            (k4, 44, 0, 32, 0, 32),
            (k4, 48, 0, 512, 0, 512),
            (k16, 32, 2, 128, 2, 128),
            (k16, 36, 2, 2048, 2, 2048),
            (k16, 37, 1, 2, 1, 2),
            (k16, 47, 1, 2048, 1, 2048),
            (k16, 48, 0, 2, 1, 4096),
            (k64, 32, 2, 8, 2, 8),
            (k64, 42, 2, 8192, 2, 8192),
            (k64, 43, 1, 2, 1, 2),
            (k64, 48, 1, 64, 1, 64),
        ];
        for (granule, bits, level1, entries1, level2, entries2) in cases {
            let one = ArmLpaeStage1::geometry(&params(granule, bits)).expect("supported");
            let two = ArmLpaeStage2::geometry(&params(granule, bits)).expect("supported");
            assert_eq!(
                (one.start_level(), one.root_entries()),
                (level1, entries1),
                "{granule} {bits}"
            );
            assert_eq!(
                (two.start_level(), two.root_entries()),
                (level2, entries2),
                "{granule} {bits}"
            );
        }
    }

    #[test]
    fn leaf_sizes_of_each_granule() {
        let sizes = |granule, bits| {
            let geometry = ArmLpaeStage1::geometry(&params(granule, bits)).expect("supported");
            geometry.leaf_sizes().bitmap()
        };
        for bits in 32..=48 {
            assert_eq!(sizes(PageSize::SIZE_4K, bits), 0x4020_1000, "4K/2M/1G");
            assert_eq!(sizes(PageSize::SIZE_16K, bits), 0x0200_4000, "16K/32M");
            assert_eq!(sizes(PageSize::SIZE_64K, bits), 0x2001_0000, "64K/512M");
        }
    }

    #[test]
    fn what_the_format_has_not_is_refused() {
        let good = params(PageSize::SIZE_4K, 48);
        let refused = |params| ArmLpaeStage2::geometry(&params).expect_err("must be refused");
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
        assert!(ArmLpaeStage1::geometry(&params).is_ok(), "stage 1 has no such rule");
    }
}
