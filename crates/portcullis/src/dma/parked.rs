//! Buffers that wait for an invalidation which many share.

use super::grant::Grant;
use super::{DmaDirection, DmaHandle, DmaMapping, Lent, UnmapFailure};
use crate::error::DmaError;
use alloc::vec::Vec;
use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use portcullis_platform::Platform;

/// A buffer that was unmapped by [`DmaHandle::unmap_later`] and comes back by [`DmaHandle::redeem`] or [`redeem_all`](DmaHandle::redeem_all): until hardware has forgotten the mapping, its device may still reach
/// it.
///
/// Dropped, it leaks the buffer, and its addresses stay taken until the driver is unbound.
#[must_use = "the buffer is leaked unless it is redeemed"]
pub struct Parked<B, D> {
    buffer: ManuallyDrop<B>,
    grant: Grant,
    /// The epoch that must be over; `None` where hardware has forgotten it already.
    epoch: Option<u64>,
    direction: PhantomData<D>,
}

impl<B, D> Parked<B, D> {
    fn new(buffer: B, grant: Grant, epoch: Option<u64>) -> Self {
        Self { buffer: ManuallyDrop::new(buffer), grant, epoch, direction: PhantomData }
    }

    fn end(self) -> B {
        ManuallyDrop::into_inner(self.buffer)
    }
}

impl<B, D> fmt::Debug for Parked<B, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parked")
            .field("grant", &self.grant)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

/// Why a parked buffer did not come back; it is parked as before.
pub struct NotRedeemed<B, D> {
    /// The buffer.
    pub parked: Parked<B, D>,
    /// What was not confirmed.
    pub error: DmaError,
}

impl<B, D> fmt::Debug for NotRedeemed<B, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NotRedeemed").field(&self.error).finish()
    }
}

impl<B, D> fmt::Display for NotRedeemed<B, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)
    }
}

impl<B, D> core::error::Error for NotRedeemed<B, D> {}

impl<B, D> From<NotRedeemed<B, D>> for DmaError {
    fn from(failure: NotRedeemed<B, D>) -> Self {
        failure.error
    }
}

impl<P: Platform> DmaHandle<P> {
    /// Takes the memory away from the device, and leaves it to a later invalidation, shared with others, to have hardware forget it. Where the domain is lazy
    /// ([`DomainType::DmaLazy`](crate::DomainType::DmaLazy)) and the device is trusted, that is: elsewhere it is [`unmap`](Self::unmap), and the buffer is ready.
    ///
    /// Until the invalidation the device may reach the memory through what hardware has cached, so the buffer is not given back before: [`redeem`](Self::redeem) does, after an invalidation for all
    /// that is parked if need be, and so pays one invalidation for as many buffers as the driver has parked. At the latest a CPU flushes when it has parked 256 mappings of this driver, and a timer
    /// ([`Subsystem::flush_overdue`](crate::Subsystem::flush_overdue)) when the first of them has waited for 10 ms.
    ///
    /// # Errors
    ///
    /// As [`unmap`](Self::unmap).
    pub fn unmap_later<B: Lent, D: DmaDirection>(
        &self,
        mapping: DmaMapping<B, D>,
    ) -> Result<Parked<B, D>, UnmapFailure<B, D>> {
        let grant = *mapping.grant();
        match self.lease().unmap_later(&grant) {
            Ok(epoch) => Ok(Parked::new(mapping.end(), grant, epoch)),
            Err(DmaError::ForeignMapping) => Err(UnmapFailure::Foreign(mapping)),
            Err(error) => Err(UnmapFailure::Quarantined(mapping.hold(error))),
        }
    }

    /// Gives a parked buffer back, once hardware confirmed that nothing reaches it any more: at once, or after an invalidation for all that is parked. For a device that does not snoop the CPU's
    /// caches, what it wrote is made visible to the CPU. Also after the driver was unbound, as [`unmap`](Self::unmap).
    ///
    /// # Errors
    ///
    /// Hardware did not confirm, or the buffer is another handle's: it is parked as before.
    pub fn redeem<B: Lent, D: DmaDirection>(
        &self,
        parked: Parked<B, D>,
    ) -> Result<B, NotRedeemed<B, D>> {
        match self.await_all(core::slice::from_ref(&parked)) {
            Ok(()) => Ok(self.give_back(parked)),
            Err(error) => Err(NotRedeemed { parked, error }),
        }
    }

    /// As [`redeem`](Self::redeem) for many: all of `parked` at once, by one invalidation if any, each buffer to `give`. `parked` is empty then, and keeps its memory for the next ones.
    ///
    /// # Errors
    ///
    /// As [`redeem`](Self::redeem): all of them are parked as before.
    pub fn redeem_all<B: Lent, D: DmaDirection>(
        &self,
        parked: &mut Vec<Parked<B, D>>,
        mut give: impl FnMut(B),
    ) -> Result<(), DmaError> {
        self.await_all(parked)?;
        parked.drain(..).for_each(|parked| give(self.give_back(parked)));
        Ok(())
    }

    /// Returns once hardware has forgotten all of `parked`, and takes their addresses back.
    fn await_all<B: Lent, D: DmaDirection>(&self, parked: &[Parked<B, D>]) -> Result<(), DmaError> {
        let foreign = |parked: &Parked<B, D>| self.lease().check(&parked.grant).is_err();
        if parked.iter().any(foreign) {
            return Err(DmaError::ForeignMapping);
        }
        // Those that were unmapped at once have neither addresses nor anything to wait for.
        let waiting = parked.iter().filter(|parked| parked.epoch.is_some());
        match waiting.clone().filter_map(|parked| parked.epoch).max() {
            Some(last) => self.lease().redeem(waiting.map(|parked| &parked.grant), last),
            None => Ok(()),
        }
    }

    /// A buffer that nothing reaches any more.
    fn give_back<B: Lent, D: DmaDirection>(&self, parked: Parked<B, D>) -> B {
        let buffer = parked.end();
        if D::DEVICE_WRITES {
            self.refresh(&buffer);
        }
        self.note_returned(&buffer);
        buffer
    }

    /// Has hardware forget everything that this driver has unmapped and parked.
    ///
    /// # Errors
    ///
    /// Hardware did not confirm: all of it stays parked.
    #[doc(alias = "iommu_dma_flush_iotlb_all")]
    pub fn flush(&self) -> Result<(), DmaError> {
        self.lease().flush()
    }
}
