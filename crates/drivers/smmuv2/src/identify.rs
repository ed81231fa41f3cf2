//! What a unit can do, from its id registers, and whether this driver can drive it.

use crate::Options;
use crate::error::BringUpCause;
use crate::unit::Unit;
use portcullis_addr::{PageSize, PageSizes};
use portcullis_platform::{Platform, Registers};
use portcullis_spec::smmuv2::global0::{self, idr0, idr1, idr2};
use portcullis_spec::smmuv2::{address_size, granule0};

/// What a unit can do, as far as this driver uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Stage 1 translation.
    pub stage1: bool,
    /// Stage 2 translation.
    pub stage2: bool,
    /// Streams are matched by id and mask; otherwise the id is the number of the group.
    pub stream_matching: bool,
    /// Stream mapping groups.
    pub groups: u8,
    /// Bits of a stream id: up to 15, or 16 where extended ids exist (they are used then).
    pub id_bits: u8,
    /// Bits of a mask that exist.
    pub mask_bits: u16,
    /// Extended ids are used.
    pub extended_ids: bool,
    /// Context banks that can be used. Firmware may keep some of those that `IDR1` counts.
    pub banks: u8,
    /// The first of them, which can do stage 2 only.
    pub stage2_banks: u8,
    /// Table walks snoop the CPU's caches.
    pub coherent: bool,
    /// Intermediate address bits: 32 to 48.
    pub intermediate_bits: u8,
    /// Output address bits: 32 to 48.
    pub output_bits: u8,
    /// Bits of an address that a device emits, without a sign bit: 32 to 48.
    pub upstream_bits: u8,
    /// Granules of AArch64 tables: a subset of 4, 16 and 64 KiB.
    pub granules: PageSizes,
    /// AArch32 tables of long descriptors.
    pub aarch32: bool,
    /// Firmware makes "bypass" of `S2CR` "fault", and ignores "fault".
    pub s2cr_is_trapped: bool,
    /// Only the smallest pages of a granule are mapped.
    pub pages_only: bool,
    /// ASIDs and VMIDs begin above this.
    pub first_tag: u16,
    /// VMIDs of 16 bits are used: those of this unit do not fit 8.
    pub wide_vmids: bool,
    /// Banks that `IDR1` counts and firmware keeps for itself.
    pub kept_banks: u8,
}

/// A granule, its leaf sizes and how tables are told of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Granule {
    pub(crate) size: PageSize,
    /// Bitmap of leaf sizes at the levels 1 to 3 that have leaves (Arm DDI 0487, D8.2).
    pub(crate) leaves: u64,
    /// `TCR.TG0`.
    pub(crate) code: u64,
}

/// In order of preference.
pub(crate) const GRANULES: [Granule; 3] = [
    Granule { size: PageSize::SIZE_4K, leaves: 0x4020_1000, code: granule0::K4 },
    Granule { size: PageSize::SIZE_16K, leaves: 0x0200_4000, code: granule0::K16 },
    Granule { size: PageSize::SIZE_64K, leaves: 0x2001_0000, code: granule0::K64 },
];

impl Features {
    /// Whether tables are AArch64's.
    pub(crate) fn aarch64(&self) -> bool {
        !self.granules.is_empty()
    }

    /// Leaf sizes of all granules.
    pub fn page_sizes(&self) -> PageSizes {
        let granules = GRANULES.iter().filter(|granule| self.walks(granule));
        PageSizes::from_bitmap(granules.fold(0, |bits, granule| bits | self.leaves(granule)))
    }

    /// Whether tables of the granule can be walked.
    pub(crate) fn walks(&self, granule: &Granule) -> bool {
        if self.aarch64() {
            self.granules.contains(granule.size)
        } else {
            granule.size == GRANULES[0].size
        }
    }

    /// Bitmap of the leaf sizes of a granule that are used.
    pub(crate) fn leaves(&self, granule: &Granule) -> u64 {
        if self.pages_only { granule.size.bytes() } else { granule.leaves }
    }
}

/// The encoding of `bits` of address, the next larger where there is none.
pub(crate) fn address_size_code(bits: u8) -> u64 {
    match bits {
        0..=32 => address_size::BITS_32,
        33..=36 => address_size::BITS_36,
        37..=40 => address_size::BITS_40,
        41..=42 => address_size::BITS_42,
        43..=44 => address_size::BITS_44,
        _ => address_size::BITS_48,
    }
}

