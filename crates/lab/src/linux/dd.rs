//! The driver core, `drivers/base/dd.c`: binding, deferral, the worker that tries again.

use core::ops::ControlFlow;

use super::arm_smmu::{arm_smmu_device_probe, defers_unbound};
use super::bus::{self, Caller};
use super::client;
use super::commit::Commit;
use super::dma::{Neighbour, arch_teardown_dma_ops, store_neighbour};
use super::errno::{EPROBE_DEFER, ETIMEDOUT, Errno, OK};
use super::iommu::owner::iommu_device_unuse_default_domain;
use super::kernel::{Client, Dev, Iommu, Kernel, Step, T};
use super::world::{Bus, Driver};

/// Bit 1 of `run`: the driver's probe has returned success (`driver_bound`).
pub(crate) const BOUND: u64 = 2;

/// `__driver_attach` / `device_attach`: one attempt under the device's lock.
pub(crate) fn device_attach(t: &mut T<'_>, k: &Kernel, dev: Dev) -> Step<()> {
    t.func("device_attach", |t| {
        t.lock(k.device_lock(dev), "")?;
        if may_probe(t, k, dev)? {
            driver_probe_device(t, k, dev)?;
        }
        t.unlock(k.device_lock(dev))?;
        Ok(OK)
    })?;
    Ok(())
}

/// Neither bound already nor being removed.
pub(crate) fn may_probe(t: &mut T<'_>, k: &Kernel, dev: Dev) -> Step<bool> {
    match dev {
        Dev::Iommu(s) => Ok(t.read(k.iommu(s).bound, "dev->driver: bound already?")? == 0),
        Dev::Client(x) => {
            let dead = k.world_frees_devices()
                && t.read(k.client(x).dead, "dev->p->dead: being removed?")? != 0;
            Ok(!dead && t.read(k.client(x).run, "dev->driver: bound already?")? == 0)
        }
    }
}

/// `driver_probe_device`: an attempt, and what becomes of it when it defers.
pub(crate) fn driver_probe_device(t: &mut T<'_>, k: &Kernel, dev: Dev) -> Step<Errno> {
    t.func("driver_probe_device", |t| {
        remember_triggers(t, k, dev)?;
        let ret = match dev {
            Dev::Iommu(s) => really_probe_iommu(t, k, s)?,
            Dev::Client(x) => __driver_probe_device(t, k, x)?,
        };
        if ret == NOT_READY {
            // can_match is not set, so driver_deferred_probe_add() puts nothing on the list.
            return Ok(EPROBE_DEFER);
        }
        if ret == EPROBE_DEFER {
            debug_assert!(may_defer(k, dev), "{dev:?} has not remembered the count");
            driver_deferred_probe_add(t, k, dev)?;
            if was_triggered(t, k, dev)? {
                driver_deferred_probe_trigger(t, k, None)?;
            }
        }
        Ok(ret)
    })
}

/// The snapshot of `deferred_trigger_count`: from here on a trigger is noted for this device, if it can come to ask.
fn remember_triggers(t: &mut T<'_>, k: &Kernel, dev: Dev) -> Step<()> {
    if !may_defer(k, dev) {
        return t.update("snapshot of deferred_trigger_count", |_| ());
    }
    let (probing, triggered, bit) = (k.probing, k.triggered, k.bit(dev));
    t.update("snapshot of deferred_trigger_count", move |shared| {
        shared.set(probing, shared.get(probing) | bit);
        shared.set(triggered, shared.get(triggered) & !bit);
    })
}

/// Can the probe of this device return `-EPROBE_DEFER`? That of an SMMU passes on what the walk of its registration meets, and
/// there only [`defers_unbound`] defers.
pub(crate) fn may_defer(k: &Kernel, dev: Dev) -> bool {
    matches!(dev, Dev::Client(_)) || k.world().driver == Driver::V2 && defers_unbound(k)
}

/// Whether `deferred_trigger_count` is another one than in the snapshot.
fn was_triggered(t: &mut T<'_>, k: &Kernel, dev: Dev) -> Step<bool> {
    let (probing, triggered, bit) = (k.probing, k.triggered, k.bit(dev));
    t.update("deferred_trigger_count: did a trigger occur while probing?", move |shared| {
        let was = shared.get(triggered) & bit != 0;
        shared.set(probing, shared.get(probing) & !bit);
        shared.set(triggered, shared.get(triggered) & !bit);
        was
    })
}

