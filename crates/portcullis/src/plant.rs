//! Bugs on purpose, so that the schedule explorer can show that it would find them.
//!
//! They exist only with the feature `planted-bugs`. No crate of this workspace turns it on but the lab's tests of its own checks, which ask for it by name
//! (`cargo test -p portcullis-lab --features planted-bugs`), and nothing is planted until [`plant`] names a bug: a build that has the feature by mistake
//! still behaves. Without the feature every question below is answered `false` at compile time.

#[cfg(feature = "planted-bugs")]
use core::sync::atomic::{AtomicU8, Ordering};

/// One way to get the probe protocol wrong.
#[cfg_attr(
    not(feature = "planted-bugs"),
    expect(dead_code, unreachable_pub, reason = "without the feature no bug can be named")
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Plant {
    /// A client that finds a set-up begun by somebody else takes it for done, and its driver runs with direct DMA: the report's race.
    EarlyReturn = 1,
    /// The group shows its domain before the streams lead to it.
    GroupBeforeDomain,
    /// "Is it there?" and "then I wait" are two critical sections: a registration between them wakes nobody.
    DeferWithoutKick,
    /// The domain is made outside of the group lock, by everybody who finds none.
    DomainOutsideGroupLock,
    /// The device lock is not held while the driver's probe runs.
    TwoProbes,
    /// The driver gets its handle when the domain exists, and the streams are not led there before it runs.
    HandleBeforeAttach,
    /// Who waits when a registration fails is not told of the one that succeeds later.
    StaleAfterFailedRegistration,
    /// The lock is given back between "the group has no domain" and making one, without looking again.
    UnlockBetweenGroupAndDomain,
    /// A device behind two IOMMUs gets the first one twice.
    WrongInstance,
    /// Who was woken stays on the list of waiters.
    LeftOnList,
    /// An IOMMU is taken out, and its groups are detached, under bound drivers.
    OpsChangedWhileBound,
}

#[cfg(feature = "planted-bugs")]
static PLANTED: AtomicU8 = AtomicU8::new(0);

/// Plants `bug`, in all subsystems of the process, or none.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Option<Plant>) {
    PLANTED.store(bug.map_or(0, |bug| bug as u8), Ordering::Relaxed);
}

#[cfg(feature = "planted-bugs")]
pub(crate) fn planted(bug: Plant) -> bool {
    PLANTED.load(Ordering::Relaxed) == bug as u8
}

#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn planted(_bug: Plant) -> bool {
    false
}

/// The wrong ways to a domain.
#[cfg(feature = "planted-bugs")]
pub(crate) mod attach {
    use super::{Plant, planted};
    use crate::attachment::{Attachment, Instances};
    use crate::description::DomainType;
    use crate::group::{GroupState, IommuGroup, NotAttached, Waiter};
    use crate::space::Domain;
    use alloc::string::String;
    use alloc::sync::Arc;
    use portcullis_platform::Platform;

    type Found<P> = Result<Option<Arc<Domain<P>>>, NotAttached>;

    /// What a planted bug makes of a client's way to its domain; `None` when none of these is planted.
    pub(crate) fn client<P: Platform>(
        group: &Arc<IommuGroup<P>>,
        default: DomainType,
        waiter: &Waiter<'_, P>,
    ) -> Option<Found<P>> {
        let found = if planted(Plant::EarlyReturn) {
            early_return(group, default, waiter)
        } else if planted(Plant::GroupBeforeDomain) || planted(Plant::HandleBeforeAttach) {
            publish_first(group, default, Some(waiter), planted(Plant::GroupBeforeDomain))
        } else if planted(Plant::DomainOutsideGroupLock) {
            outside_the_lock(group, default, Some(waiter))
        } else if planted(Plant::UnlockBetweenGroupAndDomain) {
            unlock_between(group, default, Some(waiter))
        } else {
            return None;
        };
        Some(found.and_then(|domain| group.with(|_, state| state.acquire()).map(|()| domain)))
    }

    /// The same for the groups behind a newly registered IOMMU; whether one is planted.
    pub(crate) fn registration<P: Platform>(
        group: &Arc<IommuGroup<P>>,
        default: DomainType,
    ) -> bool {
        let found = if planted(Plant::EarlyReturn) {
            group.with(|_, state| state.begun = true);
            group.with(|_, state| state.ensure_attached(default, None).map(Some))
        } else if planted(Plant::GroupBeforeDomain) {
            publish_first(group, default, None, true)
        } else if planted(Plant::DomainOutsideGroupLock) {
            outside_the_lock(group, default, None)
        } else if planted(Plant::UnlockBetweenGroupAndDomain) {
            unlock_between(group, default, None)
        } else {
            return false;
        };
        drop(found);
        true
    }

