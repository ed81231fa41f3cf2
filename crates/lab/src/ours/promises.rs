//! What must hold when everything has come to rest.

use crate::ours::stage::{Client, Stage, node};
use crate::ours::world::{Event, World};
use portcullis::{BlockedReason, Counts, DeviceStage, NodeState, NotShared, Reach, SetUpError};
use portcullis_threads::observe;
use std::sync::Arc;

type Check = fn(&World, &Stage) -> Result<(), String>;

/// In this order: the last ones take the world apart.
const CHECKS: [(&str, Check); 9] = [
    ("P4", what_was_not_confirmed_can_be),
    ("P2", unbound_devices_reach_nothing),
    ("P6", who_waits_stands_once),
    ("P7", driverless_devices_have_their_domain),
    ("P6", what_became_ready_was_tried),
    ("P9", the_picture_is_noted),
    ("P6", what_is_ready_is_bound),
    ("P7", nothing_is_left_behind),
    ("machine", the_machine_saw_no_offence),
];

/// Adds the checks to an exploration's world.
pub(crate) fn at_end(world: &World, stage: &Arc<Stage>, w: &mut portcullis_threads::World) {
    for (property, check) in CHECKS {
        let (world, stage) = (world.clone(), Arc::clone(stage));
        w.at_end(property, move || check(&world, &stage));
    }
}

fn what_was_not_confirmed_can_be(world: &World, stage: &Stage) -> Result<(), String> {
    world.events.iter().try_for_each(|event| match event {
        Event::UnbindUnanswered(index) => stage.make_good(*index),
        _ => Ok(()),
    })
}

fn unbound_devices_reach_nothing(_: &World, stage: &Stage) -> Result<(), String> {
    for client in &stage.clients {
        let at = client.device.stage();
        if at != DeviceStage::Bound && client.endpoint.escapes() {
            return Err(format!("{} is {at:?} and reaches memory", client.device.path()));
        }
    }
    Ok(())
}

/// Whether everything that a client needs is there.
fn is_served(world: &World, stage: &Stage, index: usize) -> bool {
    world.clients[index]
        .iommus
        .iter()
        .all(|&iommu| matches!(stage.sub.node_state(node(iommu)), NodeState::Registered { .. }))
}

/// A deferred attempt that failed for want of memory is not repeated by itself, as nothing will wake it; asked again, it succeeds.
fn failed_attempts_can_be_repeated(world: &World, stage: &Stage) {
    for (index, client) in stage.clients.iter().enumerate() {
        let failed = match client.device.stage() {
            DeviceStage::Blocked(reason) => reason.is_out_of_memory(),
            DeviceStage::Failed(reason) => reason.is_out_of_memory(),
            _ => false,
        };
        if world.allocations_fail && failed {
            stage.bind(index);
        }
    }
}

fn what_became_ready_was_tried(world: &World, stage: &Stage) -> Result<(), String> {
    failed_attempts_can_be_repeated(world, stage);
    let counts = stage.sub.counts();
    if counts.queued != 0 {
        return Err(format!("{} items of deferred work were left undone", counts.queued));
    }
    for (index, client) in stage.clients.iter().enumerate() {
        let at = client.device.stage();
        let bindable = !world.clients[index].driverless && is_served(world, stage, index);
        if bindable && world.is_hopeless(index) {
            if !has_no_common_ground(&at) {
                return Err(format!(
                    "{} is {at:?}: no address space is for both of its IOMMUs",
                    client.device.path()
                ));
            }
        } else if bindable && !matches!(at, DeviceStage::Bound | DeviceStage::Gone) {
            return Err(format!("{} is {at:?}, and its IOMMUs serve", client.device.path()));
        }
    }
    let quiet = world.events.is_empty() && world.rounds == 0 && !world.allocations_fail;
    let probes = |path: &str| {
        let index = stage.clients.iter().position(|client| client.device.path() == path);
        u32::from(!index.is_some_and(|index| world.is_hopeless(index)))
    };
    for report in stage.sub.reports().iter().filter(|_| quiet) {
        if report.probes != probes(&report.path) || report.defers as usize > report.iommus.len() {
            let (probes, defers) = (report.probes, report.defers);
            return Err(format!("{}: {probes} probes, {defers} deferrals", report.path));
        }
    }
    Ok(())
}

/// Whether a device is blocked because no one format is for all IOMMUs in front of it.
fn has_no_common_ground(at: &DeviceStage) -> bool {
    let missing = SetUpError::NoCommonGround(NotShared::Format);
    matches!(at, DeviceStage::Blocked(BlockedReason::SetUp(reason)) if *reason == missing)
}

/// A device waits in one place at most, and one that does not wait in none.
fn who_waits_stands_once(_: &World, stage: &Stage) -> Result<(), String> {
    let waiting = |client: &&Client| {
        matches!(client.device.stage(), DeviceStage::Waiting(_) | DeviceStage::Blocked(_))
    };
    let (waiters, waiting) =
        (stage.sub.counts().waiters, stage.clients.iter().filter(waiting).count());
    match waiters <= waiting {
        true => Ok(()),
        false => Err(format!("{waiters} places in lists of waiters for {waiting} that wait")),
    }
}

/// A device without a driver has its domain as soon as its IOMMUs serve.
fn driverless_devices_have_their_domain(world: &World, stage: &Stage) -> Result<(), String> {
    for report in stage.sub.reports() {
        let is_it = |client: &Client| client.device.path() == report.path;
        let Some(index) = stage.clients.iter().position(is_it) else { continue };
        let due = world.clients[index].driverless && is_served(world, stage, index);
        if due && report.reach != Reach::Translated {
            return Err(format!("{} is {:?}, and its IOMMUs serve", report.path, report.reach));
        }
    }
    Ok(())
}

/// Worlds in which the order of events must not show have one picture: a test compares what was observed.
fn the_picture_is_noted(_: &World, stage: &Stage) -> Result<(), String> {
    let reports = stage.sub.reports();
    let lines = reports.iter().map(|report| {
        let stage = &report.stage;
        format!(
            "{} {:?} {:?} {:?} {stage:?}",
            report.path, report.group, report.domain, report.reach
        )
    });
    observe(lines.collect::<Vec<_>>().join("; "));
    Ok(())
}

/// What waits for an IOMMU that is out must be bound when that comes (back).
fn what_is_ready_is_bound(world: &World, stage: &Stage) -> Result<(), String> {
    for index in 0..world.iommus {
        if stage.sub.node_state(node(index)) == NodeState::Absent {
            stage.register(index);
        }
    }
    stage.sub.run_deferred();
    what_became_ready_was_tried(world, stage)
}

fn nothing_is_left_behind(world: &World, stage: &Stage) -> Result<(), String> {
    for (index, client) in stage.clients.iter().enumerate() {
        stage.unbind(index);
        client.endpoint.forget_handle();
    }
    for index in 0..world.iommus {
        stage.sub.unregister(node(index)).map_err(|error| format!("IOMMU {index}: {error}"))?;
    }
    let counts = stage.sub.counts();
    let expected = Counts { devices: counts.devices, groups: counts.groups, ..Counts::default() };
    if counts != expected {
        return Err(format!("after everything was given back: {counts:?}"));
    }
    match stage.bed.machine().usage().live {
        live if live == stage.kept() => unbound_devices_reach_nothing(world, stage),
        live => Err(format!("{live} blocks of memory were never freed")),
    }
}

fn the_machine_saw_no_offence(_: &World, stage: &Stage) -> Result<(), String> {
    match stage.bed.machine().violations().first() {
        None => Ok(()),
        Some(violation) => Err(violation.to_string()),
    }
}
