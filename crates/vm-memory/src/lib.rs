//! A page table of [`portcullis-pgtable`](portcullis_pgtable) as the [`Iommu`] of a guest memory of [`vm-memory`](vm_memory) (0.18): a VMM's device back ends then see guest memory through the addresses
//! that the guest's IOMMU gives its devices.
//!
//! ```
//! use portcullis_addr::{Iova, PageSize, PageSizes, PhysAddr, Prot};
//! use portcullis_pgtable::{ArmLpaeStage1, IoPageTable, IotlbGather, PageTable, TableParams};
//! use portcullis_platform::host::HostMemory;
//! use portcullis_vm_memory::TableIommu;
//! use std::sync::Arc;
//! use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, IommuMemory};
//!
//! let params = TableParams {
//!     granule: PageSize::SIZE_4K,
//!     input_bits: 48,
//!     output_bits: 48,
//!     leaf_sizes: PageSizes::ALL,
//!     force_snoop: false,
//!     coherent: true,
//! };
//! let table = IoPageTable::<ArmLpaeStage1, _>::new(&Arc::new(HostMemory::default()), params)?;
//! let table: Arc<dyn PageTable> = Arc::new(table);
//! // The guest's own memory: 1 MiB at 0.
//! let guest = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 1 << 20)])?;
//! let seen = IommuMemory::new(guest, TableIommu::new(Arc::clone(&table)), true, Default::default());
//!
//! // Nothing is mapped: the back end reaches nothing.
//! assert!(seen.write_obj(7u32, GuestAddress(0xf000_0000)).is_err());
//! // The guest maps a page; the VMM's virtio-iommu or SMMU model is told and enters it.
//! table.map(Iova::new(0xf000_0000), PhysAddr::new(0x2000), 0x1000, Prot::READ | Prot::WRITE)?;
//! seen.write_obj(7u32, GuestAddress(0xf000_0010))?;
//! assert_eq!(seen.read_obj::<u32>(GuestAddress(0xf000_0010))?, 7);
//! // An unmap is complete only when the cached translation is forgotten as well.
//! let mut debt = IotlbGather::new();
//! table.unmap(Iova::new(0xf000_0000), 0x1000, &mut debt)?;
//! seen.iommu().forget(Iova::new(0xf000_0000), 0x1000);
//! assert!(seen.read_obj::<u32>(GuestAddress(0xf000_0010)).is_err());
//! # drop(debt.confirm());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Scope: [`TableIommu`]. Not supported: telling the kernel's vhost back ends (they have an IOTLB of their own); memory write tracking beyond what `IommuMemory` does.
//!
//! Dependency rule: uses `addr` and `pgtable`. With `std`; no `unsafe`.

use portcullis_addr::{Iova, Prot};
use portcullis_pgtable::PageTable;
use std::fmt::Debug;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use vm_memory::iommu::{Error, IotlbIterator, IovaRange};
use vm_memory::{GuestAddress, Iommu, Iotlb, Permissions};

/// The smallest unit that is cached: no table of this project maps less.
const PAGE: u64 = 4096;

/// Translates by a page table, and remembers what it found until it is told to [`forget`](Self::forget).
#[derive(Debug)]
pub struct TableIommu {
    table: Arc<dyn PageTable>,
    iotlb: RwLock<Iotlb>,
}

impl TableIommu {
    /// Translates by `table`, which others may change meanwhile.
    pub fn new(table: Arc<dyn PageTable>) -> Self {
        Self { table, iotlb: RwLock::new(Iotlb::new()) }
    }

    /// Forgets what is remembered of `len` bytes from `iova` on. Whoever takes a mapping away, or changes where it leads or what is permitted, calls this afterwards and before the memory gets
    /// another use; a range that passes 2^64 ends there.
    pub fn forget(&self, iova: Iova, len: u64) {
        let (first, beyond) = pages(iova.raw(), len);
        if first == beyond {
            return;
        }
        let length = usize::try_from(beyond - first).unwrap_or(usize::MAX);
        self.write().invalidate_mapping(GuestAddress(first), length);
    }

    /// Forgets everything.
    pub fn forget_all(&self) {
        self.write().invalidate_all();
    }

    /// A thread that panicked has left whole entries only.
    fn write(&self) -> RwLockWriteGuard<'_, Iotlb> {
        self.iotlb.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> RwLockReadGuard<'_, Iotlb> {
        self.iotlb.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the table for the pages of `range`. The cache is locked meanwhile, so who changes the table and then forgets cannot come between the reading and the remembering.
    fn fill(&self, iotlb: &mut Iotlb, range: &IovaRange) -> Result<(), Error> {
        let (first, beyond) = pages(range.base.0, range.length as u64);
        for page in (first..beyond).step_by(PAGE as usize) {
            let Some((phys, prot)) = self.table.translate(Iova::new(page)) else { continue };
            let permissions = match (prot.contains(Prot::READ), prot.contains(Prot::WRITE)) {
                (true, true) => Permissions::ReadWrite,
                (true, false) => Permissions::Read,
                (false, true) => Permissions::Write,
                (false, false) => Permissions::No,
            };
            iotlb.set_mapping(
                GuestAddress(page),
                GuestAddress(phys.raw()),
                PAGE as usize,
                permissions,
            )?;
        }
        Ok(())
    }
}

/// The first page of a range, and the first one behind it; the last page of 2^64 is left out, since its end has no number.
fn pages(first: u64, len: u64) -> (u64, u64) {
    let last = first.saturating_add(len.saturating_sub(1));
    let beyond = (last / PAGE).saturating_add(u64::from(len > 0)).saturating_mul(PAGE);
    let first = first / PAGE * PAGE;
    (first, beyond.min(u64::MAX / PAGE * PAGE).max(first))
}

