//! Which SMMUv2 it is: what the identification registers say, and which quirks its integration has.

use portcullis_spec::smmuv2::global0::{idr0, idr1, idr2, idr7};
use portcullis_spec::smmuv2::{BlockShape, address_size};

/// The features of one implementation; the identification registers follow from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmmuV2Profile {
    /// Stage 1.
    pub stage1: bool,
    /// Stage 2.
    pub stage2: bool,
    /// Streams are matched by id and mask; otherwise the id is the number of the group.
    pub stream_matching: bool,
    /// Stream mapping groups, 1..=128.
    pub groups: u8,
    /// Bits of a stream id, 0..=15 (16 while extended ids are enabled).
    pub id_bits: u8,
    /// Bits of `SMR.MASK` that exist.
    pub mask_bits: u16,
    /// Stream ids of 16 bits can be enabled.
    pub extended_ids: bool,
    /// Context banks, 1..=128.
    pub banks: u8,
    /// How many of them, from the first on, can do stage 2 only.
    pub stage2_banks: u8,
    /// Context interrupts.
    pub interrupts: u8,
    /// Table walks snoop the CPUs' caches.
    pub coherent: bool,
    /// Bits of an intermediate address: 32, 36, 40, 42, 44 or 48.
    pub ias_bits: u8,
    /// Bits of an output address, likewise.
    pub oas_bits: u8,
    /// Bits of an address that a device emits, likewise, or 49: with a sign bit.
    pub ubs_bits: u8,
    /// AArch64 tables with 4 KiB granule.
    pub granule_4k: bool,
    /// AArch64 tables with 16 KiB granule.
    pub granule_16k: bool,
    /// AArch64 tables with 64 KiB granule.
    pub granule_64k: bool,
    /// AArch32 tables of long descriptors.
    pub aarch32: bool,
    /// VMIDs of 16 bits can be enabled.
    pub vmid16: bool,
    /// Register pages of 64 KiB, otherwise 4.
    pub large_pages: bool,
    /// log2 of the pages in each half of the block, 1..=8.
    pub pages_log2: u8,
    /// Implementation revision, `rNpM`.
    pub revision: (u8, u8),
    /// The interconnect carries accesses of 64 bits. Where it does not (Marvell Armada AP806), one is lost and recorded as a violation.
    pub wide_access: bool,
    /// Like an MMU-500 with `sACR.SMTNMB_TLBEN` or `S2CRB_TLBEN`: the TLB remembers that a stream passes untranslated until everything is invalidated.
    pub caches_bypass: bool,
    /// Like some of Qualcomm's firmware, which traps accesses to `S2CR`: writing "fault" does nothing, and writing "bypass" makes it "fault".
    pub fakes_s2cr: bool,
    /// How many banks, the last ones, a hypervisor keeps for itself: they read as zero and ignore writes.
    pub kept_banks: u8,
}

impl SmmuV2Profile {
    /// An MMU-500 as in many SoCs: both stages, 48 groups of 15-bit ids, 16 banks, 4 and 64 KiB granules, 48-bit addresses, walks coherent.
    pub fn mmu500() -> Self {
        Self {
            stage1: true,
            stage2: true,
            stream_matching: true,
            groups: 48,
            id_bits: 15,
            mask_bits: 0x7fff,
            extended_ids: false,
            banks: 16,
            stage2_banks: 0,
            interrupts: 16,
            coherent: true,
            ias_bits: 48,
            oas_bits: 48,
            ubs_bits: 48,
            granule_4k: true,
            granule_16k: false,
            granule_64k: true,
            aarch32: true,
            vmid16: false,
            large_pages: false,
            pages_log2: 4,
            revision: (2, 4),
            wide_access: true,
            caches_bypass: true,
            fakes_s2cr: false,
            kept_banks: 0,
        }
    }

