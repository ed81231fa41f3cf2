//! What happens where a safeguard is left out and more than one line is missing. Only tests get here.

use crate::attachment::Attachment;
use crate::description::DomainType;
use crate::group::{GroupWaiter, IommuGroup, NotAttached};
use crate::hooks::{Safeguard, omitted};
use crate::space::Domain;
use alloc::sync::Arc;
use portcullis_platform::Platform;

type Found<P> = Result<Arc<Domain<P>>, NotAttached>;

/// The group's domain, made in a way that is wrong on purpose; `None` where no such safeguard is left out.
pub(crate) fn domain<P: Platform, D>(
    group: &Arc<IommuGroup<P, D>>,
    default: DomainType,
    waiter: Option<&mut GroupWaiter<'_, P, D>>,
) -> Option<Found<P>> {
    if omitted::<P>(Safeguard::AttachBeforeShowing) {
        return Some(shown_first(group, default, waiter));
    }
    if omitted::<P>(Safeguard::SetUpUnderGroupLock) {
        return Some(outside_the_lock(group, default, waiter));
    }
    omitted::<P>(Safeguard::LookAgain).then(|| without_a_second_look(group, default, waiter))
}

fn shown_first<P: Platform, D>(
    group: &Arc<IommuGroup<P, D>>,
    default: DomainType,
    waiter: Option<&mut GroupWaiter<'_, P, D>>,
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

fn outside_the_lock<P: Platform, D>(
    group: &Arc<IommuGroup<P, D>>,
    default: DomainType,
    mut waiter: Option<&mut GroupWaiter<'_, P, D>>,
) -> Found<P> {
    let prepared = group.with(|_, state| match &state.attached {
        Some(attached) => Ok(Err(Arc::clone(attached.domain()))),
        None => {
            state.prepare(default, waiter.as_deref_mut()).map(|it| Ok((it, state.members.clone())))
        }
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

fn without_a_second_look<P: Platform, D>(
    group: &Arc<IommuGroup<P, D>>,
    default: DomainType,
    waiter: Option<&mut GroupWaiter<'_, P, D>>,
) -> Found<P> {
    let none = group.with(|_, state| state.attached.is_none());
    group.with(|_, state| {
        if none {
            state.attached = None;
        }
        state.ensure_attached(default, waiter)
    })
}
