//! What a unit implements.

use portcullis_spec::amdvi::ext_features as features;

/// What an AMD IOMMU implements, within what the model can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AmdViProfile {
    /// Levels of host page tables at most: 4, 5 or 6 (`HATS`).
    pub levels: u8,
    /// `INVALIDATE_IOMMU_ALL` exists (`IASup`).
    pub invalidate_all: bool,
    /// log2 of the most segments of the device table, 0..=3 (`DevTblSegSup`).
    pub segments_log2: u8,
    /// Page requests (`PPRSup`); their log is there, nothing comes.
    pub page_requests: bool,
    /// "Not present" is cached too (`NpCache`, told by the PCI capability), so that a map needs an invalidation.
    pub caches_absence: bool,
    /// Bits of a physical address, at most 52.
    pub pa_bits: u8,
    /// The unit's own accesses snoop the CPUs' caches.
    pub coherent: bool,
}

impl AmdViProfile {
    /// QEMU's `amd-iommu` (10.0), but that QEMU says `NpCache` and does not do it.
    pub fn qemu10() -> Self {
        Self {
            levels: 6,
            invalidate_all: true,
            segments_log2: 0,
            page_requests: true,
            caches_absence: false,
            pa_bits: 52,
            coherent: true,
        }
    }

    /// A unit of a recent processor: up to eight segments of the device table.
    pub fn epyc() -> Self {
        Self { segments_log2: 3, pa_bits: 48, ..Self::qemu10() }
    }

    /// A unit of the first generation: four levels, no command to forget everything.
    pub fn old() -> Self {
        Self {
            levels: 4,
            invalidate_all: false,
            page_requests: false,
            pa_bits: 40,
            ..Self::qemu10()
        }
    }

    /// The extended feature register (3.4).
    pub fn features(&self) -> u64 {
        let flag = |on: bool| u64::from(on);
        features::HATS.of(u64::from(self.levels.clamp(4, 6)) - 4)
            | features::IA_SUP.of(flag(self.invalidate_all))
            | features::PPR_SUP.of(flag(self.page_requests))
            | features::DEV_TBL_SEG_SUP.of(u64::from(self.segments_log2.min(3)))
    }
}
