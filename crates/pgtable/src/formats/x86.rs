//! The processor's own tables, which VT-d walks as its first stage and AMD as "v2" or guest tables.

use super::check_4k;
use crate::{Format, Geometry, Level, TableError, TableFormat, TableParams, TableRoot};
use core::fmt;
use core::marker::PhantomData;
use portcullis_addr::{PageSizes, PhysAddr, Prot};
use portcullis_spec::page_table::x86::paging as entry;

/// Who walks the table.
pub trait X86User: fmt::Debug + Send + Sync + 'static {
    /// What drivers know it by.
    const FORMAT: TableFormat;
}

/// Intel VT-d, first stage (D51397, sections 3.6 and 9.7).
#[derive(Debug)]
pub enum Vtd {}
/// AMD IOMMU, guest translation (48882, section 2.2.6).
#[derive(Debug)]
pub enum Amd {}
/// The processor itself (SDM volume 3A, section 4.5): tables that are shared with it.
#[derive(Debug)]
pub enum Processor {}

impl X86User for Vtd {
    const FORMAT: TableFormat = TableFormat::VtdFirstStage;
}
impl X86User for Amd {
    const FORMAT: TableFormat = TableFormat::AmdV2;
}
impl X86User for Processor {
    const FORMAT: TableFormat = TableFormat::X86_64;
}

/// VT-d first-stage tables.
pub type VtdFirstStage = X86Paging<Vtd>;
/// AMD v2 tables.
pub type AmdV2 = X86Paging<Amd>;
/// x86-64 tables.
pub type X86_64 = X86Paging<Processor>;

/// 4-level and 5-level paging: up to 47 or 56 bits, because addresses are sign-extended and this is the lower half; leaves of 4 KiB, 2 MiB and 1 GiB.
///
/// Accessed and dirty flags are set from the start, so that hardware has nothing to write. A writable page is readable too. The execute-disable bit is never
/// set, because it is reserved where it is not enabled; a device's execute requests are allowed or refused by its configuration entry. [`Prot::CACHE`] and
/// [`Prot::MMIO`] change nothing: x86 DMA is coherent, and ranges of devices are known by their addresses.
#[derive(Clone, Copy, Debug)]
#[doc(alias = "x86_64")]
pub struct X86Paging<U: X86User> {
    user: PhantomData<U>,
}

const PRESENT: u64 = entry::PRESENT.mask();
const PAGE_SIZE: u64 = entry::PAGE_SIZE.mask();
const SIZES: PageSizes = PageSizes::from_bitmap(0x4020_1000);

impl<U: X86User> Format for X86Paging<U> {
    const FORMAT: TableFormat = U::FORMAT;
    const SOFTWARE_BIT: u64 = 1 << entry::IGNORED.lo();
    const TABLE_ADDRESS: u64 = entry::ADDRESS.mask();

    fn new(params: &TableParams) -> Result<(Self, Geometry), TableError> {
        check_4k(params, 39..=56, 52)?;
        let levels = if params.input_bits < 48 { 4 } else { 5 };
        let sizes = SIZES.intersection(params.leaf_sizes);
        let geometry = Geometry::new(params.granule, levels, params.input_bits, sizes);
        let geometry = geometry.ok_or(TableError::InputBits { bits: params.input_bits })?;
        Ok((Self { user: PhantomData }, geometry))
    }

    fn root(&self, _: &Geometry, address: PhysAddr, levels: u8) -> TableRoot {
        TableRoot::X86 { address, levels }
    }

    fn leaf_bits(&self, prot: Prot) -> Option<u64> {
        if !prot.intersects(Prot::READ | Prot::WRITE) {
            return None;
        }
        let mut bits = PRESENT | entry::ACCESSED.mask();
        if prot.contains(Prot::WRITE) {
            bits |= entry::WRITE.mask() | entry::DIRTY.mask();
        }
        if !prot.contains(Prot::PRIV) {
            bits |= entry::USER.mask();
        }
        Some(bits)
    }

    #[inline(always)]
    fn leaf(&self, bits: u64, phys: u64, level: Level, _: u32) -> u64 {
        phys | bits | if level.is_last() { 0 } else { PAGE_SIZE }
    }

    #[inline(always)]
    fn table(&self, table: PhysAddr, _: Level) -> u64 {
        let allowed = entry::WRITE.mask() | entry::USER.mask() | entry::ACCESSED.mask();
        table.raw() | allowed | PRESENT
    }

    #[inline(always)]
    fn is_table(&self, entry: u64, _: Level) -> bool {
        entry & (PRESENT | PAGE_SIZE) == PRESENT
    }

    #[inline(always)]
    fn presence(&self, _: u64) -> u64 {
        PRESENT
    }

    #[inline(always)]
    fn is_leaf(&self, entry: u64, level: Level) -> bool {
        entry & PRESENT != 0 && (level.is_last() || entry & PAGE_SIZE != 0)
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
        let mut prot = Prot::READ | Prot::CACHE;
        prot.set(Prot::WRITE, entry::WRITE.is_set(leaf));
        prot.set(Prot::PRIV, !entry::USER.is_set(leaf));
        prot
    }
}
