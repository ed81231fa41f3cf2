//! The engine: walks, maps and unmaps the tree of any [`Format`].

mod chain;
mod map;
mod unmap;

use crate::{
    Flushed, Format, Geometry, IotlbGather, MapError, PageTable, TableConfig, TableError,
    TableParams, UnmapError,
};
use alloc::sync::Arc;
use chain::{END, FreeChain};
use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use portcullis_addr::{Iova, IovaRange, PageSizes, PhysAddr, Prot};
use portcullis_platform::{AllocError, Coherency, DmaMemory, PageLayout};

/// An I/O page table of format `F` in memory `M`. Dropping it frees every table page, the quarantined ones too: no hardware may walk it any more.
///
/// All methods of [`PageTable`] run without a lock; see there for what may run at the same time.
pub struct IoPageTable<F: Format, M: DmaMemory> {
    memory: Arc<M>,
    geometry: Geometry,
    config: TableConfig,
    root_layout: PageLayout,
    table_layout: PageLayout,
    /// The first input address that is too wide, and the first output address.
    input_end: u64,
    output_end: u64,
    /// A leaf's bits for each protection; 0 where the format cannot express it.
    leaf_bits: [u64; 64],
    /// Pages below the root, in the tree or waiting for an invalidation.
    pages: AtomicUsize,
    /// First page of the quarantine, a list through the first words. Pages are only added, until the drop.
    quarantined: AtomicU64,
    format: PhantomData<fn() -> F>,
}

/// One entry of the tree, as a walk found it.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// Where the entry stands.
    address: PhysAddr,
    entry: u64,
    /// log2 of the bytes that it covers.
    shift: u32,
}

impl<F: Format, M: DmaMemory> IoPageTable<F, M> {
    /// An empty table in `memory`.
    ///
    /// # Errors
    ///
    /// [`TableError`]: the format has no such table, or there is no memory for its root.
    pub fn new(memory: &Arc<M>, params: TableParams) -> Result<Self, TableError> {
        let geometry = F::geometry(&params)?;
        let root_bytes = (geometry.root_entries() * 8).max(4096);
        let root_layout = PageLayout::naturally_aligned(root_bytes)
            .expect("a root has at least one entry, so it is not empty");
        let table_layout = PageLayout::naturally_aligned(geometry.table_bytes())
            .expect("a table has at least one entry, so it is not empty");
        let root = allocate(&**memory, root_layout, params.output_bits)?;
        memory.publish(root, root_bytes, Coherency::of(params.coherent));
        let config = TableConfig {
            format: F::FORMAT,
            granule: params.granule,
            input_bits: params.input_bits,
            output_bits: params.output_bits,
            start_level: geometry.start_level(),
            root,
            coherent_walk: params.coherent,
        };
        Ok(Self {
            memory: Arc::clone(memory),
            geometry,
            config,
            root_layout,
            table_layout,
            input_end: 1 << params.input_bits,
            output_end: 1 << params.output_bits,
            leaf_bits: core::array::from_fn(|raw| leaf_bits::<F>(raw)),
            pages: AtomicUsize::new(0),
            quarantined: AtomicU64::new(END),
            format: PhantomData,
        })
    }

    /// The shape of the tree.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The entry that decides about `iova`, but none below the level with shift `deepest`. `SETTLE`: publish table entries on the way whose
    /// publication by another thread is not known to be complete, so that hardware that does not snoop follows the same way.
    #[inline(always)]
    fn descend<const SETTLE: bool>(&self, iova: u64, deepest: u32) -> Slot {
        match self.geometry.leaf_shift() {
            12 => self.walk::<12, SETTLE>(iova, deepest),
            14 => self.walk::<14, SETTLE>(iova, deepest),
            _ => self.walk::<16, SETTLE>(iova, deepest),
        }
    }

    /// The walk for a granule of 2^`LEAF` bytes, one step a level written out, so that every shift is a constant.
    #[inline(always)]
    fn walk<const LEAF: u32, const SETTLE: bool>(&self, iova: u64, deepest: u32) -> Slot {
        // Copies, because each acquire load would have the fields read again.
        let (memory, root_shift) = (&*self.memory, self.geometry.root_shift());
        let mut table = self.config.root.raw();
        let mut mask = self.geometry.root_entries() as u64 - 1;
        let below_root = (1u64 << (LEAF - 3)) - 1;
        macro_rules! step {
            ($above:literal) => {
                let shift = LEAF + $above * (LEAF - 3);
                if shift <= root_shift {
                    let address = PhysAddr::new(table + ((iova >> shift) & mask) * 8);
                    let entry = memory.load64(address);
                    if shift == deepest || !F::is_table(entry) {
                        return Slot { address, entry, shift };
                    }
                    if SETTLE && entry & F::SOFTWARE_BIT == 0 {
                        self.settle(address, entry);
                    }
                    table = F::address(entry);
                    mask = below_root;
                }
            };
        }
        step!(3);
        step!(2);
        step!(1);
        let address = PhysAddr::new(table + ((iova >> LEAF) & mask) * 8);
        Slot { address, entry: memory.load64(address), shift: LEAF }
    }

    /// Makes sure that a table entry has reached hardware, and remembers it in the entry.
    #[cold]
    fn settle(&self, address: PhysAddr, entry: u64) {
        self.publish(address, 8);
        // A loser finds that another thread has done the same: nothing is left to do.
        let _ = self.memory.compare_exchange64(address, entry, entry | F::SOFTWARE_BIT);
    }

