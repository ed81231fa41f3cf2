//! Arm long descriptors, stage 1 and stage 2, in all their widths (Arm DDI 0487, chapter D8; G5 for AArch32).

use crate::{Format, Geometry, Level, TableError, TableFormat, TableParams, TableRoot};
use core::fmt;
use core::marker::PhantomData;
use portcullis_addr::{PageSize, PageSizes, PhysAddr, Prot};
use portcullis_spec::page_table::vmsa::{lpa64, stage1, stage2};

const VALID: u64 = stage1::VALID.mask();
/// Set in a table above the last level and in a page on it, clear in a block.
const TABLE_OR_PAGE: u64 = stage1::TYPE.mask();
const CONTIGUOUS: u64 = stage1::CONTIGUOUS.mask();
/// Bit 55, the lowest of those for software.
const SOFTWARE: u64 = 1 << stage1::SOFTWARE.lo();
const SH_OUTER: u64 = stage1::SH.of(0b10);
const SH_INNER: u64 = stage1::SH.of(0b11);
/// Pages stand in tables of level 3.
const LAST_LEVEL: i8 = 3;
/// log2 of the root tables that may stand side by side (D8.2, "Concatenated translation tables").
const MAX_CONCATENATED_LOG2: u8 = 4;

/// How wide a descriptor's addresses are and where their bits stand.
pub trait ArmVariant: fmt::Debug + Send + Sync + 'static {
    /// What drivers know stage 1 and stage 2 tables by.
    const FORMATS: (TableFormat, TableFormat);
    /// Granules that have this variant.
    const GRANULES: &'static [PageSize];
    /// Input widths of stage 1 and of stage 2.
    const INPUTS: [(u8, u8); 2];
    /// Output widths.
    const OUTPUTS: &'static [u8];
    /// Whether bits 9:8 hold the shareability.
    const SHAREABILITY: bool = true;
    /// Blocks one level further up than 48 bits have (D8.3).
    const HIGHER_BLOCKS: bool = false;
    /// The bits of a descriptor that hold the address.
    const ADDRESS: u64 = stage1::ADDRESS.mask();
    /// The address's bits of a descriptor.
    fn encode(address: u64) -> u64;
    /// The address in a descriptor.
    fn decode(descriptor: u64) -> u64;
}

const EVERY: &[PageSize] = &[PageSize::SIZE_4K, PageSize::SIZE_16K, PageSize::SIZE_64K];

/// VMSAv8-64 with up to 48 bits: what every SMMUv3 and every SMMUv2 with AArch64 tables has.
#[derive(Debug)]
pub enum Bits48 {}

impl ArmVariant for Bits48 {
    const FORMATS: (TableFormat, TableFormat) =
        (TableFormat::ArmLpaeStage1, TableFormat::ArmLpaeStage2);
    const GRANULES: &'static [PageSize] = EVERY;
    const INPUTS: [(u8, u8); 2] = [(32, 48), (32, 48)];
    const OUTPUTS: &'static [u8] = &[32, 36, 40, 42, 44, 48];

    #[inline(always)]
    fn encode(address: u64) -> u64 {
        address
    }
    #[inline(always)]
    fn decode(descriptor: u64) -> u64 {
        stage1::ADDRESS.in_place(descriptor)
    }
}

/// 64 KiB tables with 52 bits (FEAT_LPA): bits 51:48 of an address stand in bits 15:12.
#[derive(Debug)]
pub enum Lpa64 {}

impl ArmVariant for Lpa64 {
    const FORMATS: (TableFormat, TableFormat) = Bits48::FORMATS;
    const GRANULES: &'static [PageSize] = &[PageSize::SIZE_64K];
    const INPUTS: [(u8, u8); 2] = [(32, 52), (32, 52)];
    const OUTPUTS: &'static [u8] = &[52];
    const HIGHER_BLOCKS: bool = true;
    const ADDRESS: u64 = lpa64::ADDRESS_LOW.mask() | lpa64::ADDRESS_HIGH.mask();

