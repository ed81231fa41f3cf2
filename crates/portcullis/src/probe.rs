//! One attempt to bind a device to its driver, and the way back.
//!
//! The attempt holds the device lock from beginning to end, so there is one at a time. The group lock is held while the domain is found or
//! made, and given back before the driver runs.

use crate::callback;
use crate::description::{DmaPath, DomainType, FwNode};
use crate::device::{Bound, Device, DeviceState, DeviceWaiter};
use crate::dma::{DmaHandle, Lease, Reach};
use crate::driver::{Driver, ProbeContext, ProbeError};
use crate::error::Unconfirmed;
use crate::group::NotAttached;
use crate::hooks::{Safeguard, omitted};
use crate::node::SlotState;
use crate::omit;
use crate::reason::{BlockedReason, FailedReason};
use crate::space::Domain;
use crate::status::DeviceStage;
use crate::subsystem::Subsystem;
use crate::work::{AHEAD, Work};
use alloc::string::String;
use alloc::sync::Arc;
use core::{fmt, hint};
use portcullis_platform::{MutexGuard, Platform};

type DeviceGuard<'a, P> = MutexGuard<'a, DeviceState<P>, <P as Platform>::Lock>;

/// How an attempt to bind ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindOutcome {
    /// The driver is bound, and its device reaches memory this way until it is unbound.
    Bound(Reach),
    /// The supplier at the node is not there yet; its registration brings the next attempt.
    #[doc(alias = "EPROBE_DEFER")]
    Deferred(FwNode),
    /// The device reaches nothing, for this reason.
    Blocked(BlockedReason),
    /// The driver gave up, for this reason.
    Failed(FailedReason),
}

impl fmt::Display for BindOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bound(reach) => write!(f, "bound ({reach:?})"),
            Self::Deferred(node) => write!(f, "deferred until {node} is there"),
            Self::Blocked(reason) => write!(f, "blocked: {reason}"),
            Self::Failed(reason) => write!(f, "failed: {reason}"),
        }
    }
}

/// Why no attempt was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindError {
    /// The device was removed.
    Gone,
    /// A driver is bound already.
    AlreadyBound,
    /// No driver is bound.
    NotBound,
    /// A callback of the device's own driver asked: it would wait for itself. See [`Driver`].
    WithinCallback,
    /// It has been done, but hardware did not confirm that the device no longer reaches what it reached.
    Unconfirmed(Unconfirmed),
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("the device was removed"),
            Self::AlreadyBound => f.write_str("a driver is bound already: unbind it first"),
            Self::NotBound => f.write_str("no driver is bound"),
            Self::WithinCallback => f.write_str(
                "a callback of the device's own driver cannot bind, unbind or remove it",
            ),
            Self::Unconfirmed(unconfirmed) => write!(f, "{unconfirmed}"),
        }
    }
}

impl core::error::Error for BindError {}

impl From<Unconfirmed> for BindError {
    fn from(unconfirmed: Unconfirmed) -> Self {
        Self::Unconfirmed(unconfirmed)
    }
}

impl<P: Platform> Subsystem<P> {
    /// Gives `device` the driver and tries to bind it now. If something it needs is missing, the attempt is repeated when that comes, by whoever calls
    /// [`run_deferred`](Self::run_deferred).
    ///
    /// May be called from any number of threads, also while IOMMUs are being registered or unregistered. Waits for an attempt on the same device that is under way.
    ///
    /// # Errors
    ///
    /// [`BindError::Gone`], [`BindError::AlreadyBound`], [`BindError::WithinCallback`].
    #[doc(alias = "really_probe")]
    pub fn bind(
        &self,
        device: &Arc<Device<P>>,
        driver: Arc<dyn Driver<P>>,
    ) -> Result<BindOutcome, BindError> {
        let mut state = self.lock(device)?;
        if state.bound.is_some() {
            return Err(BindError::AlreadyBound);
        }
        state.driver = Some(driver);
        if omitted::<P>(Safeguard::LockOverProbe) {
            drop(state);
            let unlocked = self.probe_without_the_lock(device);
            return Ok(unlocked.unwrap_or_else(|| self.attempt(device, &mut device.state.lock())));
        }
        Ok(self.attempt(device, &mut state))
    }

    /// Binds one driver to all of `devices`, one after the other, as [`bind`](Self::bind) does, and tells `told` what came of each. For the devices of a bus that a driver serves: where they lie about in
    /// memory this is faster than as many calls of `bind`, because what the next 16 begin with is fetched together (by a third at 100,000 devices, see docs/performance.md).
    #[doc(alias = "driver_attach")]
    pub fn bind_all<'a>(
        &self,
        devices: &'a [Arc<Device<P>>],
        driver: &Arc<dyn Driver<P>>,
        mut told: impl FnMut(&'a Arc<Device<P>>, Result<BindOutcome, BindError>),
    ) {
        for some in devices.chunks(AHEAD) {
            // Plain loads of all of them first: the memory answers them together.
            hint::black_box(some.iter().map(Arc::strong_count).sum::<usize>());
            hint::black_box(some.iter().map(|device| device.look()).sum::<usize>());
            for device in some {
                told(device, self.bind(device, Arc::clone(driver)));
            }
        }
    }

