//! A device as its group knows it.

use crate::description::{DeviceDescription, FwStream};
use alloc::sync::Arc;

/// A device's number in its subsystem. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub(crate) u64);

/// One member of a group.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) id: DeviceId,
    pub(crate) description: Arc<DeviceDescription>,
}

impl Member {
    pub(crate) fn streams(&self) -> &[FwStream] {
        self.description.streams()
    }
}
