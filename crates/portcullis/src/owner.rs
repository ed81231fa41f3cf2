//! Groups that are lent to an owner outside the kernel (VFIO style).

use crate::device::{Device, Group};
use crate::error::Unconfirmed;
use crate::hooks::{Safeguard, omitted};
use crate::member::DeviceId;
use crate::subsystem::Subsystem;
use crate::work::Work;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use portcullis_platform::Platform;

/// Why a group did not change its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerError {
    /// A kernel driver is bound to one of its devices, or somebody else outside owns it.
    Busy,
    /// The token owns nothing here.
    NotOwner,
    /// The device has no group: it is behind no IOMMU.
    NoGroup,
    /// Hardware did not confirm that the group's devices are blocked.
    Unconfirmed(Unconfirmed),
}

impl fmt::Display for OwnerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => f.write_str("the group is in use: unbind its devices first"),
            Self::NotOwner => f.write_str("the group is not owned by this token"),
            Self::NoGroup => f.write_str("the device is behind no IOMMU"),
            Self::Unconfirmed(unconfirmed) => write!(f, "{unconfirmed}"),
        }
    }
}

impl core::error::Error for OwnerError {}

impl<P: Platform> Subsystem<P> {
    /// Gives the group of `device` to an owner outside the kernel, known by `token`: its streams are blocked until it is released. Claims are counted: each needs its release.
    ///
    /// # Errors
    ///
    /// [`OwnerError::Busy`], [`OwnerError::NoGroup`]. [`OwnerError::Unconfirmed`] when hardware did not confirm that the group's devices are blocked: nobody owns it then.
    #[doc(alias = "iommu_device_claim_dma_owner")]
    pub fn claim_group(&self, device: &Device<P>, token: u64) -> Result<(), OwnerError> {
        let group = device.group().ok_or(OwnerError::NoGroup)?;
        let claimed = group.with(|_, group| group.claim_external(token));
        claimed.ok_or(OwnerError::Busy)?.map_err(OwnerError::Unconfirmed)
    }

    /// Undoes one [`claim_group`](Self::claim_group). With the last one the group is the kernel's again: its domain and the devices that were refused meanwhile are queued, for
    /// whoever calls [`run_deferred`](Self::run_deferred).
    ///
    /// # Errors
    ///
    /// [`OwnerError::NotOwner`], [`OwnerError::NoGroup`].
    #[doc(alias = "iommu_device_release_dma_owner")]
    pub fn release_group(&self, device: &Device<P>, token: u64) -> Result<(), OwnerError> {
        let group = device.group().ok_or(OwnerError::NoGroup)?;
        let (group, members) = group
            .with(|root, state| {
                let free = state.release_external(token)?;
                let members = state.members.iter().filter(|_| free).map(|member| member.id);
                Some((Arc::clone(root), members.collect::<Vec<_>>()))
            })
            .ok_or(OwnerError::NotOwner)?;
        if !members.is_empty() && !omitted::<P>(Safeguard::WakeOnRelease) {
            self.wake_group(&group, &members);
        }
        Ok(())
    }

    fn wake_group(&self, group: &Arc<Group<P>>, members: &[DeviceId]) {
        let devices: Vec<_> = {
            let topology = self.topology().lock();
            members.iter().filter_map(|id| topology.device(*id)).map(Arc::downgrade).collect()
        };
        let retries = devices.into_iter().map(Work::Retry);
        self.work().push(retries.chain([Work::SetUpGroup(Arc::downgrade(group))]));
    }
}
