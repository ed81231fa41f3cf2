//! The IOMMU core, `drivers/iommu/iommu.c`: registration, the probe of one device, domains,
//! ownership, release.

pub(crate) mod domain;
pub(crate) mod owner;
pub(crate) mod probe;
pub(crate) mod register;
pub(crate) mod release;
