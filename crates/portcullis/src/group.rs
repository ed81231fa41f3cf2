//! Devices that hardware cannot tell apart: they share one domain, decided from all of them.

use crate::attachment::{Attachment, Instances, Undone};
use crate::description::{DomainType, FwNode};
use crate::device::Device;
use crate::error::Unconfirmed;
use crate::hooks::{Safeguard, omitted};
use crate::member::{DeviceId, Member};
use crate::node::{Need, Node};
use crate::reason::BlockedReason;
use crate::space::Domain;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use portcullis_platform::{Lock, LockLabel, Mutex, Platform};
use smallvec::SmallVec;

/// A group's number in order of creation. Reports number groups by their members instead, so that arrival order does not show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct GroupId(pub(crate) u32);

/// Who may use the group's devices.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// This many bound kernel drivers.
    Kernel(usize),
    /// One owner outside the kernel (VFIO style), by its token, with how often it claimed.
    External(u64, usize),
}

/// What the group lock protects.
pub(crate) struct GroupState<P: Platform> {
    pub(crate) members: SmallVec<[Member; 1]>,
    /// The nodes of all members, each once.
    pub(crate) nodes: SmallVec<[Arc<Node<P>>; 1]>,
    /// Set last, when every member's streams lead to the domain: there is no half of it to be seen.
    pub(crate) attached: Option<Attachment<P>>,
    pub(crate) owner: Owner,
    /// Hardware did not confirm that the members were blocked when they last were: what they reach is unknown until it confirms something later.
    pub(crate) doubt: Option<Unconfirmed>,
    merged_into: Option<Arc<IommuGroup<P>>>,
}

/// A group.
#[doc(alias = "iommu_group")]
pub(crate) struct IommuGroup<P: Platform> {
    id: GroupId,
    #[doc(alias = "group->mutex")]
    state: Lock<P, GroupState<P>>,
}

/// Who waits when a node is not there yet.
pub(crate) struct Waiter<'a, P: Platform> {
    pub(crate) device: &'a Arc<Device<P>>,
    /// The node in whose list the device stands already.
    pub(crate) waits_in: Option<FwNode>,
}

/// Why a group has no domain.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotAttached {
    /// The node's IOMMU is not there yet.
    Waits(FwNode),
    /// It will not come.
    NodeFailed(FwNode, BlockedReason),
    /// Something is wrong with the group or its set-up failed.
    Blocked(BlockedReason),
}

impl<P: Platform> IommuGroup<P> {
    pub(crate) fn new(id: GroupId) -> Self {
        let state = GroupState {
            members: SmallVec::new(),
            nodes: SmallVec::new(),
            attached: None,
            owner: Owner::Kernel(0),
            doubt: None,
            merged_into: None,
        };
        Self { id, state: Mutex::new(LockLabel::new("group", u64::from(id.0)), state) }
    }

    pub(crate) fn id(&self) -> GroupId {
        self.id
    }

    /// Runs `f` under the lock of this group or of the one it was merged into.
    pub(crate) fn with<R>(
        self: &Arc<Self>,
        f: impl FnOnce(&Arc<Self>, &mut GroupState<P>) -> R,
    ) -> R {
        let mut group = Arc::clone(self);
        loop {
            let next = {
                let mut state = group.state.lock();
                match &state.merged_into {
                    None => return f(&group, &mut state),
                    Some(next) => Arc::clone(next),
                }
            };
            group = next;
        }
    }

    /// Whether somebody holds the group's lock right now.
    pub(crate) fn is_busy(&self) -> bool {
        self.state.try_lock().is_none()
    }

    /// The group that this one is part of now.
    pub(crate) fn root(self: &Arc<Self>) -> Arc<Self> {
        self.with(|group, _| Arc::clone(group))
    }

    /// Takes a member in, whose streams are at `nodes`. Whether an attached domain suits it is decided when it is used.
    pub(crate) fn add_member(self: &Arc<Self>, member: Member, nodes: &[Arc<Node<P>>]) {
        let mut state = self.state.lock();
        state.members.push(member);
        nodes.iter().for_each(|node| self.note_node(&mut state, node));
    }

    fn note_node(self: &Arc<Self>, state: &mut GroupState<P>, node: &Arc<Node<P>>) {
        if !state.nodes.iter().any(|known| known.id == node.id) {
            node.slot.lock().note_group(Arc::downgrade(self));
            state.nodes.push(Arc::clone(node));
        }
    }

    /// Makes `groups`, in order of their ids and without duplicates, into the first of them. Called under the topology lock.
    ///
    /// # Errors
    ///
    /// When one of them is in use: its domain may not change under a driver. Nothing has changed then.
    pub(crate) fn merge(groups: &[Arc<Self>]) -> Result<(), BlockedReason> {
        let Some((first, rest)) = groups.split_first() else { return Ok(()) };
        if rest.is_empty() {
            return Ok(());
        }
        let mut into = first.state.lock();
        let mut others: Vec<_> = rest.iter().map(|group| group.state.lock()).collect();
        let in_use = |state: &GroupState<P>| state.owner != Owner::Kernel(0);
        if in_use(&into) || others.iter().any(|state| in_use(state)) {
            return Err(BlockedReason::JoinsGroupsInUse);
        }
        // What is not confirmed stays on record in the merged group.
        into.note_detach();
        for state in &mut others {
            state.note_detach();
            into.doubt = into.doubt.or(state.doubt);
            into.members.extend(core::mem::take(&mut state.members));
            for node in core::mem::take(&mut state.nodes) {
                first.note_node(&mut into, &node);
            }
            state.merged_into = Some(Arc::clone(first));
        }
        Ok(())
    }
}

