//! Registration of an instance and its walk over the bus: the thread that the report calls P1.

use super::super::commit::Commit;
use super::super::errno::{ENODEV, Errno, OK};
use super::super::kernel::{Client, Dev, Group, Iommu, Kernel, Step, T};
use super::super::property::Id;
use super::super::{dma, iommu};
use super::probe::__iommu_probe_device;
use super::release::iommu_release_device;

/// `iommu_device_register`: publish the instance, then give every device of the bus its domain.
pub(crate) fn iommu_device_register(t: &mut T<'_>, k: &Kernel, s: Iommu) -> Step<Errno> {
    t.func("iommu_device_register", |t| {
        t.write(k.iommu(s).listed, 1, "list_add_tail to iommu_device_list [iommu_device_lock]")?;
        if !k.has(Commit::RegisterWalks) {
            return Ok(OK);
        }
        if !k.has(Commit::RetireBusOps) {
            t.write(k.bus_ops, 1, "bus->iommu_ops = ops")?;
        }
        let err = bus_iommu_probe(t, k, s)?;
        if err != OK {
            iommu_device_unregister(t, k, s)?;
            return Ok(err);
        }
        if k.has(Commit::ReadyFlag) {
            t.write(k.iommu(s).ready, 1, "the last walk is over")?;
        }
        Ok(OK)
    })
}

/// 5.15: `arm_smmu_bus_init` and `bus_set_iommu`, after the registration. Only the first instance of the driver finds
/// the bus without operations, and walks it.
pub(crate) fn bus_set_iommu(t: &mut T<'_>, k: &Kernel, s: Iommu) -> Step<Errno> {
    if k.has(Commit::RegisterWalks) {
        return Ok(OK);
    }
    t.func("bus_set_iommu", |t| {
        let bus_ops = k.bus_ops;
        let first = t.update("bus->iommu_ops: none yet? then ours", move |shared| {
            let first = shared.get(bus_ops) == 0;
            shared.set(bus_ops, 1);
            first
        })?;
        if first { bus_iommu_probe(t, k, s) } else { Ok(OK) }
    })
}

/// `bus_iommu_probe`: the walk, then the deferred default domains of the groups it met.
fn bus_iommu_probe(t: &mut T<'_>, k: &Kernel, s: Iommu) -> Step<Errno> {
    t.func("bus_iommu_probe", |t| {
        for x in k.clients() {
            if k.world_moves_devices() && t.read(k.client(x).on_bus, "next device of the bus")? == 0
            {
                continue;
            }
            let err = probe_iommu_group(t, k, s, x)?;
            if err != OK {
                // The early return: whatever is on the list on this stack stays linked.
                leave_group_list(t, k, s)?;
                return Ok(err);
            }
        }
        for g in k.groups() {
            t.scope(|t| {
                if t.read(k.iommu(s).group_list[g.0], "group on this walk's list?")? != 0 {
                    finish_group(t, k, s, g)?;
                }
                Ok(())
            })?;
        }
        Ok(OK)
    })
}

/// `probe_iommu_group`, called for each device of the bus; "not mine" is no error for the walk.
fn probe_iommu_group(t: &mut T<'_>, k: &Kernel, s: Iommu, x: Client) -> Step<Errno> {
    t.func("probe_iommu_group", |t| {
        if !k.has(Commit::GroupTestLocked)
            && t.read(k.client(x).iommu_group, "iommu_group_get(): in a group already?")? != 0
        {
            return Ok(OK);
        }
        k.probe_lock(t)?;
        let ret = __iommu_probe_device(t, k, x, Some(s))?;
        k.probe_unlock(t)?;
        Ok(if ret == ENODEV { OK } else { ret })
    })
}

/// The body of the second loop of `bus_iommu_probe`: one group of the list.
fn finish_group(t: &mut T<'_>, k: &Kernel, s: Iommu, g: Group) -> Step<Errno> {
    t.scope(|t| {
        let group = k.group(g);
        t.lock(group.mutex, "")?;
        let (entry, on_list) = (group.entry, k.iommu(s).group_list[g.0]);
        t.update("list_del_init(&group->entry)", move |shared| {
            shared.set(entry, 0);
            shared.set(on_list, 0);
            0
        })?;
        if k.has(Commit::GroupTestLocked) {
            iommu::domain::iommu_setup_default_domain(t, k, g)?;
        } else {
            iommu::domain::probe_alloc_default_domain(t, k, g)?;
        }
        if k.has(Commit::DmaOpsWithDomain) {
            for x in k.members_possible(g) {
                if t.read(group.members, "for each member of the group")? >> x.0 & 1 != 0 {
                    dma::iommu_setup_dma_ops(t, k, x)?;
                }
            }
        }
        t.unlock(group.mutex)?;
        Ok(OK)
    })?;
    iommu::probe::finalize_members(t, k, g)?;
    Ok(OK)
}

/// The end of a walk that failed: promise I6 is that none of its groups stays linked.
fn leave_group_list(t: &mut T<'_>, k: &Kernel, s: Iommu) -> Step<()> {
    for g in k.groups() {
        if t.read(k.iommu(s).group_list[g.0], "return with the group still on the list?")? != 0 {
            k.violated(t, Dev::Iommu(s), Id::DanglingEntry);
        }
    }
    Ok(())
}

/// `iommu_device_unregister`: release every device of this instance, then take it off the list.
pub(crate) fn iommu_device_unregister(t: &mut T<'_>, k: &Kernel, s: Iommu) -> Step<()> {
    t.func("iommu_device_unregister", |t| {
        for x in k.clients().filter(|x| k.iommu_of(*x) == s) {
            // Set before the group, and read without any lock (`remove_iommu_group`).
            if t.read(k.client(x).iommu_dev, "dev->iommu->iommu_dev is this instance?")? != 0 {
                iommu_release_device(t, k, x)?;
            }
        }
        t.write(k.iommu(s).listed, 0, "list_del from iommu_device_list [iommu_device_lock]")?;
        Ok(0)
    })?;
    Ok(())
}
