//! Default domains: which type, when they are published, when the hardware follows.

use super::super::commit::Commit;
use super::super::errno::{EBUSY, EINVAL, EPERM, Errno, OK};
use super::super::kernel::{
    BLOCKED, Client, DMA, DMA_AGAIN, Dev, Field, Group, IDENTITY, Kernel, Step, T,
};
use super::super::property::Id;
use super::super::{dd, dma};

/// `iommu_setup_default_domain`; the group's mutex is held. The type comes from all members; a domain
/// of that type that is there already is kept, another one is replaced.
pub(crate) fn iommu_setup_default_domain(t: &mut T<'_>, k: &Kernel, g: Group) -> Step<Errno> {
    set_default_domain(t, k, g, None)
}

/// The same, with the type that somebody asks for.
fn set_default_domain(t: &mut T<'_>, k: &Kernel, g: Group, asked: Option<u64>) -> Step<Errno> {
    t.func("iommu_setup_default_domain", |t| {
        let group = k.group(g);
        let (members, default, iova) = (group.members, group.default_domain, group.iova_ready);
        let identity = k.identity_clients();
        let dom =
            t.update("type from all members: group->default_domain = domain", move |shared| {
                let by_members = if shared.get(members) & identity != 0 { IDENTITY } else { DMA };
                let wanted = asked.unwrap_or(by_members);
                if shared.get(default) == wanted {
                    return 0;
                }
                shared.set(default, wanted);
                shared.set(iova, 0);
                wanted
            })?;
        if dom == 0 {
            return Ok(OK);
        }
        attach_members(t, k, g, dom)?;
        t.write(group.domain, dom, "all devices attached: group->domain = domain")?;
        Ok(OK)
    })
}

