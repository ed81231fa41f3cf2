//! What a boot needs of the machine it runs on, so that one harness serves every platform.

use crate::endpoint::Endpoint;
use crate::registry::BroughtUp;
use portcullis::NodeFailure;
use portcullis_firmware::IommuNode;
use portcullis_platform::Platform;
use std::sync::Arc;

/// A machine with IOMMUs to bring up and devices that do DMA.
pub trait Testbed: Send + Sync {
    /// The seams that the core and the drivers run on.
    type Platform: Platform;

    /// The platform.
    fn platform(&self) -> &Arc<Self::Platform>;

    /// Brings the IOMMU up with its driver: reset, tables installed, all streams blocked.
    ///
    /// # Errors
    ///
    /// Why it cannot serve, for people.
    fn bring_up(&self, iommu: &IommuNode) -> Result<BroughtUp, NodeFailure>;

    /// The device that stands for `path`; `None` where the machine has none that can do DMA on its behalf.
    fn endpoint(&self, path: &str) -> Option<Arc<dyn Endpoint>>;

    /// Whether its IOMMUs record the accesses that they refuse.
    fn records_faults(&self) -> bool {
        true
    }

    /// What the machine itself saw go wrong: the promise concerned and what happened.
    fn violations(&self) -> Vec<(&'static str, String)>;

    /// Bytes of DMA memory that are handed out now.
    fn allocated(&self) -> u64;
}
