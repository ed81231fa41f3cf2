//! What a lease leaves to a flush.

use super::{Access, Lease};
use crate::dma::grant::Grant;
use crate::error::{DmaError, Unconfirmed};
use crate::revocable::Inside;
use crate::space::User;
use portcullis_addr::IovaRange;
use portcullis_platform::{Nanos, Platform, RawEvent};

impl<P: Platform> Lease<P> {
    /// As [`unmap`](Self::unmap), but leaves the confirmation to a later flush; the epoch that must be over, or `None` where it is confirmed already.
    pub(in crate::dma) fn unmap_later(&self, grant: &Grant) -> Result<Option<u64>, DmaError> {
        let mut parked = None;
        self.finish(grant, |space, user, pages| {
            parked = space.unmap_later(user, pages)?;
            Ok(())
        })?;
        if parked.is_some_and(|parked| parked.tell_timer)
            && let Some(timer) = &self.timer
        {
            timer.notify_all();
        }
        Ok(parked.map(|parked| parked.epoch))
    }

    /// Returns once hardware has forgotten what was parked for `grants`, given under this lease, of which the last was parked in `epoch`, and takes their addresses back.
    ///
    /// # Errors
    ///
    /// It did not confirm: all are parked as before.
    pub(in crate::dma) fn redeem<'a>(
        &self,
        grants: impl Iterator<Item = &'a Grant>,
        epoch: u64,
    ) -> Result<(), DmaError> {
        let mut pages = grants.filter_map(|grant| grant.pages(self.granule));
        let redeemed = match self.space.enter(&self.platform) {
            Some(inside) => self.with_user(&inside, |access, user| {
                access.space.await_flush(user, epoch)?;
                access.space.take_back_parked(user, pages.by_ref());
                Ok(())
            }),
            None => self.wait_for_end(),
        };
        redeemed.map_err(|unconfirmed: Unconfirmed| {
            let first: Option<IovaRange> = pages.next();
            first.map_or(DmaError::NotFlushed(unconfirmed), |range| unconfirmed.of(range))
        })
    }

    /// Has hardware forget everything that is parked.
    pub(in crate::dma) fn flush(&self) -> Result<(), DmaError> {
        let inside = self.space.enter(&self.platform).ok_or(DmaError::Revoked)?;
        self.with_user(&inside, |access, user| access.space.flush_parked(user))
    }

    /// When what is parked must be flushed at the latest; `None` where nothing is, or the lease has ended.
    pub(crate) fn flush_due(&self) -> Option<Nanos> {
        let inside = self.space.enter_again(&self.platform)?;
        inside.as_ref()?.holding.get()?.flush_due()
    }

    /// Flushes what is due at time `now`; whether there was anything. What hardware does not confirm is due again later.
    pub(crate) fn flush_if_due(&self, now: Nanos) -> bool {
        let due = self.flush_due().is_some_and(|due| due <= now);
        // Who redeems is told; reports count what was not confirmed.
        let _parked_as_before = due.then(|| self.flush());
        due
    }

    /// Calls `act` where the lease has mapped anything.
    fn with_user<E>(
        &self,
        inside: &Inside<'_, Option<Access<P>>, P>,
        act: impl FnOnce(&Access<P>, &User<'_, P>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(access) = &**inside else { return Ok(()) };
        let Some(holding) = access.holding.get() else { return Ok(()) };
        act(access, &User { platform: &self.platform, holding, slot: inside.slot() })
    }
}
