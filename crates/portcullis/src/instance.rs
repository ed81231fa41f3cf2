//! One registered IOMMU.

use crate::description::FwNode;
use crate::error::Unconfirmed;
use crate::ops::{OpsError, ReadyInstance};
use crate::port::Port;
use crate::quarantine::Quarantine;
use alloc::sync::Arc;
use core::fmt;
use portcullis_platform::Platform;

/// One registered IOMMU.
#[doc(alias = "iommu_device")]
pub(crate) struct IommuDevice<P: Platform> {
    pub(crate) node: FwNode,
    pub(crate) ops: ReadyInstance,
    /// What the node's IOMMUs did not confirm, this one and earlier ones.
    pub(crate) quarantine: Arc<Quarantine<P>>,
    /// Where interrupts enter.
    pub(crate) port: Arc<Port<P>>,
}

impl<P: Platform> IommuDevice<P> {
    /// What the caller is told when `error` leaves something unconfirmed.
    pub(crate) fn unconfirmed(&self, error: OpsError) -> Unconfirmed {
        Unconfirmed { node: self.node, error }
    }
}

impl<P: Platform> fmt::Debug for IommuDevice<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IommuDevice({}, {})", self.node, self.ops.driver_name())
    }
}
