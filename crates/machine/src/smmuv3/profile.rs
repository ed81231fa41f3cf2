//! Which SMMUv3 it is: what the identification registers say.

use portcullis_spec::smmuv3::{
    address_size, aidr, idr0, idr1, idr3, idr5, stall_model, strtab_fmt, ttendian, ttf,
};

/// The features of one implementation; the identification registers (§6.3.1 to §6.3.8) follow from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Stage 1.
    pub stage1: bool,
    /// Stage 2.
    pub stage2: bool,
    /// Table and queue accesses snoop the CPUs' caches.
    pub coherent: bool,
    /// 16-bit ASIDs, otherwise 8.
    pub asid16: bool,
    /// 16-bit VMIDs, otherwise 8.
    pub vmid16: bool,
    /// Two-level stream tables.
    pub two_level: bool,
    /// Two-level context descriptor tables.
    pub two_level_cd: bool,
    /// CMD_SYNC and the other interrupt sources can write messages.
    pub msi: bool,
    /// Range invalidation and level hints.
    pub ril: bool,
    /// Hierarchical attributes can be disabled.
    pub had: bool,
    /// EL0/EL1 execute control at stage 2.
    pub xnx: bool,
    /// Level of break-before-make support, 0..=2.
    pub bbml: u8,
    /// Bits of a StreamID, 0..=32.
    pub sid_bits: u8,
    /// Bits of a SubstreamID, 0..=20.
    pub ssid_bits: u8,
    /// Largest log2 of command queue entries, 0..=19.
    pub cmdq_log2: u8,
    /// Largest log2 of event queue entries, 0..=19.
    pub eventq_log2: u8,
    /// Output address bits: 32, 36, 40, 42, 44, 48 or 52.
    pub oas_bits: u8,
    /// 4 KiB granule.
    pub granule_4k: bool,
    /// 16 KiB granule.
    pub granule_16k: bool,
    /// 64 KiB granule.
    pub granule_64k: bool,
    /// 52-bit virtual addresses (64 KiB granule only).
    pub va_52: bool,
    /// Terminated transactions always abort: `CD.A` must be 1.
    pub term_model: bool,
    /// Memory type and shareability of a stream can be overridden (`IDR1.ATTR_TYPES_OVR`). Otherwise the fields of an entry that would do so are reserved, and
    /// an entry that sets one is recorded as [`Violation::ReservedField`](crate::Violation::ReservedField).
    pub attribute_overrides: bool,
    /// `IIDR`: who made it and which revision it is.
    pub iidr: u32,
    /// Arm erratum 2812531 (MMU-700): between two invalidation commands of different kinds there must be a CMD_SYNC, otherwise the second one has no
    /// effect, and [`Violation::UnsyncedCommands`](crate::Violation::UnsyncedCommands) is recorded. What real hardware does in that case is not public.
    pub sync_between_kinds: bool,
    /// Minor architecture revision: 3.x.
    pub revision: u8,
    /// Whether `GBPA.ABORT` is set out of reset; otherwise everything passes until software acts.
    pub reset_abort: bool,
    /// `GBPA` exists, as the architecture demands (§6.3.14). Without it the register reads as zero, and a disabled unit lets everything pass.
    pub global_abort: bool,
}

impl Profile {
    /// What QEMU 10.0's `virt,iommu=smmuv3` shows: both stages, coherent, 16-bit tags, two-level stream table, all granules, 44-bit output.
    pub fn qemu10() -> Self {
        Self {
            stage1: true,
            stage2: true,
            coherent: true,
            asid16: true,
            vmid16: true,
            two_level: true,
            two_level_cd: false,
            msi: false,
            ril: true,
            had: true,
            xnx: true,
            bbml: 2,
            sid_bits: 16,
            ssid_bits: 0,
            cmdq_log2: 19,
            eventq_log2: 19,
            oas_bits: 44,
            granule_4k: true,
            granule_16k: true,
            granule_64k: true,
            va_52: false,
            term_model: true,
            attribute_overrides: false,
            iidr: 0,
            sync_between_kinds: false,
            revision: 1,
            reset_abort: false,
            global_abort: true,
        }
    }

    /// What QEMU 7.2 shows: stage 1 only, 8-bit VMIDs, no `GBPA`.
    pub fn qemu7() -> Self {
        Self { stage2: false, vmid16: false, xnx: false, global_abort: false, ..Self::qemu10() }
    }

    /// The minimum that the architecture asks for, with tiny queues: stage 1, 8-bit tags, linear table for 8-bit ids, 4 KiB granule, 32-bit output, no coherency, no ranges.
    pub fn minimal() -> Self {
        Self {
            stage1: true,
            stage2: false,
            coherent: false,
            asid16: false,
            vmid16: false,
            two_level: false,
            two_level_cd: false,
            msi: false,
            ril: false,
            had: false,
            xnx: false,
            bbml: 0,
            sid_bits: 8,
            ssid_bits: 0,
            cmdq_log2: 2,
            eventq_log2: 2,
            oas_bits: 32,
            granule_4k: true,
            granule_16k: false,
            granule_64k: false,
            va_52: false,
            term_model: false,
            attribute_overrides: false,
            iidr: 0,
            sync_between_kinds: false,
            revision: 0,
            reset_abort: false,
            global_abort: true,
        }
    }

