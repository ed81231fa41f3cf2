//! One registered IOMMU.

use crate::description::FwNode;
use crate::error::Unconfirmed;
use crate::ops::{OpsError, ReadyInstance};
use core::fmt;

/// One registered IOMMU.
#[doc(alias = "iommu_device")]
pub(crate) struct IommuDevice {
    pub(crate) node: FwNode,
    pub(crate) ops: ReadyInstance,
}

impl IommuDevice {
    /// What an answer that confirms nothing means for who asked.
    pub(crate) fn unconfirmed(&self, error: OpsError) -> Unconfirmed {
        Unconfirmed { node: self.node, error }
    }
}

impl fmt::Debug for IommuDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IommuDevice({}, {})", self.node, self.ops.driver_name())
    }
}
