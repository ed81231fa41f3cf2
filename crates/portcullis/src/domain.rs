//! One I/O address space, and the streams that lead to it.

use crate::description::{DomainType, FwNode, ReservedKind, ReservedRegion};
use crate::device::DeviceId;
use crate::dma::DmaError;
use crate::group::Member;
use crate::node::IommuDevice;
use crate::ops::{OpsError, SpaceRequest, SpaceTag, StreamTarget};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use portcullis_addr::{Address, Iova, IovaRange, PageSizes, PhysAddr, Prot, StreamId};
use portcullis_iova::{IovaAllocator, IovaRequest};
use portcullis_pgtable::{IotlbGather, MapError, PageTable};
use portcullis_platform::{Lock, LockLabel, Mutex, Platform};
use smallvec::SmallVec;

/// The instances in front of a group: one, nearly always.
pub(crate) type Instances = SmallVec<[Arc<IommuDevice>; 1]>;
/// What each of them calls an address space.
type Spaces = SmallVec<[(Arc<IommuDevice>, SpaceTag); 1]>;

/// Why a group's address space could not be set up. Everything done for it has been undone.
#[derive(Debug)]
pub(crate) enum SetUpError {
    /// An instance refused.
    Ops(FwNode, OpsError),
    /// The instances in front of the group share no way to translate for it.
    NoCommonGround(&'static str),
    /// A region that must be mapped 1:1 could not be.
    Direct(ReservedRegion, MapError),
}

impl fmt::Display for SetUpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ops(node, error) => write!(f, "IOMMU at {node}: {error}"),
            Self::NoCommonGround(what) => write!(f, "the IOMMUs in front of it share no {what}"),
            Self::Direct(region, error) => {
                write!(f, "reserved region {}: {error}", region.range)
            }
        }
    }
}

/// An I/O address space.
#[doc(alias = "iommu_domain")]
pub(crate) struct Domain<P: Platform> {
    kind: DomainType,
    table: Option<Arc<dyn PageTable>>,
    /// What each instance in front of the group calls it.
    spaces: Spaces,
    reserved: Vec<ReservedRegion>,
    /// Made at the first mapping: most domains of a boot are looked at before they are used.
    window: Lock<P, Option<IovaAllocator>>,
    /// Bytes whose invalidation was never confirmed: their frames and addresses are not used again.
    quarantined: AtomicU64,
    mapped: AtomicUsize,
}

impl<P: Platform> Domain<P> {
    pub(crate) fn kind(&self) -> DomainType {
        self.kind
    }

    /// Bytes in quarantine.
    pub(crate) fn quarantined(&self) -> u64 {
        self.quarantined.load(Ordering::Relaxed)
    }

    /// Mappings that are in force.
    pub(crate) fn mapped(&self) -> usize {
        self.mapped.load(Ordering::Relaxed)
    }

    /// The smallest page, in bytes; 1 where nothing is translated.
    pub(crate) fn granule(&self) -> u64 {
        self.table.as_ref().map_or(1, |table| table.config().granule.bytes())
    }

    /// Finds room for `len` bytes at or below `limit` and maps it to `phys`. All are whole pages.
    pub(crate) fn map(
        &self,
        phys: PhysAddr,
        len: u64,
        limit: Iova,
        prot: Prot,
    ) -> Result<Iova, DmaError> {
        let table = self.table.as_ref().ok_or(DmaError::NotTranslated)?;
        let request = IovaRequest::new(len).up_to(limit);
        let range = self.with_window(table, |window| window.allocate(request))?;
        let iova = range.map_err(DmaError::Iova)?.start();
        if let Err(error) = self.make_room(table, iova, len) {
            if !matches!(error, DmaError::Quarantined { .. }) {
                self.give_back(iova, len);
            }
            return Err(error);
        }
        if let Err(error) = table.map(iova, phys, len, prot) {
            self.give_back(iova, len);
            return Err(DmaError::Map(error));
        }
        self.mapped.fetch_add(1, Ordering::Relaxed);
        Ok(iova)
    }

