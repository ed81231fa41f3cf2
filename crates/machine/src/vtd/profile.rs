//! What a unit implements.

use portcullis_spec::vtd::{cap, ecap};

/// What a VT-d unit implements, within what the model can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VtdProfile {
    /// Bits of a domain id: 4, 6, … 16.
    pub domain_bits: u8,
    /// The unit sees stores to its structures only after a write buffer was flushed (`CAP.RWBF`).
    pub write_buffer: bool,
    /// What is not present is cached too (`CAP.CM`).
    pub caching_mode: bool,
    /// Which second stages there are: three, four, five levels.
    pub widths: [bool; 3],
    /// Bits of a device's addresses.
    pub address_bits: u8,
    /// Large leaves of the second stage: 2 MiB, 1 GiB.
    pub large: [bool; 2],
    /// Invalidation by page.
    pub page_selective: bool,
    /// The largest address mask of such an invalidation.
    pub most_mask: u8,
    /// How many fault recording registers there are, 1..=256.
    pub fault_records: u16,
    /// The unit's accesses to its structures, and to page tables in legacy mode, snoop the CPUs' caches.
    pub coherent: bool,
    /// Queued invalidation.
    pub queue: bool,
    /// Pass-through.
    pub pass_through: bool,
    /// Snoop control.
    pub snoop_control: bool,
    /// Scalable mode.
    pub scalable: bool,
    /// Scalable mode has a first stage, of four levels or (`true`) of five too.
    pub first_stage: Option<bool>,
    /// Scalable mode has a second stage.
    pub second_stage: bool,
    /// Scalable mode: page walks can be made to snoop.
    pub scalable_coherent: bool,
    /// Abort-dma mode.
    pub abort_mode: bool,
    /// There are protected memory regions.
    pub protected_memory: bool,
    /// `IQERCD` says what is behind an error of the queue.
    pub error_info: bool,
    /// Bits of a physical address.
    pub host_bits: u8,
}

impl VtdProfile {
    /// QEMU's `intel-iommu` (10.0, `aw-bits=48`): legacy mode, one fault recording register, accesses that do not snoop.
    pub fn qemu10() -> Self {
        Self {
            domain_bits: 16,
            write_buffer: false,
            caching_mode: false,
            widths: [true, true, false],
            address_bits: 48,
            large: [true; 2],
            page_selective: true,
            most_mask: 18,
            fault_records: 1,
            coherent: false,
            queue: true,
            pass_through: true,
            snoop_control: false,
            scalable: false,
            first_stage: None,
            second_stage: false,
            scalable_coherent: false,
            abort_mode: false,
            protected_memory: false,
            error_info: false,
            host_bits: 48,
        }
    }

    /// QEMU's with `x-scalable-mode=on`: the second stage; with `x-flts=on` the first stage of four levels in its place.
    pub fn qemu10_scalable(first: bool) -> Self {
        let first_stage = first.then_some(false);
        Self { scalable: true, first_stage, second_stage: !first, ..Self::qemu10() }
    }

    /// A server's unit of today: both modes, every stage and depth, snooping, several fault records, abort-dma mode.
    pub fn server() -> Self {
        Self {
            widths: [false, true, true],
            address_bits: 57,
            fault_records: 8,
            coherent: true,
            snoop_control: true,
            scalable: true,
            first_stage: Some(true),
            second_stage: true,
            scalable_coherent: true,
            abort_mode: true,
            protected_memory: true,
            error_info: true,
            host_bits: 52,
            ..Self::qemu10()
        }
    }

    /// A chipset's of the first years: three levels, small pages, no snooping, 256 domains, write buffers that must be flushed.
    pub fn early() -> Self {
        Self {
            domain_bits: 8,
            write_buffer: true,
            widths: [true, false, false],
            address_bits: 39,
            large: [false; 2],
            page_selective: false,
            pass_through: false,
            protected_memory: true,
            host_bits: 36,
            ..Self::qemu10()
        }
    }

    /// `CAP` (11.4.2).
    pub fn cap(&self) -> u64 {
        let set = |on: &[bool]| on.iter().rev().fold(0, |bits, on| bits << 1 | u64::from(*on));
        cap::ND.of(u64::from(self.domain_bits.clamp(4, 16) - 4) / 2)
            | cap::RWBF.of(self.write_buffer.into())
            | cap::PLMR.of(self.protected_memory.into())
            | cap::PHMR.of(self.protected_memory.into())
            | cap::CM.of(self.caching_mode.into())
            | cap::SAGAW.of(set(&self.widths) << 1)
            | cap::MGAW.of(u64::from(self.address_bits) - 1)
            | cap::FRO.of(super::registers::FAULTS as u64 / 16)
            | cap::SSLPS.of(set(&self.large))
            | cap::PSI.of(self.page_selective.into())
            | cap::NFR.of(u64::from(self.fault_records) - 1)
            | cap::MAMV.of(self.most_mask.into())
            | cap::DWD.of(1)
            | cap::DRD.of(1)
            | cap::FS1GP.of(self.first_stage.is_some().into())
            | cap::FS5LP.of((self.first_stage == Some(true)).into())
    }

    /// `ECAP` (11.4.3).
    pub fn ecap(&self) -> u64 {
        ecap::C.of(self.coherent.into())
            | ecap::QI.of(self.queue.into())
            | ecap::PT.of(self.pass_through.into())
            | ecap::SC.of(self.snoop_control.into())
            | ecap::IRO.of(0xf)
            | ecap::SMTS.of(self.scalable.into())
            | ecap::SSTS.of((self.scalable && self.second_stage).into())
            | ecap::FSTS.of((self.scalable && self.first_stage.is_some()).into())
            | ecap::SMPWCS.of((self.scalable && self.scalable_coherent).into())
            | ecap::ADMS.of(self.abort_mode.into())
    }

    /// Whether some access of the unit sees only what was published.
    pub(crate) fn needs_publishing(&self) -> bool {
        let scalable = self.scalable && !self.scalable_coherent;
        !self.coherent || scalable || self.write_buffer
    }
}
