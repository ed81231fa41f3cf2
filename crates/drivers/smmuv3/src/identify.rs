//! What a unit can do, from its id registers (§6.3.1 to §6.3.8), and whether this driver can drive it.

use crate::errata::{self, Erratum, Implementation};
use crate::error::BringUpCause;
use crate::unit::Unit;
use portcullis_addr::{PageSize, PageSizes};
use portcullis_platform::{Platform, Registers};
use portcullis_spec::smmuv3::{
    self as spec, address_size, aidr, idr0, idr1, idr3, idr5, stall_model, strtab_fmt, ttendian,
};
use portcullis_spec::{Field, Register};

/// What a unit can do, as far as this driver uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Stage 1 translation.
    pub stage1: bool,
    /// Stage 2 translation.
    pub stage2: bool,
    /// Two-level stream tables.
    pub two_level_streams: bool,
    /// Table and queue accesses snoop the CPU's caches.
    pub coherent: bool,
    /// EL2 contexts exist, so their TLB entries must be dropped once.
    pub hyp: bool,
    /// Message-signalled interrupts exist, so they must be turned off.
    pub msi: bool,
    /// The PRI queue exists.
    pub pri: bool,
    /// TLB invalidation by range.
    pub range_invalidation: bool,
    /// Bits of an ASID: 8 or 16.
    pub asid_bits: u8,
    /// Bits of a VMID: 8 or 16.
    pub vmid_bits: u8,
    /// Bits of a StreamID, 0..=32.
    pub stream_id_bits: u8,
    /// log2 of the largest command queue, in entries.
    pub command_queue_log2: u8,
    /// log2 of the largest event queue, in entries.
    pub event_queue_log2: u8,
    /// Output address bits: 32 to 48.
    pub output_bits: u8,
    /// Granules: a subset of 4, 16 and 64 KiB.
    pub granules: PageSizes,
    /// The memory type and shareability of a stream can be overridden; without it the fields for that are reserved (§5.2).
    pub attribute_overrides: bool,
    /// The n of SMMUv3.n.
    pub minor: u8,
    /// Who made it.
    pub implementation: Implementation,
}

impl Features {
    /// The known errata of this implementation.
    pub fn errata(&self) -> impl Iterator<Item = &'static Erratum> {
        errata::of(self.implementation)
    }

    /// Leaf sizes of all granules.
    pub fn page_sizes(&self) -> PageSizes {
        let bitmap = GRANULES.iter().filter(|granule| self.granules.contains(granule.size));
        PageSizes::from_bitmap(bitmap.fold(0, |bits, granule| bits | granule.leaves))
    }

    /// Input address bits of the stage that is used first: stage 1 takes 48, stage 2 as many as it puts out.
    pub fn input_bits(&self) -> u8 {
        if self.stage1 { 48 } else { self.output_bits }
    }
}

/// A granule, its leaf sizes and how tables and commands name it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Granule {
    pub(crate) size: PageSize,
    /// Bitmap of leaf sizes at the levels 1 to 3 that have leaves (Arm DDI 0487, D8.2).
    pub(crate) leaves: u64,
    /// `CD.TG0`, `STE.S2TG`.
    pub(crate) entry_code: u64,
    /// `TLBI.TG`.
    pub(crate) command_code: u64,
}

/// In order of preference.
pub(crate) const GRANULES: [Granule; 3] = [
    Granule {
        size: PageSize::SIZE_4K,
        leaves: 0x4020_1000,
        entry_code: spec::ste::granule0::K4,
        command_code: spec::command::tlbi::tg::K4,
    },
    Granule {
        size: PageSize::SIZE_16K,
        leaves: 0x0200_4000,
        entry_code: spec::ste::granule0::K16,
        command_code: spec::command::tlbi::tg::K16,
    },
    Granule {
        size: PageSize::SIZE_64K,
        leaves: 0x2001_0000,
        entry_code: spec::ste::granule0::K64,
        command_code: spec::command::tlbi::tg::K64,
    },
];

/// The encoding of `bits` of address in `IPS` and `S2PS`, the next larger where there is none; `None` above 48.
pub(crate) fn address_size_code(bits: u8) -> Option<u64> {
    Some(match bits {
        0..=32 => address_size::BITS_32,
        33..=36 => address_size::BITS_36,
        37..=40 => address_size::BITS_40,
        41..=42 => address_size::BITS_42,
        43..=44 => address_size::BITS_44,
        45..=48 => address_size::BITS_48,
        _ => return None,
    })
}

/// Reads the id registers.
///
/// # Errors
///
/// [`BringUpCause::Refused`] with the register and field that this driver cannot live with; [`BringUpCause::Gone`] where one reads as all ones.
pub(crate) fn identify<P: Platform, R: Registers>(
    unit: &Unit<P, R>,
) -> Result<Features, BringUpCause> {
    let read = |register: Register| match unit.read(register) {
        u32::MAX => Err(BringUpCause::Gone { register: register.name }),
        value => Ok(u64::from(value)),
    };
    let id = Ids {
        idr0: read(spec::IDR0)?,
        idr1: read(spec::IDR1)?,
        idr3: read(spec::IDR3)?,
        idr5: read(spec::IDR5)?,
        iidr: read(spec::IIDR)?,
        aidr: read(spec::AIDR)?,
    };
    id.check_revision()?;
    id.check_formats()?;
    id.check_sizes()?;
    Ok(id.features())
}