/// What [`__driver_probe_device`] returns for `-EPROBE_DEFER` of a device that is not ready to probe.
const NOT_READY: Errno = 518;

/// `__driver_probe_device` of a client. a2225b6e834a (7.1): not before `device_add` is ready for it; then `can_match`,
/// a neighbour of `dma_iommu`, is stored (`drivers/base/dd.c`, 6.12.117).
fn __driver_probe_device(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<Errno> {
    t.func("__driver_probe_device", |t| {
        let ready = k.client(x).ready_to_probe;
        if k.world_adds_devices()
            && k.has(Commit::ReadyToProbe)
            && t.read(ready, "dev_ready_to_probe(): has device_add got so far?")? == 0
        {
            return Ok(NOT_READY);
        }
        store_neighbour(t, k, x, Neighbour::CanMatch)?;
        really_probe(t, k, x)
    })
}

/// `really_probe` of a client.
pub(crate) fn really_probe(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<Errno> {
    t.func("really_probe", |t| {
        let dev = k.client(x);
        if device_links_check_suppliers(t, k, x)? != OK {
            return Ok(EPROBE_DEFER);
        }
        // The devices of host1x have no driver; their creator configures and uses them.
        if k.world().bus != Bus::Host1x {
            t.write(dev.driver, 1, "dev->driver = drv")?;
        }
        let ret = bus::dma_configure(t, k, x, Caller::Driver)?;
        if ret != OK {
            device_unbind_cleanup(t, k, x)?;
            return Ok(ret);
        }
        let ret = client::probe(t, k, x)?;
        if ret != OK {
            dma_cleanup(t, k, x)?;
            device_unbind_cleanup(t, k, x)?;
            return Ok(ret);
        }
        t.write(dev.run, BOUND | client::RUNNING, "driver_bound: klist_add_tail")?;
        driver_deferred_probe_trigger(t, k, Some(Dev::Client(x)))?;
        Ok(OK)
    })
}

/// `device_links_check_suppliers`: arm-smmu v2 links its clients to itself; nothing else does here.
fn device_links_check_suppliers(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<Errno> {
    if !k.world_links_clients() {
        return Ok(OK);
    }
    let s = k.iommu_of(x);
    if t.read(k.client(x).linked, "a managed link to the SMMU?")? != 0
        && t.read(k.iommu(s).bound, "is the supplier bound?")? == 0
    {
        return Ok(EPROBE_DEFER);
    }
    Ok(OK)
}

/// `bus->dma_cleanup`, after a probe that failed and at unbind: the claim is given back.
fn dma_cleanup(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<()> {
    if k.manages_dma(x) {
        return Ok(());
    }
    t.func("dma_cleanup", |t| iommu_device_unuse_default_domain(t, k, x))
}

/// `device_unbind_cleanup`: `dev->iommu`, the fwspec and the group survive it.
fn device_unbind_cleanup(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<()> {
    arch_teardown_dma_ops(t, k, x)?;
    t.write(k.client(x).driver, 0, "device_unbind_cleanup: dev->driver = NULL")
}

/// `device_release_driver`; the device's lock is held.
pub(crate) fn device_release_driver(t: &mut T<'_>, k: &Kernel, x: Client) -> Step<()> {
    t.func("device_release_driver", |t| {
        client::remove(t, k, x)?;
        dma_cleanup(t, k, x)?;
        device_unbind_cleanup(t, k, x)?;
        Ok(OK)
    })?;
    Ok(())
}

/// `really_probe` of an SMMU, then `driver_bound`.
fn really_probe_iommu(t: &mut T<'_>, k: &Kernel, s: Iommu) -> Step<Errno> {
    t.func("really_probe", |t| {
        let ret = arm_smmu_device_probe(t, k, s)?;
        if ret != OK {
            return Ok(ret);
        }
        t.write(k.iommu(s).bound, 1, "driver_bound: klist_add_tail to driver->klist_devices")?;
        driver_deferred_probe_trigger(t, k, Some(Dev::Iommu(s)))?;
        Ok(OK)
    })
}

/// `driver_deferred_probe_check_state`: defer, or give up once the timeout is over.
pub(crate) fn driver_deferred_probe_check_state(
    t: &mut T<'_>,
    k: &Kernel,
    x: Client,
) -> Step<Errno> {
    if k.world_times_out() && t.read(k.timed_out, "driver_deferred_probe_timeout over?")? != 0 {
        let name = k.world().client_name(x.0);
        t.log(format!("{name}: deferred probe timeout, ignoring dependency"));
        return Ok(ETIMEDOUT);
    }
    Ok(EPROBE_DEFER)
}

/// `driver_deferred_probe_add` [deferred_probe_mutex].
fn driver_deferred_probe_add(t: &mut T<'_>, k: &Kernel, dev: Dev) -> Step<()> {
    let (pending, bit) = (k.pending, k.bit(dev));
    t.func("driver_deferred_probe_add", |t| {
        t.update("list_add_tail to the pending list", move |shared| {
            let with_dev = shared.get(pending) | bit;
            shared.set(pending, with_dev);
        })
    })
}

/// `driver_deferred_probe_del` [deferred_probe_mutex].
pub(crate) fn driver_deferred_probe_del(t: &mut T<'_>, k: &Kernel, dev: Dev) -> Step<()> {
    let (pending, active, bit) = (k.pending, k.active, k.bit(dev));
    t.func("driver_deferred_probe_del", |t| {
        t.update("off the pending and the active list", move |shared| {
            shared.set(pending, shared.get(pending) & !bit);
            shared.set(active, shared.get(active) & !bit);
        })
    })
}

/// `driver_deferred_probe_trigger` [deferred_probe_mutex]: everything pending is tried again. A device that has just
/// bound does not look at the count again.
pub(crate) fn driver_deferred_probe_trigger(
    t: &mut T<'_>,
    k: &Kernel,
    bound: Option<Dev>,
) -> Step<()> {
    let (pending, active) = (k.pending, k.active);
    let (probing, triggered) = (k.probing, k.triggered);
    let bound = bound.map_or(0, |dev| k.bit(dev));
    t.func("driver_deferred_probe_trigger", |t| {
        t.update("count++, pending list becomes active", move |shared| {
            shared.set(active, shared.get(active) | shared.get(pending));
            shared.set(pending, 0);
            let probing_still = shared.get(probing) & !bound;
            shared.set(probing, probing_still);
            shared.set(triggered, probing_still);
        })
    })
}

/// `deferred_probe_work_func`: one device of the active list after another, for ever.
pub(crate) fn deferred_probe_work_func(t: &mut T<'_>, k: &Kernel) -> Step<()> {
    t.repeat(|t| {
        let active = k.active;
        t.func("worker_thread", |t| {
            t.wait_idle("deferred_probe_work queued", move |s| s.get(active) != 0)
        })?;
        t.func("deferred_probe_work_func", |t| retry_one(t, k))?;
        Ok(ControlFlow::Continue(()))
    })
}

fn retry_one(t: &mut T<'_>, k: &Kernel) -> Step<()> {
    // What else was on the list is forgotten here: by the time that it matters the list is read again.
    let chosen = t.scope(|t| first_active(t, k))?;
    let Some(dev) = k.devices().into_iter().find(|dev| k.bit(*dev) == chosen) else {
        return Ok(());
    };
    driver_deferred_probe_del(t, k, dev)?;
    device_attach(t, k, dev)
}

/// The bit of the first device on the active list; 0 if it is empty.
fn first_active(t: &mut T<'_>, k: &Kernel) -> Step<u64> {
    let waiting = t.read(k.active, "deferred_probe_active_list")?;
    let candidates: Vec<u64> =
        k.devices().into_iter().map(|dev| k.bit(dev)).filter(|bit| waiting & bit != 0).collect();
    // The order on the list is the order in which they deferred, and any order can be.
    let first = match candidates.len() {
        0 => return Ok(0),
        1 => 0,
        n => t.choose(n as u16, "which device is first on the active list")? as usize,
    };
    Ok(candidates[first])
}