    /// The smallest unit: stream indexing, four groups, two banks of which one does stage 2 only, AArch32 tables, 32-bit addresses, no coherency.
    pub fn minimal() -> Self {
        Self {
            stream_matching: false,
            groups: 4,
            id_bits: 2,
            mask_bits: 0,
            banks: 2,
            stage2_banks: 1,
            interrupts: 1,
            coherent: false,
            ias_bits: 32,
            oas_bits: 32,
            ubs_bits: 32,
            granule_4k: false,
            granule_64k: false,
            pages_log2: 2,
            caches_bypass: false,
            ..Self::mmu500()
        }
    }

    /// An MMU-500 with ids of 16 bits, as PCIe needs them: 128 groups, 64 banks, pages of 64 KiB.
    pub fn extended() -> Self {
        Self {
            groups: 128,
            extended_ids: true,
            banks: 64,
            vmid16: true,
            granule_16k: true,
            large_pages: true,
            pages_log2: 7,
            ..Self::mmu500()
        }
    }

    /// The shape of the register block.
    pub fn shape(&self) -> BlockShape {
        BlockShape::of(self.idr1())
    }

    /// Whether AArch64 tables with a granule of 2^`log2` bytes can be walked.
    pub(super) fn has_granule(&self, log2: u32) -> bool {
        match log2 {
            12 => self.granule_4k,
            14 => self.granule_16k,
            _ => self.granule_64k,
        }
    }

    /// `IDR0`, as Non-secure software sees it: no security extensions, no nested translation, no address translation operations.
    pub(super) fn idr0(&self) -> u32 {
        let formats = if self.aarch32 { 1 } else { 2 };
        (idr0::S1TS.of(self.stage1.into())
            | idr0::S2TS.of(self.stage2.into())
            | idr0::SMS.of(self.stream_matching.into())
            | idr0::ATOSNS.of(1)
            | idr0::PTFS.of(formats)
            | idr0::NUMIRPT.of(self.interrupts.into())
            | idr0::CTTW.of(self.coherent.into())
            | idr0::NUMSIDB.of(self.id_bits.into())
            | idr0::EXIDS.of(self.extended_ids.into())
            | idr0::NUMSMRG.of(self.groups.into())) as u32
    }

    pub(super) fn idr1(&self) -> u32 {
        (idr1::PAGESIZE.of(self.large_pages.into())
            | idr1::NUMPAGENDXB.of(u64::from(self.pages_log2) - 1)
            | idr1::NUMS2CB.of(self.stage2_banks.into())
            | idr1::NUMCB.of(self.banks.into())) as u32
    }

    pub(super) fn idr2(&self) -> u32 {
        (idr2::VMID16S.of(self.vmid16.into())
            | idr2::PTFSV8_4KB.of(self.granule_4k.into())
            | idr2::PTFSV8_16KB.of(self.granule_16k.into())
            | idr2::PTFSV8_64KB.of(self.granule_64k.into())
            | idr2::UBS.of(size_code(self.ubs_bits))
            | idr2::OAS.of(size_code(self.oas_bits))
            | idr2::IAS.of(size_code(self.ias_bits))) as u32
    }

    pub(super) fn idr7(&self) -> u32 {
        let (major, minor) = self.revision;
        (idr7::MAJOR.of(major.into()) | idr7::MINOR.of(minor.into())) as u32
    }
}

fn size_code(bits: u8) -> u64 {
    match bits {
        0..=32 => address_size::BITS_32,
        33..=36 => address_size::BITS_36,
        37..=40 => address_size::BITS_40,
        41..=42 => address_size::BITS_42,
        43..=44 => address_size::BITS_44,
        45..=48 => address_size::BITS_48,
        _ => 15,
    }
}

/// Bits of the address size that `code` names; what is reserved counts as 48.
pub(super) fn size_bits(code: u64) -> u32 {
    match code {
        address_size::BITS_32 => 32,
        address_size::BITS_36 => 36,
        address_size::BITS_40 => 40,
        address_size::BITS_42 => 42,
        address_size::BITS_44 => 44,
        _ => 48,
    }
}