/// The raw registers.
struct Ids {
    idr0: u64,
    idr1: u64,
    idr3: u64,
    idr5: u64,
    iidr: u64,
    aidr: u64,
}

impl Ids {
    fn check_revision(&self) -> Result<(), BringUpCause> {
        let major = aidr::ARCH_MAJOR_REV;
        need(major.get(self.aidr) == 0, spec::AIDR, major, self.aidr, "SMMUv3 (0)")
    }

    fn check_formats(&self) -> Result<(), BringUpCause> {
        let id = self.idr0;
        let format = idr0::TTF;
        need(format.get(id) & spec::ttf::AARCH64 != 0, spec::IDR0, format, id, "VMSAv8-64 tables")?;
        let endian = idr0::TTENDIAN;
        let big = endian.get(id) == ttendian::BIG;
        need(!big, spec::IDR0, endian, id, "little-endian tables")?;
        let stages = idr0::S1P.is_set(id) || idr0::S2P.is_set(id);
        need(stages, spec::IDR0, idr0::S1P, id, "a stage of translation (S1P or S2P)")?;
        let stall = idr0::STALL_MODEL;
        let forced = stall.get(id) >= stall_model::STALL;
        need(!forced, spec::IDR0, stall, id, "faults that terminate instead of stalling")
    }

    fn check_sizes(&self) -> Result<(), BringUpCause> {
        let tables = idr1::TABLES_PRESET;
        need(!tables.is_set(self.idr1), spec::IDR1, tables, self.idr1, "tables of its own")?;
        let queues = idr1::QUEUES_PRESET;
        need(!queues.is_set(self.idr1), spec::IDR1, queues, self.idr1, "queues of its own")?;
        let width = idr1::SIDSIZE;
        need(
            width.get(self.idr1) <= 32,
            spec::IDR1,
            width,
            self.idr1,
            "at most 32 stream id bits",
        )?;
        let commands = idr1::CMDQS;
        need(
            commands.is_set(self.idr1),
            spec::IDR1,
            commands,
            self.idr1,
            "a command queue of at least two entries",
        )?;
        for field in [idr1::CMDQS, idr1::EVENTQS] {
            need(
                field.get(self.idr1) <= 19,
                spec::IDR1,
                field,
                self.idr1,
                "a queue of at most 2^19",
            )?;
        }
        let granules = self.granules();
        need(!granules.is_empty(), spec::IDR5, idr5::GRAN4K, self.idr5, "a 4K, 16K or 64K granule")
    }

    fn granules(&self) -> PageSizes {
        let have = [
            (idr5::GRAN4K, PageSize::SIZE_4K),
            (idr5::GRAN16K, PageSize::SIZE_16K),
            (idr5::GRAN64K, PageSize::SIZE_64K),
        ];
        let bits = have.iter().filter(|(field, _)| field.is_set(self.idr5));
        PageSizes::from_bitmap(bits.fold(0, |bits, (_, size)| bits | size.bytes()))
    }

    /// 52 and 56 bits are used as 48: larger addresses need another table layout.
    fn output_bits(&self) -> u8 {
        match idr5::OAS.get(self.idr5) {
            address_size::BITS_32 => 32,
            address_size::BITS_36 => 36,
            address_size::BITS_40 => 40,
            address_size::BITS_42 => 42,
            address_size::BITS_44 => 44,
            _ => 48,
        }
    }

    fn features(&self) -> Features {
        let has = |field: Field| field.is_set(self.idr0);
        let small = |field: Field, register: u64| {
            u8::try_from(field.get(register)).expect("the field has at most six bits")
        };
        let levels = idr0::ST_LEVEL.get(self.idr0);
        Features {
            stage1: has(idr0::S1P),
            stage2: has(idr0::S2P),
            two_level_streams: levels == strtab_fmt::TWO_LEVEL,
            coherent: has(idr0::COHACC),
            hyp: has(idr0::HYP),
            msi: has(idr0::MSI),
            pri: has(idr0::PRI),
            range_invalidation: idr3::RIL.is_set(self.idr3),
            asid_bits: if has(idr0::ASID16) { 16 } else { 8 },
            vmid_bits: if has(idr0::VMID16) { 16 } else { 8 },
            stream_id_bits: small(idr1::SIDSIZE, self.idr1),
            command_queue_log2: small(idr1::CMDQS, self.idr1),
            event_queue_log2: small(idr1::EVENTQS, self.idr1),
            output_bits: self.output_bits(),
            granules: self.granules(),
            attribute_overrides: idr1::ATTR_TYPES_OVR.is_set(self.idr1),
            minor: small(aidr::ARCH_MINOR_REV, self.aidr),
            implementation: Implementation::of(self.iidr),
        }
    }
}

fn need(
    holds: bool,
    register: Register,
    field: Field,
    raw: u64,
    needs: &'static str,
) -> Result<(), BringUpCause> {
    if holds {
        return Ok(());
    }
    let (name, value) = (field.name(), field.get(raw));
    Err(BringUpCause::Refused { register: register.name, field: name, value, needs })
}