    fn encode(address: u64) -> u64 {
        lpa64::ADDRESS_LOW.in_place(address) | lpa64::ADDRESS_HIGH.of(address >> 48)
    }
    fn decode(descriptor: u64) -> u64 {
        lpa64::ADDRESS_LOW.in_place(descriptor) | lpa64::ADDRESS_HIGH.get(descriptor) << 48
    }
}

/// 4 KiB and 16 KiB tables with 52 bits (FEAT_LPA2, `DS` set): bits 51:50 of an address stand where the shareability is elsewhere.
#[derive(Debug)]
pub enum Lpa2 {}

impl ArmVariant for Lpa2 {
    const FORMATS: (TableFormat, TableFormat) =
        (TableFormat::ArmLpa2Stage1, TableFormat::ArmLpa2Stage2);
    const GRANULES: &'static [PageSize] = &[PageSize::SIZE_4K, PageSize::SIZE_16K];
    const INPUTS: [(u8, u8); 2] = [(32, 52), (32, 52)];
    const OUTPUTS: &'static [u8] = &[32, 36, 40, 42, 44, 48, 52];
    const SHAREABILITY: bool = false;
    const HIGHER_BLOCKS: bool = true;
    const ADDRESS: u64 = stage1::ADDRESS.mask() | stage1::ADDRESS_LPA2.mask() | stage1::SH.mask();

    fn encode(address: u64) -> u64 {
        address & (stage1::ADDRESS.mask() | stage1::ADDRESS_LPA2.mask())
            | stage1::SH.of(address >> 50)
    }
    fn decode(descriptor: u64) -> u64 {
        descriptor & (stage1::ADDRESS.mask() | stage1::ADDRESS_LPA2.mask())
            | stage1::SH.get(descriptor) << 50
    }
}

/// The long descriptors of AArch32, which SMMUv2 context banks can walk: 4 KiB tables, up to 32 bits in and 40 out at stage 1, 40 and 40 at stage 2, no level 0.
#[derive(Debug)]
pub enum Aarch32 {}

impl ArmVariant for Aarch32 {
    const FORMATS: (TableFormat, TableFormat) =
        (TableFormat::Aarch32LpaeStage1, TableFormat::Aarch32LpaeStage2);
    const GRANULES: &'static [PageSize] = &[PageSize::SIZE_4K];
    const INPUTS: [(u8, u8); 2] = [(25, 32), (25, 40)];
    const OUTPUTS: &'static [u8] = &[32, 36, 40];

    fn encode(address: u64) -> u64 {
        address
    }
    fn decode(descriptor: u64) -> u64 {
        stage1::ADDRESS.in_place(descriptor)
    }
}

/// VMSAv8-64 stage 1, up to 48 bits.
pub type ArmLpaeStage1 = ArmStage1<Bits48>;
/// VMSAv8-64 stage 2, up to 48 bits.
pub type ArmLpaeStage2 = ArmStage2<Bits48>;
/// VMSAv8-64 stage 1 with 64 KiB tables and 52 bits.
pub type ArmLpa64Stage1 = ArmStage1<Lpa64>;
/// VMSAv8-64 stage 2 with 64 KiB tables and 52 bits.
pub type ArmLpa64Stage2 = ArmStage2<Lpa64>;
/// VMSAv8-64 stage 1 with `DS`: 4 and 16 KiB tables and 52 bits.
pub type ArmLpa2Stage1 = ArmStage1<Lpa2>;
/// VMSAv8-64 stage 2 with `DS`: 4 and 16 KiB tables and 52 bits.
pub type ArmLpa2Stage2 = ArmStage2<Lpa2>;
/// AArch32 long descriptors, stage 1.
#[doc(alias = "ARM_32_LPAE_S1")]
pub type Aarch32LpaeStage1 = ArmStage1<Aarch32>;
/// AArch32 long descriptors, stage 2.
#[doc(alias = "ARM_32_LPAE_S2")]
pub type Aarch32LpaeStage2 = ArmStage2<Aarch32>;

