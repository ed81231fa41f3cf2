//! Devices that hardware cannot tell apart: they share one domain, decided from all of them.
//!
//! What a group knows of a device is its description and that it can be woken; the device's own type (`D`) is a parameter.

use crate::attachment::{Attachment, Instances};
use crate::description::{DomainType, FwNode};
use crate::error::Unconfirmed;
use crate::hooks::{Safeguard, omitted};
use crate::member::{DeviceId, Member};
use crate::node::{Need, Node, Waiter};
use crate::reason::BlockedReason;
use crate::space::Domain;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use portcullis_platform::{Lock, LockLabel, Mutex, MutexGuard, Platform};
use smallvec::SmallVec;

/// A node as groups know it.
pub(crate) type GroupNode<P, D> = Node<P, D, IommuGroup<P, D>>;
/// Who waits, as groups know it.
pub(crate) type GroupWaiter<'a, P, D> = Waiter<'a, P, D, IommuGroup<P, D>>;

/// A group's number in order of creation. Reports number groups by their members instead, so that arrival order does not show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct GroupId(pub(crate) u64);

/// Who may use the group's devices.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// This many bound kernel drivers.
    Kernel(usize),
    /// One owner outside the kernel (VFIO style), by its token, with how often it claimed.
    External(u64, usize),
}

/// What the group lock protects. In the order in which a bind asks for it, so that one that finds its group attached reads two cache lines.
#[repr(C)]
pub(crate) struct GroupState<P: Platform, D> {
    /// Set once, when the group became part of another.
    merged_into: Option<Arc<IommuGroup<P, D>>>,
    pub(crate) owner: Owner,
    /// Set last, when every member's streams lead to the domain, so that nobody sees half of it.
    pub(crate) attached: Option<Attachment<P>>,
    pub(crate) members: SmallVec<[Member; 1]>,
    /// The nodes of all members, each once.
    pub(crate) nodes: SmallVec<[Arc<GroupNode<P, D>>; 1]>,
}

/// A group.
#[doc(alias = "iommu_group")]
#[repr(C)]
pub(crate) struct IommuGroup<P: Platform, D> {
    #[doc(alias = "group->mutex")]
    state: Lock<P, GroupState<P, D>>,
    id: GroupId,
}

/// Why a group has no domain. Reasons are boxed: results of this kind are passed up by every attempt, and nearly always without one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotAttached {
    /// The node's IOMMU is not there yet.
    Waits(FwNode),
    /// It will not come.
    NodeFailed(FwNode, Box<BlockedReason>),
    /// Something is wrong with the group or its set-up failed.
    Blocked(Box<BlockedReason>),
}

impl From<BlockedReason> for NotAttached {
    fn from(reason: BlockedReason) -> Self {
        Self::Blocked(Box::new(reason))
    }
}

impl<P: Platform, D> IommuGroup<P, D> {
    pub(crate) fn new(id: GroupId) -> Self {
        let state = GroupState {
            members: SmallVec::new(),
            nodes: SmallVec::new(),
            attached: None,
            owner: Owner::Kernel(0),
            merged_into: None,
        };
        Self { id, state: Mutex::new(LockLabel::new("group", id.0), state) }
    }

    pub(crate) fn id(&self) -> GroupId {
        self.id
    }

    /// Runs `f` under the lock of this group or of the one it was merged into.
    pub(crate) fn with<R>(
        self: &Arc<Self>,
        f: impl FnOnce(&Arc<Self>, &mut GroupState<P, D>) -> R,
    ) -> R {
        let next = {
            let mut state = self.state.lock();
            match &state.merged_into {
                None => return f(self, &mut state),
                Some(next) => Arc::clone(next),
            }
        };
        self.with_next(next, f)
    }