    /// [`qemu10`](Self::qemu10) without stage 1.
    pub fn stage2_only() -> Self {
        Self { stage1: false, asid16: false, ..Self::qemu10() }
    }

    /// [`qemu10`](Self::qemu10) with 32-bit StreamIDs, for which a linear table would take 256 GiB: two levels are the only way.
    pub fn large() -> Self {
        Self { sid_bits: 32, ..Self::qemu10() }
    }

    /// [`qemu10`](Self::qemu10) whose walks and queue accesses do not snoop.
    pub fn non_coherent() -> Self {
        Self { coherent: false, ..Self::qemu10() }
    }

    /// An SMMU as in a server: 52-bit addresses, substreams, messages, two-level context descriptor tables.
    pub fn server() -> Self {
        Self {
            sid_bits: 32,
            ssid_bits: 20,
            two_level_cd: true,
            msi: true,
            oas_bits: 52,
            va_52: true,
            attribute_overrides: true,
            revision: 2,
            ..Self::qemu10()
        }
    }

    /// An Arm MMU-700 r1p0 with its erratum 2812531 (`IIDR` as Linux 309a15cb16bb decodes it).
    pub fn mmu700() -> Self {
        Self { iidr: 0x4871_043b, sync_between_kinds: true, ..Self::server() }
    }

    /// `IDR0`.
    pub fn idr0(&self) -> u32 {
        let bits = idr0::S2P.of(self.stage2.into())
            | idr0::S1P.of(self.stage1.into())
            | idr0::TTF.of(ttf::AARCH64)
            | idr0::COHACC.of(self.coherent.into())
            | idr0::ASID16.of(self.asid16.into())
            | idr0::MSI.of(self.msi.into())
            | idr0::VMID16.of(self.vmid16.into())
            | idr0::CD2L.of(self.two_level_cd.into())
            | idr0::TTENDIAN.of(ttendian::LITTLE)
            | idr0::STALL_MODEL.of(stall_model::TERMINATE)
            | idr0::TERM_MODEL.of(self.term_model.into())
            | idr0::ST_LEVEL.of(if self.two_level {
                strtab_fmt::TWO_LEVEL
            } else {
                strtab_fmt::LINEAR
            });
        bits as u32
    }

    /// `IDR1`.
    pub fn idr1(&self) -> u32 {
        let bits = idr1::SIDSIZE.of(self.sid_bits.min(32).into())
            | idr1::SSIDSIZE.of(self.ssid_bits.min(20).into())
            | idr1::EVENTQS.of(self.eventq_log2.min(19).into())
            | idr1::CMDQS.of(self.cmdq_log2.min(19).into())
            | idr1::ATTR_TYPES_OVR.of(self.attribute_overrides.into());
        bits as u32
    }

    /// `IDR3`.
    pub fn idr3(&self) -> u32 {
        let bits = idr3::HAD.of(self.had.into())
            | idr3::XNX.of(self.xnx.into())
            | idr3::RIL.of(self.ril.into())
            | idr3::BBML.of(self.bbml.min(2).into());
        bits as u32
    }

    /// `IDR5`.
    pub fn idr5(&self) -> u32 {
        let bits = idr5::OAS.of(size_code(self.oas_bits))
            | idr5::GRAN4K.of(self.granule_4k.into())
            | idr5::GRAN16K.of(self.granule_16k.into())
            | idr5::GRAN64K.of(self.granule_64k.into())
            | idr5::VAX.of(self.va_52.into());
        bits as u32
    }

    /// `AIDR`.
    pub fn aidr(&self) -> u32 {
        aidr::ARCH_MINOR_REV.of(self.revision.into()) as u32
    }

    /// Whether tables with pages of `2^log2` bytes can be walked.
    pub(crate) fn has_granule(&self, log2: u32) -> bool {
        match log2 {
            12 => self.granule_4k,
            14 => self.granule_16k,
            16 => self.granule_64k,
            _ => false,
        }
    }
}

/// Bits of an address size encoding (§6.3.6); larger than the architecture's are taken as the largest.
pub(crate) fn size_bits(code: u64) -> u32 {
    match code {
        address_size::BITS_32 => 32,
        address_size::BITS_36 => 36,
        address_size::BITS_40 => 40,
        address_size::BITS_42 => 42,
        address_size::BITS_44 => 44,
        address_size::BITS_48 => 48,
        _ => 52,
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
        _ => address_size::BITS_52,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers were read from QEMU 10.0.2 and 7.2.22, not computed.
    #[test]
    fn looks_like_qemu() {
        let ten = Profile::qemu10();
        assert_eq!(
            (ten.idr0(), ten.idr1(), ten.idr3(), ten.idr5()),
            (0xd44_101b, 0x273_0010, 0x1414, 0x74)
        );
        let seven = Profile::qemu7();
        assert_eq!((seven.idr0(), seven.idr3()), (0xd40_101a, 0x1404));
    }
}