    fn early_return<P: Platform>(
        group: &Arc<IommuGroup<P>>,
        default: DomainType,
        waiter: &Waiter<'_, P>,
    ) -> Found<P> {
        group.with(|_, state| match (&state.attached, state.begun) {
            (None, true) => Ok(None),
            _ => state.ensure_attached(default, Some(waiter)).map(Some),
        })
    }

    fn publish_first<P: Platform>(
        group: &Arc<IommuGroup<P>>,
        default: DomainType,
        waiter: Option<&Waiter<'_, P>>,
        finish: bool,
    ) -> Found<P> {
        let (domain, mine) = group.with(|_, state| {
            if let Some(attached) = &state.attached {
                return Ok((Arc::clone(attached.domain()), false));
            }
            let (instances, kind) = prepare(state, default, waiter)?;
            let early = Attachment::published_early(kind, instances, &state.members);
            let early = early.map_err(|_| NotAttached::Blocked(String::from("refused")))?;
            let domain = Arc::clone(early.domain());
            state.attached = Some(early);
            Ok((domain, true))
        })?;
        if mine && finish {
            group.with(|_, state| state.attached.as_mut().map(Attachment::finish_late));
        }
        Ok(Some(domain))
    }

    fn outside_the_lock<P: Platform>(
        group: &Arc<IommuGroup<P>>,
        default: DomainType,
        waiter: Option<&Waiter<'_, P>>,
    ) -> Found<P> {
        let (instances, kind, members) = group.with(|_, state| {
            if state.attached.is_some() {
                return Ok((Instances::new(), default, alloc::vec::Vec::new()));
            }
            let (instances, kind) = prepare(state, default, waiter)?;
            Ok((instances, kind, state.members.to_vec()))
        })?;
        if members.is_empty() {
            return group.with(|_, state| state.ensure_attached(default, waiter).map(Some));
        }
        let made = Attachment::set_up(kind, instances, &members);
        let made = made.map_err(|_| NotAttached::Blocked(String::from("refused")))?;
        let domain = Arc::clone(made.domain());
        group.with(|_, state| state.attached = Some(made));
        Ok(Some(domain))
    }

    fn unlock_between<P: Platform>(
        group: &Arc<IommuGroup<P>>,
        default: DomainType,
        waiter: Option<&Waiter<'_, P>>,
    ) -> Found<P> {
        let none = group.with(|_, state| state.attached.is_none());
        group.with(|_, state| {
            if none {
                state.attached = None;
            }
            state.ensure_attached(default, waiter).map(Some)
        })
    }

    type Prepared = (Instances, DomainType);

    fn prepare<P: Platform>(
        state: &GroupState<P>,
        default: DomainType,
        waiter: Option<&Waiter<'_, P>>,
    ) -> Result<Prepared, NotAttached> {
        let instances = state.find_instances(waiter)?;
        let kind = state.choose_domain(default).map_err(NotAttached::Blocked)?;
        Ok((instances, kind))
    }
}

/// The wrong way to a probe.
#[cfg(feature = "planted-bugs")]
pub(crate) mod probe {
    use crate::device::{Device, Phase};
    use crate::dma::DmaHandle;
    use crate::probe::BindOutcome;
    use crate::subsystem::Subsystem;
    use alloc::sync::Arc;
    use portcullis_platform::Platform;

    /// An attempt that holds the device lock before and after the driver's probe, not during it. `None` when there is no path yet.
    pub(crate) fn without_the_device_lock<P: Platform>(
        subsystem: &Subsystem<P>,
        device: &Arc<Device<P>>,
    ) -> Option<BindOutcome> {
        let (driver, lease) = {
            let state = device.state.lock();
            (state.driver.clone()?, subsystem.final_path(device, &state).ok()?)
        };
        let bound = driver.probe(device, DmaHandle::new(Arc::clone(&lease))).ok()?;
        let reach = lease.reach();
        device.state.lock().phase = Phase::Bound { driver: bound, lease };
        Some(BindOutcome::Bound(reach))
    }
}