    /// Takes the driver away from `device`: it is quiesced, what it left mapped is removed, and the device reaches nothing of it any more. Also withdraws a bind that is waiting.
    ///
    /// # Errors
    ///
    /// [`BindError::NotBound`] when there was nothing to take away, [`BindError::Gone`], [`BindError::WithinCallback`]. [`BindError::Unconfirmed`] when the driver is gone, but hardware did not confirm
    /// that its device reaches nothing any more: the memory behind its mappings must not be used again.
    #[doc(alias = "device_release_driver")]
    pub fn unbind(&self, device: &Arc<Device<P>>) -> Result<(), BindError> {
        let mut state = self.lock(device)?;
        if state.driver.is_none() {
            return Err(BindError::NotBound);
        }
        Ok(self.unbind_locked(device, &mut state)?)
    }

    /// Removes `device` from the machine, unbinding it first. Its streams are blocked; a group that it was alone in goes with it.
    ///
    /// # Errors
    ///
    /// [`BindError::Gone`] when it was removed before, [`BindError::WithinCallback`]. [`BindError::Unconfirmed`] when it is removed and hardware did not confirm that it is blocked: turn its bus mastering
    /// off before its memory is used again.
    #[doc(alias = "iommu_release_device")]
    pub fn remove_device(&self, device: &Arc<Device<P>>) -> Result<(), BindError> {
        let mut state = self.lock(device)?;
        let unbound = self.unbind_locked(device, &mut state);
        device.status.show(DeviceStage::Gone);
        // It is blocked first and forgotten afterwards: a device that is added in between and shares a stream joins the same group, and takes the group's lock in turn.
        let left = device
            .group()
            .map_or(Ok(()), |group| group.with(|_, group| group.remove_member(device.id())));
        self.topology().lock().remove(device);
        Ok(unbound.and(left)?)
    }