    /// Takes empty tables out of the way of large leaves. Hardware must have forgotten them before the range is mapped (Arm's break-before-make).
    fn make_room(&self, table: &Arc<dyn PageTable>, iova: Iova, len: u64) -> Result<(), DmaError> {
        let granule = table.config().granule;
        if table.page_sizes().best_fit(iova.raw(), len).is_none_or(|size| size <= granule) {
            return Ok(());
        }
        let mut gather = IotlbGather::new();
        let taken = table.reclaim(iova, len, &mut gather).map_err(DmaError::Unmap)?;
        if taken == 0 { Ok(()) } else { self.settle(table, gather, iova, len) }
    }

    /// Pays what `gather` owes and gives its table pages back, or quarantines what `[iova, iova + len)` stands for.
    fn settle(
        &self,
        table: &Arc<dyn PageTable>,
        mut gather: IotlbGather,
        iova: Iova,
        len: u64,
    ) -> Result<(), DmaError> {
        if let Err((node, error)) = self.flush(&gather) {
            table.quarantine(&mut gather);
            self.quarantined.fetch_add(len, Ordering::Relaxed);
            return Err(DmaError::Quarantined { iova, len, node, error });
        }
        table.retire(gather.confirm());
        Ok(())
    }

    /// Removes the mapping of `[iova, iova + len)` and returns once every instance has confirmed that it forgot it.
    pub(crate) fn unmap(&self, iova: Iova, len: u64) -> Result<(), DmaError> {
        let table = self.table.as_ref().ok_or(DmaError::NotTranslated)?;
        let mut gather = IotlbGather::new();
        table.unmap(iova, len, &mut gather).map_err(DmaError::Unmap)?;
        self.mapped.fetch_sub(1, Ordering::Relaxed);
        self.settle(table, gather, iova, len)?;
        self.give_back(iova, len);
        Ok(())
    }

    /// Pays what `gather` owes at every instance; all are asked even if one fails.
    #[doc(alias = "iommu_iotlb_sync")]
    fn flush(&self, gather: &IotlbGather) -> Result<(), (FwNode, OpsError)> {
        let mut outcome = Ok(());
        for (instance, tag) in &self.spaces {
            if let Err(error) = instance.ops.invalidate(*tag, gather) {
                outcome = Err((instance.node, error));
            }
        }
        outcome
    }

    /// Removes everything that is mapped but the regions that must stay; `false` if an invalidation was not confirmed.
    pub(crate) fn clear(&self) -> bool {
        let left: Vec<IovaRange> = match &*self.window.lock() {
            Some(window) => window.live().collect(),
            None => return true,
        };
        let mut confirmed = true;
        for range in left {
            confirmed &= self.unmap(range.start(), range.len()).is_ok();
        }
        confirmed
    }

    fn give_back(&self, iova: Iova, len: u64) {
        if let Some(window) = &mut *self.window.lock() {
            let freed = IovaRange::new(iova, len).is_ok_and(|range| window.free(range).is_ok());
            debug_assert!(freed, "a live range was not known: {iova} + {len:#x}");
        }
    }

    fn with_window<R>(
        &self,
        table: &Arc<dyn PageTable>,
        f: impl FnOnce(&mut IovaAllocator) -> R,
    ) -> Result<R, DmaError> {
        let mut window = self.window.lock();
        if window.is_none() {
            let granule = table.config().granule;
            let fresh = IovaAllocator::new(granule, table.input_range());
            let mut fresh = fresh.map_err(|_| DmaError::Window("no memory for the allocator"))?;
            // Address 0 is what a driver that forgot to set its address register emits.
            let zero = IovaRange::new(Iova::new(0), granule.bytes()).ok();
            for range in self.reserved.iter().map(|region| region.range).chain(zero) {
                fresh
                    .reserve(range)
                    .map_err(|_| DmaError::Window("a reserved range could not be kept"))?;
            }
            *window = Some(fresh);
        }
        let window = window.as_mut().expect("made above");
        Ok(f(window))
    }

    fn map_direct_regions(&self) -> Result<(), SetUpError> {
        let Some(table) = &self.table else { return Ok(()) };
        for region in self.reserved.iter().filter(|region| region.kind == ReservedKind::Direct) {
            let start = region.range.start();
            let same = PhysAddr::from_raw(start.raw());
            let prot = Prot::READ | Prot::WRITE;
            table
                .map(start, same, region.range.len(), prot)
                .map_err(|error| SetUpError::Direct(*region, error))?;
        }
        Ok(())
    }
}

