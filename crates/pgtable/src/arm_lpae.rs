//! VMSAv8-64 descriptors, stage 1 and stage 2 (Arm DDI 0487, chapter D8: "The AArch64 Virtual Memory System Architecture").

use crate::{Format, Geometry, Level, TableError, TableFormat, TableParams, TableRoot};
use portcullis_addr::{PageSize, PageSizes, PhysAddr, Prot};

/// Bit 0: the descriptor is valid (D8.3).
const VALID: u64 = 1;
/// Bit 1: a table above the last level, a page on it; clear for a block.
const TABLE_OR_PAGE: u64 = 1 << 1;
/// Bits 47:12, the output or table address of every granule at 48 bits.
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
/// Bit 55: ignored by hardware in table, block and page descriptors (D8.3, "reserved for software use").
const SOFTWARE: u64 = 1 << 55;
/// Bit 52: hint that an aligned group of entries is alike and leads to contiguous memory (D8.6, "Contiguous bit").
const CONTIGUOUS: u64 = 1 << 52;
/// SH, bits 9:8: outer shareable.
const SH_OUTER: u64 = 0b10 << 8;
/// SH, bits 9:8: inner shareable.
const SH_INNER: u64 = 0b11 << 8;
/// AF, bit 10: no access fault on first use.
const ACCESS_FLAG: u64 = 1 << 10;

/// Pages stand in tables of level 3.
const LAST_LEVEL: u8 = 3;
/// log2 of the root tables that may stand side by side (D8.2, "Concatenated translation tables").
const MAX_CONCATENATED_LOG2: u8 = 4;