    /// The device lock, for a device that is still there.
    fn lock<'a>(&self, device: &'a Device<P>) -> Result<DeviceGuard<'a, P>, BindError> {
        hint::black_box(device.look());
        if device.is_called_by(self.platform()) {
            return Err(BindError::WithinCallback);
        }
        let state = device.state.lock();
        if device.status.is_gone() { Err(BindError::Gone) } else { Ok(state) }
    }

    /// One more attempt for a device that was woken; `false` if it must be made later, because the caller is a callback of the device's driver.
    pub(crate) fn retry(&self, device: &Arc<Device<P>>) -> bool {
        if device.is_called_by(self.platform()) {
            return false;
        }
        let mut state = device.state.lock();
        if device.status.is_put_off() && state.driver.is_some() {
            self.attempt(device, &mut state);
        }
        true
    }

    fn attempt(&self, device: &Arc<Device<P>>, state: &mut DeviceState<P>) -> BindOutcome {
        let mut waits = false;
        let outcome = match self.final_path(device, state) {
            Ok(lease) => self.probe_driver(device, state, lease),
            Err(NotAttached::Waits(node)) => BindOutcome::Deferred(node),
            Err(NotAttached::NodeFailed(_, reason)) => {
                waits = true;
                BindOutcome::Blocked(*reason)
            }
            Err(NotAttached::Blocked(reason)) => BindOutcome::Blocked(*reason),
        };
        if !waits && !matches!(outcome, BindOutcome::Deferred(_)) {
            state.wait_no_longer(device);
        }
        show(device, &outcome);
        outcome
    }

    /// Decides how the device reaches memory, completely. A device that the description puts behind an IOMMU never comes out of here with a direct path.
    pub(crate) fn final_path(
        &self,
        device: &Arc<Device<P>>,
        state: &mut DeviceState<P>,
    ) -> Result<Arc<Lease<P>>, NotAttached> {
        let lease = |domain: Option<Arc<Domain<P>>>| {
            let kind = domain.as_deref().map(Domain::kind);
            let lazy = kind == Some(DomainType::DmaLazy);
            let timer = lazy.then(|| Arc::clone(self.work().arrived()));
            let lease =
                Lease::new(self.platform(), device.id(), device.description(), domain, timer);
            if lazy {
                self.flushes().watch(&lease);
            }
            lease
        };
        // The group first: whoever has one is behind an IOMMU, and the description of a device that must wait need not be fetched.
        let Some(group) = device.group() else {
            return match &device.description().dma {
                DmaPath::Direct => Ok(lease(None)),
                DmaPath::Unusable(words) => Err(BlockedReason::Description(words.clone()).into()),
                DmaPath::Translated(_) => Err(device.blocked_for().into()),
            };
        };
        let mut waiter = DeviceWaiter { device, standing: &mut state.standing };
        let default = self.policy().default_domain;
        if omitted::<P>(Safeguard::WaitForSetUp) && group.is_busy() {
            return Ok(lease(None));
        }
        if let Some(domain) = omit::domain(group, default, Some(&mut waiter)) {
            let domain = domain?;
            group.with(|_, group| group.acquire())?;
            return Ok(lease(Some(domain)));
        }
        let domain = group.with(|_, group| {
            let domain = group.ensure_member(default, device.id(), &mut waiter)?;
            group.acquire()?;
            Ok::<_, NotAttached>(domain)
        })?;
        Ok(lease(Some(domain)))
    }

    fn probe_driver(
        &self,
        device: &Arc<Device<P>>,
        state: &mut DeviceState<P>,
        lease: Arc<Lease<P>>,
    ) -> BindOutcome {
        let Some(driver) = state.driver.as_deref() else {
            return BindOutcome::Failed(FailedReason::NoDriver);
        };
        device.status.count_probe();
        match callback::probe(&**self.platform(), device, driver, &lease) {
            Ok(driver) => {
                let reach = lease.reach();
                state.bound = Some(Bound { driver, lease });
                BindOutcome::Bound(reach)
            }
            Err(error) => {
                // Where this is not confirmed, the group's reports say so.
                let _on_record = callback::end_lease(device, &lease);
                let name = || String::from(driver.name());
                match error {
                    ProbeError::Defer(node) => self.wait_for_supplier(device, state, node),
                    ProbeError::Dma(error) => {
                        BindOutcome::Failed(FailedReason::Dma { driver: name(), error })
                    }
                    ProbeError::Failed(words) => {
                        BindOutcome::Failed(FailedReason::Driver { driver: name(), words })
                    }
                }
            }
        }
    }

    /// The driver asked for a supplier. If that came in the meantime the next attempt is queued at once, but only once for one registration:
    /// a driver that defers on what is there, or on several such nodes in turn, would be probed for ever.
    fn wait_for_supplier(
        &self,
        device: &Arc<Device<P>>,
        state: &mut DeviceState<P>,
        id: FwNode,
    ) -> BindOutcome {
        let node = self.node(id);
        let mut slot = node.slot.lock();
        match slot.state {
            SlotState::Registered(_) | SlotState::Announced => {
                if state.retried_for.contains(&(id, slot.arrivals)) {
                    return BindOutcome::Failed(FailedReason::DefersOnPresent(id));
                }
                state.retried_for.retain(|(node, _)| *node != id);
                state.retried_for.push((id, slot.arrivals));
                drop(slot);
                self.work().push([Work::Retry(Arc::downgrade(device))]);
            }
            SlotState::Absent | SlotState::Closing(_) | SlotState::Failed(_) => {
                let mut waiter = DeviceWaiter { device, standing: &mut state.standing };
                let elsewhere = node.enlist(&mut slot, &mut waiter);
                drop(slot);
                elsewhere.into_iter().for_each(|standing| standing.leave(device));
            }
        }
        BindOutcome::Deferred(id)
    }

    fn unbind_locked(
        &self,
        device: &Arc<Device<P>>,
        state: &mut DeviceState<P>,
    ) -> Result<(), Unconfirmed> {
        state.driver = None;
        state.wait_no_longer(device);
        let unbound = match state.bound.take() {
            Some(bound) => callback::remove(&**self.platform(), device, bound),
            None => Ok(()),
        };
        device.status.show(DeviceStage::Described);
        unbound
    }

    /// An attempt without [`Safeguard::LockOverProbe`]: it holds the device lock before and after the driver's probe, not during it. `None` when there is no path yet.
    fn probe_without_the_lock(&self, device: &Arc<Device<P>>) -> Option<BindOutcome> {
        let (driver, lease) = {
            let mut state = device.state.lock();
            (state.driver.clone()?, self.final_path(device, &mut state).ok()?)
        };
        let context = ProbeContext::new(device.id(), device.description());
        let bound = driver.probe(&context, DmaHandle::new(Arc::clone(&lease))).ok()?;
        let reach = lease.reach();
        device.state.lock().bound = Some(Bound { driver: bound, lease });
        device.status.show(DeviceStage::Bound);
        Some(BindOutcome::Bound(reach))
    }
}

/// Lets everybody see how an attempt ended.
fn show<P: Platform>(device: &Device<P>, outcome: &BindOutcome) {
    let status = &device.status;
    match outcome {
        BindOutcome::Bound(_) => status.show(DeviceStage::Bound),
        BindOutcome::Deferred(node) => {
            status.count_defer();
            status.show(DeviceStage::Waiting(*node));
        }
        BindOutcome::Blocked(reason) => status.show(DeviceStage::Blocked(reason.clone())),
        BindOutcome::Failed(reason) => status.show(DeviceStage::Failed(reason.clone())),
    }
}

impl<P: Platform> DeviceState<P> {
    /// Leaves the list of waiters in which the device stands, if any.
    fn wait_no_longer(&mut self, device: &Arc<Device<P>>) {
        if let Some(standing) = self.standing.take() {
            standing.leave(device);
        }
    }
}