impl Iommu for TableIommu {
    type IotlbGuard<'a> = RwLockReadGuard<'a, Iotlb>;

    fn translate(
        &self,
        iova: GuestAddress,
        length: usize,
        access: Permissions,
    ) -> Result<IotlbIterator<Self::IotlbGuard<'_>>, Error> {
        let refused = |base, length, reason: &str| {
            let iova_range = IovaRange { base, length };
            Err(Error::CannotResolve { iova_range, reason: reason.to_owned() })
        };
        if iova.0.checked_add(length as u64).is_none() {
            return refused(iova, length, "it passes the end of the address space");
        }
        let missing = match Iotlb::lookup(self.read(), iova, length, access) {
            Ok(found) => return Ok(found),
            Err(fails) => fails.misses.into_iter().chain(fails.access_fails),
        };
        let mut iotlb = self.write();
        for range in missing {
            // What is remembered with less permission may have got more since.
            self.fill(&mut iotlb, &range)?;
        }
        drop(iotlb);
        match Iotlb::lookup(self.read(), iova, length, access) {
            Ok(found) => Ok(found),
            Err(fails) => match (fails.misses.first(), fails.access_fails.first()) {
                (Some(miss), _) => refused(miss.base, miss.length, "it is not mapped"),
                (None, Some(fail)) => {
                    refused(fail.base, fail.length, "its mapping does not permit the access")
                }
                (None, None) => refused(iova, length, "it is not mapped"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_addr::{PageSize, PageSizes, PhysAddr};
    use portcullis_pgtable::{ArmLpaeStage1, IoPageTable, IotlbGather, TableParams};
    use portcullis_platform::host::HostMemory;

    fn iommu() -> (Arc<dyn PageTable>, TableIommu) {
        let params = TableParams {
            granule: PageSize::SIZE_4K,
            input_bits: 48,
            output_bits: 48,
            leaf_sizes: PageSizes::ALL,
            force_snoop: false,
            coherent: true,
        };
        let memory = Arc::new(HostMemory::default());
        let table = IoPageTable::<ArmLpaeStage1, _>::new(&memory, params).expect("a sound request");
        let table: Arc<dyn PageTable> = Arc::new(table);
        (Arc::clone(&table), TableIommu::new(table))
    }

    fn ranges(
        iommu: &TableIommu,
        iova: u64,
        length: usize,
        access: Permissions,
    ) -> Option<Vec<(u64, usize)>> {
        let found = iommu.translate(GuestAddress(iova), length, access).ok()?;
        Some(found.map(|range| (range.base.0, range.length)).collect())
    }

    #[test]
    fn a_range_over_two_mappings_comes_in_two_pieces_and_only_with_permission() {
        let (table, iommu) = iommu();
        let page = |iova, phys, prot| {
            table.map(Iova::new(iova), PhysAddr::new(phys), 0x1000, prot).expect("free")
        };
        page(0x1000, 0x8000, Prot::READ | Prot::WRITE);
        page(0x2000, 0x5000, Prot::READ);
        let read = ranges(&iommu, 0x1ff0, 0x20, Permissions::Read);
        assert_eq!(read, Some(vec![(0x8ff0, 0x10), (0x5000, 0x10)]));
        assert_eq!(ranges(&iommu, 0x1ff0, 0x20, Permissions::Write), None);
        assert_eq!(ranges(&iommu, 0x1ff0, 0x10, Permissions::Write), Some(vec![(0x8ff0, 0x10)]));
        assert_eq!(ranges(&iommu, 0x2ff0, 0x20, Permissions::Read), None);
    }

    /// What was found is remembered until it is forgotten: that is what the unmapper owes, and what a hardware IOTLB does.
    #[test]
    fn a_translation_is_kept_until_it_is_forgotten() {
        let (table, iommu) = iommu();
        table.map(Iova::new(0x1000), PhysAddr::new(0x8000), 0x1000, Prot::READ).expect("free");
        assert!(ranges(&iommu, 0x1000, 4, Permissions::Read).is_some());
        let mut debt = IotlbGather::new();
        table.unmap(Iova::new(0x1000), 0x1000, &mut debt).expect("mapped");
        drop(debt.confirm());
        assert!(ranges(&iommu, 0x1000, 4, Permissions::Read).is_some(), "a stale entry");
        iommu.forget(Iova::new(0x1fff), 1);
        assert!(ranges(&iommu, 0x1000, 4, Permissions::Read).is_none());
    }

    #[test]
    fn more_permission_is_seen_without_forgetting() {
        let (table, iommu) = iommu();
        table.map(Iova::new(0x1000), PhysAddr::new(0x8000), 0x1000, Prot::READ).expect("free");
        assert_eq!(ranges(&iommu, 0x1000, 4, Permissions::Write), None);
        table
            .protect(Iova::new(0x1000), 0x1000, Prot::READ | Prot::WRITE, &mut IotlbGather::new())
            .expect("mapped");
        assert!(ranges(&iommu, 0x1000, 4, Permissions::Write).is_some());
    }

    #[test]
    fn the_end_of_the_address_space_is_an_error_and_no_panic() {
        let (_, iommu) = iommu();
        assert_eq!(ranges(&iommu, u64::MAX, 2, Permissions::Read), None);
        assert_eq!(ranges(&iommu, u64::MAX - 1, 1, Permissions::Read), None);
        iommu.forget(Iova::new(u64::MAX - 5), u64::MAX);
        iommu.forget(Iova::new(0), 0);
        assert_eq!(ranges(&iommu, 0x1000, 0, Permissions::Read), Some(vec![]));
    }
}
