//! What leads to an address space: the streams of a group's members, at every instance in front of them.

use crate::description::{DomainType, FwNode, FwStream, ReservedKind, ReservedRegion};
use crate::error::Unconfirmed;
use crate::hooks::{Safeguard, omitted};
use crate::instance::IommuDevice;
use crate::member::{DeviceId, Member};
use crate::ops::{
    AddressSpace, FormatSupport, Formats, HardwareRegion, IommuOps, MsiDoorbell, OpsError,
    SpaceFormat, SpaceRequest, StreamTarget,
};
use crate::reason::{BlockedReason, NotShared, SetUpError};
use crate::regions;
use crate::space::{Domain, Spaces};
use crate::stream::StreamSpec;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use portcullis_platform::Platform;
use smallvec::SmallVec;

/// The instances in front of a group: one, nearly always.
pub(crate) type Instances<P> = SmallVec<[Arc<IommuDevice<P>>; 1]>;

/// The streams of a member at one instance: a few.
type Streams = SmallVec<[StreamSpec; 4]>;

/// A domain together with the streams that lead to it. Changed only under the group lock.
#[must_use = "dropping it would leave streams attached: detach it"]
#[repr(C)]
pub(crate) struct Attachment<P: Platform> {
    domain: Arc<Domain<P>>,
    joined: SmallVec<[Joined; 1]>,
    instances: Instances<P>,
}

/// A member whose streams lead to the domain. With a copy of these: they are known here for as long as they lead there.
struct Joined {
    id: DeviceId,
    streams: SmallVec<[FwStream; 1]>,
}

impl Joined {
    fn new(member: &Member) -> Self {
        let streams = match member.streams() {
            [only] => SmallVec::from_buf([*only]),
            several => SmallVec::from_slice(several),
        };
        Self { id: member.id, streams }
    }
}

impl<P: Platform> Attachment<P> {
    pub(crate) fn domain(&self) -> &Arc<Domain<P>> {
        &self.domain
    }

    pub(crate) fn covers(&self, member: DeviceId) -> bool {
        self.joined.iter().any(|joined| joined.id == member)
    }

    /// Makes a domain of `kind` behind `instances` and leads all of `members` to it. Complete when this returns `Ok`, undone when it returns `Err`; if hardware
    /// did not confirm that, it is on record at the IOMMUs' nodes.
    #[doc(alias = "iommu_setup_default_domain")]
    pub(crate) fn set_up(
        kind: DomainType,
        instances: Instances<P>,
        members: &[Member],
    ) -> Result<Self, Box<SetUpError>> {
        let domain = make_domain(kind, &instances, members)?;
        let mut attachment = Self { domain, instances, joined: SmallVec::new() };
        if omitted::<P>(Safeguard::AttachBeforeShowing)
            || omitted::<P>(Safeguard::AttachBeforeProbe)
        {
            attachment.joined = members.iter().map(Joined::new).collect();
            return Ok(attachment);
        }
        match members.iter().try_for_each(|member| attachment.join(member)) {
            Ok(()) => Ok(attachment),
            Err(error) => {
                let _on_record = attachment.detach();
                Err(error)
            }
        }
    }

    /// Leads the streams of all members to the domain, which was shown already: [`Safeguard::AttachBeforeShowing`] is left out.
    pub(crate) fn join_late(&mut self) -> Result<(), Box<SetUpError>> {
        let members = core::mem::take(&mut self.joined);
        members.into_iter().try_for_each(|member| self.lead(member))
    }

    /// Whether the domain has all that `member` needs. One in use can neither be bound at another IOMMU nor take back addresses.
    ///
    /// # Errors
    ///
    /// What `member` needs and the domain lacks.
    pub(crate) fn admits(&self, member: &Member) -> Result<(), BlockedReason> {
        let behind = |node| self.instances.iter().any(|instance| instance.node == node);
        if let Some(stream) = member.streams().iter().find(|stream| !behind(stream.iommu)) {
            return Err(BlockedReason::GroupLacksIommu(stream.iommu));
        }
        if member.is_untrusted() && self.domain.kind() == DomainType::DmaLazy {
            return Err(BlockedReason::GroupIsLazy);
        }
        let mut ground = Ground::default();
        let surveyed = ground.survey(&self.instances, core::slice::from_ref(member));
        let regions = surveyed.and_then(|()| regions::merge(ground.regions));
        let regions = regions.map_err(|error| BlockedReason::SetUp(*error))?;
        match regions.into_iter().find(|region| !self.domain.keeps(region)) {
            Some(region) => Err(BlockedReason::GroupLacksRegion(region)),
            None => Ok(()),
        }
    }

