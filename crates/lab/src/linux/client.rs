//! The clients' own drivers, and what else can happen in a world: the threads that are not a probe.

use super::commit::Commit;
use super::dd::{self, driver_deferred_probe_trigger, may_probe};
use super::dma::{IOMMU_DMA, Neighbour, store_neighbour};
use super::errno::{EIO, EPROBE_DEFER, Errno, OK};
use super::iommu::domain::iommu_group_store_type;
use super::iommu::owner::{iommu_group_claim_dma_owner, iommu_group_release_dma_owner};
use super::iommu::probe::iommu_probe_device;
use super::iommu::register::iommu_device_unregister;
use super::iommu::release::iommu_release_device;
use super::kernel::{Client, DMA, Dev, Iommu, Kernel, MSI_DIRECT, MSI_MAPPED, Step, T};
use super::property::Id;
use super::world::Event;

/// Bit 0 of `run`: the driver has mapped its first buffer.
pub(crate) const RUNNING: u64 = 1;
/// Value of `seen_path`: the first mapping was direct.
pub(crate) const SAW_DIRECT: u64 = 1;
/// Value of `seen_path`: the first mapping went through iommu-dma.
pub(crate) const SAW_IOMMU: u64 = 2;

/// `driver->probe` of a client: it sets its mask, and its first `dma_map_single()` fixes what the driver relies on.
/// Where the world says so it allocates interrupt vectors, and fails or defers at its first probe.
pub(crate) fn probe(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<Errno> {
    t.func("driver->probe", |t| {
        if k.has(Commit::RetireBusOps) {
            t.func("dma_set_mask", |t| store_neighbour(t, k, x, Neighbour::SkipSync))?;
        }
        map_first(t, k, x)?;
        if k.world().has(Event::Msi) {
            allocate_vectors(t, k, x)?;
        }
        match k.first_probe(x) {
            Some(event) => fail_or_defer(t, k, x, event),
            None => Ok(OK),
        }
    })
}

/// The driver fails its first probe, or defers until its own supplier is bound.
fn fail_or_defer(t: &mut T<'_>, k: &Kernel, x: Client, event: Event) -> Step<Errno> {
    let over = k.client(x).tried;
    if t.read(over, "the first probe, or a supplier that is missing?")? != 0 {
        return Ok(OK);
    }
    if event == Event::Fail {
        t.write(over, 1, "not this time")?;
    }
    remove(t, k, x)?;
    Ok(if event == Event::Fail { EIO } else { EPROBE_DEFER })
}

/// The supplier that the first client's driver waits for binds.
pub(crate) fn supplier_binds(t: &mut T<'_>, k: &Kernel) -> Step<()> {
    t.func("driver_bound", |t| {
        t.write(k.client(Client(0)).tried, 1, "the client's supplier is bound")?;
        driver_deferred_probe_trigger(t, k, None)
    })
}

/// The first mapping of the driver.
fn map_first(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<Errno> {
    let dev = k.client(x);
    let group = k.group(k.group_of(x));
    let (dma, attached, member) = (dev.dma, dev.attached, dev.iommu_group);
    let (run, seen_path, seen_domain) = (dev.run, dev.seen_path, dev.seen_domain);
    let (default, iova) = (group.default_domain, group.iova_ready);
    // A driver that cannot defer after this does not ask for the count again.
    let bit = if k.first_probe(x).is_none() { k.bit(Dev::Client(x)) } else { 0 };
    let (probing, triggered) = (k.probing, k.triggered);
    let mapped = t.update("dma_map_single(): the first DMA mapping", {
        move |shared| {
            shared.set(probing, shared.get(probing) & !bit);
            shared.set(triggered, shared.get(triggered) & !bit);
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
}

/// `pci_alloc_irq_vectors` down to `iommu_dma_prepare_msi`: behind a DMA domain the doorbell is mapped into it, else the
/// message keeps the physical address. Up to 6.14 it looks at the domain without a lock (`drivers/iommu/dma-iommu.c`,
/// 6.1.192 and 6.12.117); since 288683c92b1a it takes the group's mutex (`drivers/iommu/iommu.c`, 7.2.13 and 7.3.4).
fn allocate_vectors(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<Errno> {
    t.func("iommu_dma_prepare_msi", |t| {
        if !k.has(Commit::MsiUnderGroupMutex) {
            return compose_message(t, k, x);
        }
        let dev = k.client(x);
        if t.read(dev.iommu_group, "dev->iommu_group: none, nothing to map into")? == 0 {
            t.write(dev.msi, MSI_DIRECT, "the message keeps the physical address")?;
            return Ok(OK);
        }
        let mutex = k.group(k.group_of(x)).mutex;
        t.lock(mutex, "")?;
        let ret = compose_message(t, k, x)?;
        t.unlock(mutex)?;
        Ok(ret)
    })
}

/// Maps the doorbell into the domain, if there is one for DMA. A stock 6.1.192 died in `alloc_iova_fast` below this where
/// the domain had no IOVA space yet.
fn compose_message(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<Errno> {
    let group = k.group(k.group_of(x));
    let (msi, member) = (k.client(x).msi, k.client(x).iommu_group);
    let (domain, iova) = (group.domain, group.iova_ready);
    let composed = t.update("group->domain: map the doorbell?", move |shared| {
        let behind = shared.get(member) != 0 && shared.get(domain) == DMA;
        if behind && shared.get(iova) == 0 {
            return 0;
        }
        shared.set(msi, if behind { MSI_MAPPED } else { MSI_DIRECT });
        1
    })?;
    if composed == 0 {
        return k.oops(t, Dev::Client(x), Id::NullIovaDomain);
    }
    Ok(OK)
}

/// `driver->remove`: the driver unmaps what it has and is gone.
pub(crate) fn remove(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<()> {
    let dev = k.client(x);
    let fields = [dev.run, dev.seen_path, dev.seen_domain, dev.msi];
    t.update("the driver unmaps, frees its vectors, stops", move |shared| {
        fields.iter().for_each(|field| shared.set(*field, 0));
    })
}

/// Another driver of the machine binds, which tries everything deferred again.
pub(crate) fn another_driver_binds(t: &mut T<'_>, k: &Kernel) -> Step<()> {
    t.func("driver_bound", |t| driver_deferred_probe_trigger(t, k, None).map(|()| OK))?;
    Ok(())
}

/// `deferred_probe_timeout_work_func`: the wait is over, everything is tried once more.
pub(crate) fn deferred_probe_timeout(t: &mut T<'_>, k: &Kernel) -> Step<()> {
    t.func("deferred_probe_timeout_work_func", |t| {
        t.write(k.timed_out, 1, "driver_deferred_probe_timeout = 0")?;
        driver_deferred_probe_trigger(t, k, None).map(|()| OK)
    })?;
    Ok(())
}

/// `device_add` of a client after boot: on the bus, notifier, first bind.
pub(crate) fn device_add(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<()> {
    t.func("device_add", |t| {
        t.write(k.client(x).on_bus, 1, "bus_add_device: klist_add_tail to the bus")?;
        t.func("iommu_bus_notifier", |t| iommu_probe_device(t, k, x))?;
        if k.has(Commit::ReadyToProbe) {
            t.write(k.client(x).ready_to_probe, 1, "dev_set_ready_to_probe(dev)")?;
        }
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

/// A driver registers while `device_add` of a client is at work: `__driver_attach` finds it on the bus.
pub(crate) fn second_thread(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<()> {
    let on_bus = k.client(x).on_bus;
    t.func("bus_for_each_dev", |t| {
        t.wait_idle("the device on the bus", move |s| s.get(on_bus) != 0)
    })?;
    dd::device_attach(t, k, Dev::Client(x))
}

/// Somebody writes `identity` to the `type` file of a client's group.
pub(crate) fn writes_type(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<()> {
    let member = k.client(x).iommu_group;
    t.func("user of sysfs", |t| t.wait_idle("a group to write to", move |s| s.get(member) != 0))?;
    iommu_group_store_type(t, k, x).map(|_| ())
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
