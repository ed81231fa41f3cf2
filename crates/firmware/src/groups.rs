//! Which devices share a stream: hardware cannot tell them apart. And which it cannot isolate.

use crate::machine::{DescribedDevice, IommuNode, MachineDescription};
use crate::rules::rule;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use portcullis::{DeviceDescription, FwStream, IsolationSet, StreamIndex};

/// For each device of `machine` the number of its set, counted from 0 in order of first member: devices with one number share a stream,
/// directly or through others. Devices without `iommus` (and buses with a map, whose functions the core groups) stand alone.
pub fn sharing(machine: &MachineDescription) -> Vec<usize> {
    numbered(&sets(&machine.devices))
}

/// As [`sharing`], for the clients of a machine ([`MachineDescription::clients`]), functions of buses among them, by the groups that the core will form: devices with one number share a
/// stream or an isolation set, directly or through others.
pub fn client_groups(machine: &MachineDescription) -> Vec<usize> {
    let clients: Vec<_> = machine.clients().collect();
    numbered(&sets_of(clients.into_iter()))
}

/// For each device of `machine`, and each function of it, the number of the function's group among those of functions. Empty for a device that is disabled.
pub fn function_groups(machine: &MachineDescription) -> Vec<Vec<usize>> {
    let functions =
        |device: &DescribedDevice| if device.enabled { device.functions.len() } else { 0 };
    let all: Vec<_> = machine
        .devices
        .iter()
        .flat_map(|device| device.functions.iter().take(functions(device)))
        .map(|function| &function.description)
        .collect();
    let mut numbers = numbered(&sets_of(all.into_iter())).into_iter();
    machine
        .devices
        .iter()
        .map(|device| numbers.by_ref().take(functions(device)).collect())
        .collect()
}

fn numbered(sets: &[usize]) -> Vec<usize> {
    let mut numbers = BTreeMap::new();
    sets.iter()
        .map(|root| {
            let next = numbers.len();
            *numbers.entry(*root).or_insert(next)
        })
        .collect()
}

/// Disjoint sets over device indices; the value is the set's lowest member.
pub(crate) fn sets(devices: &[DescribedDevice]) -> Vec<usize> {
    sets_by(devices.iter().map(|device| match device.enabled {
        true => (device.streams.as_slice(), None),
        false => (&[] as &[_], None),
    }))
}

/// Disjoint sets over clients; the value is the set's lowest member. The same index of streams decides as in the core.
pub(crate) fn sets_of<'s>(
    clients: impl ExactSizeIterator<Item = &'s DeviceDescription>,
) -> Vec<usize> {
    sets_by(clients.map(|client| {
        let streams = client.streams();
        (streams, client.isolation.filter(|_| !streams.is_empty()))
    }))
}

/// As [`sets_of`], over streams and isolation sets.
fn sets_by<'s>(
    clients: impl ExactSizeIterator<Item = (&'s [FwStream], Option<IsolationSet>)>,
) -> Vec<usize> {
    let mut sets = Sets((0..clients.len()).collect());
    let mut index = StreamIndex::new();
    let mut neighbours = BTreeMap::new();
    for (at, (streams, isolation)) in clients.enumerate() {
        index.groups(streams, |other| sets.join(*other, at));
        index.add(streams, at, &at);
        index.settle(streams);
        if let Some(set) = isolation {
            sets.join(*neighbours.entry(set).or_insert(at), at);
        }
    }
    (0..sets.0.len()).map(|at| sets.root(at)).collect()
}

struct Sets(Vec<usize>);

impl Sets {
    fn root(&mut self, at: usize) -> usize {
        let mut at = at;
        while let Some(parent) = self.0.get(at).copied().filter(|parent| *parent != at) {
            let above = self.0.get(parent).copied().unwrap_or(parent);
            // Halve the path on the way.
            if let Some(slot) = self.0.get_mut(at) {
                *slot = above;
            }
            at = above;
        }
        at
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        if let Some(slot) = self.0.get_mut(a.max(b)) {
            *slot = a.min(b);
        }
    }
}

/// One note per set of several devices.
pub(crate) fn note_sharing(
    devices: &[DescribedDevice],
    iommus: &[IommuNode],
    mut note: impl FnMut(&str, &'static str, String),
) {
    let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (at, root) in sets(devices).into_iter().enumerate() {
        members.entry(root).or_default().push(at);
    }
    for set in members.values().filter(|set| set.len() > 1) {
        let names: Vec<_> = set.iter().filter_map(|at| devices.get(*at)).collect();
        let Some((first, others)) = names.split_first() else { continue };
        let shown: Vec<_> =
            others.iter().take(8).map(|device| device.description.path.as_str()).collect();
        let more = others.len().saturating_sub(shown.len());
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        let iommu = first.streams.first().and_then(|stream| {
            let at = iommus.binary_search_by_key(&stream.iommu, |iommu| iommu.node).ok()?;
            iommus.get(at).map(|iommu| iommu.path.as_str())
        });
        let message = format!(
            "it shares a stream of {} with {}{more}: they form one group",
            iommu.unwrap_or("its IOMMU"),
            shown.join(", ")
        );
        note(&first.description.path, rule::SHARED_STREAM, message);
    }
}