/// What the entries of both stages share.
macro_rules! entries {
    () => {
        fn root(&self, geometry: &Geometry, root: PhysAddr, levels: u8) -> TableRoot {
            arm_root(geometry, root, levels)
        }

        #[inline(always)]
        fn leaf(&self, bits: u64, phys: u64, level: Level, size_log2: u32) -> u64 {
            leaf::<V>(bits, phys, level, size_log2)
        }

        #[inline(always)]
        fn table(&self, table: PhysAddr, _: Level) -> u64 {
            V::encode(table.raw()) | TABLE_OR_PAGE | VALID
        }

        #[inline(always)]
        fn is_table(&self, entry: u64, _: Level) -> bool {
            entry & (VALID | TABLE_OR_PAGE) == VALID | TABLE_OR_PAGE
        }

        #[inline(always)]
        fn presence(&self, _: u64) -> u64 {
            VALID | TABLE_OR_PAGE
        }

        #[inline(always)]
        fn is_leaf(&self, entry: u64, level: Level) -> bool {
            is_leaf(entry, level)
        }

        #[inline(always)]
        fn table_address(&self, entry: u64) -> u64 {
            V::decode(entry)
        }

        #[inline(always)]
        fn leaf_size(&self, leaf: u64, level: Level) -> u32 {
            leaf_size(self.granule, leaf, level)
        }

        #[inline(always)]
        fn leaf_address(&self, leaf: u64, level: Level) -> u64 {
            V::decode(leaf) & !((1 << self.leaf_size(leaf, level)) - 1)
        }
    };
}

/// Stage 1, the lower half of the address space (what `TTBR0`/`CD.TTB0` points to).
///
/// Stage 1 cannot forbid reading a writable page, so [`Prot::WRITE`] implies [`Prot::READ`] here.
#[derive(Clone, Copy, Debug)]
#[doc(alias = "ARM_64_LPAE_S1")]
pub struct ArmStage1<V: ArmVariant> {
    granule: PageSize,
    variant: PhantomData<V>,
}

/// AP[2]: read only.
const AP_READ_ONLY: u64 = stage1::AP.of(0b10);
/// AP[1]: unprivileged accesses allowed.
const AP_UNPRIVILEGED: u64 = stage1::AP.of(0b01);
const STAGE1_EXECUTE_NEVER: u64 = stage1::PXN.mask() | stage1::UXN.mask();
const INDX_CACHE: u64 = stage1::ATTR_INDX.of(1);
const INDX_DEVICE: u64 = stage1::ATTR_INDX.of(2);

impl<V: ArmVariant> ArmStage1<V> {
    /// The memory attributes that the leaves' AttrIndx refers to (`MAIR_EL1` layout, 8 bits an index): 0 normal non-cacheable, 1 normal write-back,
    /// 2 Device-nGnRE. The driver puts it into the context descriptor.
    pub const MAIR: u64 = 0x04_ff_44;
}

impl<V: ArmVariant> Format for ArmStage1<V> {
    const FORMAT: TableFormat = V::FORMATS.0;
    const SOFTWARE_BIT: u64 = SOFTWARE;
    const TABLE_ADDRESS: u64 = V::ADDRESS;

    fn new(params: &TableParams) -> Result<(Self, Geometry), TableError> {
        check::<V>(params, V::INPUTS[0])?;
        let geometry = geometry::<V>(params, levels(params))?;
        Ok((Self { granule: params.granule, variant: PhantomData }, geometry))
    }

    fn leaf_bits(&self, prot: Prot) -> Option<u64> {
        if !prot.intersects(Prot::READ | Prot::WRITE) {
            return None;
        }
        let mut bits = stage1::AF.mask() | stage1::NG.mask();
        if !prot.contains(Prot::WRITE) {
            bits |= AP_READ_ONLY;
        }
        if !prot.contains(Prot::PRIV) {
            bits |= AP_UNPRIVILEGED;
        }
        if prot.contains(Prot::NOEXEC) {
            bits |= STAGE1_EXECUTE_NEVER;
        }
        let (attributes, share) = match (prot.contains(Prot::MMIO), prot.contains(Prot::CACHE)) {
            (true, _) => (INDX_DEVICE, SH_OUTER),
            (false, true) => (INDX_CACHE, SH_INNER),
            (false, false) => (0, SH_OUTER),
        };
        Some(bits | attributes | if V::SHAREABILITY { share } else { 0 })
    }