/// VMSAv8-64 stage 1, the lower half of the address space (what `TTBR0`/`CD.TTB0` points to).
///
/// Stage 1 cannot forbid reading a writable page, so [`Prot::WRITE`] implies [`Prot::READ`] here.
#[derive(Clone, Copy, Debug)]
#[doc(alias = "ARM_64_LPAE_S1")]
pub struct ArmLpaeStage1 {
    granule: PageSize,
}

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

    fn new(params: &TableParams) -> Result<(Self, Geometry), TableError> {
        check(params)?;
        let geometry = geometry(params, levels(params))?;
        Ok((Self { granule: params.granule }, geometry))
    }

    fn leaf_bits(&self, prot: Prot) -> Option<u64> {
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

    fn root(&self, geometry: &Geometry, root: PhysAddr, levels: u8) -> TableRoot {
        arm_root(geometry, root, levels)
    }

    fn leaf(&self, bits: u64, phys: u64, level: Level, size_log2: u32) -> u64 {
        leaf(bits, phys, level, size_log2)
    }

    fn table(&self, table: PhysAddr, _: Level) -> u64 {
        table.raw() | TABLE_OR_PAGE | VALID
    }

    fn is_table(&self, entry: u64, _: Level) -> bool {
        entry & (VALID | TABLE_OR_PAGE) == VALID | TABLE_OR_PAGE
    }

    fn is_leaf(&self, entry: u64, level: Level) -> bool {
        is_leaf(entry, level)
    }

    fn table_address(&self, entry: u64) -> u64 {
        entry & ADDRESS
    }

    fn leaf_size(&self, leaf: u64, level: Level) -> u32 {
        if leaf & CONTIGUOUS == 0 {
            level.shift
        } else {
            level.shift + run_log2(self.granule, level)
        }
    }

    fn leaf_address(&self, leaf: u64, level: Level) -> u64 {
        leaf & ADDRESS & !((1 << self.leaf_size(leaf, level)) - 1)
    }

    fn prot(&self, leaf: u64) -> Prot {
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
#[derive(Clone, Copy, Debug)]
#[doc(alias = "ARM_64_LPAE_S2")]
pub struct ArmLpaeStage2 {
    granule: PageSize,
}

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
}

impl Format for ArmLpaeStage2 {
    const FORMAT: TableFormat = TableFormat::ArmLpaeStage2;
    const SOFTWARE_BIT: u64 = SOFTWARE;

    fn new(params: &TableParams) -> Result<(Self, Geometry), TableError> {
        check(params)?;
        if params.input_bits > params.output_bits {
            let (input, output) = (params.input_bits, params.output_bits);
            return Err(TableError::InputAboveOutput { input, output });
        }
        let geometry = geometry(params, levels(params) - u8::from(concatenates(params)))?;
        Ok((Self { granule: params.granule }, geometry))
    }

    fn leaf_bits(&self, prot: Prot) -> Option<u64> {
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

    fn root(&self, geometry: &Geometry, root: PhysAddr, levels: u8) -> TableRoot {
        arm_root(geometry, root, levels)
    }

    fn leaf(&self, bits: u64, phys: u64, level: Level, size_log2: u32) -> u64 {
        leaf(bits, phys, level, size_log2)
    }

    fn table(&self, table: PhysAddr, _: Level) -> u64 {
        table.raw() | TABLE_OR_PAGE | VALID
    }

    fn is_table(&self, entry: u64, _: Level) -> bool {
        entry & (VALID | TABLE_OR_PAGE) == VALID | TABLE_OR_PAGE
    }

    fn is_leaf(&self, entry: u64, level: Level) -> bool {
        is_leaf(entry, level)
    }

    fn table_address(&self, entry: u64) -> u64 {
        entry & ADDRESS
    }

    fn leaf_size(&self, leaf: u64, level: Level) -> u32 {
        if leaf & CONTIGUOUS == 0 {
            level.shift
        } else {
            level.shift + run_log2(self.granule, level)
        }
    }

    fn leaf_address(&self, leaf: u64, level: Level) -> u64 {
        leaf & ADDRESS & !((1 << self.leaf_size(leaf, level)) - 1)
    }

    fn prot(&self, leaf: u64) -> Prot {
        let mut prot = Prot::empty();
        prot.set(Prot::READ, leaf & Self::AP_READ != 0);
        prot.set(Prot::WRITE, leaf & Self::AP_WRITE != 0);
        prot.set(Prot::NOEXEC, leaf & Self::EXECUTE_NEVER != 0);
        prot.set(Prot::CACHE, leaf & Self::ATTR_MASK == Self::ATTR_CACHE);
        prot.set(Prot::MMIO, leaf & Self::ATTR_MASK == Self::ATTR_DEVICE);
        prot
    }
}

fn leaf(bits: u64, phys: u64, level: Level, size_log2: u32) -> u64 {
    let page = if level.is_last() { TABLE_OR_PAGE } else { 0 };
    let run = if size_log2 > level.shift { CONTIGUOUS } else { 0 };
    phys | bits | run | page | VALID
}

fn is_leaf(entry: u64, level: Level) -> bool {
    entry & (VALID | TABLE_OR_PAGE) == VALID | if level.is_last() { TABLE_OR_PAGE } else { 0 }
}

/// log2 of the entries that the contiguous hint groups (D8.6, "Contiguous bit": 16 entries of 4 KiB tables, 128 and 32 of 16 KiB, 32 of 64 KiB).
fn run_log2(granule: PageSize, level: Level) -> u32 {
    match (granule, level.number) {
        (PageSize::SIZE_4K, _) => 4,
        (PageSize::SIZE_16K, 0) => 7,
        _ => 5,
    }
}

fn arm_root(geometry: &Geometry, address: PhysAddr, levels: u8) -> TableRoot {
    let per_table = geometry.table_bytes() / 8;
    let tables = geometry.root_entries().div_ceil(per_table) as u8;
    TableRoot::Arm { address, start_level: LAST_LEVEL + 1 - levels, tables }
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

/// Whether stage 2 must start one level lower, with up to 16 root tables side by side.
///
/// Level 0 does not exist for 16 KiB tables of 48 bits (D8.2, rule DXBSH), and which levels a walk may start at depends on the output size (rule
/// SRKBC): with 4 KiB tables level 0 needs 44 bits or more, with 16 KiB tables level 1 needs 42 or more. (With 64 KiB tables level 1 needs 44, and fewer
/// input bits never get there.) Where the document leaves the choice, a root at level 0 that fits into 16 tables is worth a step less a walk; at lower
/// levels one small root table is worth more.
fn concatenates(params: &TableParams) -> bool {
    let levels = levels(params);
    let fits = root_bits(params, levels) <= MAX_CONCATENATED_LOG2;
    let forbidden = params.granule == PageSize::SIZE_16K && levels == 3 && params.output_bits <= 40;
    fits && (levels == 4 || forbidden)
}

/// Input bits that index the root of a tree of that many levels.
fn root_bits(params: &TableParams, levels: u8) -> u8 {
    let log2 = params.granule.log2();
    params.input_bits - log2 - (log2 - 3) * (levels - 1)
}

fn geometry(params: &TableParams, levels: u8) -> Result<Geometry, TableError> {
    let sizes = leaf_sizes(params.granule).intersection(params.leaf_sizes);
    Geometry::new(params.granule, levels, params.input_bits, sizes)
        .ok_or(TableError::InputBits { bits: params.input_bits })
}

/// Pages and blocks (D8.3: 4 KiB tables have blocks at levels 1 and 2, the larger granules at level 2 only, up to 48 output bits), and the groups of
/// them that the contiguous hint makes.
fn leaf_sizes(granule: PageSize) -> PageSizes {
    let highest_block = if granule == PageSize::SIZE_4K { 2 } else { 1 };
    let sizes = (0..=highest_block).fold(0, |sizes, number| {
        let shift = u32::from(granule.log2()) + u32::from(number) * u32::from(granule.log2() - 3);
        let run = run_log2(granule, Level { number, shift });
        sizes | 1 << shift | 1 << (shift + run)
    });
    PageSizes::from_bitmap(sizes)
}

#[cfg(test)]
#[path = "arm_lpae_tests.rs"]
mod tests;
