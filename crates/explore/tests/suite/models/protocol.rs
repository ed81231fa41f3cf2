//! The comparison model as a protocol: functions that read like a kernel's.

use std::ops::ControlFlow;
use std::rc::Rc;

use portcullis_explore::proto::{Builder, Field, Mutex, PropertyId, Protocol, Step, Thread};

struct Client {
    iommu: usize,
    group_lock: Mutex,
    group: Field,
    domain: Field,
    dma: Field,
    deferred: Field,
}

struct World {
    probe_lock: Mutex,
    published: Vec<Field>,
    clients: Vec<Client>,
    right_dma: PropertyId,
    fixed: bool,
}

/// Gives the group its domain if it has none; the caller holds the group's lock.
fn setup_default_domain(t: &mut Thread<'_>, client: &Client) -> Step<()> {
    t.scope(|t| {
        if !t.is_set(client.domain, "has a domain?")? {
            t.write(client.domain, true, "")?;
        }
        Ok(())
    })
}

fn iommu_device_register(t: &mut Thread<'_>, w: &World, iommu: usize) -> Step<()> {
    let own = || w.clients.iter().filter(|client| client.iommu == iommu);
    t.func("iommu_device_register", |t| {
        t.locked(w.probe_lock, "publish", |t| t.write(w.published[iommu], true, ""))?;
        for client in own() {
            t.scope(|t| {
                t.locked(w.probe_lock, "probe_iommu_group", |t| {
                    if t.is_set(client.group, "in a group already?")? {
                        return Ok(());
                    }
                    t.write(client.group, true, "")
                })
            })?;
        }
        for client in own() {
            t.scope(|t| {
                t.locked(client.group_lock, "", |t| setup_default_domain(t, client))?;
                t.write(client.dma, true, "outside of the lock")
            })?;
        }
        t.lock(w.probe_lock, "")?;
        let deferred: Vec<Field> = w.clients.iter().map(|client| client.deferred).collect();
        t.update("drain the deferred list", move |s| deferred.iter().for_each(|&f| s.set(f, 0)))?;
        t.unlock(w.probe_lock)
    })
}

/// What an attempt to probe came to.
const DEFERRED: u8 = 0;
const DONE: u8 = 1;
const EARLY: u8 = 2;

fn iommu_probe_device(t: &mut Thread<'_>, w: &World, client: &Client) -> Step<u8> {
    t.func("iommu_probe_device", |t| {
        t.locked(w.probe_lock, "iommu_probe_device_lock", |t| {
            if !t.is_set(w.published[client.iommu], "is the IOMMU there?")? {
                t.write(client.deferred, true, "defer")?;
                return Ok(DEFERRED);
            }
            if t.is_set(client.group, "in a group already?")? {
                return Ok(if w.fixed { EARLY } else { DONE });
            }
            t.write(client.group, true, "")?;
            t.locked(client.group_lock, "", |t| {
                setup_default_domain(t, client)?;
                t.write(client.dma, true, "")
            })?;
            Ok(DONE)
        })
    })
}

fn really_probe(t: &mut Thread<'_>, w: &World, client: &Client) -> Step<()> {
    t.repeat(|t| {
        let result = iommu_probe_device(t, w, client)?;
        if result == DEFERRED {
            let deferred = client.deferred;
            t.wait_until("tried again", move |v| !v.is_set(deferred))?;
            return Ok(ControlFlow::Continue(()));
        }
        if result == EARLY {
            t.locked(client.group_lock, "complete it", |t| {
                setup_default_domain(t, client)?;
                t.write(client.dma, true, "")
            })?;
        }
        Ok(ControlFlow::Break(()))
    })?;
    t.scope(|t| {
        let translated = t.is_set(client.dma, "first DMA")?;
        t.check(w.right_dma, translated);
        Ok(())
    })
}

/// The protocol for so many clients and IOMMUs.
#[must_use]
pub(crate) fn comparison(clients: usize, iommus: usize, fixed: bool) -> Protocol {
    let mut b = Builder::new();
    let world = Rc::new(World {
        probe_lock: b.mutex("probe lock"),
        published: (0..iommus).map(|m| b.field(format!("iommu{m} published"), 1)).collect(),
        clients: (0..clients)
            .map(|d| Client {
                iommu: d % iommus,
                group_lock: b.mutex(format!("group{d} lock")),
                group: b.field(format!("client{d}->group"), 1),
                domain: b.field(format!("group{d}->domain"), 1),
                dma: b.field(format!("client{d}->dma"), 1),
                deferred: b.field(format!("client{d} deferred"), 1),
            })
            .collect(),
        right_dma: b.checked("right DMA"),
        fixed,
    });
    let w = Rc::clone(&world);
    b.thread("registrar", move |t| {
        (0..w.published.len()).try_for_each(|m| iommu_device_register(t, &w, m))
    });
    for d in 0..clients {
        let w = Rc::clone(&world);
        b.thread(format!("client {d}"), move |t| really_probe(t, &w, &w.clients[d]));
    }
    let w = Rc::clone(&world);
    b.eventually("all set up", move |v| {
        w.clients.iter().all(|c| v.is_set(c.dma) && v.is_set(c.domain))
    });
    let variant = if fixed { "fixed" } else { "buggy" };
    b.build(format!("comparison-{variant}-n{clients}-m{iommus}"))
}