    /// Leads one more member to the domain: at every instance, or at none.
    pub(crate) fn join(&mut self, member: &Member) -> Result<(), Box<SetUpError>> {
        self.lead(Joined::new(member))
    }

    fn lead(&mut self, member: Joined) -> Result<(), Box<SetUpError>> {
        for index in 0..self.instances.len() {
            if let Err(error) = self.lead_at(index, &member.streams) {
                let _on_record = self.leave_at(0..index, &member.streams);
                return Err(Box::new(SetUpError::Ops(self.instances[index].node, error)));
            }
        }
        self.joined.push(member);
        Ok(())
    }

    fn lead_at(&self, index: usize, streams: &[FwStream]) -> Result<(), OpsError> {
        let instance = &self.instances[index];
        let here = streams_at(streams, instance.node);
        if here.is_empty() {
            return Ok(());
        }
        instance.ops.claim(&here)?;
        // A claim that succeeded confirms that the streams are blocked.
        instance.quarantine.trust(&here);
        instance.ops.attach(&here, None, self.target(index)).inspect_err(|_| {
            let _on_record = self.leave_at(index..index + 1, streams);
        })
    }

    fn target(&self, index: usize) -> StreamTarget {
        match self.domain.kind() {
            DomainType::Blocked => StreamTarget::Blocked,
            DomainType::Identity => StreamTarget::Identity,
            DomainType::Dma | DomainType::DmaLazy => {
                StreamTarget::Space(self.domain.spaces()[index].1)
            }
        }
    }

    /// Takes a member's streams away at each of these instances, whatever one of them answers. Claims are counted, so a stream that another member shares
    /// keeps leading to the domain.
    fn leave_at(
        &self,
        instances: core::ops::Range<usize>,
        streams: &[FwStream],
    ) -> Result<(), Unconfirmed> {
        let mut confirmed = Ok(());
        for instance in &self.instances[instances] {
            let here = streams_at(streams, instance.node);
            if here.is_empty() {
                continue;
            }
            if let Err(error) = instance.ops.release(&here)
                && !omitted::<P>(Safeguard::SayUnconfirmed)
            {
                instance.quarantine.doubt(&here, error);
                confirmed = confirmed.and(Err(instance.unconfirmed(error)));
            }
        }
        confirmed
    }

    /// Takes one member's streams away from the domain.
    ///
    /// # Errors
    ///
    /// When an instance did not confirm it: the member is taken out all the same.
    pub(crate) fn leave(&mut self, member: DeviceId) -> Result<(), Unconfirmed> {
        let Some(position) = self.joined.iter().position(|joined| joined.id == member) else {
            return Ok(());
        };
        let member = self.joined.remove(position);
        self.leave_at(0..self.instances.len(), &member.streams)
    }

    /// Blocks every member's streams, then gives the address space up at every instance.
    ///
    /// # Errors
    ///
    /// When an instance did not confirm it. Everything is given up all the same, and what hardware may still use is kept at that instance's node.
    pub(crate) fn detach(mut self) -> Result<(), Unconfirmed> {
        let mut confirmed = Ok(());
        while let Some(member) = self.joined.pop() {
            confirmed = confirmed.and(self.leave_at(0..self.instances.len(), &member.streams));
        }
        let unbound = unbind_spaces(self.domain.spaces());
        if omitted::<P>(Safeguard::SayUnconfirmed) {
            return Ok(());
        }
        if let (Err(first), Some(left)) = (confirmed.and(unbound), self.domain.left()) {
            let left = Arc::new(left);
            for instance in &self.instances {
                instance.quarantine.keep(&left);
            }
            return Err(first);
        }
        confirmed.and(unbound)
    }
}

/// Those of `streams` that reach the IOMMU at `node`.
fn streams_at(streams: &[FwStream], node: FwNode) -> Streams {
    let mut here = Streams::new();
    for stream in streams {
        if stream.iommu == node {
            here.push(stream.spec());
        }
    }
    here
}

/// Unbinds a space everywhere. Where hardware does not confirm, the instance's driver keeps the space alive: something may still walk it.
fn unbind_spaces<P: Platform>(spaces: &Spaces<P>) -> Result<(), Unconfirmed> {
    let mut confirmed = Ok(());
    for (instance, tag) in spaces {
        let unbound = instance.ops.unbind_space(*tag);
        confirmed = confirmed.and(unbound.map_err(|error| instance.unconfirmed(error)));
    }
    confirmed
}

