//! Putting a protocol and a world together: the threads.

use std::rc::Rc;

use portcullis_explore::proto::{self, Builder, Mutation, ThreadId};

use super::client;
use super::dd;
use super::kernel::{Client, Dev, Iommu, Kernel, Step, T};
use super::property;
use super::protocol::Protocol;
use super::world::{Event, World};

/// The kind of a schedule of these protocols, and their edition. Schedules replay for ever, so an edition whose
/// functions take other steps gets another word.
pub const EDITION: &str = "linux2";

/// How schedules of the first edition begin: `p1:linux/v6.6/...`.
pub(crate) const FIRST_EDITION: &str = "p1:linux/";

/// The name of a protocol in a world, as it stands in schedules.
///
/// `linux2:v6.6+b46064a18810~f188056352bc/i2r1c1.own.platform.dt.v3.a1`: applied commits after `+`,
/// reverted ones after `~`.
#[must_use]
pub fn scenario(protocol: &Protocol, world: &World) -> String {
    let mut name = format!("{EDITION}:{}", protocol.base());
    for commit in protocol.applied() {
        name.push('+');
        name.push_str(commit.id());
    }
    for commit in protocol.reverted() {
        name.push('~');
        name.push_str(commit.id());
    }
    format!("{name}/{world}")
}

/// The protocol of a kernel tree in a world, ready to be explored.
#[must_use]
pub fn build(protocol: &Protocol, world: &World) -> proto::Protocol {
    build_with(protocol, world, None)
}

/// As [`build`], with one line changed: for tests that ask whether the verdicts hang on it.
#[must_use]
pub fn build_mutant(protocol: &Protocol, world: &World, mutation: Mutation) -> proto::Protocol {
    build_with(protocol, world, Some(mutation))
}

fn build_with(protocol: &Protocol, world: &World, mutation: Option<Mutation>) -> proto::Protocol {
    let mut b = Builder::new();
    if let Some(mutation) = mutation {
        b.mutate(mutation);
    }
    let kernel = Rc::new(Kernel::declare(&mut b, protocol, world));
    property::declare(&mut b, &kernel);
    declare_probes(&mut b, &kernel);
    declare_events(&mut b, &kernel);
    b.build(scenario(protocol, world))
}

/// A thread that runs a function of the kernel.
fn thread(
    b: &mut Builder,
    kernel: &Rc<Kernel>,
    name: String,
    body: impl Fn(&mut T<'_>, &Kernel) -> Step<()> + 'static,
) -> ThreadId {
    let k = Rc::clone(kernel);
    b.thread(name, move |t| body(t, &k))
}

/// The probes of the registering IOMMUs, of the clients that are there at boot, and the worker.
fn declare_probes(b: &mut Builder, kernel: &Rc<Kernel>) {
    let world = kernel.world();
    let mut equal = Vec::new();
    for s in world.iommus - world.registering..world.iommus {
        let name = format!("probe {}", world.iommu_name(s));
        let probe =
            thread(b, kernel, name, move |t, k| dd::device_attach(t, k, Dev::Iommu(Iommu(s))));
        if kernel.is_any_other(Iommu(s)) {
            equal.push(kernel.role(probe, Iommu(s)));
        }
    }
    b.interchangeable(equal);
    for x in 0..world.clients {
        let name = format!("probe {}", world.client_name(x));
        if world.has(Event::Plug) && x + 1 == world.clients {
            thread(b, kernel, name, move |t, k| client::device_add(t, k, Client(x)));
        } else {
            thread(b, kernel, name, move |t, k| dd::device_attach(t, k, Dev::Client(Client(x))));
        }
    }
    thread(b, kernel, "deferred-probe worker".into(), dd::deferred_probe_work_func);
}

/// What else happens in the world.
fn declare_events(b: &mut Builder, kernel: &Rc<Kernel>) {
    let world = kernel.world();
    if world.attempts > 1 {
        let binds = world.attempts - 1;
        thread(b, kernel, "another driver".into(), move |t, k| {
            (0..binds).try_for_each(|_| client::another_driver_binds(t, k))
        });
    }
    for event in world.events.iter().copied() {
        let last = Client(world.clients - 1);
        match event {
            // A plugged client has its thread among the probes.
            Event::Plug => {}
            Event::Unplug => {
                thread(b, kernel, "unplug".into(), |t, k| client::device_del(t, k, Client(0)));
            }
            Event::Unregister => {
                thread(b, kernel, "unregister".into(), |t, k| client::unregister(t, k, Iommu(0)));
            }
            Event::Vfio => {
                thread(b, kernel, "vfio".into(), move |t, k| client::vfio_claims(t, k, last));
            }
            Event::Rebind => {
                thread(b, kernel, "rebind".into(), |t, k| client::rebind(t, k, Client(0)));
            }
            Event::Timeout => {
                thread(b, kernel, "deferred-probe timeout".into(), client::deferred_probe_timeout);
            }
            Event::Defer => {
                thread(b, kernel, "the client's supplier".into(), client::supplier_binds);
            }
            Event::SecondThread => {
                thread(b, kernel, "driver registration".into(), move |t, k| {
                    client::second_thread(t, k, last)
                });
            }
            Event::Type => {
                thread(b, kernel, "type".into(), |t, k| client::writes_type(t, k, Client(0)));
            }
            // What the clients' drivers do, and what the IOMMU says to a client.
            Event::Fail | Event::Msi | Event::BadId => {}
        }
    }
}
