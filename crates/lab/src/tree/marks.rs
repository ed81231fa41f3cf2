//! How a tree shows that it has a commit: data, one place.
//!
//! A mark is what a commit leaves in one function: words that stand there in a row, whatever the white space and the
//! comments around them, so that a backport's other context does not matter. Each was read in Debian's source
//! packages of a version with the commit and of one without it; `tests/tree.rs` does so again.

use crate::linux::Commit;

/// One commit's mark.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) commit: Commit,
    /// The file, from the tree's root.
    pub(super) file: &'static str,
    /// The function; empty for the whole file.
    pub(super) function: &'static str,
    /// Stands in it if the tree has the commit; alternatives are separated by `//`. Empty: that there is such a function.
    pub(super) has: &'static str,
    /// Stands in it if the tree lacks the commit, and then decides. Empty: whatever is not `has`.
    pub(super) lacks: &'static str,
    /// What it means that the file is there and the function is not.
    pub(super) gone: Gone,
}

/// What the absence of a function says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    /// The tree lacks the commit.
    Lacks,
    /// Nothing.
    Unknown,
}

const IOMMU: &str = "drivers/iommu/iommu.c";
const OF_IOMMU: &str = "drivers/iommu/of_iommu.c";
const DMA_IOMMU: &str = "drivers/iommu/dma-iommu.c";
const SMMU_V2: &str = "drivers/iommu/arm/arm-smmu/arm-smmu.c";
const SMMU_V3: &str = "drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.c";
const DD: &str = "drivers/base/dd.c";

/// A mark by words of a function that every version has.
const fn mark(
    commit: Commit,
    file: &'static str,
    function: &'static str,
    has: &'static str,
) -> Mark {
    Mark { commit, file, function, has, lacks: "", gone: Gone::Unknown }
}

/// A mark whose absence shows by other words in the same function.
const fn either(
    commit: Commit,
    file: &'static str,
    function: &'static str,
    has: &'static str,
    lacks: &'static str,
) -> Mark {
    Mark { commit, file, function, has, lacks, gone: Gone::Unknown }
}

/// A mark in a function that versions without the commit may not have at all.
const fn in_new(
    commit: Commit,
    file: &'static str,
    function: &'static str,
    has: &'static str,
) -> Mark {
    Mark { commit, file, function, has, lacks: "", gone: Gone::Lacks }
}