fn make_domain<P: Platform>(
    kind: DomainType,
    instances: &[Arc<IommuDevice<P>>],
    members: &[Member],
) -> Result<Arc<Domain<P>>, Box<SetUpError>> {
    if kind == DomainType::Identity
        && !instances.iter().all(|instance| instance.ops.capabilities().identity)
    {
        return Err(Box::new(SetUpError::NoCommonGround(NotShared::Identity)));
    }
    let untrusted = members.iter().any(Member::is_untrusted);
    let kind = if untrusted && kind.translates() { DomainType::Dma } else { kind };
    let mut ground = Ground::default();
    ground.survey(instances, members)?;
    let reserved = regions::merge(core::mem::take(&mut ground.regions))?;
    let (space, spaces) = match (kind, instances.first()) {
        (DomainType::Dma | DomainType::DmaLazy, Some(first)) => {
            let request = ground.request(instances.len() == 1)?;
            let space = first.ops.create_space(&request);
            let space = space.map_err(|error| SetUpError::Ops(first.node, error))?;
            let spaces = bind_spaces(&space, instances)?;
            (Some(space), spaces)
        }
        _ => (None, Spaces::new()),
    };
    let coherent = members.iter().all(Member::is_coherent);
    let nothing_direct = reserved.iter().all(|region| region.kind != ReservedKind::Direct);
    let domain = Arc::new(Domain::new(kind, space, spaces, reserved, label_of(members)));
    if nothing_direct {
        return Ok(domain);
    }
    domain.map_direct_regions(coherent).inspect_err(|_| {
        // No stream leads there: hardware cannot have used the space, and the driver keeps what it could not confirm.
        let _on_record = unbind_spaces(domain.spaces());
    })?;
    Ok(domain)
}

/// Domains have no number of their own. That of the first member serves, because it does not depend on the order of events.
fn label_of(members: &[Member]) -> u64 {
    members.first().map_or(u64::MAX, |member| member.id.0)
}

fn bind_spaces<P: Platform>(
    space: &Arc<dyn AddressSpace>,
    instances: &[Arc<IommuDevice<P>>],
) -> Result<Spaces<P>, Box<SetUpError>> {
    let mut spaces = Spaces::new();
    for instance in instances {
        match instance.ops.bind_space(space) {
            Ok(tag) => spaces.push((Arc::clone(instance), tag)),
            Err(error) => {
                // As above: no stream leads there.
                let _on_record = unbind_spaces(&spaces);
                return Err(Box::new(SetUpError::Ops(instance.node, error)));
            }
        }
    }
    Ok(spaces)
}

/// What the instances in front of some devices can do for all of them: a device behind two IOMMUs has one address space that both use.
#[derive(Default)]
struct Ground {
    /// What all of them can translate by; `None` where no device is behind any.
    formats: Option<Formats>,
    /// Whether one of them does not snoop the CPU's caches when it walks tables.
    incoherent_walk: bool,
    /// The reserved regions, of the devices' descriptions and of the hardware; not merged yet.
    regions: Vec<ReservedRegion>,
}

impl Ground {
    /// Asks each instance once about each of `members` behind it.
    fn survey<P: Platform>(
        &mut self,
        instances: &[Arc<IommuDevice<P>>],
        members: &[Member],
    ) -> Result<(), Box<SetUpError>> {
        for member in members {
            self.regions.extend_from_slice(member.reserved());
            for instance in instances {
                let streams = streams_at(member.streams(), instance.node);
                if !streams.is_empty() {
                    let asked = self.ask(&*instance.ops, &streams);
                    asked.map_err(|error| SetUpError::Ops(instance.node, error))?;
                }
            }
        }
        Ok(())
    }

    fn ask(&mut self, ops: &dyn IommuOps, streams: &[StreamSpec]) -> Result<(), OpsError> {
        let capabilities = ops.capabilities_of(streams)?;
        self.incoherent_walk |= !capabilities.coherent_walk;
        self.formats = Some(match &self.formats {
            None => capabilities.formats,
            Some(before) => before.intersection(&capabilities.formats),
        });
        let reserved = |range| ReservedRegion { range, kind: ReservedKind::Reserved };
        if let MsiDoorbell::Window(window) = capabilities.msi {
            self.regions.push(reserved(window));
        }
        let mut add = |region: HardwareRegion| self.regions.push(reserved(region.range));
        ops.reserved_regions(streams, &mut add)
    }

    /// The preferred space that all can translate by. Requests go to one instance: another could not follow them, so they are for one that is `alone`.
    fn request(&self, alone: bool) -> Result<SpaceRequest, Box<SetUpError>> {
        let usable = |support: &&_| alone || !is_a_channel(support);
        let support = self.formats.as_ref().and_then(|formats| formats.iter().find(usable));
        let support = *support.ok_or(SetUpError::NoCommonGround(NotShared::Format))?;
        Ok(SpaceRequest { support, coherent_walk: !self.incoherent_walk })
    }
}

fn is_a_channel(support: &FormatSupport) -> bool {
    support.format == SpaceFormat::Requests
}
