//! Pages for bounced bytes, used again and again by one lease.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Deref;
use portcullis_platform::{
    AllocError, DmaMemory, DmaPages, Lock, LockLabel, Mutex, PageLayout, Platform,
};

/// The most that are kept: as many as Linux's network drivers complete at a time (`NAPI_POLL_WEIGHT`). 256 KiB a lease where pages are 4 KiB.
const MOST: usize = 64;

/// Single pages that nobody has now, zeroed; `None` once the lease has ended.
pub(super) struct PagePool<P: Platform> {
    page: PageLayout,
    free: Lock<P, Option<Vec<DmaPages<P::Memory>>>>,
}

impl<P: Platform> PagePool<P> {
    /// An empty pool of pages of layout `page`.
    pub(super) fn new(page: PageLayout) -> Self {
        let free = Some(Vec::with_capacity(MOST));
        Self { page, free: Mutex::new(LockLabel::new("bounce", 0), free) }
    }

    /// Zeroed pages of `layout`: from the pool where it is one page.
    pub(super) fn take(
        self: &Arc<Self>,
        memory: &Arc<P::Memory>,
        layout: PageLayout,
    ) -> Result<PooledPages<P>, AllocError> {
        let kept = (layout == self.page).then(|| self.free.lock().as_mut()?.pop()).flatten();
        let pages = match kept {
            Some(pages) => pages,
            None => DmaPages::new(memory, layout)?,
        };
        let one = layout == self.page;
        Ok(PooledPages { pages: Some(pages), pool: one.then(|| Arc::clone(self)) })
    }

    /// Frees what is kept, and keeps nothing any more.
    pub(super) fn close(&self) {
        let kept = self.free.lock().take();
        drop(kept);
    }

    /// Keeps `pages`, which are zeroed first: nobody finds in them what was there.
    fn keep(&self, pages: DmaPages<P::Memory>) {
        pages.memory().clear(pages.address(), pages.len() / 8);
        let mut free = self.free.lock();
        let room = free.as_mut().filter(|kept| kept.len() < MOST);
        let left = match room {
            Some(kept) => {
                kept.push(pages);
                None
            }
            None => Some(pages),
        };
        drop(free);
        drop(left);
    }
}

/// Pages that go back to their pool when they are dropped.
pub(super) struct PooledPages<P: Platform> {
    /// Always there until the drop.
    pages: Option<DmaPages<P::Memory>>,
    /// `None` where there are more than one.
    pool: Option<Arc<PagePool<P>>>,
}

impl<P: Platform> Deref for PooledPages<P> {
    type Target = DmaPages<P::Memory>;

    fn deref(&self) -> &Self::Target {
        self.pages.as_ref().expect("there until the drop")
    }
}

impl<P: Platform> Drop for PooledPages<P> {
    fn drop(&mut self) {
        if let (Some(pages), Some(pool)) = (self.pages.take(), &self.pool) {
            pool.keep(pages);
        }
    }
}