/// Bits of an address size field; what is reserved counts as 48, the most that this driver uses.
fn address_bits(code: u64) -> u8 {
    match code {
        address_size::BITS_32 => 32,
        address_size::BITS_36 => 36,
        address_size::BITS_40 => 40,
        address_size::BITS_42 => 42,
        address_size::BITS_44 => 44,
        _ => 48,
    }
}

/// Reads the id registers. What only trying shows (id and mask bits, banks that firmware keeps, trapped registers) is as large as can be; the take-over finds it out.
pub(crate) fn identify<P: Platform, R: Registers>(
    unit: &Unit<P, R>,
    options: &Options,
) -> Result<Features, BringUpCause> {
    let [zero, one, two] = [global0::IDR0, global0::IDR1, global0::IDR2].map(|register| {
        let value = unit.read(register);
        if value == u32::MAX { Err(register.name) } else { Ok(u64::from(value)) }
    });
    let gone = |register| BringUpCause::Gone { register };
    let (zero, one, two) = (zero.map_err(gone)?, one.map_err(gone)?, two.map_err(gone)?);
    let has = |field: portcullis_spec::Field, word| field.is_set(word);
    let mut granules = 0;
    for (field, size) in [
        (idr2::PTFSV8_4KB, PageSize::SIZE_4K),
        (idr2::PTFSV8_16KB, PageSize::SIZE_16K),
        (idr2::PTFSV8_64KB, PageSize::SIZE_64K),
    ] {
        // Their registers have 64 bits.
        if has(field, two) && !options.quirks.narrow_access {
            granules |= size.bytes();
        }
    }
    let (first_tag, banks) = (options.first_tag, idr1::NUMCB.get(one));
    let past_8_bits = u64::from(first_tag) + banks > 0xff;
    let wide_vmids = past_8_bits && has(idr2::VMID16S, two);
    let extended_ids = has(idr0::EXIDS, zero) && has(idr0::SMS, zero);
    let features = Features {
        stage1: has(idr0::S1TS, zero),
        stage2: has(idr0::S2TS, zero) && (wide_vmids || !past_8_bits),
        stream_matching: has(idr0::SMS, zero),
        groups: idr0::NUMSMRG.get(zero) as u8,
        id_bits: if extended_ids { 16 } else { idr0::NUMSIDB.get(zero) as u8 },
        mask_bits: if extended_ids { u16::MAX } else { 0x7fff },
        extended_ids,
        banks: banks as u8,
        stage2_banks: idr1::NUMS2CB.get(one) as u8,
        coherent: options.coherent.unwrap_or(has(idr0::CTTW, zero)),
        intermediate_bits: address_bits(idr2::IAS.get(two)),
        output_bits: address_bits(idr2::OAS.get(two)),
        upstream_bits: address_bits(idr2::UBS.get(two)),
        granules: PageSizes::from_bitmap(granules),
        // Their ASIDs have 8 bits.
        aarch32: idr0::PTFS.get(zero) < 2 && !past_8_bits,
        pages_only: options.quirks.pages_only,
        first_tag,
        wide_vmids,
        s2cr_is_trapped: false,
        kept_banks: 0,
    };
    features.check().map(|()| features)
}

impl Features {
    fn check(&self) -> Result<(), BringUpCause> {
        let need = |holds: bool, register, needs| {
            holds.then_some(()).ok_or(BringUpCause::Refused { register, needs })
        };
        need(self.stage1 || self.stage2, global0::IDR0.name, "a stage of translation")?;
        need((1..=128).contains(&self.groups), global0::IDR0.name, "1 to 128 mapping groups")?;
        need((1..=128).contains(&self.banks), global0::IDR1.name, "1 to 128 context banks")?;
        let last = u32::from(self.first_tag) + u32::from(self.banks);
        need(last <= 0xffff, global0::IDR1.name, "ASIDs and VMIDs below 2^16 (see `first_tag`)")?;
        need(self.stage2_banks <= self.banks, global0::IDR1.name, "NUMS2CB within NUMCB")?;
        need(self.aarch64() || self.aarch32, global0::IDR2.name, "tables of AArch64 or LPAE")
    }
}
