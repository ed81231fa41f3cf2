//! The clients' own drivers, and what else can happen in a world: the threads that are not a probe.

use super::dd::{self, driver_deferred_probe_trigger, may_probe};
use super::dma::IOMMU_DMA;
use super::errno::OK;
use super::iommu::owner::{iommu_group_claim_dma_owner, iommu_group_release_dma_owner};
use super::iommu::probe::iommu_probe_device;
use super::iommu::register::iommu_device_unregister;
use super::iommu::release::iommu_release_device;
use super::kernel::{Client, Dev, Iommu, Kernel, Step, T};
use super::property::Id;

/// Bit 0 of `run`: the driver has mapped its first buffer.
pub(crate) const RUNNING: u64 = 1;
/// Value of `seen_path`: the first mapping was direct.
pub(crate) const SAW_DIRECT: u64 = 1;
/// Value of `seen_path`: the first mapping went through iommu-dma.
pub(crate) const SAW_IOMMU: u64 = 2;

/// `driver->probe` of a client: its first `dma_map_single()` fixes what the driver relies on.
pub(crate) fn probe(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<()> {
    t.func("driver->probe", |t| {
        let dev = k.client(x);
        let group = k.group(k.group_of(x));
        let (dma, attached, member) = (dev.dma, dev.attached, dev.iommu_group);
        let (run, seen_path, seen_domain) = (dev.run, dev.seen_path, dev.seen_domain);
        let (default, iova) = (group.default_domain, group.iova_ready);
        let mapped = t.update("dma_map_single(): the first DMA mapping", {
            move |shared| {
                let through_iommu = shared.get(dma) & IOMMU_DMA != 0;
                let usable =
                    shared.get(member) != 0 && shared.get(default) != 0 && shared.get(iova) != 0;
                if through_iommu && !usable {
                    return 0;
                }
                shared.set(run, RUNNING);
                shared.set(seen_path, if through_iommu { SAW_IOMMU } else { SAW_DIRECT });
                shared.set(seen_domain, shared.get(attached));
                1
            }
        })?;
        if mapped == 0 {
            return k.oops(t, Dev::Client(x), Id::NullIovaDomain);
        }
        Ok(OK)
    })?;
    Ok(())
}

/// `driver->remove`: the driver unmaps what it has and is gone.
pub(crate) fn remove(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<()> {
    let dev = k.client(x);
    let (run, seen_path, seen_domain) = (dev.run, dev.seen_path, dev.seen_domain);
    t.update("driver->remove: unmaps, stops", move |shared| {
        shared.set(run, 0);
        shared.set(seen_path, 0);
        shared.set(seen_domain, 0);
        0
    })?;
    Ok(())
}

/// Another driver of the machine binds, which tries everything deferred again.
pub(crate) fn another_driver_binds(t: &mut T<'_>, k: &Kernel) -> Step<()> {
    t.func("driver_bound", |t| driver_deferred_probe_trigger(t, k).map(|()| OK))?;
    Ok(())
}

/// `deferred_probe_timeout_work_func`: the wait is over, everything is tried once more.
pub(crate) fn deferred_probe_timeout(t: &mut T<'_>, k: &Kernel) -> Step<()> {
    t.func("deferred_probe_timeout_work_func", |t| {
        t.write(k.timed_out, 1, "driver_deferred_probe_timeout = 0")?;
        driver_deferred_probe_trigger(t, k).map(|()| OK)
    })?;
    Ok(())
}

/// `device_add` of a client after boot: on the bus, notifier, first bind.
pub(crate) fn device_add(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<()> {
    t.func("device_add", |t| {
        t.write(k.client(x).on_bus, 1, "bus_add_device: klist_add_tail to the bus")?;
        t.func("iommu_bus_notifier", |t| iommu_probe_device(t, k, x))?;
        Ok(OK)
    })?;
    dd::device_attach(t, k, Dev::Client(x))
}

/// `device_del` of a client: unbind, then `BUS_NOTIFY_REMOVED_DEVICE` without the probe lock.
pub(crate) fn device_del(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<()> {
    t.func("device_del", |t| {
        let dev = k.client(x);
        t.lock(k.device_lock(Dev::Client(x)), "")?;
        t.write(dev.dead, 1, "kill_device: dev->p->dead = true")?;
        t.unlock(k.device_lock(Dev::Client(x)))?;
        t.write(dev.on_bus, 0, "bus_remove_device: klist_del")?;
        t.lock(k.device_lock(Dev::Client(x)), "")?;
        if t.read(dev.run, "bound?")? != 0 {
            dd::device_release_driver(t, k, x)?;
        }
        t.unlock(k.device_lock(Dev::Client(x)))?;
        dd::driver_deferred_probe_del(t, k, Dev::Client(x))?;
        t.func("iommu_bus_notifier", |t| iommu_release_device(t, k, x).map(|()| OK))?;
        t.write(dev.dead, 2, "put_device: the device is freed")?;
        Ok(OK)
    })?;
    Ok(())
}

/// Unbind and bind through sysfs, once the client is bound.
pub(crate) fn rebind(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<()> {
    let run = k.client(x).run;
    let lock = k.device_lock(Dev::Client(x));
    t.func("user of sysfs", |t| {
        t.wait_idle("the client to be bound", move |s| s.get(run) & dd::BOUND != 0)
    })?;
    t.func("unbind_store", |t| {
        t.lock(lock, "")?;
        if t.read(run, "still bound?")? != 0 {
            dd::device_release_driver(t, k, x)?;
        }
        t.unlock(lock)?;
        Ok(OK)
    })?;
    t.func("bind_store", |t| {
        t.lock(lock, "")?;
        if may_probe(t, k, Dev::Client(x))? {
            // A deferral is an error for the writer of the file; nothing is put on a list.
            dd::really_probe(t, k, x)?;
        }
        t.unlock(lock)?;
        Ok(OK)
    })?;
    Ok(())
}

/// VFIO: claim the group of a client, use it, give it back.
pub(crate) fn vfio_claims(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<()> {
    let g = k.group_of(x);
    let member = k.client(x).iommu_group;
    t.func("user of VFIO", |t| {
        t.wait_idle("a group to open (/dev/vfio/N)", move |s| s.get(member) != 0)
    })?;
    if iommu_group_claim_dma_owner(t, k, g)? == OK {
        iommu_group_release_dma_owner(t, k, g)?;
    }
    Ok(())
}

/// The first instance's driver is unbound, as a module that is taken out (`suppress_bind_attrs` and
/// a built-in driver avoid this in real kernels).
pub(crate) fn unregister(t: &mut T<'_>, k: &Kernel, s: Iommu) -> Step<()> {
    let bound = k.iommu(s).bound;
    let lock = k.device_lock(Dev::Iommu(s));
    t.func("user of sysfs", |t| {
        t.wait_idle("the instance to be bound", move |shared| shared.get(bound) != 0)
    })?;
    t.lock(lock, "")?;
    iommu_device_unregister(t, k, s)?;
    t.write(bound, 0, "klist_remove from driver->klist_devices")?;
    t.unlock(lock)?;
    Ok(())
}
