//! The contestants. Every one is called out of line: ours through the `PageTable` trait object that a domain holds, the others through functions
//! that are not inlined.

use aarch64_paging::descriptor::{El1Attributes, PhysicalAddress};
use aarch64_paging::paging::{
    Constraints, El1And0, MemoryRegion, PageTable as ArmTable, RootTable, Translation, VaRange,
};
use memory_addr::{PhysAddr as MaPhys, VirtAddr as MaVirt};
use page_table_multiarch::x86_64::X64PageTable;
use page_table_multiarch::{MappingFlags, PageSize as MaSize, PagingHandler};
use portcullis_bench::pool;
use portcullis_bench::tables::Table;
use std::ptr::NonNull;
use x86_64::structures::paging::{
    FrameAllocator, Mapper, OffsetPageTable, Page, PageTable as X86Table, PageTableFlags,
    PhysFrame, Size2MiB, Size4KiB, Translate,
};

const BLOCK: u64 = 2 << 20;

pub struct ArmPages(pub usize);

impl Translation<El1Attributes> for ArmPages {
    fn allocate_table(&mut self) -> (NonNull<ArmTable<El1Attributes>>, PhysicalAddress) {
        let page = pool::take().expect("the pool is large enough");
        (self.physical_to_virtual(PhysicalAddress(page)), PhysicalAddress(page))
    }

    unsafe fn deallocate_table(&mut self, table: NonNull<ArmTable<El1Attributes>>) {
        pool::give((table.as_ptr() as usize).wrapping_sub(self.0));
    }

    fn physical_to_virtual(&self, pa: PhysicalAddress) -> NonNull<ArmTable<El1Attributes>> {
        NonNull::new(self.0.wrapping_add(pa.0) as *mut _).expect("inside the pool")
    }
}

pub struct Aarch64Paging(RootTable<El1And0, ArmPages>);

impl Aarch64Paging {
    pub fn new() -> Self {
        Self(RootTable::with_va_range(ArmPages(pool::offset()), 0, El1And0, VaRange::Lower))
    }
}

impl Table for Aarch64Paging {
    fn name(&self) -> &'static str {
        "aarch64-paging"
    }

    #[inline(never)]
    fn map(&mut self, iova: u64, phys: u64, len: u64) {
        let flags = El1Attributes::VALID
            | El1Attributes::ACCESSED
            | El1Attributes::NON_GLOBAL
            | El1Attributes::ATTRIBUTE_INDEX_1
            | El1Attributes::INNER_SHAREABLE;
        let region = MemoryRegion::new(iova as usize, (iova + len) as usize);
        let phys = PhysicalAddress(phys as usize);
        self.0.map_range(&region, phys, flags, Constraints::NO_CONTIGUOUS_HINT).expect("free");
    }

    #[inline(never)]
    fn unmap(&mut self, iova: u64, len: u64) {
        let region = MemoryRegion::new(iova as usize, (iova + len) as usize);
        let nothing = El1Attributes::empty();
        self.0
            .map_range(&region, PhysicalAddress(0), nothing, Constraints::NO_CONTIGUOUS_HINT)
            .expect("in range");
    }

    #[inline(never)]
    fn phys(&mut self, iova: u64) -> u64 {
        let page = (iova & !0xfff) as usize;
        let mut found = 0;
        let mut note =
            |range: &MemoryRegion, entry: &aarch64_paging::descriptor::Descriptor<_>, _| {
                if entry.is_valid() {
                    found = entry.output_address().0 as u64 + (page - range.start().0) as u64;
                }
                Ok(())
            };
        self.0.walk_range(&MemoryRegion::new(page, page + 4096), &mut note).expect("in range");
        found + (iova & 0xfff)
    }
}

struct MaPages;

impl PagingHandler for MaPages {
    fn alloc_frames(num: usize, _align: usize) -> Option<MaPhys> {
        assert_eq!(num, 1);
        pool::take().map(MaPhys::from)
    }

    fn dealloc_frames(paddr: MaPhys, _num: usize) {
        pool::give(paddr.as_usize());
    }

    fn phys_to_virt(paddr: MaPhys) -> MaVirt {
        // The pool's place is known once it was used; the load is what any kernel with a run-time linear map pays.
        MaVirt::from(
            OFFSET.load(std::sync::atomic::Ordering::Relaxed).wrapping_add(paddr.as_usize()),
        )
    }
}

static OFFSET: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

pub struct Multiarch(X64PageTable<MaPages>);

impl Multiarch {
    pub fn new() -> Self {
        OFFSET.store(pool::offset(), std::sync::atomic::Ordering::Relaxed);
        Self(X64PageTable::try_new().expect("the pool is large enough"))
    }

    /// Maps a range by the largest leaves that fit.
    #[cfg(test)]
    pub fn map_all(&mut self, iova: u64, phys: u64, len: u64, flags: MappingFlags) {
        let at = |page: MaVirt| MaPhys::from(phys as usize + (page.as_usize() - iova as usize));
        let start = MaVirt::from(iova as usize);
        self.0.cursor().map_region(start, at, len as usize, flags, true).expect("free");
    }

