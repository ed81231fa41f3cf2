//! A second protocol: the core of Linux 6.6 around one client, while its IOMMU registers, with the check of
//! commit b46064a18810 or without it. Steps follow that kernel's functions; the notes on them are our own.

use std::ops::ControlFlow;
use std::rc::Rc;

use portcullis_explore::proto::{Builder, Field, Mutex, Protocol, Step, Thread};

struct World {
    iommu_device_lock: Mutex,
    probe_lock: Mutex,
    group_mutex: Mutex,
    registered: Field,
    fwspec: Field,
    group: Field,
    default_domain: Field,
    domain: Field,
    dma_ops: Field,
    owner: Field,
    pending: Field,
    bound: Field,
    gate: bool,
}

fn iommu_device_register(t: &mut Thread<'_>, w: &World) -> Step<()> {
    t.func("iommu_device_register", |t| {
        t.locked(w.iommu_device_lock, "iommu_device_list", |t| t.write(w.registered, true, ""))?;
        t.func("bus_iommu_probe", |t| {
            let on_list = t.locked(w.probe_lock, "probe_iommu_group", |t| {
                if t.is_set(w.group, "in a group already?")? || !t.is_set(w.fwspec, "known?")? {
                    return Ok(false);
                }
                t.write(w.group, true, "published, its domain deferred")?;
                Ok(true)
            })?;
            if !on_list {
                return Ok(());
            }
            t.locked(w.group_mutex, "iommu_setup_default_domain", |t| {
                t.write(w.default_domain, true, "")?;
                t.write(w.domain, true, "attached")
            })
        })?;
        t.write(w.pending, false, "driver_deferred_probe_trigger")
    })
}

/// -EPROBE_DEFER.
const DEFER: u8 = 1;

fn of_iommu_configure(t: &mut Thread<'_>, w: &World) -> Step<u8> {
    t.func("of_iommu_configure", |t| {
        let result = t.locked(w.probe_lock, "iommu_probe_device_lock", |t| {
            if t.is_set(w.fwspec, "configured before?")? {
                return Ok(2);
            }
            let known = t.locked(w.iommu_device_lock, "iommu_ops_from_fwnode", |t| {
                t.is_set(w.registered, "")
            })?;
            if !known {
                return Ok(DEFER);
            }
            t.write(w.fwspec, true, "")?;
            Ok(0)
        })?;
        if result > 0 {
            return Ok(result & DEFER);
        }
        t.locked(w.probe_lock, "iommu_probe_device", |t| {
            if t.is_set(w.group, "in a group already?")? {
                return Ok(());
            }
            t.write(w.group, true, "")?;
            t.locked(w.group_mutex, "", |t| {
                t.write(w.default_domain, true, "")?;
                t.write(w.domain, true, "attached")
            })
        })?;
        Ok(0)
    })
}

fn really_probe(t: &mut Thread<'_>, w: &World) -> Step<u8> {
    t.func("really_probe", |t| {
        if of_iommu_configure(t, w)? == DEFER {
            return Ok(DEFER);
        }
        t.func("arch_setup_dma_ops", |t| {
            if t.is_set(w.domain, "iommu_get_domain_for_dev")? {
                t.write(w.dma_ops, true, "")?;
            }
            Ok(())
        })?;
        let owned = t.locked(w.group_mutex, "iommu_device_use_default_domain", |t| {
            if w.gate && !t.is_set(w.default_domain, "b46064a18810")? {
                return Ok(false);
            }
            t.write(w.owner, true, "")?;
            Ok(true)
        })?;
        if !owned {
            return Ok(DEFER);
        }
        t.write(w.bound, true, "")?;
        Ok(0)
    })
}

/// The protocol; its world is `seed66` or `seed66-gate`.
pub(crate) fn seed66(gate: bool) -> Protocol {
    let mut b = Builder::new();
    let w = Rc::new(World {
        iommu_device_lock: b.mutex("iommu_device_lock"),
        probe_lock: b.mutex("iommu_probe_device_lock"),
        group_mutex: b.mutex("group->mutex"),
        registered: b.field("iommu_device_list", 1),
        fwspec: b.field("dev->iommu->fwspec", 1),
        group: b.field("dev->iommu_group", 1),
        default_domain: b.field("group->default_domain", 1),
        domain: b.field("group->domain", 1),
        dma_ops: b.field("dev->dma_ops", 1),
        owner: b.field("group->owner_cnt", 1),
        pending: b.field("deferred", 1),
        bound: b.field("dev->driver bound", 1),
        gate,
    });
    let p1 = Rc::clone(&w);
    b.thread("P1", move |t| iommu_device_register(t, &p1));
    let p2 = Rc::clone(&w);
    b.thread("P2", move |t| {
        t.repeat(|t| {
            t.write(p2.pending, true, "before the attempt, so that no trigger is lost")?;
            if really_probe(t, &p2)? != DEFER {
                return Ok(ControlFlow::Break(()));
            }
            let pending = p2.pending;
            t.wait_until("triggered", move |v| !v.is_set(pending))?;
            Ok(ControlFlow::Continue(()))
        })
    });
    let v = Rc::clone(&w);
    b.eventually("no B1: bound with direct DMA behind a domain", move |s| {
        !(s.is_set(v.bound) && s.is_set(v.domain) && !s.is_set(v.dma_ops))
    });
    let v = Rc::clone(&w);
    b.eventually("bound", move |s| s.is_set(v.bound));
    b.sometimes("healthy", move |s| s.is_set(w.bound) && s.is_set(w.dma_ops));
    b.build(if gate { "seed66-gate" } else { "seed66" })
}
