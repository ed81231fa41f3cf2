//! What takes something away while somebody uses it, and what must be true at that moment.

use crate::ours::client::Lent;
use crate::ours::platform::{LabMemory, LabPlatform};
use crate::ours::stage::{Stage, node};
use portcullis::{BindError, Both, DmaError, DmaHandle, DmaMapping, MapFailure, OwnerError};
use portcullis_machine::Faults;
use portcullis_platform::{DmaPages, PageLayout, Platform};
use portcullis_testbed::Testbed;
use portcullis_threads::{reached, violation};

type Handle = DmaHandle<LabPlatform>;
type Page = DmaPages<LabMemory>;

/// Whoever claims groups from outside the kernel.
const OUTSIDE: u64 = 1;

impl Stage {
    /// Takes client `index`'s driver away and binds another one. In between the device must not reach what the first one lent it.
    pub(crate) fn rebind(&self, index: usize) {
        let client = &self.clients[index];
        match self.sub.unbind(&client.device) {
            Ok(()) => {
                reached("unbound");
                self.the_last_driver_is_shut_out(index, "P4");
            }
            Err(BindError::Unconfirmed(error)) => {
                violation("P8", format!("the IOMMU answers, and unbinding says: {error}"));
            }
            Err(_) => reached("nothing to unbind"),
        }
        self.bind(index);
    }

    fn the_last_driver_is_shut_out(&self, index: usize, property: &'static str) {
        let endpoint = &self.clients[index].endpoint;
        if endpoint.latest().is_some_and(|address| endpoint.writes(address, 0)) {
            violation(
                property,
                format!("client {index} was unbound and reaches its last driver's memory"),
            );
        }
    }

    /// Binds client `index` and has it map so many buffers, one after the other, the last of which it keeps as long as the handle if it is `kept`.
    pub(crate) fn warm_up(&self, index: usize, buffers: usize, kept: bool) {
        self.bind(index);
        let Some(handle) = self.clients[index].endpoint.kept_handle() else { return };
        for number in 0..buffers {
            let buffer = handle.allocate(4096).expect("memory is left");
            if kept && number + 1 == buffers {
                self.clients[index].endpoint.keep(buffer);
            }
        }
    }

    /// Maps a page through the handle that client `index`'s driver gave away, and unmaps it again: afterwards the device must not reach it.
    pub(crate) fn use_handle(&self, index: usize) {
        let Some((handle, mapping, lent)) = self.map_a_page(index) else { return };
        match handle.unmap(mapping) {
            Ok(_pages) if self.clients[index].endpoint.still_reaches(lent) => {
                violation("P3", format!("client {index} reaches memory that was unmapped"));
            }
            Ok(_pages) => reached("a handle was used"),
            Err(failure) => violation("P8", format!("unmap: {failure:?}")),
        }
    }

    /// The same with a lazy unmap, after the device has used the mapping, so that hardware has it cached: from the moment at which the buffer comes back the device must not reach it.
    pub(crate) fn use_handle_lazily(&self, index: usize) {
        let endpoint = &self.clients[index].endpoint;
        let Some((handle, mapping, lent)) = self.map_a_page(index) else { return };
        if endpoint.still_reaches(lent) {
            reached("the device used a mapping");
        }
        let parked = match handle.unmap_later(mapping) {
            Ok(parked) => parked,
            Err(failure) => return violation("P8", format!("lazy unmap: {failure:?}")),
        };
        match handle.redeem(parked) {
            Ok(_pages) if endpoint.still_reaches(lent) => {
                violation("P4", format!("client {index} reaches memory that came back"));
            }
            Ok(_pages) => reached("a handle was used"),
            Err(failure) => violation("P8", format!("redeem: {failure:?}")),
        }
    }

    /// Maps a page through the handle that client `index`'s driver gave away; nothing where there is none, or it is void.
    fn map_a_page(&self, index: usize) -> Option<(Handle, DmaMapping<Page, Both>, Lent)> {
        let Some(handle) = self.clients[index].endpoint.kept_handle() else {
            reached("no handle to use");
            return None;
        };
        let layout = PageLayout::new(4096, 4096).expect("a page");
        let pages = DmaPages::new(self.bed.platform().memory(), layout).expect("memory is left");
        let frame = pages.address();
        match handle.map(pages, Both) {
            Ok(mapping) => {
                let lent = Lent { address: mapping.device_address(), frame };
                return Some((handle, mapping, lent));
            }
            Err(MapFailure::Refused { error: DmaError::Revoked, .. }) => {
                reached("a handle was refused because its driver is gone");
            }
            Err(failure) => violation("P7", format!("map: {failure:?}")),
        }
        None
    }

    /// Has the device of client `index`, which has no driver, try to reach memory.
    pub(crate) fn rogue(&self, index: usize) {
        if self.clients[index].endpoint.escapes() {
            violation("P2", format!("client {index} reaches memory without a driver"));
        }
        reached("a device did DMA that nobody asked for");
    }

    /// Claims the group of client `index` for an owner outside the kernel and lets it go again.
    pub(crate) fn claim(&self, index: usize) {
        let client = &self.clients[index];
        match self.sub.claim_group(&client.device, OUTSIDE) {
            Ok(()) => {
                if client.endpoint.escapes() {
                    violation(
                        "P2",
                        format!("client {index} reaches memory while its group is claimed"),
                    );
                }
                reached("a group was claimed");
                let released = self.sub.release_group(&client.device, OUTSIDE);
                if let Err(error) = released {
                    violation("P7", format!("release of the group: {error}"));
                }
            }
            Err(OwnerError::Busy) => reached("a claim was refused"),
            Err(error) => violation("P7", format!("claim: {error}")),
        }
    }

    /// Unbinds client `index`, which is bound, while no command queue in front of it moves: the answer must not be "done" as long as the device reaches its driver's memory.
    /// Then the queues move again; [`make_good`](Self::make_good) is for when everything has come to rest.
    pub(crate) fn unbind_unanswered(&self, index: usize) {
        let client = &self.clients[index];
        self.inject(&Faults::none().freeze_after(0));
        match self.sub.unbind(&client.device) {
            Ok(()) => self.the_last_driver_is_shut_out(index, "P2"),
            Err(BindError::Unconfirmed(_)) => {
                reached("an unbind was not confirmed");
                if self.sub.counts().quarantined == 0 {
                    violation("P4", "nothing counts as quarantined");
                }
            }
            Err(_) => reached("nothing to unbind"),
        }
        self.inject(&Faults::none());
    }

    /// Has every IOMMU confirm what it did not confirm, has client `index`'s last driver take back what it could not, and binds the next one.
    ///
    /// # Errors
    ///
    /// What is still not confirmed.
    pub(crate) fn make_good(&self, index: usize) -> Result<(), String> {
        for iommu in (0..self.iommus()).map(node) {
            let confirmed = self.sub.reconfirm(iommu);
            confirmed.map_err(|error| format!("the queue moves again, and yet: {error}"))?;
        }
        let recovered = self.clients[index].endpoint.recover();
        recovered
            .map_err(|error| format!("all is confirmed, and a buffer is not back: {error}"))?;
        self.bind(index);
        Ok(())
    }

    /// Breaks every IOMMU in these ways.
    fn inject(&self, faults: &Faults) {
        for index in 0..self.iommus() {
            self.family.inject(&self.bed, node(index), faults.clone());
        }
    }
}
