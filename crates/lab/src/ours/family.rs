//! Which hardware the IOMMUs of a world are: what the lab must know of each family, in one place.

use portcullis::FwNode;
use portcullis_machine::{
    AmdVi, AmdViProfile, Consumption, Faults, Policy, Profile, RiscvIommu, RiscvProfile, SmmuV2,
    SmmuV2Profile, SmmuV3, TlbPolicy, VirtioIommu, VirtioProfile, VtdIommu, VtdProfile,
};
use portcullis_platform::{Platform, Registers};
use portcullis_spec::amdvi::{CONTROL, DEV_TAB_BASE, control};
use portcullis_spec::smmuv2::global0::{SCR0, STLBGSTATUS, STLBGSYNC, TLBIALLH, TLBIALLNSNH, scr0};
use portcullis_spec::vtd::{GCMD, RTADDR, gcmd, rtaddr, ttm};
use portcullis_testbed::{SoftwareMachine, UnitProfile};
use portcullis_threads::step;

/// Bits of stream id: as few as the worlds' ids need, so that tables are small.
pub(crate) const ID_BITS: u8 = 6;

/// Which hardware the IOMMUs of a world are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// SMMUv3.
    SmmuV3,
    /// SMMUv2.
    SmmuV2,
    /// The RISC-V IOMMU.
    RiscV,
    /// Intel VT-d in legacy mode.
    VtD,
    /// Intel VT-d in scalable mode: PASID tables between context entries and page tables.
    VtDScalable,
    /// The virtio-iommu.
    Virtio,
    /// The AMD IOMMU.
    AmdVi,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::SmmuV3,
        Self::SmmuV2,
        Self::RiscV,
        Self::VtD,
        Self::VtDScalable,
        Self::Virtio,
        Self::AmdVi,
    ];

    /// Its word on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::VtDScalable => "vtd-scalable",
            _ => self.driver(),
        }
    }

    /// Its driver's word.
    pub fn driver(self) -> &'static str {
        match self {
            Self::SmmuV3 => "smmuv3",
            Self::SmmuV2 => "smmuv2",
            Self::RiscV => "riscv",
            Self::VtD | Self::VtDScalable => "vtd",
            Self::Virtio => "virtio",
            Self::AmdVi => "amdvi",
        }
    }

    /// The family with that word.
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.word() == word)
    }

    /// Whether two units can translate by one address space: not where it is a channel of requests to one of them.
    pub(crate) fn shares_spaces(self) -> bool {
        self != Self::Virtio
    }

    /// What the keys of its worlds begin with.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Self::SmmuV3 => "",
            Self::SmmuV2 => "v2-",
            Self::RiscV => "riscv-",
            Self::VtD => "vtd-",
            Self::VtDScalable => "vtd-scalable-",
            Self::Virtio => "virtio-",
            Self::AmdVi => "amdvi-",
        }
    }

    /// What the titles of its worlds begin with.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::SmmuV3 => "",
            Self::SmmuV2 => "SMMUv2: ",
            Self::RiscV => "RISC-V: ",
            Self::VtD => "VT-d: ",
            Self::VtDScalable => "VT-d, scalable mode: ",
            Self::Virtio => "virtio: ",
            Self::AmdVi => "AMD-Vi: ",
        }
    }

    /// Whatever is kept is kept until it is invalidated. A command takes effect at once; an SMMUv2's maintenance does when it is waited for.
    pub(crate) fn policy(self) -> Policy {
        let policy = Policy {
            tlb: TlbPolicy::HOARD,
            accesses_kept: 0,
            verify_hits: false,
            ..Policy::like_qemu()
        };
        match self {
            Self::SmmuV3
            | Self::RiscV
            | Self::VtD
            | Self::VtDScalable
            | Self::Virtio
            | Self::AmdVi => policy,
            Self::SmmuV2 => Policy { consumption: Consumption::Late { most: 1 }, ..policy },
        }
    }

    /// Units as small as the worlds permit, so that bringing one up takes few steps.
    pub(crate) fn profile(self) -> UnitProfile {
        match self {
            Self::SmmuV3 => UnitProfile::SmmuV3(Profile {
                sid_bits: ID_BITS,
                reset_abort: true,
                two_level: false,
                ..Profile::qemu10()
            }),
            Self::SmmuV2 => {
                let profile = SmmuV2Profile {
                    groups: 2,
                    banks: 2,
                    interrupts: 2,
                    id_bits: ID_BITS,
                    mask_bits: (1 << ID_BITS) - 1,
                    ..SmmuV2Profile::mmu500()
                };
                UnitProfile::SmmuV2(profile, 0)
            }
            // A directory of one level has as many ids as the worlds need.
            Self::RiscV => UnitProfile::RiscV(RiscvProfile::small()),
            // With abort-dma mode a stopped unit keeps no memory.
            Self::VtD | Self::VtDScalable => UnitProfile::VtD(VtdProfile {
                scalable: self == Self::VtDScalable,
                fault_records: 1,
                protected_memory: false,
                ..VtdProfile::server()
            }),
            Self::AmdVi => UnitProfile::AmdVi(AmdViProfile::qemu10()),
            // The hypervisor was told to close the boot bypass: until the driver runs nobody else can.
            Self::Virtio => {
                UnitProfile::Virtio(VirtioProfile { boot_bypass: false, ..VirtioProfile::small() })
            }
        }
    }

    /// What firmware has done to the unit before the world begins: an SMMUv2, a VT-d and an AMD unit let everything pass out of reset, and firmware has seen to it that nothing does.
    pub(crate) fn prepare<P: Platform>(self, bed: &SoftwareMachine<P>, node: FwNode) {
        match self {
            Self::SmmuV3 | Self::RiscV | Self::Virtio => {}
            Self::SmmuV2 => {
                let smmu = bed.iommu::<SmmuV2>(node).expect("it was assembled");
                smmu.registers().write32(SCR0.offset, scr0::USFCFG.of(1) as u32);
            }
            Self::AmdVi => {
                // Its device table is where no memory is.
                let unit = bed.iommu::<AmdVi>(node).expect("it was assembled");
                unit.registers().write64(DEV_TAB_BASE.offset, 0);
                unit.registers().write64(CONTROL.offset, control::IOMMU_EN.mask());
            }
            Self::VtD | Self::VtDScalable => {
                let unit = bed.iommu::<VtdIommu>(node).expect("it was assembled");
                let registers = unit.registers();
                registers.write64(RTADDR.offset, rtaddr::TTM.of(ttm::ABORT));
                registers.write32(GCMD.offset, gcmd::SRTP.mask() as u32);
                registers.write32(GCMD.offset, gcmd::TE.mask() as u32);
            }
        }
    }

    /// Breaks the unit at `node` in these ways.
    pub(crate) fn inject<P: Platform>(
        self,
        bed: &SoftwareMachine<P>,
        node: FwNode,
        faults: Faults,
    ) {
        match self {
            Self::SmmuV3 => {
                bed.iommu::<SmmuV3>(node).expect("it was assembled").inject(faults);
            }
            Self::SmmuV2 => {
                bed.iommu::<SmmuV2>(node).expect("it was assembled").inject(faults);
            }
            Self::AmdVi => {
                bed.iommu::<AmdVi>(node).expect("it was assembled").inject(faults);
            }
            Self::RiscV => {
                bed.iommu::<RiscvIommu>(node).expect("it was assembled").inject(faults);
            }
            Self::VtD | Self::VtDScalable => {
                bed.iommu::<VtdIommu>(node).expect("it was assembled").inject(faults);
            }
            Self::Virtio => {
                bed.iommu::<VirtioIommu>(node).expect("it was assembled").inject(faults);
            }
        }
    }

    /// An access to a register of unit number `index`, or a device's transaction there, as a step of the exploration.
    ///
    /// An SMMUv2 has a register for each thing, and two threads never write the same one but for those below. So the order of two accesses to registers does not show; the order of an
    /// access and a device's transaction, which looks at all of them, does. What is shared are the waits for maintenance, and what they wait for.
    pub(crate) fn step(self, index: u64, what: &'static str, write: bool) {
        match self {
            Self::SmmuV3 => step("smmu", index, what, write),
            Self::RiscV | Self::VtD | Self::VtDScalable | Self::Virtio | Self::AmdVi => {
                step("iommu", index, what, write)
            }
            Self::SmmuV2 => {
                step("smmu", index, what, what == "transaction");
                let shared = [STLBGSYNC, STLBGSTATUS, TLBIALLNSNH, TLBIALLH];
                if shared.iter().any(|shared| shared.name == what) {
                    step("smmu maintenance", index, what, write);
                }
            }
        }
    }
}