    /// As [`Self::with`], for a group that was merged into `next`.
    #[cold]
    fn with_next<R>(
        self: &Arc<Self>,
        next: Arc<Self>,
        f: impl FnOnce(&Arc<Self>, &mut GroupState<P, D>) -> R,
    ) -> R {
        let mut passed: SmallVec<[Arc<Self>; 2]> = SmallVec::new();
        passed.push(Arc::clone(self));
        let mut group = next;
        let outcome = loop {
            let next = {
                let mut state = group.state.lock();
                match &state.merged_into {
                    None => break f(&group, &mut state),
                    Some(next) => Arc::clone(next),
                }
            };
            passed.push(core::mem::replace(&mut group, next));
        };
        // So the next look finds the end of a long chain at once. The last group that was passed points there already.
        for old in passed.iter().rev().skip(1) {
            old.state.lock().merged_into = Some(Arc::clone(&group));
        }
        outcome
    }

    /// Whether somebody holds the group's lock right now.
    pub(crate) fn is_busy(&self) -> bool {
        self.state.try_lock().is_none()
    }

    /// The group that this one is part of now.
    pub(crate) fn root(self: &Arc<Self>) -> Arc<Self> {
        self.with(|group, _| Arc::clone(group))
    }

    /// Adds a member whose streams are at `nodes`. Whether an attached domain suits it is decided when it is used.
    pub(crate) fn add_member(self: &Arc<Self>, member: Member, nodes: &[Arc<GroupNode<P, D>>]) {
        self.with(|root, state| {
            state.members.push(member);
            nodes.iter().for_each(|node| root.note_node(state, node));
        });
    }

    fn note_node(self: &Arc<Self>, state: &mut GroupState<P, D>, node: &Arc<GroupNode<P, D>>) {
        if !state.nodes.iter().any(|known| known.id == node.id) {
            node.slot.lock().note_group(Arc::downgrade(self));
            state.nodes.push(Arc::clone(node));
        }
    }

    /// Merges `groups`, of which there is at least one, into the first of them.
    ///
    /// # Errors
    ///
    /// When there are several and one is in use: its domain may not change under a driver. Nothing has changed then.
    pub(crate) fn unite(groups: &[Arc<Self>]) -> Result<Arc<Self>, BlockedReason> {
        loop {
            let mut roots: Vec<_> = groups.iter().map(Self::root).collect();
            roots.sort_by_key(|group| group.id());
            roots.dedup_by(|one, other| Arc::ptr_eq(one, other));
            if let [only] = roots.as_slice() {
                return Ok(Arc::clone(only));
            }
            // Somebody else may have merged one of them meanwhile.
            if let Some(united) = Self::merge(&roots)? {
                return Ok(united);
            }
        }
    }

    /// As [`Self::unite`], for groups in order of their ids; `None` where one of them is part of another by now.
    fn merge(groups: &[Arc<Self>]) -> Result<Option<Arc<Self>>, BlockedReason> {
        let mut states: Vec<_> = groups.iter().map(|group| group.state.lock()).collect();
        if states.iter().any(|state| state.merged_into.is_some()) {
            return Ok(None);
        }
        if states.iter().any(|state| state.owner != Owner::Kernel(0)) {
            return Err(BlockedReason::JoinsGroupsInUse);
        }
        let first = &groups[0];
        let (into, others) = states.split_first_mut().expect("the caller has several");
        into.abandon();
        for state in others {
            state.abandon();
            first.take_over(into, state);
        }
        Ok(Some(Arc::clone(first)))
    }

    /// Takes another group's members and nodes.
    fn take_over(
        self: &Arc<Self>,
        into: &mut GroupState<P, D>,
        from: &mut MutexGuard<'_, GroupState<P, D>, P::Lock>,
    ) {
        let mut members = core::mem::take(&mut from.members);
        // The smaller list moves, so that a chain of mergers costs no more than its members.
        if members.len() > into.members.len() {
            core::mem::swap(&mut members, &mut into.members);
        }
        into.members.extend(members);
        for node in core::mem::take(&mut from.nodes) {
            self.note_node(into, &node);
        }
        from.merged_into = Some(Arc::clone(self));
    }
}