impl<P: Platform> GroupState<P> {
    /// The group's domain; sets it up if the group has none. Whoever comes first does it, everybody else waits for the lock and finds it done.
    pub(crate) fn ensure_attached(
        &mut self,
        default: DomainType,
        waiter: Option<&Waiter<'_, P>>,
    ) -> Result<Arc<Domain<P>>, NotAttached> {
        if let Some(attached) = &self.attached {
            return Ok(Arc::clone(attached.domain()));
        }
        if let Owner::External(..) = self.owner {
            return Err(NotAttached::Blocked(BlockedReason::OwnedOutside));
        }
        let (instances, kind) = self.prepare(default, waiter)?;
        match Attachment::set_up(kind, instances, &self.members) {
            Ok(attached) => Ok(self.show(attached)),
            Err(undone) => Err(self.give_in(undone)),
        }
    }

    /// What the domain will be, and who will translate for it.
    pub(crate) fn prepare(
        &self,
        default: DomainType,
        waiter: Option<&Waiter<'_, P>>,
    ) -> Result<(Instances, DomainType), NotAttached> {
        let instances = self.find_instances(waiter)?;
        let kind = self.choose_domain(default).map_err(NotAttached::Blocked)?;
        Ok((instances, kind))
    }

    /// The one store that makes the members ready. Claiming and attaching their streams has confirmed whatever was in doubt.
    pub(crate) fn show(&mut self, attached: Attachment<P>) -> Arc<Domain<P>> {
        let domain = Arc::clone(attached.domain());
        self.attached = Some(attached);
        self.doubt = None;
        domain
    }

    fn give_in(&mut self, undone: Undone) -> NotAttached {
        self.doubt = undone.confirmed.err().or(self.doubt);
        NotAttached::Blocked(BlockedReason::SetUp(undone.error))
    }

    /// As [`Self::ensure_attached`], and makes sure that the domain covers `member`, who may have come after it was attached.
    pub(crate) fn ensure_member(
        &mut self,
        default: DomainType,
        member: DeviceId,
        waiter: &Waiter<'_, P>,
    ) -> Result<Arc<Domain<P>>, NotAttached> {
        let domain = self.ensure_attached(default, Some(waiter))?;
        if self.attached.as_ref().is_some_and(|attached| attached.covers(member)) {
            return Ok(domain);
        }
        if self.owner == Owner::Kernel(0) {
            // Nobody uses the domain: decide it anew, with the late member's say. What is not confirmed stays on record until the new one is attached.
            self.note_detach();
            return self.ensure_attached(default, Some(waiter));
        }
        self.join_late(member, domain.kind())?;
        Ok(domain)
    }

    /// Lets a member in whose group is in use: it takes the domain as it is, or stays blocked.
    fn join_late(&mut self, member: DeviceId, kind: DomainType) -> Result<(), NotAttached> {
        let blocked = NotAttached::Blocked;
        let late = self.members.iter().find(|other| other.id == member);
        let late = late.ok_or(blocked(BlockedReason::NoGroup))?;
        if late.description.required_domain.is_some_and(|required| required != kind) {
            return Err(blocked(BlockedReason::GroupUses(kind)));
        }
        let attached = self.attached.as_mut().ok_or(blocked(BlockedReason::NoGroup))?;
        attached.admits(late).map_err(blocked)?;
        attached.join(late).map_err(|undone| {
            self.doubt = undone.confirmed.err().or(self.doubt);
            blocked(BlockedReason::SetUp(undone.error))
        })
    }

    fn find_instances(&self, waiter: Option<&Waiter<'_, P>>) -> Result<Instances, NotAttached> {
        let mut instances = Instances::new();
        for node in &self.nodes {
            let first = omitted::<P>(Safeguard::EachInstance);
            let node = if first { &self.nodes[0] } else { node };
            let enlist = waiter.filter(|waiter| waiter.waits_in != Some(node.id));
            match node.need(enlist.map(|waiter| waiter.device)) {
                Need::Serves(instance) => instances.push(instance),
                Need::Wait => return Err(NotAttached::Waits(node.id)),
                Need::Failed(reason) => return Err(NotAttached::NodeFailed(node.id, reason)),
            }
        }
        Ok(instances)
    }

