//! What leads to an address space: the streams of a group's members, at every instance in front of them.

use crate::description::{DomainType, FwNode, ReservedRegion};
use crate::instance::IommuDevice;
use crate::member::{DeviceId, Member};
use crate::ops::{OpsError, SpaceRequest, SpaceTag, StreamTarget};
use crate::space::{Domain, Spaces};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;
use portcullis_addr::{PageSizes, StreamId};
use portcullis_pgtable::{MapError, PageTable};
use portcullis_platform::Platform;
use smallvec::SmallVec;

/// The instances in front of a group: one, nearly always.
pub(crate) type Instances = SmallVec<[Arc<IommuDevice>; 1]>;

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
        let not_kept = |region: &&ReservedRegion| !self.domain.keeps(region);
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
        match self.domain.kind() {
            DomainType::Blocked => StreamTarget::Blocked,
            DomainType::Identity => StreamTarget::Identity,
            DomainType::Dma => StreamTarget::Space(self.domain.spaces()[index].1),
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
        unbind_spaces(self.domain.spaces(), self.domain.table());
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
    let domain = Domain::new(kind, table, spaces, reserved.collect(), label_of(members));
    domain.map_direct_regions().map_err(|(region, error)| {
        unbind_spaces(domain.spaces(), domain.table());
        SetUpError::Direct(region, error)
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
