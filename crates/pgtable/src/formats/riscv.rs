//! RISC-V tables.

use super::check_4k;
use crate::{Format, Geometry, Level, TableError, TableFormat, TableParams, TableRoot};
use portcullis_addr::{PageSize, PageSizes, PhysAddr, Prot};
use portcullis_spec::page_table::riscv::pte as entry;

const VALID: u64 = entry::VALID.mask();
const RWX: u64 = entry::READ.mask() | entry::WRITE.mask() | entry::EXECUTE.mask();
/// What `PPN` is shifted by against an address: 12 bits of the page, 10 of flags.
const PPN_SHIFT: u32 = 2;
/// log2 of the bytes that a NAPOT leaf covers, the only size that is defined (Svnapot).
const NAPOT_LOG2: u32 = 16;
/// PPN[3:0] of a 64 KiB NAPOT leaf: 0b1000.
const NAPOT_PPN: u64 = entry::PPN.of(0b1000);
/// 4 KiB, 64 KiB (Svnapot), 2 MiB, 1 GiB, 512 GiB, 256 TiB.
const SIZES: PageSizes = PageSizes::from_bitmap(1 << 48 | 1 << 39 | 0x4021_1000);

/// First stage: Sv39, Sv48 or Sv57 for up to 38, 47 or 56 bits, because addresses are sign-extended and this is the lower half.
///
/// A writable page is readable too. Accessed and dirty flags are set from the start, so that neither hardware has to write nor a device to fault. Memory
/// types are those of the physical address: [`Prot::CACHE`] and [`Prot::MMIO`] change nothing (no Svpbmt). Leaves of 64 KiB need Svnapot; a driver without it
/// leaves that size out of [`TableParams::leaf_sizes`].
#[derive(Clone, Copy, Debug)]
#[doc(alias = "riscv_64")]
pub struct RiscvFirstStage;

/// Second stage: Sv39x4, Sv48x4 or Sv57x4 for up to 41, 50 or 59 bits. Every access is a user access there, so [`Prot::PRIV`] is refused; the rest as in the
/// [first stage](RiscvFirstStage).
#[derive(Clone, Copy, Debug)]
pub struct RiscvSecondStage;

/// Values of MODE in `iohgatp` and in a first-stage context (RISC-V IOMMU 1.0, section 3.1.3): 8, 9 and 10 for three, four and five levels.
fn riscv_root(address: PhysAddr, levels: u8) -> TableRoot {
    TableRoot::Riscv { address, mode: levels + 5 }
}

/// The tree for addresses of `params`, of three, four or five levels for the `widest` addresses that each of them has.
fn geometry(params: &TableParams, widest: [u8; 3]) -> Result<Geometry, TableError> {
    check_4k(params, 32..=widest[2], 56)?;
    let levels = 3 + widest.iter().filter(|widest| params.input_bits > **widest).count() as u8;
    let sizes = SIZES.intersection(params.leaf_sizes);
    let geometry = Geometry::new(params.granule, levels, params.input_bits, sizes);
    geometry.ok_or(TableError::InputBits { bits: params.input_bits })
}

fn leaf_bits(prot: Prot, user: bool) -> Option<u64> {
    if !prot.intersects(Prot::READ | Prot::WRITE) {
        return None;
    }
    let mut bits = VALID | entry::READ.mask() | entry::ACCESSED.mask();
    if prot.contains(Prot::WRITE) {
        bits |= entry::WRITE.mask() | entry::DIRTY.mask();
    }
    if !prot.contains(Prot::NOEXEC) {
        bits |= entry::EXECUTE.mask();
    }
    Some(bits | if user { entry::USER.mask() } else { 0 })
}

macro_rules! entries {
    () => {
        #[inline(always)]
        fn leaf(&self, bits: u64, phys: u64, level: Level, size_log2: u32) -> u64 {
            if size_log2 == level.shift {
                return phys >> PPN_SHIFT | bits;
            }
            let start = phys & !((1 << NAPOT_LOG2) - 1);
            start >> PPN_SHIFT | NAPOT_PPN | entry::N.mask() | bits
        }

        #[inline(always)]
        fn table(&self, table: PhysAddr, _: Level) -> u64 {
            table.raw() >> PPN_SHIFT | VALID
        }

        #[inline(always)]
        fn is_table(&self, entry: u64, _: Level) -> bool {
            entry & (VALID | RWX) == VALID
        }

        #[inline(always)]
        fn presence(&self, _: u64) -> u64 {
            VALID
        }

        #[inline(always)]
        fn is_leaf(&self, entry: u64, _: Level) -> bool {
            entry & VALID != 0 && entry & RWX != 0
        }

        #[inline(always)]
        fn table_address(&self, entry: u64) -> u64 {
            entry::PPN.in_place(entry) << PPN_SHIFT
        }

        #[inline(always)]
        fn leaf_size(&self, leaf: u64, level: Level) -> u32 {
            if entry::N.is_set(leaf) { NAPOT_LOG2 } else { level.shift }
        }

        #[inline(always)]
        fn leaf_address(&self, leaf: u64, level: Level) -> u64 {
            (entry::PPN.in_place(leaf) << PPN_SHIFT) & !((1 << self.leaf_size(leaf, level)) - 1)
        }

        fn prot(&self, leaf: u64) -> Prot {
            let mut prot = Prot::CACHE;
            prot.set(Prot::READ, entry::READ.is_set(leaf));
            prot.set(Prot::WRITE, entry::WRITE.is_set(leaf));
            prot.set(Prot::NOEXEC, !entry::EXECUTE.is_set(leaf));
            prot.set(Prot::PRIV, !entry::USER.is_set(leaf));
            prot
        }
    };
}

impl Format for RiscvFirstStage {
    const FORMAT: TableFormat = TableFormat::RiscvFirstStage;
    const SOFTWARE_BIT: u64 = 1 << entry::RSW.lo();
    const TABLE_ADDRESS: u64 = entry::PPN.mask();

    fn new(params: &TableParams) -> Result<(Self, Geometry), TableError> {
        geometry(params, [38, 47, 56]).map(|geometry| (Self, geometry))
    }

    fn root(&self, _: &Geometry, address: PhysAddr, levels: u8) -> TableRoot {
        riscv_root(address, levels)
    }

    fn leaf_bits(&self, prot: Prot) -> Option<u64> {
        leaf_bits(prot, !prot.contains(Prot::PRIV))
    }

    entries!();
}

impl Format for RiscvSecondStage {
    const FORMAT: TableFormat = TableFormat::RiscvSecondStage;
    const SOFTWARE_BIT: u64 = 1 << entry::RSW.lo();
    const TABLE_ADDRESS: u64 = entry::PPN.mask();

    fn new(params: &TableParams) -> Result<(Self, Geometry), TableError> {
        // Four root tables side by side, whatever part of them the input addresses use.
        geometry(params, [41, 50, 59])
            .map(|geometry| (Self, geometry.with_root_of(PageSize::SIZE_16K)))
    }

    fn root(&self, _: &Geometry, address: PhysAddr, levels: u8) -> TableRoot {
        riscv_root(address, levels)
    }

    fn leaf_bits(&self, prot: Prot) -> Option<u64> {
        if prot.contains(Prot::PRIV) { None } else { leaf_bits(prot, true) }
    }

    entries!();
}