impl<P: Platform> fmt::Debug for Domain<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Domain").field("kind", &self.kind).field("spaces", &self.spaces).finish()
    }
}

/// A domain together with the streams that lead to it. Changed only under the group lock.
pub(crate) struct Attachment<P: Platform> {
    domain: Arc<Domain<P>>,
    instances: Instances,
    joined: SmallVec<[Member; 1]>,
}

impl<P: Platform> Attachment<P> {
    pub(crate) fn domain(&self) -> &Arc<Domain<P>> {
        &self.domain
    }

    pub(crate) fn covers(&self, member: DeviceId) -> bool {
        self.joined.iter().any(|joined| joined.id == member)
    }

    /// Makes a domain of `kind` behind `instances` and leads all of `members` to it. Complete when it returns `Ok`, undone when it returns `Err`.
    #[doc(alias = "iommu_setup_default_domain")]
    pub(crate) fn set_up(
        kind: DomainType,
        instances: Instances,
        members: &[Member],
    ) -> Result<Self, SetUpError> {
        let domain = Arc::new(make_domain(kind, &instances, members)?);
        let mut attachment = Self { domain, instances, joined: SmallVec::new() };
        match members.iter().try_for_each(|member| attachment.join(member)) {
            Ok(()) => Ok(attachment),
            Err(error) => {
                attachment.detach();
                Err(error)
            }
        }
    }

    /// Says of `members` that they are led to a new domain, before they are.
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn published_early(
        kind: DomainType,
        instances: Instances,
        members: &[Member],
    ) -> Result<Self, SetUpError> {
        let domain = Arc::new(make_domain(kind, &instances, members)?);
        Ok(Self { domain, instances, joined: members.iter().cloned().collect() })
    }

    /// Makes good on [`published_early`](Self::published_early).
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn finish_late(&mut self) {
        for member in core::mem::take(&mut self.joined) {
            let _ = self.join(&member);
        }
    }

    /// Whether the domain is all that `member` needs: one in use can neither be shown to another IOMMU nor take back addresses.
    ///
    /// # Errors
    ///
    /// What the member needs that the domain was made without.
    pub(crate) fn admits(&self, member: &Member) -> Result<(), String> {
        let behind = |node| self.instances.iter().any(|instance| instance.node == node);
        if let Some(stream) = member.streams().iter().find(|stream| !behind(stream.iommu)) {
            let node = stream.iommu;
            return Err(format!(
                "its group is in use without the IOMMU at {node}: unbind it first"
            ));
        }
        let not_kept = |region: &&ReservedRegion| !self.domain.reserved.contains(region);
        if let Some(region) = member.description.reserved.iter().find(not_kept) {
            let range = region.range;
            return Err(format!(
                "its group is in use without its reserved {range}: unbind it first"
            ));
        }
        Ok(())
    }

    /// Leads one more member to the domain.
    pub(crate) fn join(&mut self, member: &Member) -> Result<(), SetUpError> {
        for index in 0..self.instances.len() {
            if let Err(error) = self.join_at(index, member) {
                (0..index).for_each(|done| self.leave_at(done, member));
                return Err(SetUpError::Ops(self.instances[index].node, error));
            }
        }
        self.joined.push(member.clone());
        Ok(())
    }

    fn join_at(&self, index: usize, member: &Member) -> Result<(), OpsError> {
        let instance = &self.instances[index];
        let streams = streams_at(member, instance.node);
        if streams.is_empty() {
            return Ok(());
        }
        instance.ops.claim(&streams)?;
        instance.ops.attach(&streams, self.target(index)).inspect_err(|_| {
            instance.ops.release(&streams);
        })
    }

    fn target(&self, index: usize) -> StreamTarget {
        match self.domain.kind {
            DomainType::Blocked => StreamTarget::Blocked,
            DomainType::Identity => StreamTarget::Identity,
            DomainType::Dma => StreamTarget::Space(self.domain.spaces[index].1),
        }
    }

    /// Releasing counts claims, so a stream that another member shares keeps leading to the domain.
    fn leave_at(&self, index: usize, member: &Member) {
        let instance = &self.instances[index];
        instance.ops.release(&streams_at(member, instance.node));
    }

