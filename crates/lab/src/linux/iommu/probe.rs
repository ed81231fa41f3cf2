//! The probe of one device: `__iommu_probe_device` and what it is made of.

use super::super::commit::Commit;
use super::super::errno::{ENODEV, EPROBE_DEFER, Errno, OK};
use super::super::kernel::{Client, Dev, Group, Iommu, Kernel, Step, T, linked_by};
use super::super::property::Id;
use super::super::{arm_smmu, bus, dma};
use super::domain::{self, iommu_setup_default_domain};

/// `iommu_probe_device`: the probe asked for by the device's own side (hot-plug, driver bind).
pub(crate) fn iommu_probe_device(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<Errno> {
    t.func("iommu_probe_device", |t| {
        k.probe_lock(t)?;
        let ret = __iommu_probe_device(t, k, x, None)?;
        k.probe_unlock(t)?;
        if ret != OK {
            return Ok(ret);
        }
        let ret = if !k.has(Commit::GroupTestLocked) {
            alloc_and_attach(t, k, x)?
        } else if !k.has(Commit::AttachInProbe) {
            attach_after_probe(t, k, x)?
        } else if k.has(Commit::Rfc20241213) {
            complete_group(t, k, x)?
        } else if k.has(Commit::DefaultDomainBackport) {
            defer_without_default_domain(t, k, x)?
        } else {
            OK
        };
        if ret == OK {
            probe_finalize(t, k, x)?;
        }
        Ok(ret)
    })
}

/// `__iommu_probe_device`. The caller holds the probe lock, where the kernel has one. `list` is the
/// walk's list of groups whose default domain is to come later; none when a client asks.
pub(crate) fn __iommu_probe_device(
    t: &mut T<'_>,
    k: &Kernel,
    x: Client,
    list: Option<Iommu>,
) -> Step<Errno> {
    t.func("__iommu_probe_device", |t| {
        let dev = k.client(x);
        if !k.has(Commit::RetireBusOps) && t.read(k.bus_ops, "bus->iommu_ops: any IOMMU?")? == 0 {
            return Ok(ENODEV);
        }
        if (k.has(Commit::GroupTestLocked) || k.has(Commit::LockedGroupTest6_1))
            && t.read(dev.iommu_group, "dev->iommu_group: device is already probed?")? != 0
        {
            return Ok(OK);
        }
        let ret = iommu_init_device(t, k, x)?;
        if ret != OK {
            return Ok(ret);
        }
        if k.has(Commit::ParseInWalk) && t.read(dev.driver, "dev->driver: late probe?")? != 0 {
            k.violated(t, Dev::Client(x), Id::LateProbeWarning);
        }
        let g = k.group_of(x);
        t.lock(k.group(g).mutex, "")?;
        join_group(t, k, x)?;
        if !k.has(Commit::GroupTestLocked) {
            if t.read(k.group(g).domain, "group->domain: attach the newcomer?")? != 0 {
                domain::attach_device(t, k, x, k.group(g).domain)?;
            }
            defer_domain(t, k, g, list)?;
        } else if k.has(Commit::AttachInProbe) {
            attach_or_defer(t, k, x, list)?;
        } else {
            defer_domain(t, k, g, list)?;
        }
        t.unlock(k.group(g).mutex)?;
        Ok(OK)
    })
}

/// `iommu_init_device` (6.6 on; before, the first half of `__iommu_probe_device`): `dev->iommu`, the
/// instance's `probe_device`, the group.
fn iommu_init_device(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<Errno> {
    t.func("iommu_init_device", |t| {
        let dev = k.client(x);
        let early = k.has(Commit::RetireBusOps) && !k.has(Commit::ParseInWalk);
        if early && iommu_fwspec_ops(t, k, x)? != OK {
            return Ok(ENODEV);
        }
        dev_iommu_get(t, k, x)?;
        if k.has(Commit::ParseInWalk) {
            let ret = parse_firmware(t, k, x)?;
            if ret != OK {
                return Ok(ret);
            }
        }
        let ret = arm_smmu::probe_device(t, k, x)?;
        if ret != OK {
            dev_iommu_free(t, k, x)?;
            return Ok(ret);
        }
        t.write(dev.iommu_dev, 1, "dev->iommu->iommu_dev = iommu_dev")?;
        t.write(dev.iommu_group, 1, "dev->iommu_group = group: published")?;
        Ok(OK)
    })
}

/// `dev_iommu_get`: makes `dev->iommu` if there is none.
pub(crate) fn dev_iommu_get(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<()> {
    let iommu = k.client(x).iommu;
    t.scope(|t| {
        if t.read(iommu, "dev_iommu_get(): dev->iommu there?")? == 0 {
            t.write(iommu, 1, "dev->iommu = kzalloc()")?;
        }
        Ok(())
    })
}

/// bcb81ac6ae3c: run the bus's `dma_configure` from here, with the probe lock dropped.
fn parse_firmware(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<Errno> {
    let dev = k.client(x);
    let recheck = k.has(Commit::RecheckAfterParse);
    let untouched = !recheck || t.read(dev.fwspec, "dev->iommu->fwspec: parsed before?")? == 0;
    if untouched && t.read(dev.driver, "dev->driver: bound or binding?")? == 0 {
        k.probe_unlock(t)?;
        // What it returns is not looked at.
        t.scope(|t| bus::dma_configure(t, k, x, bus::Caller::Walk).map(|_| ()))?;
        k.probe_lock(t)?;
        if recheck
            && (t.nth(1).read(dev.iommu, "dev->iommu freed by another walk?")? == 0
                || t.read(dev.iommu_group, "finished by another walk?")? != 0)
        {
            return Ok(ENODEV);
        }
    }
    if t.nth(1 + u16::from(recheck)).read(dev.iommu, "dev->iommu->fwspec")? == 0 {
        return k.oops(t, Dev::Client(x), Id::NullDevIommu);
    }
    if iommu_fwspec_ops(t, k, x)? != OK {
        dev_iommu_free(t, k, x)?;
        return Ok(ENODEV);
    }
    Ok(OK)
}

/// `iommu_fwspec_ops` / `iommu_ops_from_fwnode`: is the instance that the fwspec names registered?
fn iommu_fwspec_ops(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<Errno> {
    t.func("iommu_fwspec_ops", |t| {
        if t.read(k.client(x).fwspec, "dev_iommu_fwspec_get()")? == 0 {
            return Ok(ENODEV);
        }
        let listed =
            t.read(k.iommu(k.iommu_of(x)).listed, "iommu_ops_from_fwnode() [iommu_device_lock]")?;
        Ok(if listed != 0 { OK } else { ENODEV })
    })
}

/// `dev_iommu_free`: `dev->iommu` goes, and the fwspec with it.
pub(crate) fn dev_iommu_free(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<()> {
    let dev = k.client(x);
    t.update("dev_iommu_free(): dev->iommu = NULL, the fwspec goes with it", {
        let fields = [dev.iommu, dev.fwspec, dev.private, dev.iommu_dev];
        move |shared| fields.iter().for_each(|field| shared.set(*field, 0))
    })
}

/// Adds the device to `group->devices`; the group's mutex is held.
fn join_group(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<()> {
    let members = k.group(k.group_of(x)).members;
    t.update("list_add_tail to group->devices", move |shared| {
        let with_x = shared.get(members) | 1 << x.0;
        shared.set(members, with_x);
        0
    })?;
    Ok(())
}

/// f188056352bc: attach to the domain the group has, set one up for a client, or leave it to the walk.
fn attach_or_defer(t: &mut T<'_>, k: &Kernel, x: Client, list: Option<Iommu>) -> Step<()> {
    let g = k.group_of(x);
    let group = k.group(g);
    if t.read(group.domain, "group->domain: attach the newcomer?")? != 0 {
        domain::attach_device(t, k, x, group.domain)?;
    } else if t.read(group.default_domain, "group->default_domain")? == 0 {
        match list {
            None => {
                iommu_setup_default_domain(t, k, g)?;
            }
            Some(_) => defer_domain(t, k, g, list)?,
        }
    }
    if k.has(Commit::DmaOpsWithDomain)
        && t.nth(1).read(group.default_domain, "group->default_domain: final?")? != 0
    {
        dma::iommu_setup_dma_ops(t, k, x)?;
    }
    Ok(())
}

/// Puts the group on the walk's list if it has no default domain and is on no list.
fn defer_domain(t: &mut T<'_>, k: &Kernel, g: Group, list: Option<Iommu>) -> Step<()> {
    let Some(s) = list else { return Ok(()) };
    let group = k.group(g);
    let (default, entry) = (group.default_domain, group.entry);
    let on_list = k.iommu(s).group_list[g.0];
    let owner = linked_by(s);
    t.update(
        "no default domain: list_add_tail(&group->entry, group_list), domain deferred",
        move |shared| {
            let free = shared.get(default) == 0 && shared.get(entry) == 0;
            if free {
                shared.set(entry, owner);
                shared.set(on_list, 1);
            }
            u64::from(free)
        },
    )?;
    Ok(())
}

/// 6.1, end of `iommu_probe_device`: `iommu_alloc_default_domain`, then attach.
fn alloc_and_attach(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<Errno> {
    let g = k.group_of(x);
    let group = k.group(g);
    if t.read(k.client(x).iommu_group, "iommu_group_get()")? == 0 {
        return Ok(ENODEV);
    }
    t.lock(group.mutex, "")?;
    domain::iommu_alloc_default_domain(t, k, g, x)?;
    if t.read(group.owner, "group->owner")? == 0 {
        domain::attach_device(t, k, x, group.default_domain)?;
    }
    t.unlock(group.mutex)?;
    Ok(OK)
}

/// 6.6 without f188056352bc, end of `iommu_probe_device`: attach, or set up the default domain, whoever
/// published the group.
fn attach_after_probe(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<Errno> {
    let g = k.group_of(x);
    let group = k.group(g);
    if t.read(k.client(x).iommu_group, "iommu_group_get()")? == 0 {
        return Ok(ENODEV);
    }
    t.lock(group.mutex, "")?;
    if t.read(group.domain, "group->domain: attach?")? != 0 {
        domain::attach_device(t, k, x, group.domain)?;
    } else if t.read(group.default_domain, "group->default_domain")? == 0 {
        iommu_setup_default_domain(t, k, g)?;
    }
    t.unlock(group.mutex)?;
    Ok(OK)
}

/// The RFC, end of `iommu_probe_device`: a group without a default domain gets one now.
fn complete_group(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<Errno> {
    let g = k.group_of(x);
    let group = k.group(g);
    if t.read(k.client(x).iommu_group, "iommu_group_get()")? == 0 {
        return Ok(ENODEV);
    }
    t.lock(group.mutex, "")?;
    if t.read(group.default_domain, "group->default_domain")? == 0 {
        iommu_setup_default_domain(t, k, g)?;
    }
    t.unlock(group.mutex)?;
    Ok(OK)
}

/// The 6.6.y backport of b46064a18810, its first check: no default domain yet, come again.
fn defer_without_default_domain(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<Errno> {
    let group = k.group(k.group_of(x));
    if t.read(k.client(x).iommu_group, "dev->iommu_group")? == 0 {
        return Ok(OK);
    }
    t.lock(group.mutex, "")?;
    let ready = t.read(group.default_domain, "group->default_domain: come again without")? != 0;
    t.unlock(group.mutex)?;
    Ok(if ready { OK } else { EPROBE_DEFER })
}

/// `ops->probe_finalize`, found through `dev->iommu->iommu_dev`.
fn probe_finalize(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<()> {
    if t.read(k.client(x).iommu, "dev_iommu_ops(dev)->probe_finalize")? == 0 {
        k.oops(t, Dev::Client(x), Id::NullDevIommu)?;
    }
    Ok(())
}

/// `iommu_group_do_probe_finalize` for each member, after the walk; the list is read without the mutex.
pub(crate) fn finalize_members(t: &mut T<'_>, k: &Kernel, g: Group) -> Step<()> {
    if !k.world_frees_devices() {
        // Nothing but a release can take dev->iommu from a member: the reads would see what they must.
        return Ok(());
    }
    let members = t.read(k.group(g).members, "for_each_group_device() without group->mutex")?;
    for x in k.clients().filter(|x| members >> x.0 & 1 != 0) {
        probe_finalize(t, k, x)?;
    }
    Ok(())
}