    /// Shows stores to whoever walks this table.
    fn publish(&self, address: PhysAddr, len: usize) {
        self.memory.publish(address, len, Coherency::of(self.config.coherent_walk));
    }

    fn is_last(&self, shift: u32) -> bool {
        shift == self.geometry.leaf_shift()
    }

    /// The entry `offset` places behind `first` in the same table.
    fn load_at(&self, first: PhysAddr, offset: usize) -> u64 {
        self.memory.load64(entry_at(first, offset))
    }

    /// Clears `count` entries from `first` on, and publishes them as one run.
    fn clear_run(&self, first: PhysAddr, count: usize) {
        for offset in 0..count {
            self.memory.store64(entry_at(first, offset), 0);
        }
        self.publish(first, count * 8);
    }

    fn check_input(&self, iova: Iova, len: u64) -> bool {
        iova.raw().checked_add(len).is_some_and(|end| end <= self.input_end)
    }

    /// The part of an unmap's or a reclaim's arguments that can be wrong.
    fn check_range(&self, iova: Iova, len: u64) -> Result<(), UnmapError> {
        if (iova.raw() | len) & (self.config.granule.bytes() - 1) != 0 || len == 0 {
            return Err(UnmapError::Unaligned { iova, len });
        }
        if !self.check_input(iova, len) {
            return Err(UnmapError::OutOfRange { iova, len });
        }
        Ok(())
    }

    /// A zeroed page for a table, which nobody can see yet.
    fn allocate_table(&self) -> Result<PhysAddr, AllocError> {
        allocate(&*self.memory, self.table_layout, self.config.output_bits)
    }

    /// Frees the tables below the table at `table`, whose entries have `shift`. Only for a tree that nobody walks any more.
    fn free_below(&self, table: PhysAddr, shift: u32) {
        if self.is_last(shift) {
            return;
        }
        for index in 0..self.geometry.entries(shift) {
            let entry = self.load_at(table, index);
            if F::is_table(entry) {
                let child = PhysAddr::new(F::address(entry));
                self.free_below(child, shift - self.geometry.index_bits());
                self.memory.free(child, self.table_layout);
            }
        }
    }

    fn chain(&self) -> FreeChain<'_, F, M> {
        FreeChain::new(self)
    }
}

impl<F: Format, M: DmaMemory> PageTable for IoPageTable<F, M> {
    fn config(&self) -> TableConfig {
        self.config
    }

    fn page_sizes(&self) -> PageSizes {
        self.geometry.leaf_sizes()
    }

    fn input_range(&self) -> IovaRange {
        IovaRange::new(Iova::new(0), 1 << self.config.input_bits)
            .expect("a table translates at least one address")
    }

    fn map(&self, iova: Iova, phys: PhysAddr, len: u64, prot: Prot) -> Result<(), MapError> {
        self.map_range(iova, phys, len, prot)
    }

    fn unmap(&self, iova: Iova, len: u64, gather: &mut IotlbGather) -> Result<(), UnmapError> {
        self.unmap_range(iova, len, gather)
    }

    fn reclaim(&self, iova: Iova, len: u64, gather: &mut IotlbGather) -> Result<usize, UnmapError> {
        self.check_range(iova, len)?;
        Ok(self.reclaim_range(iova.raw(), len, gather))
    }

    fn retire(&self, flushed: Flushed) {
        self.free_chain(&flushed.0);
    }

    fn quarantine(&self, gather: &mut IotlbGather) {
        self.keep_chain(&gather.confirm().0);
    }

    fn translate(&self, iova: Iova) -> Option<(PhysAddr, Prot)> {
        if !self.check_input(iova, 1) {
            return None;
        }
        let slot = self.descend::<false>(iova.raw(), self.geometry.leaf_shift());
        F::is_leaf(slot.entry, self.is_last(slot.shift)).then(|| {
            let offset = iova.raw() & ((1 << slot.shift) - 1);
            (PhysAddr::new(F::address(slot.entry) | offset), F::prot(slot.entry))
        })
    }

    fn table_pages(&self) -> usize {
        self.pages.load(Ordering::Relaxed) + 1
    }
}

impl<F: Format, M: DmaMemory> Drop for IoPageTable<F, M> {
    fn drop(&mut self) {
        self.free_quarantine();
        self.free_below(self.config.root, self.geometry.root_shift());
        self.memory.free(self.config.root, self.root_layout);
    }
}

impl<F: Format, M: DmaMemory> fmt::Debug for IoPageTable<F, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoPageTable")
            .field("config", &self.config)
            .field("table_pages", &self.table_pages())
            .finish_non_exhaustive()
    }
}

/// A leaf's bits for the protection with number `raw`; 0 where there is none. No leaf's bits are 0: every format marks at least one permission.
fn leaf_bits<F: Format>(raw: usize) -> u64 {
    let prot = u8::try_from(raw).ok().and_then(Prot::from_bits);
    prot.and_then(F::leaf_bits).unwrap_or(0)
}

fn entry_at(first: PhysAddr, offset: usize) -> PhysAddr {
    PhysAddr::new(first.raw() + offset as u64 * 8)
}

/// Memory for a table that a walker with `output_bits` can reach.
fn allocate<M: DmaMemory>(
    memory: &M,
    layout: PageLayout,
    output_bits: u8,
) -> Result<PhysAddr, AllocError> {
    let page = memory.allocate(layout)?;
    let end = page.raw().checked_add(layout.size() as u64);
    if end.is_some_and(|end| end <= 1 << output_bits) {
        return Ok(page);
    }
    memory.free(page, layout);
    Err(AllocError { layout })
}
