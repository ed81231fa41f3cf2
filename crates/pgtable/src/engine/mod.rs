//! The engine: walks, maps and unmaps the tree of any [`Format`].

mod map;
mod pages;
mod reclaim;
mod unmap;
mod walk;

use crate::{
    Flushed, Format, Geometry, IotlbGather, MapError, PageTable, TableConfig, TableError,
    TableParams, UnmapError,
};
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};
use pages::TakenOutPages;
use portcullis_addr::{Iova, IovaRange, PageSizes, PhysAddr, PhysRange, Prot};
use portcullis_platform::{Coherency, DmaMemory, PageLayout};

/// An I/O page table of format `F` in memory `M`. Dropping it frees every table page, also those that still wait for an invalidation: no hardware may
/// walk it any more.
///
/// All methods of [`PageTable`] run without a lock; see there for what may run at the same time.
pub struct IoPageTable<F: Format, M: DmaMemory> {
    memory: Arc<M>,
    format: F,
    geometry: Geometry,
    params: TableParams,
    root: PhysAddr,
    root_layout: PageLayout,
    table_layout: PageLayout,
    /// The last input and the last output address.
    last_input: u64,
    last_output: u64,
    /// A leaf's bits for each protection; 0 where the format cannot express it.
    leaf_bits: [u64; 64],
    /// Pages below the root, in the tree or taken out of it.
    pages: AtomicUsize,
    taken_out: TakenOutPages,
}

impl<F: Format, M: DmaMemory> IoPageTable<F, M> {
    /// An empty table in `memory`.
    ///
    /// # Errors
    ///
    /// [`TableError`]: the format has no such table, or there is no memory for its root.
    pub fn new(memory: &Arc<M>, params: TableParams) -> Result<Self, TableError> {
        let (format, geometry) = F::new(&params)?;
        let root_bytes = (geometry.root_entries() * 8).max(4096);
        let root_layout = PageLayout::naturally_aligned(root_bytes)
            .expect("a root has at least one entry, so it is not empty");
        let table_layout = PageLayout::naturally_aligned(geometry.table_bytes())
            .expect("a table has at least one entry, so it is not empty");
        let (root_layout, table_layout) = (
            root_layout.within_bits(params.output_bits),
            table_layout.within_bits(params.output_bits),
        );
        let root = memory.allocate(root_layout)?;
        memory.publish(root, root_bytes, Coherency::of(params.coherent));
        let leaf_bits = core::array::from_fn(|raw| leaf_bits(&format, raw));
        Ok(Self {
            memory: Arc::clone(memory),
            last_input: geometry.last_input(),
            format,
            geometry,
            params,
            root,
            root_layout,
            table_layout,
            last_output: u64::MAX >> (64 - u32::from(params.output_bits)),
            leaf_bits,
            pages: AtomicUsize::new(0),
            taken_out: TakenOutPages::new(),
        })
    }

    /// The shape of the tree.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn check_input(&self, iova: Iova, len: u64) -> bool {
        let last = iova.raw().checked_add(len - 1);
        last.is_some_and(|last| last <= self.last_input)
    }

    /// The part of an unmap's or a reclaim's arguments that can be wrong.
    fn check_range(&self, iova: Iova, len: u64) -> Result<(), UnmapError> {
        if (iova.raw() | len) & (self.params.granule.bytes() - 1) != 0 || len == 0 {
            return Err(UnmapError::Unaligned { iova, len });
        }
        if !self.check_input(iova, len) {
            return Err(UnmapError::OutOfRange { iova, len });
        }
        Ok(())
    }
}

impl<F: Format, M: DmaMemory> PageTable for IoPageTable<F, M> {
    fn config(&self) -> TableConfig {
        TableConfig {
            format: F::FORMAT,
            granule: self.params.granule,
            input_bits: self.params.input_bits,
            output_bits: self.params.output_bits,
            root: self.format.root(&self.geometry, self.root, self.geometry.levels()),
            coherent_walk: self.params.coherent,
        }
    }

    fn page_sizes(&self) -> PageSizes {
        self.geometry.leaf_sizes()
    }

    fn input_range(&self) -> IovaRange {
        // One byte short where all 2^64 bytes are addresses: a length cannot say more.
        let len = self.last_input.saturating_add(1);
        IovaRange::new(Iova::new(0), len).expect("a table translates at least one address")
    }

    fn map(&self, iova: Iova, phys: PhysAddr, len: u64, prot: Prot) -> Result<(), MapError> {
        self.map_range(iova, phys, len, prot)
    }

    fn map_segments(&self, iova: Iova, segments: &[PhysRange], prot: Prot) -> Result<(), MapError> {
        self.map_list(iova, segments, prot)
    }

    fn unmap(&self, iova: Iova, len: u64, gather: &mut IotlbGather) -> Result<(), UnmapError> {
        self.unmap_range(iova, len, gather)
    }

    fn reclaim(&self, iova: Iova, len: u64, gather: &mut IotlbGather) -> Result<usize, UnmapError> {
        self.check_range(iova, len)?;
        Ok(self.reclaim_range(iova.raw(), len, gather))
    }

    fn retire(&self, flushed: Flushed) {
        self.taken_out.retire(&flushed.0);
    }

    #[expect(unsafe_code, reason = "the contract is the trait's; nothing in here is unsafe itself")]
    unsafe fn free_retired(&self) -> usize {
        self.free_taken_out(self.taken_out.retired())
    }

    fn translate(&self, iova: Iova) -> Option<(PhysAddr, Prot)> {
        if iova.raw() > self.last_input {
            return None;
        }
        let slot = self.descend::<false>(iova.raw(), 0);
        self.format.is_leaf(slot.entry, slot.level).then(|| {
            let size = self.format.leaf_size(slot.entry, slot.level);
            let offset = iova.raw() & ((1 << size) - 1);
            let leaf = self.format.leaf_address(slot.entry, slot.level);
            (PhysAddr::new(leaf | offset), self.format.prot(slot.entry))
        })
    }

    fn table_pages(&self) -> usize {
        self.pages.load(Ordering::Relaxed) + 1
    }
}

impl<F: Format, M: DmaMemory> Drop for IoPageTable<F, M> {
    fn drop(&mut self) {
        self.free_taken_out(u64::MAX);
        self.free_below(self.root, self.top());
        self.memory.free(self.root, self.root_layout);
    }
}

impl<F: Format, M: DmaMemory> fmt::Debug for IoPageTable<F, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoPageTable")
            .field("config", &self.config())
            .field("table_pages", &self.table_pages())
            .finish_non_exhaustive()
    }
}

/// A leaf's bits for the protection with number `raw`; 0 where there is none.
fn leaf_bits<F: Format>(format: &F, raw: usize) -> u64 {
    let prot = u8::try_from(raw).ok().and_then(Prot::from_bits);
    prot.and_then(|prot| format.leaf_bits(prot)).unwrap_or(0)
}