    entries!();

    fn prot(&self, leaf: u64) -> Prot {
        let attributes = stage1::ATTR_INDX.in_place(leaf);
        let mut prot = Prot::READ;
        prot.set(Prot::WRITE, leaf & AP_READ_ONLY == 0);
        prot.set(Prot::PRIV, leaf & AP_UNPRIVILEGED == 0);
        prot.set(Prot::NOEXEC, leaf & STAGE1_EXECUTE_NEVER == STAGE1_EXECUTE_NEVER);
        prot.set(Prot::CACHE, attributes == INDX_CACHE);
        prot.set(Prot::MMIO, attributes == INDX_DEVICE);
        prot
    }
}

/// Stage 2, with concatenated root tables where they are demanded or save the level 0 (D8.2, "Concatenated translation tables").
///
/// Stage 2 knows no privilege: [`Prot::PRIV`] is refused.
#[derive(Clone, Copy, Debug)]
#[doc(alias = "ARM_64_LPAE_S2")]
pub struct ArmStage2<V: ArmVariant> {
    granule: PageSize,
    variant: PhantomData<V>,
}

const MEM_CACHE: u64 = stage2::MEM_ATTR.of(0b1111);
const MEM_NON_CACHEABLE: u64 = stage2::MEM_ATTR.of(0b0101);
const MEM_DEVICE: u64 = stage2::MEM_ATTR.of(0b0001);
const S2AP_READ: u64 = stage2::S2AP.of(0b01);
const S2AP_WRITE: u64 = stage2::S2AP.of(0b10);
/// XN 0b10: no execution at any exception level, with and without FEAT_XNX.
const STAGE2_EXECUTE_NEVER: u64 = stage2::XN.of(0b10);

impl<V: ArmVariant> Format for ArmStage2<V> {
    const FORMAT: TableFormat = V::FORMATS.1;
    const SOFTWARE_BIT: u64 = SOFTWARE;
    const TABLE_ADDRESS: u64 = V::ADDRESS;

    fn new(params: &TableParams) -> Result<(Self, Geometry), TableError> {
        check::<V>(params, V::INPUTS[1])?;
        if params.input_bits > params.output_bits {
            let (input, output) = (params.input_bits, params.output_bits);
            return Err(TableError::InputAboveOutput { input, output });
        }
        let geometry = geometry::<V>(params, levels(params) - u8::from(concatenates(params)))?;
        Ok((Self { granule: params.granule, variant: PhantomData }, geometry))
    }

    fn leaf_bits(&self, prot: Prot) -> Option<u64> {
        if !prot.intersects(Prot::READ | Prot::WRITE) || prot.contains(Prot::PRIV) {
            return None;
        }
        let mut bits = stage2::AF.mask();
        if prot.contains(Prot::READ) {
            bits |= S2AP_READ;
        }
        if prot.contains(Prot::WRITE) {
            bits |= S2AP_WRITE;
        }
        if prot.contains(Prot::NOEXEC) {
            bits |= STAGE2_EXECUTE_NEVER;
        }
        let (attributes, share) = match (prot.contains(Prot::MMIO), prot.contains(Prot::CACHE)) {
            (true, _) => (MEM_DEVICE, SH_OUTER),
            (false, true) => (MEM_CACHE, SH_INNER),
            (false, false) => (MEM_NON_CACHEABLE, SH_OUTER),
        };
        Some(bits | attributes | if V::SHAREABILITY { share } else { 0 })
    }

    entries!();