    /// Takes one member's streams away from the domain.
    pub(crate) fn leave(&mut self, member: DeviceId) {
        if let Some(position) = self.joined.iter().position(|joined| joined.id == member) {
            let member = self.joined.remove(position);
            (0..self.instances.len()).for_each(|index| self.leave_at(index, &member));
        }
    }

    /// Blocks every member's streams, then gives the address space up at every instance.
    pub(crate) fn detach(mut self) {
        while let Some(member) = self.joined.pop() {
            (0..self.instances.len()).for_each(|index| self.leave_at(index, &member));
        }
        unbind_spaces(&self.domain.spaces, self.domain.table.as_ref());
    }
}

fn streams_at(member: &Member, node: FwNode) -> SmallVec<[StreamId; 4]> {
    let streams = member.streams().iter();
    streams.filter(|stream| stream.iommu == node).map(|stream| stream.id).collect()
}

/// Unbinds `table` everywhere. Where hardware does not confirm, the table stays in memory for ever: something may still walk it.
fn unbind_spaces(spaces: &[(Arc<IommuDevice>, SpaceTag)], table: Option<&Arc<dyn PageTable>>) {
    for (instance, tag) in spaces {
        if instance.ops.unbind_space(*tag).is_err()
            && let Some(table) = table
        {
            core::mem::forget(Arc::clone(table));
        }
    }
}

fn make_domain<P: Platform>(
    kind: DomainType,
    instances: &[Arc<IommuDevice>],
    members: &[Member],
) -> Result<Domain<P>, SetUpError> {
    if kind == DomainType::Identity
        && !instances.iter().all(|instance| instance.ops.capabilities().identity)
    {
        return Err(SetUpError::NoCommonGround("support for identity domains"));
    }
    let (table, spaces) = match (kind, instances.first()) {
        (DomainType::Dma, Some(first)) => {
            let request = common_ground(instances)?;
            let table = first.ops.create_table(&request);
            let table = table.map_err(|error| SetUpError::Ops(first.node, error))?;
            let spaces = bind_spaces(&table, instances)?;
            (Some(table), spaces)
        }
        _ => (None, Spaces::new()),
    };
    let reserved = members.iter().flat_map(|member| member.description.reserved.iter().copied());
    let domain = Domain {
        kind,
        table,
        spaces,
        reserved: reserved.collect(),
        window: Mutex::new(LockLabel::new("space", label_of(members)), None),
        quarantined: AtomicU64::new(0),
        mapped: AtomicUsize::new(0),
    };
    domain.map_direct_regions().inspect_err(|_| {
        unbind_spaces(&domain.spaces, domain.table.as_ref());
    })?;
    Ok(domain)
}

/// Domains have no number of their own: their first member's serves, which does not depend on the order of events.
fn label_of(members: &[Member]) -> u64 {
    members.first().map_or(u64::MAX, |member| u64::from(member.id.0))
}

fn bind_spaces(
    table: &Arc<dyn PageTable>,
    instances: &[Arc<IommuDevice>],
) -> Result<Spaces, SetUpError> {
    let mut spaces = Spaces::new();
    for instance in instances {
        match instance.ops.bind_space(table) {
            Ok(tag) => spaces.push((Arc::clone(instance), tag)),
            Err(error) => {
                unbind_spaces(&spaces, Some(table));
                return Err(SetUpError::Ops(instance.node, error));
            }
        }
    }
    Ok(spaces)
}

/// What all instances can walk: a device behind two IOMMUs has one address space that both translate.
fn common_ground(instances: &[Arc<IommuDevice>]) -> Result<SpaceRequest, SetUpError> {
    let mut request = SpaceRequest {
        page_sizes: PageSizes::from_bitmap(u64::MAX),
        input_bits: 64,
        output_bits: 64,
        coherent_walk: true,
    };
    for instance in instances {
        let capabilities = instance.ops.capabilities();
        request.page_sizes = request.page_sizes.intersection(capabilities.page_sizes);
        request.input_bits = request.input_bits.min(capabilities.input_bits);
        request.output_bits = request.output_bits.min(capabilities.output_bits);
        request.coherent_walk &= capabilities.coherent_walk;
    }
    if request.page_sizes.is_empty() {
        return Err(SetUpError::NoCommonGround("page size"));
    }
    Ok(request)
}
