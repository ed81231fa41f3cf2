//! AMD's own tables.

use super::check_4k;
use crate::{Format, Geometry, Level, TableError, TableFormat, TableParams, TableRoot};
use portcullis_addr::{PageSizes, PhysAddr, Prot};
use portcullis_spec::page_table::amd::host as entry;
use portcullis_spec::page_table::amd::host::next_level;

/// AMD v1, "host" tables (48882, section 2.2.3): as many levels as the addresses in use need, up to six, growing at the top; leaves of every power of
/// two from 4 KiB up, each repeated in all the entries that it covers.
///
/// [`TableParams::force_snoop`] sets FC. [`Prot::NOEXEC`], [`Prot::CACHE`] and [`Prot::MMIO`] change nothing, and there is no privilege: [`Prot::PRIV`] is
/// refused. 512 GiB leaves are not used: hardware gets them wrong (Linux, `AMD_IOMMU_PGSIZES`, says so), and 4 PiB and more are beyond any memory.
#[derive(Clone, Copy, Debug)]
#[doc(alias = "amdv1")]
pub struct AmdV1 {
    coherent: bool,
}

const PRESENT: u64 = entry::PRESENT.mask();
const NEXT_LEVEL: u64 = entry::NEXT_LEVEL.mask();
/// 4 KiB to 2 PiB without 512 GiB.
const SIZES: PageSizes = PageSizes::from_bitmap(((1 << 52) - 0x1000) & !(1 << 39));
/// A table begins with as many levels as Linux gives it (mode 3): 39 bits.
const FIRST_LEVELS: u8 = 3;

impl Format for AmdV1 {
    const FORMAT: TableFormat = TableFormat::AmdV1;
    const SOFTWARE_BIT: u64 = 1 << entry::IGNORED.lo();
    const TABLE_ADDRESS: u64 = entry::ADDRESS.mask();

    fn new(params: &TableParams) -> Result<(Self, Geometry), TableError> {
        check_4k(params, 32..=64, 52)?;
        let levels = (params.input_bits - 12).div_ceil(9);
        let sizes = SIZES.intersection(params.leaf_sizes);
        let geometry = Geometry::new(params.granule, levels, params.input_bits, sizes);
        let geometry = geometry.ok_or(TableError::InputBits { bits: params.input_bits })?;
        Ok((Self { coherent: params.force_snoop }, geometry.growing_from(FIRST_LEVELS)))
    }

    fn root(&self, _: &Geometry, address: PhysAddr, levels: u8) -> TableRoot {
        TableRoot::Amd { address, mode: levels }
    }

    fn leaf_bits(&self, prot: Prot) -> Option<u64> {
        if !prot.intersects(Prot::READ | Prot::WRITE) || prot.contains(Prot::PRIV) {
            return None;
        }
        let mut bits = PRESENT | if self.coherent { entry::FORCE_COHERENT.mask() } else { 0 };
        if prot.contains(Prot::READ) {
            bits |= entry::READ.mask();
        }
        if prot.contains(Prot::WRITE) {
            bits |= entry::WRITE.mask();
        }
        Some(bits)
    }

    #[inline(always)]
    fn leaf(&self, bits: u64, phys: u64, level: Level, size_log2: u32) -> u64 {
        if size_log2 == level.shift {
            return phys | bits | entry::NEXT_LEVEL.of(next_level::LEAF);
        }
        // The same address in all the entries: ones up to the bit below the lowest 0, which stands for half the size.
        let start = phys & !((1 << size_log2) - 1);
        let ones = ((1 << (size_log2 - 1)) - 1) & entry::ADDRESS.mask();
        start | ones | bits | entry::NEXT_LEVEL.of(next_level::SIZED)
    }

    #[inline(always)]
    fn table(&self, table: PhysAddr, level: Level) -> u64 {
        let allowed = entry::READ.mask() | entry::WRITE.mask();
        // AMD counts from 1: the tables below our level n are its level n.
        table.raw() | allowed | PRESENT | entry::NEXT_LEVEL.of(u64::from(level.number))
    }

    #[inline(always)]
    fn is_table(&self, entry: u64, level: Level) -> bool {
        entry & (PRESENT | NEXT_LEVEL) == PRESENT | entry::NEXT_LEVEL.of(u64::from(level.number))
    }

    #[inline(always)]
    fn presence(&self, _: u64) -> u64 {
        PRESENT
    }

    #[inline(always)]
    fn is_leaf(&self, entry: u64, _: Level) -> bool {
        let next = entry & (PRESENT | NEXT_LEVEL);
        next == PRESENT || next == PRESENT | entry::NEXT_LEVEL.of(next_level::SIZED)
    }

    #[inline(always)]
    fn table_address(&self, entry: u64) -> u64 {
        entry::ADDRESS.in_place(entry)
    }

    #[inline(always)]
    fn leaf_size(&self, leaf: u64, level: Level) -> u32 {
        if leaf & NEXT_LEVEL == 0 {
            return level.shift;
        }
        (entry::ADDRESS.in_place(leaf) | 0xfff).trailing_ones() + 1
    }

    #[inline(always)]
    fn leaf_address(&self, leaf: u64, level: Level) -> u64 {
        entry::ADDRESS.in_place(leaf) & !((1 << self.leaf_size(leaf, level)) - 1)
    }

    fn prot(&self, leaf: u64) -> Prot {
        let mut prot = Prot::empty();
        prot.set(Prot::READ, entry::READ.is_set(leaf));
        prot.set(Prot::WRITE, entry::WRITE.is_set(leaf));
        prot.set(Prot::CACHE, entry::FORCE_COHERENT.is_set(leaf));
        prot
    }
}