    /// The one type that all members can live with.
    fn choose_domain(&self, default: DomainType) -> Result<DomainType, BlockedReason> {
        let mut wanted: Option<(&Member, DomainType)> = None;
        for member in &self.members {
            let Some(kind) = member.description.required_domain else { continue };
            match wanted {
                Some((other, before)) if before != kind => {
                    return Err(BlockedReason::Disagreement {
                        first: other.description.path.clone(),
                        first_needs: before,
                        second: member.description.path.clone(),
                        second_needs: kind,
                    });
                }
                _ => wanted = Some((member, kind)),
            }
        }
        Ok(wanted.map_or(default, |(_, kind)| kind))
    }

    /// Blocks all members' streams and gives the domain up.
    ///
    /// # Errors
    ///
    /// When that was not confirmed. It stays on record in `doubt`.
    pub(crate) fn detach(&mut self) -> Result<(), Unconfirmed> {
        let Some(attached) = self.attached.take() else { return Ok(()) };
        let confirmed = attached.detach();
        self.doubt = confirmed.err().or(self.doubt);
        confirmed
    }

    /// As [`Self::detach`], for who looks at `doubt` later.
    pub(crate) fn note_detach(&mut self) {
        if let Err(unconfirmed) = self.detach() {
            self.doubt = Some(unconfirmed);
        }
    }

    /// Takes a member out: its streams that nobody else in the group has are blocked, and the domain goes with the last member.
    ///
    /// # Errors
    ///
    /// When that was not confirmed; the member is out all the same.
    pub(crate) fn remove_member(&mut self, id: DeviceId) -> Result<(), Unconfirmed> {
        self.members.retain(|member| member.id != id);
        let confirmed = match &mut self.attached {
            _ if self.members.is_empty() => return self.detach(),
            Some(attached) => attached.leave(id),
            None => Ok(()),
        };
        self.doubt = confirmed.err().or(self.doubt);
        confirmed
    }

    /// Blocks the streams of a member whose driver did not leave it in order. Where nobody else uses the domain, that goes as a whole. What is not confirmed
    /// stays on record in `doubt`.
    pub(crate) fn shut_out(&mut self, id: DeviceId) {
        if self.owner == Owner::Kernel(0) {
            self.note_detach();
        } else if let Some(attached) = &mut self.attached {
            self.doubt = attached.leave(id).err().or(self.doubt);
        }
    }

    /// Whether the group could have its domain now and has none.
    pub(crate) fn wants_set_up(&self) -> bool {
        self.attached.is_none() && self.nodes.iter().all(|node| node.serves())
    }

    /// Gives the group to an owner outside the kernel: all its streams are blocked until that owner lets go. The same owner may claim again.
    /// `None` when a kernel driver is bound or another owner has it.
    ///
    /// # Errors
    ///
    /// When it was not confirmed that the streams are blocked: nobody owns the group then, and it has no domain.
    #[doc(alias = "iommu_group_claim_dma_owner")]
    pub(crate) fn claim_external(&mut self, token: u64) -> Option<Result<(), Unconfirmed>> {
        match &mut self.owner {
            Owner::External(owner, count) if *owner == token => *count += 1,
            Owner::Kernel(0) => {
                if let Err(unconfirmed) = self.detach() {
                    return Some(Err(unconfirmed));
                }
                self.owner = Owner::External(token, 1);
            }
            Owner::Kernel(_) | Owner::External(..) => return None,
        }
        Some(Ok(()))
    }

    /// Undoes one claim; `false` when `token` has none.
    #[doc(alias = "iommu_group_release_dma_owner")]
    pub(crate) fn release_external(&mut self, token: u64) -> bool {
        match &mut self.owner {
            Owner::External(owner, count) if *owner == token => {
                *count -= 1;
                if *count == 0 {
                    self.owner = Owner::Kernel(0);
                }
                true
            }
            Owner::Kernel(_) | Owner::External(..) => false,
        }
    }

    /// Adds a bound kernel driver to the owners.
    ///
    /// # Errors
    ///
    /// When somebody outside the kernel owns the group.
    #[doc(alias = "iommu_device_use_default_domain")]
    pub(crate) fn acquire(&mut self) -> Result<(), NotAttached> {
        match &mut self.owner {
            Owner::Kernel(count) => {
                *count += 1;
                Ok(())
            }
            Owner::External(..) => Err(NotAttached::Blocked(BlockedReason::OwnedOutside)),
        }
    }

    /// Takes one bound kernel driver from the owners, whose lease ended as `closed` says.
    ///
    /// # Errors
    ///
    /// When hardware did not confirm that what was mapped is gone. With the last driver the domain has been given up then: nothing of its address space may be used again.
    #[doc(alias = "iommu_device_unuse_default_domain")]
    pub(crate) fn give_up(&mut self, closed: Result<(), Unconfirmed>) -> Result<(), Unconfirmed> {
        if let Owner::Kernel(count) = &mut self.owner {
            *count = count.saturating_sub(1);
        }
        if self.owner != Owner::Kernel(0) {
            return closed;
        }
        if self.attached.as_ref().is_none_or(|attached| attached.domain().quarantined() == 0) {
            return closed;
        }
        // Giving the space up invalidates all of it at once, which may succeed where single ranges did not.
        self.detach()
    }
}

impl<P: Platform> fmt::Debug for IommuGroup<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IommuGroup({})", self.id.0)
    }
}
