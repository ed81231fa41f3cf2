//! One registered IOMMU.

use crate::description::FwNode;
use crate::ops::IommuOps;
use alloc::boxed::Box;
use core::fmt;

/// One registered IOMMU.
#[doc(alias = "iommu_device")]
pub(crate) struct IommuDevice {
    pub(crate) node: FwNode,
    pub(crate) ops: Box<dyn IommuOps>,
}

impl fmt::Debug for IommuDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IommuDevice({}, {})", self.node, self.ops.driver_name())
    }
}