/// `iommu_group_store_type` with `identity`. 6.1 takes the device's lock and asks whether a driver is bound; from 6.2 on
/// the group's mutex and `owner_cnt` decide (`drivers/iommu/iommu.c`, 6.1.192 and 6.12.117).
pub(crate) fn iommu_group_store_type(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<Errno> {
    t.func("iommu_group_store_type", |t| {
        let g = k.group_of(x);
        let group = k.group(g);
        if t.read(group.default_domain, "group->default_domain, no lock")? == 0 {
            return Ok(EINVAL);
        }
        if !k.has(Commit::GroupTestLocked) {
            return change_with_device_lock(t, k, x);
        }
        t.lock(group.mutex, "")?;
        let members = t.read(group.members, "list_empty(&group->devices)?")?;
        let count = t.read(group.owner_cnt, "a driver bound? owner_cnt")?;
        let ret = if members == 0 || count != 0 {
            EPERM
        } else {
            set_default_domain(t, k, g, Some(IDENTITY))?
        };
        if ret == OK && k.has(Commit::DmaOpsWithDomain) {
            for x in k.members_possible(g).filter(|x| members >> x.0 & 1 != 0) {
                dma::iommu_setup_dma_ops(t, k, x)?;
            }
        }
        t.unlock(group.mutex)?;
        Ok(ret)
    })
}

/// 6.1: `iommu_change_dev_def_domain` of a group with one device, under that device's lock.
fn change_with_device_lock(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<Errno> {
    let (g, dev) = (k.group_of(x), Dev::Client(x));
    t.lock(k.device_lock(dev), "")?;
    let bound = t.read(k.client(x).run, "device_is_bound()?")? & dd::BOUND != 0;
    let ret = if bound {
        EBUSY
    } else {
        t.lock(k.group(g).mutex, "")?;
        let ret = set_default_domain(t, k, g, Some(IDENTITY))?;
        t.unlock(k.group(g).mutex)?;
        ret
    };
    t.unlock(k.device_lock(dev))?;
    Ok(ret)
}

/// Attaches every member of the group; the group's mutex is held.
fn attach_members(t: &mut T<'_>, k: &Kernel, g: Group, dom: u64) -> Step<()> {
    let group = k.group(g);
    if k.world_has_owner() && t.read(group.owner, "an outside owner?")? != 0 {
        k.violated(t, first_member(k, g), Id::OwnerOverridden);
    }
    let attached: Vec<(Client, Field)> =
        k.members_possible(g).map(|x| (x, k.client(x).attached)).collect();
    let members = group.members;
    t.update(
        "attach_dev for each member: the hardware now translates through it",
        move |shared| {
            for (x, field) in &attached {
                if shared.get(members) >> x.0 & 1 != 0 {
                    shared.set(*field, dom);
                }
            }
        },
    )?;
    Ok(())
}

/// `__iommu_device_set_domain` / `__iommu_attach_device`: one device follows the group; mutex held.
pub(crate) fn attach_device(t: &mut T<'_>, k: &Kernel, x: Client, from: Field) -> Step<()> {
    let attached = k.client(x).attached;
    t.update("attach_dev for this device", move |shared| {
        let dom = shared.get(from);
        if dom != 0 {
            shared.set(attached, dom);
        }
        dom
    })?;
    Ok(())
}

/// 6.1 `iommu_alloc_default_domain`: the type of this one device, if the group has no default domain.
pub(crate) fn iommu_alloc_default_domain(
    t: &mut T<'_>,
    k: &Kernel,
    g: Group,
    x: Client,
) -> Step<Errno> {
    t.func("iommu_alloc_default_domain", |t| {
        let group = k.group(g);
        let (default, domain) = (group.default_domain, group.domain);
        if t.read(default, "group->default_domain")? != 0 {
            return Ok(OK);
        }
        let wanted = if k.identity_clients() >> x.0 & 1 != 0 { IDENTITY } else { DMA };
        publish(t, group.iova_ready, default, domain, wanted)?;
        Ok(OK)
    })
}

/// 6.1 `probe_alloc_default_domain` and the attach after it, at the end of the walk; mutex held.
pub(crate) fn probe_alloc_default_domain(t: &mut T<'_>, k: &Kernel, g: Group) -> Step<Errno> {
    t.func("probe_alloc_default_domain", |t| {
        let group = k.group(g);
        let default = t.read(group.default_domain, "group->default_domain")?;
        if default != 0 && k.has(Commit::KeepDefaultDomain) {
            return attach_members(t, k, g, default).map(|()| OK);
        }
        let members = t.read(group.members, "the types of all members")?;
        let wanted = match (members & k.identity_clients() != 0, default) {
            (true, _) => IDENTITY,
            (false, DMA) => DMA_AGAIN,
            (false, _) => DMA,
        };
        publish(t, group.iova_ready, group.default_domain, group.domain, wanted)?;
        attach_members(t, k, g, wanted)?;
        Ok(OK)
    })
}

/// 6.1: `group->default_domain = dom`, and `group->domain` too if there is none.
fn publish(t: &mut T<'_>, iova: Field, default: Field, domain: Field, dom: u64) -> Step<()> {
    t.write(iova, 0, "a new domain has no IOVA space yet")?;
    t.write(default, dom, "group->default_domain = domain")?;
    if t.read(domain, "group->domain")? == 0 {
        t.write(domain, dom, "group->domain = domain")?;
    }
    Ok(())
}

/// Attaches every member to the blocking domain of an outside owner; mutex held.
pub(crate) fn attach_blocking(t: &mut T<'_>, k: &Kernel, g: Group) -> Step<()> {
    attach_members(t, k, g, BLOCKED)?;
    t.write(k.group(g).domain, BLOCKED, "group->domain = blocking domain")
}

/// `__iommu_release_dma_ownership`: back to the default domain, which "must succeed"; mutex held.
pub(crate) fn attach_default_again(t: &mut T<'_>, k: &Kernel, g: Group) -> Step<()> {
    let dom = t.read(k.group(g).default_domain, "group->default_domain to go back to")?;
    if dom == 0 {
        k.violated(t, first_member(k, g), Id::NoDomainToReturnTo);
        return Ok(());
    }
    attach_members(t, k, g, dom)?;
    t.write(k.group(g).domain, dom, "group->domain = default domain again")
}

/// The device that speaks for a group in the log.
fn first_member(k: &Kernel, g: Group) -> Dev {
    k.members_possible(g).next().map_or(Dev::Client(Client(g.0)), Dev::Client)
}