impl<P: Platform, D> Drop for IommuGroup<P, D> {
    /// Drops a long chain of merged groups in a loop: recursion would take a stack frame for each.
    fn drop(&mut self) {
        let mut next = self.state.get_mut().merged_into.take();
        while let Some(mut group) = next.and_then(Arc::into_inner) {
            next = group.state.get_mut().merged_into.take();
        }
    }
}

impl<P: Platform, D> GroupState<P, D> {
    /// The group's domain; sets it up if the group has none. Whoever comes first does it, everybody else waits for the lock and finds it done.
    pub(crate) fn ensure_attached(
        &mut self,
        default: DomainType,
        waiter: Option<&mut GroupWaiter<'_, P, D>>,
    ) -> Result<Arc<Domain<P>>, NotAttached> {
        if let Some(attached) = &self.attached {
            return Ok(Arc::clone(attached.domain()));
        }
        if let Owner::External(..) = self.owner {
            return Err(BlockedReason::OwnedOutside.into());
        }
        let (instances, kind) = self.prepare(default, waiter)?;
        let attached = Attachment::set_up(kind, instances, &self.members);
        Ok(self.show(attached.map_err(|error| BlockedReason::SetUp(*error))?))
    }

    /// What the domain will be, and who will translate for it.
    pub(crate) fn prepare(
        &self,
        default: DomainType,
        waiter: Option<&mut GroupWaiter<'_, P, D>>,
    ) -> Result<(Instances<P>, DomainType), NotAttached> {
        let instances = self.find_instances(waiter)?;
        let kind = self.choose_domain(default).map_err(NotAttached::Blocked)?;
        Ok((instances, kind))
    }

    /// The one store that makes the members ready.
    pub(crate) fn show(&mut self, attached: Attachment<P>) -> Arc<Domain<P>> {
        let domain = Arc::clone(attached.domain());
        self.attached = Some(attached);
        domain
    }

    /// As [`Self::ensure_attached`], and makes sure that the domain covers `member`, who may have come after it was attached.
    pub(crate) fn ensure_member(
        &mut self,
        default: DomainType,
        member: DeviceId,
        waiter: &mut GroupWaiter<'_, P, D>,
    ) -> Result<Arc<Domain<P>>, NotAttached> {
        let domain = self.ensure_attached(default, Some(&mut *waiter))?;
        if self.attached.as_ref().is_some_and(|attached| attached.covers(member)) {
            return Ok(domain);
        }
        if self.owner == Owner::Kernel(0) {
            // Nobody uses the domain: decide it anew, with the late member's say.
            self.abandon();
            return self.ensure_attached(default, Some(waiter));
        }
        self.join_late(member, domain.kind())?;
        Ok(domain)
    }

    /// Leads a late member to the domain of a group that is in use: it takes the domain as it is, or stays blocked.
    fn join_late(&mut self, member: DeviceId, kind: DomainType) -> Result<(), NotAttached> {
        let late = self.members.iter().find(|other| other.id == member);
        let late = late.ok_or(BlockedReason::NoGroup)?;
        if late.required_domain().is_some_and(|required| required != kind) {
            return Err(BlockedReason::GroupUses(kind).into());
        }
        let attached = self.attached.as_mut().ok_or(BlockedReason::NoGroup)?;
        attached.admits(late)?;
        Ok(attached.join(late).map_err(|error| BlockedReason::SetUp(*error))?)
    }

