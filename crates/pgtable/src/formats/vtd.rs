//! Intel VT-d second-stage tables.

use super::check_4k;
use crate::{Format, Geometry, Level, TableError, TableFormat, TableParams, TableRoot};
use portcullis_addr::{PageSizes, PhysAddr, Prot};
use portcullis_spec::page_table::vtd::second_stage as entry;

/// Intel VT-d second stage (D51397, section 9.8): 3, 4 or 5 levels for up to 39, 48 or 57 bits, leaves of 4 KiB, 2 MiB and 1 GiB.
///
/// [`TableParams::force_snoop`] sets SNP, which units without snoop control treat as reserved. Execution is never allowed (X stays 0, and units that do not
/// know execute requests ignore it), so [`Prot::NOEXEC`] always holds. Privilege and memory types are no business of second-stage leaves: [`Prot::PRIV`] is
/// refused, [`Prot::CACHE`] and [`Prot::MMIO`] change nothing.
#[derive(Clone, Copy, Debug)]
#[doc(alias = "vtdss")]
pub struct VtdSecondStage {
    snoop: bool,
}

const READ_WRITE: u64 = entry::READ.mask() | entry::WRITE.mask();
const PAGE_SIZE: u64 = entry::PAGE_SIZE.mask();
/// 4 KiB, 2 MiB and 1 GiB.
const SIZES: PageSizes = PageSizes::from_bitmap(0x4020_1000);

impl Format for VtdSecondStage {
    const FORMAT: TableFormat = TableFormat::VtdSecondStage;
    const SOFTWARE_BIT: u64 = 1 << entry::IGNORED.lo();
    const TABLE_ADDRESS: u64 = entry::ADDRESS.mask();

    fn new(params: &TableParams) -> Result<(Self, Geometry), TableError> {
        check_4k(params, 31..=57, 52)?;
        // The adjusted guest address widths: 39, 48 and 57 bits (D51397, section 3.7).
        let levels = (params.input_bits - 12).div_ceil(9);
        let sizes = SIZES.intersection(params.leaf_sizes);
        let geometry = Geometry::new(params.granule, levels, params.input_bits, sizes);
        let geometry = geometry.ok_or(TableError::InputBits { bits: params.input_bits })?;
        Ok((Self { snoop: params.force_snoop }, geometry))
    }

    fn root(&self, _: &Geometry, address: PhysAddr, levels: u8) -> TableRoot {
        TableRoot::Vtd { address, levels }
    }

    fn leaf_bits(&self, prot: Prot) -> Option<u64> {
        if !prot.intersects(Prot::READ | Prot::WRITE) || prot.contains(Prot::PRIV) {
            return None;
        }
        let mut bits = if self.snoop { entry::SNOOP.mask() } else { 0 };
        if prot.contains(Prot::READ) {
            bits |= entry::READ.mask();
        }
        if prot.contains(Prot::WRITE) {
            bits |= entry::WRITE.mask();
        }
        Some(bits)
    }

    #[inline(always)]
    fn leaf(&self, bits: u64, phys: u64, level: Level, _: u32) -> u64 {
        phys | bits | if level.is_last() { 0 } else { PAGE_SIZE }
    }

    #[inline(always)]
    fn table(&self, table: PhysAddr, _: Level) -> u64 {
        table.raw() | READ_WRITE
    }

    #[inline(always)]
    fn is_table(&self, entry: u64, _: Level) -> bool {
        entry & (READ_WRITE | PAGE_SIZE) == READ_WRITE
    }

    #[inline(always)]
    fn presence(&self, leaf: u64) -> u64 {
        // Readable, writable or both: whatever this one is.
        leaf & READ_WRITE
    }

    #[inline(always)]
    fn is_leaf(&self, entry: u64, level: Level) -> bool {
        entry & READ_WRITE != 0 && (level.is_last() || entry & PAGE_SIZE != 0)
    }

    #[inline(always)]
    fn table_address(&self, entry: u64) -> u64 {
        entry::ADDRESS.in_place(entry)
    }

    #[inline(always)]
    fn leaf_address(&self, leaf: u64, _: Level) -> u64 {
        entry::ADDRESS.in_place(leaf)
    }

    fn prot(&self, leaf: u64) -> Prot {
        let mut prot = Prot::NOEXEC;
        prot.set(Prot::READ, entry::READ.is_set(leaf));
        prot.set(Prot::WRITE, entry::WRITE.is_set(leaf));
        prot.set(Prot::CACHE, entry::SNOOP.is_set(leaf));
        prot
    }
}
