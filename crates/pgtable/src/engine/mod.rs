//! The engine: walks, maps and unmaps the tree of any [`Format`].

mod dump;
mod grow;
mod idle;
mod map;
mod pages;
mod protect;
mod reclaim;
mod unmap;
mod walk;

use crate::{
    Flushed, Format, Geometry, IotlbGather, MapError, PageTable, ProtectError, TableConfig,
    TableError, TableParams, UnmapError,
};
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use pages::TakenOutPages;
use portcullis_addr::{Iova, IovaRange, PageSizes, PhysAddr, PhysRange, Prot};
use portcullis_platform::{Coherency, DmaMemory, PageLayout};
use walk::{Slot, common_entry, common_level};

/// An I/O page table of format `F` in memory `M`. Dropping it frees every table page, also those that still wait for an invalidation: no hardware may
/// walk it any more.
///
/// All methods of [`PageTable`] run without a lock; see there for what may run at the same time.
pub struct IoPageTable<F: Format, M: DmaMemory> {
    memory: Arc<M>,
    format: F,
    geometry: Geometry,
    params: TableParams,
    /// The root's address and, in the low bits, the tree's shape. A tree that grows changes both in one store.
    top: AtomicU64,
    /// The last address that hardware is known to reach from its root.
    reach: AtomicU64,
    root_layout: PageLayout,
    table_layout: PageLayout,
    last_output: u64,
    /// What a length or an address of whole pages has no bits of.
    below_page: u64,
    /// The smallest leaves but the smallest pages.
    second_size: u64,
    /// What an entry one level above the last covers, where it can be a leaf; else 0.
    block: u64,
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
        let layout = |bytes| {
            let layout = PageLayout::naturally_aligned(bytes).expect("a table has an entry");
            layout.within_bits(params.output_bits)
        };
        let (root_layout, table_layout) =
            (layout(geometry.root_bytes()), layout(geometry.table_bytes()));
        let root = memory.allocate(root_layout)?;
        memory.publish(root, root_layout.size(), Coherency::of(params.coherent));
        let leaf_bits = core::array::from_fn(|raw| leaf_bits(&format, raw));
        Ok(Self {
            memory: Arc::clone(memory),
            top: AtomicU64::new(grow::pack(root, geometry.leaf_shift(), geometry.first_levels())),
            reach: AtomicU64::new(geometry.last_of(geometry.first_levels())),
            below_page: params.granule.bytes() - 1,
            second_size: geometry.second_size(),
            block: geometry.leaf_sizes().bitmap() & 1 << geometry.level(1).shift,
            format,
            geometry,
            params,
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

    /// Bytes of the smallest page.
    #[inline(always)]
    fn page(&self) -> u64 {
        self.below_page + 1
    }

    /// The last address that can be mapped at present.
    #[inline(always)]
    fn reach(&self) -> u64 {
        // Whoever sees the new reach sees the new root too.
        self.reach.load(Ordering::Acquire)
    }

    /// The leaf that covers `iova`.
    #[inline(always)]
    fn find(&self, iova: Iova) -> Option<Slot> {
        if iova.raw() > self.reach() {
            return None;
        }
        let slot = self.descend::<false>(iova.raw(), 0);
        self.format.is_leaf(slot.entry, slot.level).then_some(slot)
    }

    /// Where `iova` leads, if that is a leaf of one entry of the last two levels, in a tree of the shape that most have.
    #[inline(always)]
    fn look_up_common(&self, iova: Iova) -> Option<PhysAddr> {
        if iova.raw() > self.reach() {
            return None;
        }
        let above = self.memory.load64(self.slot::<1, true>(iova.raw())?);
        match self.format.settled_table(above, common_level(1)) {
            Some(table) => {
                let entry = common_entry(PhysAddr::new(table), iova.raw());
                self.inside_leaf::<0>(self.memory.load64(entry), iova)
            }
            None => self.inside_leaf::<1>(above, iova),
        }
    }

    /// Where the leaf `entry` of level `NUMBER` of such a tree leads for `iova`; `None` where it is none, or has several entries.
    #[inline(always)]
    fn inside_leaf<const NUMBER: u8>(&self, entry: u64, iova: Iova) -> Option<PhysAddr> {
        let level = common_level(NUMBER);
        let one =
            self.format.is_leaf(entry, level) && self.format.leaf_size(entry, level) == level.shift;
        let inside = iova.raw() & ((1 << level.shift) - 1);
        one.then(|| PhysAddr::new(self.format.leaf_address(entry, level) | inside))
    }

    #[inline(never)]
    fn look_up_anything(&self, iova: Iova) -> Option<PhysAddr> {
        self.find(iova).map(|slot| self.led_to(slot, iova))
    }

    /// Where `iova` leads by the leaf at `slot`, which covers it.
    #[inline(always)]
    fn led_to(&self, slot: Slot, iova: Iova) -> PhysAddr {
        let size = self.format.leaf_size(slot.entry, slot.level);
        let leaf = self.format.leaf_address(slot.entry, slot.level);
        PhysAddr::new(leaf | iova.raw() & ((1 << size) - 1))
    }

    /// The part of an unmap's or a reclaim's arguments that can be wrong.
    fn check_range(&self, iova: Iova, len: u64) -> Result<(), UnmapError> {
        if (iova.raw() | len) & self.below_page != 0 || len == 0 {
            return Err(UnmapError::Unaligned { iova, len });
        }
        let last = iova.raw().checked_add(len - 1);
        match last {
            Some(last) if last <= self.reach() => Ok(()),
            Some(last) if last <= self.geometry.last_input() => {
                let unmapped = Iova::new(iova.raw().max(self.reach().wrapping_add(1)));
                Err(UnmapError::NotMapped { iova: unmapped })
            }
            _ => Err(UnmapError::OutOfRange { iova, len }),
        }
    }
}

impl<F: Format, M: DmaMemory> PageTable for IoPageTable<F, M> {
    fn config(&self) -> TableConfig {
        TableConfig {
            format: F::FORMAT,
            granule: self.params.granule,
            input_bits: self.params.input_bits,
            output_bits: self.params.output_bits,
            root: self.root_for_hardware(self.top()),
            coherent_walk: self.params.coherent,
            force_snoop: self.params.force_snoop,
        }
    }

    fn page_sizes(&self) -> PageSizes {
        self.geometry.leaf_sizes()
    }

    fn input_range(&self) -> IovaRange {
        let last = self.geometry.last_input();
        // A length cannot say 2^64: then the range is a page short.
        let len = last.checked_add(1).unwrap_or(0u64.wrapping_sub(self.params.granule.bytes()));
        IovaRange::new(Iova::new(0), len).expect("a table translates at least one address")
    }

    #[inline(always)]
    fn map(&self, iova: Iova, phys: PhysAddr, len: u64, prot: Prot) -> Result<(), MapError> {
        self.map_range(iova, phys, len, prot)
    }

    fn map_segments(&self, iova: Iova, segments: &[PhysRange], prot: Prot) -> Result<(), MapError> {
        self.map_list(iova, segments, prot)
    }

    #[inline(always)]
    fn unmap(&self, iova: Iova, len: u64, gather: &mut IotlbGather) -> Result<(), UnmapError> {
        self.unmap_range(iova, len, gather)
    }

    fn protect(
        &self,
        iova: Iova,
        len: u64,
        prot: Prot,
        gather: &mut IotlbGather,
    ) -> Result<(), ProtectError> {
        self.protect_range(iova, len, prot, gather)
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_tree(f)
    }

    fn grow(&self, last: Iova) -> Result<TableConfig, MapError> {
        self.grow_to(last)?;
        Ok(self.config())
    }

    fn grown(&self, config: &TableConfig) -> bool {
        self.hardware_walks_from(config.root)
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
        let slot = self.find(iova)?;
        Some((self.led_to(slot, iova), self.format.prot(slot.entry)))
    }

    fn look_up(&self, iova: Iova) -> Option<PhysAddr> {
        match self.look_up_common(iova) {
            None => self.look_up_anything(iova),
            found => found,
        }
    }

    fn table_pages(&self) -> usize {
        self.pages.load(Ordering::Relaxed) + 1
    }
}

impl<F: Format, M: DmaMemory> Drop for IoPageTable<F, M> {
    fn drop(&mut self) {
        self.free_taken_out(u64::MAX);
        let top = self.top();
        self.free_below(top.root, top.level);
        self.memory.free(top.root, self.root_layout);
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