    fn find_instances(
        &self,
        mut waiter: Option<&mut GroupWaiter<'_, P, D>>,
    ) -> Result<Instances<P>, NotAttached> {
        let mut instances = Instances::new();
        for node in &self.nodes {
            let first = omitted::<P>(Safeguard::EachInstance);
            let node = if first { &self.nodes[0] } else { node };
            match node.need(waiter.as_deref_mut()) {
                Need::Serves(instance) => instances.push(instance),
                Need::Wait => return Err(NotAttached::Waits(node.id)),
                Need::Failed(reason) => return Err(NotAttached::NodeFailed(node.id, reason)),
            }
        }
        Ok(instances)
    }

    /// The one type that all members can live with.
    fn choose_domain(&self, default: DomainType) -> Result<DomainType, Box<BlockedReason>> {
        let mut wanted: Option<(&Member, DomainType)> = None;
        for member in &self.members {
            let Some(kind) = member.required_domain() else { continue };
            match wanted {
                Some((other, before)) if before != kind => {
                    return Err(Box::new(BlockedReason::Disagreement {
                        first: other.description.path.clone(),
                        first_needs: before,
                        second: member.description.path.clone(),
                        second_needs: kind,
                    }));
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
    /// When that was not confirmed. It stays on record at the IOMMU's node.
    pub(crate) fn detach(&mut self) -> Result<(), Unconfirmed> {
        self.attached.take().map_or(Ok(()), Attachment::detach)
    }

    /// As [`Self::detach`], for a caller that needs no answer: what was not confirmed is on record at the node.
    pub(crate) fn abandon(&mut self) {
        let _on_record = self.detach();
    }

    /// Takes a member out: its streams that nobody else in the group has are blocked, and the domain goes with the last member.
    ///
    /// # Errors
    ///
    /// When that was not confirmed; the member is out all the same.
    pub(crate) fn remove_member(&mut self, id: DeviceId) -> Result<(), Unconfirmed> {
        self.members.retain(|member| member.id != id);
        match &mut self.attached {
            _ if self.members.is_empty() => self.detach(),
            Some(attached) => attached.leave(id),
            None => Ok(()),
        }
    }

    /// Blocks the streams of a member whose driver panicked. Where nobody else uses the domain, all of it is given up. What is not confirmed
    /// is on record at the node.
    pub(crate) fn shut_out(&mut self, id: DeviceId) {
        if self.owner == Owner::Kernel(0) {
            self.abandon();
        } else if let Some(attached) = &mut self.attached {
            let _on_record = attached.leave(id);
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
                if let Err(unconfirmed) = self.detach().and_then(|()| self.known_blocked()) {
                    return Some(Err(unconfirmed));
                }
                self.owner = Owner::External(token, 1);
            }
            Owner::Kernel(_) | Owner::External(..) => return None,
        }
        Some(Ok(()))
    }

    /// Whether every stream of every member, none of which is attached, is known to be blocked.
    fn known_blocked(&self) -> Result<(), Unconfirmed> {
        let doubt = |node: &Arc<GroupNode<P, D>>| {
            let streams = self.members.iter().flat_map(Member::streams);
            let mut here = streams.filter(|stream| stream.iommu == node.id);
            let error = here.find_map(|stream| node.quarantine.doubts(stream.spec()))?;
            Some(Unconfirmed { node: node.id, error })
        };
        self.nodes.iter().find_map(doubt).map_or(Ok(()), Err)
    }

    /// Undoes one claim, and returns whether that was the last. `None` when `token` has none.
    #[doc(alias = "iommu_group_release_dma_owner")]
    pub(crate) fn release_external(&mut self, token: u64) -> Option<bool> {
        match &mut self.owner {
            Owner::External(owner, count) if *owner == token => {
                *count -= 1;
                let last = *count == 0;
                if last {
                    self.owner = Owner::Kernel(0);
                }
                Some(last)
            }
            Owner::Kernel(_) | Owner::External(..) => None,
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
            Owner::External(..) => Err(BlockedReason::OwnedOutside.into()),
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

impl<P: Platform, D> fmt::Debug for IommuGroup<P, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IommuGroup({})", self.id.0)
    }
}
