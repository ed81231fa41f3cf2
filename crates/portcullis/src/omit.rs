//! What happens where a safeguard is left out and more than one line is missing. Only tests get here.

use crate::attachment::Attachment;
use crate::description::DomainType;
use crate::device::{Bound, Device, DeviceStage};
use crate::dma::DmaHandle;
use crate::driver::ProbeContext;
use crate::group::{IommuGroup, NotAttached, Waiter};
use crate::hooks::{Safeguard, omitted};
use crate::probe::BindOutcome;
use crate::space::Domain;
use crate::subsystem::Subsystem;
use alloc::sync::Arc;
use portcullis_platform::Platform;

type Found<P> = Result<Arc<Domain<P>>, NotAttached>;

/// The group's domain by a wrong way; `None` where no safeguard of that way is left out.
pub(crate) fn domain<P: Platform>(
    group: &Arc<IommuGroup<P>>,
    default: DomainType,
    waiter: Option<&Waiter<'_, P>>,
) -> Option<Found<P>> {
    if omitted::<P>(Safeguard::AttachBeforeShowing) {
        return Some(shown_first(group, default, waiter));
    }
    if omitted::<P>(Safeguard::SetUpUnderGroupLock) {
        return Some(outside_the_lock(group, default, waiter));
    }
    omitted::<P>(Safeguard::LookAgain).then(|| without_a_second_look(group, default, waiter))
}

fn shown_first<P: Platform>(
    group: &Arc<IommuGroup<P>>,
    default: DomainType,
    waiter: Option<&Waiter<'_, P>>,
) -> Found<P> {
    let (domain, mine) = group.with(|_, state| {
        let mine = state.attached.is_none();
        state.ensure_attached(default, waiter).map(|domain| (domain, mine))
    })?;
    if mine {
        let _late = group.with(|_, state| state.attached.as_mut().map(Attachment::join_late));
    }
    Ok(domain)
}

fn outside_the_lock<P: Platform>(
    group: &Arc<IommuGroup<P>>,
    default: DomainType,
    waiter: Option<&Waiter<'_, P>>,
) -> Found<P> {
    let prepared = group.with(|_, state| match &state.attached {
        Some(attached) => Ok(Err(Arc::clone(attached.domain()))),
        None => state.prepare(default, waiter).map(|it| Ok((it, state.members.clone()))),
    })?;
    let ((instances, kind), members) = match prepared {
        Ok(prepared) => prepared,
        Err(domain) => return Ok(domain),
    };
    match Attachment::set_up(kind, instances, &members) {
        Ok(made) => Ok(group.with(|_, state| state.show(made))),
        Err(_) => group.with(|_, state| state.ensure_attached(default, waiter)),
    }
}

fn without_a_second_look<P: Platform>(
    group: &Arc<IommuGroup<P>>,
    default: DomainType,
    waiter: Option<&Waiter<'_, P>>,
) -> Found<P> {
    let none = group.with(|_, state| state.attached.is_none());
    group.with(|_, state| {
        if none {
            state.attached = None;
        }
        state.ensure_attached(default, waiter)
    })
}

/// An attempt that holds the device lock before and after the driver's probe, not during it. `None` when there is no path yet.
pub(crate) fn probe_without_the_lock<P: Platform>(
    subsystem: &Subsystem<P>,
    device: &Arc<Device<P>>,
) -> Option<BindOutcome> {
    let (driver, lease) = {
        let state = device.state.lock();
        (state.driver.clone()?, subsystem.final_path(device, &state).ok()?)
    };
    let context = ProbeContext::new(device.id(), device.description());
    let bound = driver.probe(&context, DmaHandle::new(Arc::clone(&lease))).ok()?;
    let reach = lease.reach();
    device.state.lock().bound = Some(Bound { driver: bound, lease });
    device.tell(|status| status.stage = DeviceStage::Bound);
    Some(BindOutcome::Bound(reach))
}