    /// Where the root is.
    #[cfg(test)]
    pub fn root(&self) -> u64 {
        self.0.root_paddr().as_usize() as u64
    }
}

impl Table for Multiarch {
    fn name(&self) -> &'static str {
        "page_table_multiarch"
    }

    #[inline(never)]
    fn map(&mut self, iova: u64, phys: u64, len: u64) {
        let flags = MappingFlags::READ | MappingFlags::WRITE;
        let mut cursor = self.0.cursor();
        let iova = MaVirt::from(iova as usize);
        let phys = MaPhys::from(phys as usize);
        if len == 4096 {
            cursor.map(iova, phys, MaSize::Size4K, flags).expect("free");
        } else if len == BLOCK
            && iova.as_usize() as u64 % BLOCK == 0
            && phys.as_usize() as u64 % BLOCK == 0
        {
            cursor.map(iova, phys, MaSize::Size2M, flags).expect("free");
        } else {
            let at =
                |page: MaVirt| MaPhys::from(phys.as_usize() + (page.as_usize() - iova.as_usize()));
            cursor.map_region(iova, at, len as usize, flags, true).expect("free");
        }
    }

    #[inline(never)]
    fn unmap(&mut self, iova: u64, len: u64) {
        let mut cursor = self.0.cursor();
        let iova = MaVirt::from(iova as usize);
        if len == 4096 || len == BLOCK {
            let (_, _, size) = cursor.unmap(iova).expect("mapped");
            if size as u64 == len {
                return;
            }
            let rest = MaVirt::from(iova.as_usize() + size as usize);
            return cursor.unmap_region(rest, len as usize - size as usize).expect("mapped");
        }
        cursor.unmap_region(iova, len as usize).expect("mapped");
    }

    #[inline(never)]
    fn phys(&mut self, iova: u64) -> u64 {
        self.0.query(MaVirt::from(iova as usize)).map_or(0, |(phys, _, _)| phys.as_usize() as u64)
    }
}

/// The crate does not free tables: the pages that it took are given back on drop.
pub struct X86(OffsetPageTable<'static>, X86Pages);

struct X86Pages(Vec<usize>);

impl Drop for X86 {
    fn drop(&mut self) {
        self.1.0.drain(..).for_each(pool::give);
    }
}

// SAFETY: the pool hands a page out once.
unsafe impl FrameAllocator<Size4KiB> for X86Pages {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        let page = pool::take()?;
        self.0.push(page);
        Some(PhysFrame::containing_address(x86_64::PhysAddr::new(page as u64)))
    }
}

impl X86 {
    pub fn new() -> Self {
        let root = pool::take().expect("the pool is large enough");
        let offset = pool::offset();
        // SAFETY: the root is a zeroed page that nobody else has, and the offset leads into the pool.
        unsafe {
            let table = &mut *(offset.wrapping_add(root) as *mut X86Table);
            let table = OffsetPageTable::new(table, x86_64::VirtAddr::new(offset as u64));
            Self(table, X86Pages(vec![root]))
        }
    }
}

impl Table for X86 {
    fn name(&self) -> &'static str {
        "x86_64"
    }

    #[inline(never)]
    fn map(&mut self, iova: u64, phys: u64, len: u64) {
        let flags = PageTableFlags::PRESENT | PageTableFlags::WRITABLE;
        if len == BLOCK && (iova | phys) % BLOCK == 0 {
            let page = Page::<Size2MiB>::containing_address(x86_64::VirtAddr::new(iova));
            let frame = PhysFrame::containing_address(x86_64::PhysAddr::new(phys));
            // SAFETY: the table is walked by nobody.
            unsafe { self.0.map_to(page, frame, flags, &mut self.1).expect("free").ignore() };
            return;
        }
        for offset in (0..len).step_by(4096) {
            let page = Page::<Size4KiB>::containing_address(x86_64::VirtAddr::new(iova + offset));
            let frame = PhysFrame::containing_address(x86_64::PhysAddr::new(phys + offset));
            // SAFETY: the table is walked by nobody.
            unsafe { self.0.map_to(page, frame, flags, &mut self.1).expect("free").ignore() };
        }
    }

    #[inline(never)]
    fn unmap(&mut self, iova: u64, len: u64) {
        if len == BLOCK && iova % BLOCK == 0 {
            let page = Page::<Size2MiB>::containing_address(x86_64::VirtAddr::new(iova));
            if let Ok((_, flush)) = self.0.unmap(page) {
                return flush.ignore();
            }
        }
        for offset in (0..len).step_by(4096) {
            let page = Page::<Size4KiB>::containing_address(x86_64::VirtAddr::new(iova + offset));
            self.0.unmap(page).expect("mapped").1.ignore();
        }
    }

    #[inline(never)]
    fn phys(&mut self, iova: u64) -> u64 {
        self.0.translate_addr(x86_64::VirtAddr::new(iova)).map_or(0, |phys| phys.as_u64())
    }
}