/// Every mark, in the order in which the kernel got the commits.
pub(super) const MARKS: &[Mark] = &[
    mark(Commit::RegisterWalks, IOMMU, "iommu_device_register", "bus_iommu_probe("),
    mark(Commit::ProbeLock, IOMMU, "", "iommu_probe_device_lock"),
    mark(
        Commit::FwspecLock,
        OF_IOMMU,
        "of_iommu_configure",
        "mutex_lock(&iommu_probe_device_lock)",
    ),
    in_new(
        Commit::KeepDefaultDomain,
        IOMMU,
        "probe_alloc_default_domain",
        "if (group->default_domain) return",
    ),
    in_new(Commit::GroupTestLocked, IOMMU, "iommu_init_device", ""),
    either(
        Commit::AttachInProbe,
        IOMMU,
        "__iommu_probe_device",
        "iommu_setup_default_domain(group, 0)",
        "",
    ),
    mark(
        Commit::LockedGroupTest6_1,
        IOMMU,
        "__iommu_probe_device",
        "if (dev->iommu_group)//if (group)",
    ),
    mark(Commit::Rfc20241213, IOMMU, "iommu_probe_device", "iommu_setup_default_domain(group, 0)"),
    mark(Commit::DefaultDomainBackport, IOMMU, "iommu_probe_device", "EPROBE_DEFER"),
    either(
        Commit::RetireBusOps,
        IOMMU,
        "iommu_device_register",
        "bus_iommu_probe(iommu_buses[i])",
        "iommu_ops = ops",
    ),
    mark(Commit::DmaOpsWithDomain, IOMMU, "bus_iommu_probe", "iommu_setup_dma_ops("),
    either(
        Commit::DmaIommuFlag,
        DMA_IOMMU,
        "iommu_setup_dma_ops",
        "dma_iommu//dev_assign_dma_iommu",
        "dma_ops = &iommu_dma_ops",
    ),
    mark(Commit::DeferUnboundSmmu, SMMU_V2, "arm_smmu_probe_device", "smmu dev has not bound yet"),
    either(
        Commit::LookupByBus,
        SMMU_V3,
        "arm_smmu_get_by_fwnode",
        "bus_find_device_by_fwnode",
        "driver_find_device_by_fwnode",
    ),
    mark(
        Commit::CleanSmmuV3Failure,
        SMMU_V3,
        "arm_smmu_device_probe",
        "iommu_device_sysfs_remove(&smmu->iommu)",
    ),
    mark(
        Commit::DeferInFwspecInit,
        IOMMU,
        "iommu_fwspec_init",
        "driver_deferred_probe_check_state",
    ),
    mark(Commit::FreeWholeDevIommu, OF_IOMMU, "of_iommu_configure", "dev_iommu_free(dev)"),
    in_new(
        Commit::ClearDmaIommu,
        IOMMU,
        "iommu_deinit_device",
        "dev->dma_iommu = false//dev_clear_dma_iommu(dev)",
    ),
    mark(
        Commit::DefaultDomainCheck,
        IOMMU,
        "iommu_device_use_default_domain",
        "if (!group->default_domain)",
    ),
    in_new(Commit::MsiUnderGroupMutex, IOMMU, "iommu_dma_prepare_msi", "mutex_lock(&group->mutex)"),
    in_new(Commit::ParseInWalk, IOMMU, "iommu_init_device", "dma_configure(dev)"),
    in_new(
        Commit::RecheckAfterParse,
        IOMMU,
        "iommu_init_device",
        "if (!dev->iommu || dev->iommu_group)",
    ),
    mark(Commit::ReadyFlag, IOMMU, "iommu_fwspec_init", "iommu->ready"),
    mark(
        Commit::PlatformDriverOnce,
        "drivers/base/platform.c",
        "platform_dma_configure",
        "READ_ONCE(dev->driver)",
    ),
    mark(
        Commit::PciDriverOnce,
        "drivers/pci/pci-driver.c",
        "pci_dma_configure",
        "READ_ONCE(dev->driver)",
    ),
    mark(
        Commit::FslMcDriverOnce,
        "drivers/bus/fsl-mc/fsl-mc-bus.c",
        "fsl_mc_dma_configure",
        "READ_ONCE(dev->driver)",
    ),
    mark(
        Commit::AmbaDriverOnce,
        "drivers/amba/bus.c",
        "amba_dma_configure",
        "READ_ONCE(dev->driver)",
    ),
    mark(Commit::ReadyToProbe, DD, "__driver_probe_device", "dev_ready_to_probe(dev)"),
    either(
        Commit::AtomicCanMatch,
        DD,
        "__driver_probe_device",
        "dev_set_can_match(dev)",
        "can_match = true",
    ),
    either(
        Commit::AtomicBits,
        DMA_IOMMU,
        "iommu_setup_dma_ops",
        "dev_assign_dma_iommu(//dev_set_dma_iommu(",
        "",
    ),
    either(
        Commit::AtomicCoherent,
        "arch/arm64/mm/dma-mapping.c",
        "arch_setup_dma_ops",
        "dev_assign_dma_coherent(//dev_set_dma_coherent(",
        "dma_coherent =",
    ),
    in_new(
        Commit::AtomicSkipSync,
        "kernel/dma/mapping.c",
        "dma_setup_need_sync",
        "dev_assign_dma_skip_sync(//dev_set_dma_skip_sync(",
    ),
];

/// The functions that the protocols stand for: one whose body no known version has is told to the user.
pub(super) const WATCHED: &[(&str, &str)] = &[
    (IOMMU, "iommu_device_register"),
    (IOMMU, "iommu_device_unregister"),
    (IOMMU, "bus_iommu_probe"),
    (IOMMU, "probe_iommu_group"),
    (IOMMU, "iommu_probe_device"),
    (IOMMU, "__iommu_probe_device"),
    (IOMMU, "iommu_init_device"),
    (IOMMU, "iommu_setup_default_domain"),
    (IOMMU, "probe_alloc_default_domain"),
    (IOMMU, "iommu_deinit_device"),
    (IOMMU, "iommu_release_device"),
    (IOMMU, "iommu_device_use_default_domain"),
    (IOMMU, "iommu_device_unuse_default_domain"),
    (IOMMU, "iommu_fwspec_init"),
    (OF_IOMMU, "of_iommu_configure"),
    (DMA_IOMMU, "iommu_setup_dma_ops"),
    ("drivers/of/device.c", "of_dma_configure_id"),
    ("drivers/base/platform.c", "platform_dma_configure"),
    ("drivers/pci/pci-driver.c", "pci_dma_configure"),
    ("drivers/amba/bus.c", "amba_dma_configure"),
    ("drivers/bus/fsl-mc/fsl-mc-bus.c", "fsl_mc_dma_configure"),
    ("drivers/cdx/cdx.c", "cdx_dma_configure"),
    (DD, "__driver_probe_device"),
    (DD, "really_probe"),
    (DD, "driver_probe_device"),
    (SMMU_V2, "arm_smmu_probe_device"),
    (SMMU_V3, "arm_smmu_probe_device"),
    (SMMU_V3, "arm_smmu_get_by_fwnode"),
    (SMMU_V3, "arm_smmu_device_probe"),
    ("arch/arm64/mm/dma-mapping.c", "arch_setup_dma_ops"),
    ("drivers/acpi/scan.c", "acpi_iommu_configure_id"),
    ("kernel/dma/mapping.c", "dma_setup_need_sync"),
];