    fn prot(&self, leaf: u64) -> Prot {
        let attributes = stage2::MEM_ATTR.in_place(leaf);
        let mut prot = Prot::empty();
        prot.set(Prot::READ, leaf & S2AP_READ != 0);
        prot.set(Prot::WRITE, leaf & S2AP_WRITE != 0);
        prot.set(Prot::NOEXEC, leaf & STAGE2_EXECUTE_NEVER != 0);
        prot.set(Prot::CACHE, attributes == MEM_CACHE);
        prot.set(Prot::MMIO, attributes == MEM_DEVICE);
        prot
    }
}

#[inline(always)]
fn leaf<V: ArmVariant>(bits: u64, phys: u64, level: Level, size_log2: u32) -> u64 {
    let page = if level.is_last() { TABLE_OR_PAGE } else { 0 };
    let run = if size_log2 > level.shift { CONTIGUOUS } else { 0 };
    V::encode(phys) | bits | run | page | VALID
}

#[inline(always)]
fn is_leaf(entry: u64, level: Level) -> bool {
    entry & (VALID | TABLE_OR_PAGE) == VALID | if level.is_last() { TABLE_OR_PAGE } else { 0 }
}

#[inline(always)]
fn leaf_size(granule: PageSize, leaf: u64, level: Level) -> u32 {
    if leaf & CONTIGUOUS == 0 { level.shift } else { level.shift + run_log2(granule, level) }
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
    TableRoot::Arm { address, start_level: LAST_LEVEL + 1 - levels as i8, tables }
}

fn check<V: ArmVariant>(params: &TableParams, input: (u8, u8)) -> Result<(), TableError> {
    if !V::GRANULES.contains(&params.granule) {
        return Err(TableError::Granule { granule: params.granule });
    }
    if !(input.0..=input.1).contains(&params.input_bits) {
        return Err(TableError::InputBits { bits: params.input_bits });
    }
    if !V::OUTPUTS.contains(&params.output_bits) {
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
/// input bits never get there.) Where the document leaves the choice, a root at level 0 or above that fits into 16 tables is worth a step less a walk; at
/// lower levels one small root table is worth more.
fn concatenates(params: &TableParams) -> bool {
    let levels = levels(params);
    let fits = root_bits(params, levels) <= MAX_CONCATENATED_LOG2;
    let forbidden = params.granule == PageSize::SIZE_16K && levels == 3 && params.output_bits <= 40;
    fits && (levels >= 4 || forbidden)
}

/// Input bits that index the root of a tree of that many levels.
fn root_bits(params: &TableParams, levels: u8) -> u8 {
    let log2 = params.granule.log2();
    params.input_bits - log2 - (log2 - 3) * (levels - 1)
}

fn geometry<V: ArmVariant>(params: &TableParams, levels: u8) -> Result<Geometry, TableError> {
    let sizes = leaf_sizes(params.granule, V::HIGHER_BLOCKS).intersection(params.leaf_sizes);
    Geometry::new(params.granule, levels, params.input_bits, sizes)
        .ok_or(TableError::InputBits { bits: params.input_bits })
}

/// Pages and blocks (D8.3: 4 KiB tables have blocks at levels 1 and 2, the larger granules at level 2 only; with 52 bits one level higher too), and the
/// groups of them that the contiguous hint makes, those of the highest blocks of 52 bits apart.
fn leaf_sizes(granule: PageSize, higher: bool) -> PageSizes {
    let highest_block = if granule == PageSize::SIZE_4K { 2 } else { 1 };
    let shift =
        |number| u32::from(granule.log2()) + u32::from(number) * u32::from(granule.log2() - 3);
    let sizes = (0..=highest_block).fold(0, |sizes, number| {
        let level = Level { number, shift: shift(number) };
        sizes | 1 << level.shift | 1 << (level.shift + run_log2(granule, level))
    });
    PageSizes::from_bitmap(sizes | if higher { 1 << shift(highest_block + 1) } else { 0 })
}

#[cfg(test)]
#[path = "arm_tests.rs"]
mod tests;
