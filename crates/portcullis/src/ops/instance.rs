//! One IOMMU instance as the core sees it.

use super::{AddressSpace, Capabilities, Fault, HardwareRegion, OpsError, Serviced, SpaceRequest};
use crate::stream::{Pasid, StreamSpec};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use portcullis_pgtable::IotlbGather;

/// An instance's own name for an address space it has been told of (Arm: an ASID or VMID with its context descriptor).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpaceTag(pub u32);

/// Where an instance sends the transactions of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamTarget {
    /// Nowhere: refused and reported.
    Blocked,
    /// To the same address.
    Identity,
    /// Through the address space with that tag.
    Space(SpaceTag),
}

/// Commands that were submitted and not yet waited for. What the words mean is the driver's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "nothing is confirmed before the ticket was waited for"]
pub struct Ticket(pub [u64; 3]);

/// One IOMMU instance; a hardware driver implements it.
///
/// The core promises: streams that it attaches were claimed; calls about one stream or one tag never overlap each other, except
/// [`submit`](Self::submit) and [`wait`](Self::wait); calls about different ones may come from several threads at once.
///
/// The driver promises:
///
/// - Every wait is bounded, about a second at most. After a wait that was in vain the unit counts as dead and calls answer [`OpsError::Dead`] at once, until it
///   confirms something again.
/// - A failed call leaves the stream as it was or blocked, never open. What could not be confirmed is said ([`OpsError::is_unconfirmed`]), never swallowed.
/// - No lock that [`service`](Self::service) takes is held over a wait, an allocation, or a call of the core.
#[doc(alias = "iommu_ops")]
pub trait IommuOps: Send + Sync + fmt::Debug {
    /// Its name in reports, such as `"smmuv3"`.
    fn driver_name(&self) -> &'static str;

    /// What the instance can do.
    fn capabilities(&self) -> Capabilities;

    /// What it can do for a device that emits `streams`, which need not be claimed yet.
    ///
    /// # Errors
    ///
    /// Where the instance must be asked and does not answer.
    fn capabilities_of(&self, streams: &[StreamSpec]) -> Result<Capabilities, OpsError> {
        let _ = streams;
        Ok(self.capabilities())
    }

    /// Gives `add` each range of the addresses of a device that emits `streams` which hardware keeps to itself, besides
    /// [`Capabilities::msi`]. The streams need not be claimed yet.
    ///
    /// # Errors
    ///
    /// Where the instance must be asked and does not answer (virtio-iommu: PROBE).
    #[doc(alias = "get_resv_regions")]
    fn reserved_regions(
        &self,
        streams: &[StreamSpec],
        add: &mut dyn FnMut(HardwareRegion),
    ) -> Result<(), OpsError> {
        let _ = (streams, add);
        Ok(())
    }

    /// Makes the streams known, so that they can be attached: they are blocked. Claims are counted: a stream is released with the last of them.
    ///
    /// # Errors
    ///
    /// [`OpsError::StreamOutOfRange`], [`OpsError::StreamInUse`], [`OpsError::OutOfStreams`], [`OpsError::NoMemory`], or unconfirmed: none of them is claimed then.
    #[doc(alias = "probe_device")]
    fn claim(&self, streams: &[StreamSpec]) -> Result<(), OpsError>;

    /// Undoes one [`claim`](Self::claim); a stream whose last claim went is blocked first.
    ///
    /// # Errors
    ///
    /// Unconfirmed: the claims are undone, but the device may still reach what the streams led to. The driver remembers these streams and has their blocking
    /// confirmed before they are claimed again.
    #[doc(alias = "release_device")]
    fn release(&self, streams: &[StreamSpec]) -> Result<(), OpsError>;

    /// A new, empty address space that this instance can translate by.
    ///
    /// # Errors
    ///
    /// [`OpsError::NoMemory`], or [`OpsError::Unsupported`] where nothing satisfies the request.
    #[doc(alias = "domain_alloc_paging")]
    fn create_space(&self, request: &SpaceRequest) -> Result<Arc<dyn AddressSpace>, OpsError>;

    /// Tells the instance of a space, made by itself or by another instance, and names it. The driver keeps the space alive until it is unbound.
    ///
    /// # Errors
    ///
    /// [`OpsError::IncompatibleSpace`], [`OpsError::OutOfTags`], [`OpsError::NoMemory`].
    fn bind_space(&self, space: &Arc<dyn AddressSpace>) -> Result<SpaceTag, OpsError>;

    /// Forgets a space that no stream uses: invalidates all that hardware holds of it, then frees the tag.
    ///
    /// # Errors
    ///
    /// Unconfirmed: the tag stays in quarantine together with the space, which the driver keeps alive, until [`forget_all`](Self::forget_all) or
    /// [`shutdown`](Self::shutdown) succeeds.
    fn unbind_space(&self, tag: SpaceTag) -> Result<(), OpsError>;

    /// Points all the streams to `target`, each by changes that hardware can only read as the old entry, the new one or "abort", and waits until hardware
    /// confirmed it. With a `pasid` only the transactions that carry it.
    ///
    /// # Errors
    ///
    /// The streams are blocked then. Unconfirmed: not even that is known.
    #[doc(alias = "attach_dev")]
    #[doc(alias = "set_dev_pasid")]
    fn attach(
        &self,
        streams: &[StreamSpec],
        pasid: Option<Pasid>,
        target: StreamTarget,
    ) -> Result<(), OpsError>;

    /// Begins to pay what `gather` owes for the space `tag`. May be called from several threads at once, for the same space too. Never allocates.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Self::wait).
    #[doc(alias = "iotlb_sync")]
    fn submit(&self, tag: SpaceTag, gather: &IotlbGather) -> Result<Ticket, OpsError>;

    /// Returns when hardware has confirmed that nothing of what `ticket` stands for is cached any more.
    ///
    /// # Errors
    ///
    /// Unconfirmed: the frames must be quarantined.
    fn wait(&self, ticket: Ticket) -> Result<(), OpsError>;

    /// [`submit`](Self::submit) and [`wait`](Self::wait) in one.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Self::wait).
    #[inline]
    fn invalidate(&self, tag: SpaceTag, gather: &IotlbGather) -> Result<(), OpsError> {
        self.wait(self.submit(tag, gather)?)
    }

    /// Has hardware confirm whatever it left unconfirmed before this call: released streams, unbound spaces and ranges. Frees what the driver kept for it.
    ///
    /// # Errors
    ///
    /// Unconfirmed: everything is as before.
    fn forget_all(&self) -> Result<(), OpsError>;

    /// Looks at the instance's interrupt sources: acknowledges errors and gives at most `budget` faults to `sink`.
    ///
    /// May be called at any time, also by an interrupt that interrupts any other call: takes no lock that a thread may hold for long, allocates nothing, and waits
    /// for nothing.
    fn service(&self, budget: usize, sink: &mut dyn FnMut(Fault)) -> Serviced;

    /// Blocks every stream and stops the instance, so that its memory can be freed.
    ///
    /// # Errors
    ///
    /// Unconfirmed: its memory must stay allocated for ever (the driver leaks it).
    fn shutdown(&self) -> Result<(), OpsError>;
}

/// An instance on its way to the registry: brought up completely by its driver, all streams blocked, not yet visible to anybody.
pub type ReadyInstance = Box<dyn IommuOps>;
