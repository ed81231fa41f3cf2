//! The way out: `iommu_release_device` takes a device out of its group without the probe lock.

use super::super::commit::Commit;
use super::super::errno::OK;
use super::super::kernel::{Client, Dev, Kernel, Step, T};
use super::super::property::Id;
use super::probe::dev_iommu_free;

/// `iommu_release_device`, from the bus notifier (device gone) or from `iommu_device_unregister`.
pub(crate) fn iommu_release_device(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<()> {
    t.func("iommu_release_device", |t| {
        if !k.has(Commit::GroupTestLocked) {
            return release_driver_first(t, k, x);
        }
        let dev = k.client(x);
        if t.read(dev.iommu_group, "dev->iommu_group")? != 0 {
            __iommu_group_remove_device(t, k, x)?;
        }
        if t.read(dev.iommu, "dev->iommu left (a fwspec without a probe)?")? != 0 {
            dev_iommu_free(t, k, x)?;
        }
        Ok(OK)
    })?;
    Ok(())
}

/// 6.1 (`drivers/iommu/iommu.c`, 6.1.192): `release_device` comes first, without the group's mutex; then
/// `iommu_group_remove_device`, and `dev->iommu` last. The domains go with the last reference of the group.
fn release_driver_first(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<u64> {
    let dev = k.client(x);
    if t.read(dev.iommu, "dev->iommu: anything to release?")? == 0 {
        return Ok(OK);
    }
    if t.read(dev.iommu_dev, "dev_iommu_ops(dev)->release_device")? == 0 {
        return k.oops(t, Dev::Client(x), Id::NullDevIommu);
    }
    t.write(dev.attached, 0, "release_device: the hardware blocks or bypasses it again")?;
    if t.read(dev.iommu_group, "iommu_group_remove_device(): dev->iommu_group")? != 0 {
        let group = k.group(k.group_of(x));
        t.lock(group.mutex, "")?;
        let before = t.read(group.members, "unlink from group->devices")?;
        t.write(group.members, before & !(1 << x.0), "unlinked")?;
        t.unlock(group.mutex)?;
        t.write(dev.iommu_group, 0, "dev->iommu_group = NULL")?;
        if before & !(1 << x.0) == 0 {
            free_domains(t, k, x)?;
            if t.read(group.entry, "kobject_put: the group is freed, on no list?")? != 0 {
                k.violated(t, Dev::Client(x), Id::DanglingEntry);
            }
        }
    }
    dev_iommu_free(t, k, x)?;
    Ok(OK)
}

/// `__iommu_group_remove_device` with `iommu_deinit_device`; the last member takes the group along.
fn __iommu_group_remove_device(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<()> {
    t.func("__iommu_group_remove_device", |t| {
        let group = k.group(k.group_of(x));
        t.lock(group.mutex, "")?;
        let before = t.read(group.members, "unlink from group->devices")?;
        let rest = before & !(1 << x.0);
        t.write(group.members, rest, "unlinked")?;
        if rest == 0 {
            free_domains(t, k, x)?;
        }
        deinit_device(t, k, x)?;
        if rest == 0 && t.read(group.entry, "kobject_put: the group is freed, on no list?")? != 0 {
            k.violated(t, Dev::Client(x), Id::DanglingEntry);
        }
        t.unlock(group.mutex)?;
        Ok(OK)
    })?;
    Ok(())
}

/// The group is empty: default and blocking domain are freed.
fn free_domains(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<()> {
    let group = k.group(k.group_of(x));
    if t.read(group.owner_cnt, "WARN_ON(owner_cnt) of an empty group")? != 0 {
        k.violated(t, Dev::Client(x), Id::FreedWhileOwned);
    }
    t.write(group.default_domain, 0, "default domain freed")?;
    t.write(group.domain, 0, "group->domain = NULL")?;
    t.write(group.owner_cnt, 0, "the group goes, its count with it")?;
    t.write(group.owner, 0, "and its owner")
}

/// `iommu_deinit_device`: what one device held.
fn deinit_device(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<()> {
    let dev = k.client(x);
    t.write(dev.attached, 0, "release_device: the hardware blocks or bypasses it again")?;
    t.write(dev.iommu_group, 0, "dev->iommu_group = NULL")?;
    dev_iommu_free(t, k, x)?;
    if k.has(Commit::ClearDmaIommu) {
        super::super::dma::set_dma_iommu(t, k, x, false)?;
    }
    Ok(())
}
