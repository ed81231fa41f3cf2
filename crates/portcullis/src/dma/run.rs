//! Addresses first, memory later, piece by piece.

use super::direction::prot;
use super::grant::Grant;
use super::{BufferList, DmaDirection, DmaHandle, Lendable, MapFailure, Quarantined};
use crate::error::DmaError;
use alloc::vec::Vec;
use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use portcullis_pgtable::IotlbGather;
use portcullis_platform::Platform;

/// A run of addresses that is reserved, and filled with memory from its beginning on: [`link`](Self::link) lends one buffer more, [`sync`](Self::sync) makes all that was linked ready for the device, and
/// [`end`](Self::end) takes all of it back by one invalidation. For who has a request's memory in pieces that come one after the other, and does not want to collect them first.
///
/// Dropped, it stays as it is until the driver is unbound, and its buffers are leaked.
#[must_use = "the device keeps reaching what was linked until the run is ended"]
#[doc(alias = "dma_iova_state")]
pub struct DmaRun<B, D, P: Platform> {
    handle: DmaHandle<P>,
    /// All that is reserved.
    grant: Grant,
    /// Bytes from the beginning on that lead to memory.
    linked: u64,
    buffers: ManuallyDrop<Vec<B>>,
    /// What linking owes until it is synced.
    owed: IotlbGather,
    direction: PhantomData<D>,
}

impl<P: Platform> DmaHandle<P> {
    /// Reserves `len` bytes of addresses for `buffers` buffers, in whole pages: a buffer that begins or ends within a page takes the page. Nothing is mapped yet.
    ///
    /// # Errors
    ///
    /// [`DmaError::NotTranslated`] where the device is not translated: there is nothing to reserve, and buffers are mapped one by one. [`DmaError::Iova`] where there is no room.
    #[doc(alias = "dma_iova_try_alloc")]
    pub fn reserve<B: Lendable, D: DmaDirection>(
        &self,
        len: u64,
        buffers: usize,
        _direction: D,
    ) -> Result<DmaRun<B, D, P>, DmaError> {
        let grant = self.lease().reserve(len)?;
        Ok(DmaRun {
            handle: self.clone(),
            grant,
            linked: 0,
            buffers: ManuallyDrop::new(Vec::with_capacity(buffers)),
            owed: IotlbGather::new(),
            direction: PhantomData,
        })
    }
}

impl<B: Lendable, D: DmaDirection, P: Platform> DmaRun<B, D, P> {
    /// The first address of the run.
    pub fn device_address(&self) -> u64 {
        self.grant.address()
    }

    /// Bytes that lead to memory, in whole pages.
    pub fn linked(&self) -> u64 {
        self.linked
    }

    /// Lends `buffer` behind those that were linked before, and says where the device reaches it after the next [`sync`](Self::sync).
    ///
    /// # Errors
    ///
    /// As [`DmaHandle::map`]; the run is as before. [`DmaError::RunIsFull`] where not enough is left of it.
    #[doc(alias = "dma_iova_link")]
    pub fn link(&mut self, buffer: B) -> Result<u64, MapFailure<B>> {
        self.handle.publish(&buffer);
        let loan = super::Loan::of(&buffer);
        let linked =
            self.handle.lease().link(&self.grant, self.linked, &loan, prot::<D>(), &mut self.owed);
        match linked {
            Ok((address, linked)) => {
                self.linked = linked;
                self.handle.note_lent::<_, D>(&buffer, &self.grant);
                self.buffers.push(buffer);
                Ok(address)
            }
            // Not known to be refused: these addresses and this buffer are not used again.
            Err(error @ DmaError::Quarantined { .. }) => {
                let held = Quarantined::new(buffer, self.grant.of_nobody(), error);
                Err(MapFailure::Quarantined(held))
            }
            Err(error) => Err(MapFailure::Refused { buffer, error }),
        }
    }

    /// Returns when the device can reach everything that was linked. Costs nothing where hardware does not hold "not present".
    ///
    /// # Errors
    ///
    /// Hardware did not confirm: it may find what was linked, or not.
    #[doc(alias = "dma_iova_sync")]
    pub fn sync(&mut self) -> Result<(), DmaError> {
        if self.owed.is_empty() {
            return Ok(());
        }
        self.handle.lease().sync(&mut self.owed)
    }

    /// Takes all of the run away from the device by one invalidation, and returns its buffers; `None` where nothing was linked. Also after the driver was unbound, as [`DmaHandle::unmap`].
    ///
    /// # Errors
    ///
    /// Hardware did not confirm: the buffers must not be reused, and cannot be.
    #[doc(alias = "dma_iova_destroy")]
    pub fn end(self) -> Result<Option<BufferList<B>>, Quarantined<BufferList<B>>> {
        let Self { handle, grant, buffers, .. } = self;
        let ended = handle.lease().unmap_run(&grant);
        let Some(list) = BufferList::new(ManuallyDrop::into_inner(buffers)) else {
            return Ok(None);
        };
        if let Err(error) = ended {
            return Err(Quarantined::new(list, grant, error));
        }
        if D::DEVICE_WRITES {
            handle.refresh(&list);
        }
        handle.note_returned(&list);
        Ok(Some(list))
    }
}

impl<B, D, P: Platform> fmt::Debug for DmaRun<B, D, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaRun")
            .field("grant", &self.grant)
            .field("linked", &self.linked)
            .finish_non_exhaustive()
    }
}
