//! Match entries (id and mask) that overlap.
//!
//! An SMMUv2 with two stream match registers that hit for one transaction takes that for a configuration fault (`sGFSR.SMCF`; Intel 683567, 5.4.7 "Multiple match").
//! Where one entry contains the other, the wider one can stand for both; where neither does, none of the two can be programmed.

use crate::machine::{DescribedDevice, IommuNode};
use crate::problem::{Findings, Problem};
use crate::rules::rule;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use portcullis::{DeviceDescription, DmaPath, FwNode, FwStream};

/// With more different masks on one IOMMU than this, its entries are not compared. Real descriptions have below 10.
const MOST_MASKS: usize = 64;

/// One client's entry, in the description's order.
struct Entry {
    /// Position among the entries of its IOMMU.
    order: usize,
    client: usize,
    stream: FwStream,
}

/// What is to become of the clients.
#[derive(Default)]
struct Verdict {
    /// Entries for which a wider one stands.
    widened: BTreeMap<FwStream, FwStream>,
    /// By client: an entry of its that Linux refuses, and the entry of another client (or its own) for which it does.
    overlaps: BTreeMap<usize, (FwStream, usize, FwStream)>,
    /// Clients with an entry that overlaps another so that neither contains the other.
    refused: BTreeSet<usize>,
}

/// Reports overlapping entries, lets the wider stand for the narrower, and refuses clients where neither contains the other.
pub(super) fn settle(
    devices: &mut [DescribedDevice],
    iommus: &[IommuNode],
    findings: &mut Findings,
) {
    let mut verdict = Verdict::default();
    let mut by_iommu: BTreeMap<FwNode, Vec<Entry>> = BTreeMap::new();
    for (client, description) in clients(devices).enumerate() {
        let DmaPath::Translated(spec) = &description.dma else { continue };
        for stream in &spec.streams {
            let entries = by_iommu.entry(stream.iommu).or_default();
            entries.push(Entry { order: entries.len(), client, stream: *stream });
        }
    }
    for entries in by_iommu.values() {
        compare(entries, &mut verdict);
    }
    let problems = problems(devices, iommus, &verdict);
    for (path, problem) in problems.values() {
        findings.refuse(true, path, problem);
    }
    for (client, description) in clients_mut(devices).enumerate() {
        match problems.get(&client).filter(|_| verdict.refused.contains(&client)) {
            Some((_, problem)) => description.dma = DmaPath::Unusable(problem.what.clone()),
            None => widen(description, &verdict.widened),
        }
    }
}

/// The enabled clients: devices with streams of their own, and functions.
pub(super) fn clients(devices: &[DescribedDevice]) -> impl Iterator<Item = &DeviceDescription> {
    devices.iter().filter(|device| device.enabled).flat_map(|device| {
        let own = !device.streams.is_empty();
        let functions = device.functions.iter().map(|function| &function.description);
        own.then_some(&device.description).into_iter().chain(functions)
    })
}

/// The same, in the same order.
pub(super) fn clients_mut(
    devices: &mut [DescribedDevice],
) -> impl Iterator<Item = &mut DeviceDescription> {
    devices.iter_mut().filter(|device| device.enabled).flat_map(|device| {
        let own = !device.streams.is_empty();
        let functions = device.functions.iter_mut().map(|function| &mut function.description);
        own.then_some(&mut device.description).into_iter().chain(functions)
    })
}

/// Compares the entries of one IOMMU, mask by mask.
fn compare(entries: &[Entry], verdict: &mut Verdict) {
    let mut masks: BTreeMap<u32, Vec<&Entry>> = BTreeMap::new();
    for entry in entries {
        masks.entry(entry.stream.mask).or_default().push(entry);
    }
    if masks.len() > MOST_MASKS {
        return;
    }
    for (a, with_a) in &masks {
        for (b, with_b) in masks.iter().filter(|(b, _)| *b > a) {
            compare_masks((*a, with_a), (*b, with_b), verdict);
        }
    }
}

/// `a < b`, so `b` never lies within `a`: an entry with `b` either contains one with `a` that it overlaps, or neither contains the other.
fn compare_masks(
    (a, with_a): (u32, &[&Entry]),
    (b, with_b): (u32, &[&Entry]),
    verdict: &mut Verdict,
) {
    let key = |entry: &Entry| entry.stream.id.raw() & !(a | b);
    let mut buckets: BTreeMap<u32, (Vec<&Entry>, Vec<&Entry>)> = BTreeMap::new();
    for entry in with_a {
        buckets.entry(key(entry)).or_default().0.push(entry);
    }
    for entry in with_b {
        if let Some((_, overlapping)) = buckets.get_mut(&key(entry)) {
            overlapping.push(entry);
        }
    }
    for (narrow, wide) in buckets.values() {
        let (Some(first_narrow), Some(first_wide)) = (narrow.first(), wide.first()) else {
            continue;
        };
        if a & !b == 0 {
            verdict.widened.extend(narrow.iter().map(|it| (it.stream, first_wide.stream)));
            if first_narrow.order < first_wide.order {
                verdict.refuse_for(wide, first_narrow);
            }
        } else {
            verdict.refuse_for(wide, first_narrow);
            verdict.refuse_for(narrow, first_wide);
            verdict.refused.extend(narrow.iter().chain(wide).map(|it| it.client));
        }
    }
}

impl Verdict {
    fn refuse_for(&mut self, entries: &[&Entry], other: &Entry) {
        for entry in entries {
            let overlap = (entry.stream, other.client, other.stream);
            self.overlaps.entry(entry.client).or_insert(overlap);
        }
    }
}

/// The problem of each client whose entries overlap, by client, with its path.
fn problems(
    devices: &[DescribedDevice],
    iommus: &[IommuNode],
    verdict: &Verdict,
) -> BTreeMap<usize, (String, Problem)> {
    if verdict.overlaps.is_empty() {
        return BTreeMap::new();
    }
    let paths: Vec<&str> = clients(devices).map(|client| client.path.as_str()).collect();
    let path = |client: usize| paths.get(client).copied().unwrap_or_default();
    let problem = |(client, (own, other_client, other)): (&usize, &(FwStream, usize, FwStream))| {
        let iommu = iommus.iter().find(|iommu| iommu.node == own.iommu);
        let what = format!(
            "its match entry {:#x}/{:#x} on {} overlaps {:#x}/{:#x} of {}, which does not contain it",
            own.id.raw(),
            own.mask,
            iommu.map_or("its IOMMU", |iommu| &iommu.path),
            other.id.raw(),
            other.mask,
            path(*other_client)
        );
        let remedy = "two match registers would hit, and Linux refuses the second device: give both the same entry, or ones that do not overlap";
        (*client, (String::from(path(*client)), Problem::new(rule::STREAM_OVERLAP, what, remedy)))
    };
    verdict.overlaps.iter().map(problem).collect()
}

/// Puts the wider entry in the place of each that it contains.
fn widen(description: &mut DeviceDescription, widened: &BTreeMap<FwStream, FwStream>) {
    let DmaPath::Translated(spec) = &mut description.dma else { return };
    let mut streams: Vec<FwStream> = Vec::with_capacity(spec.streams.len());
    let mut seen = BTreeSet::new();
    for stream in &spec.streams {
        let mut stream = *stream;
        // Each step adds bits to the mask.
        for _ in 0..u32::BITS {
            let Some(wider) = widened.get(&stream) else { break };
            stream = *wider;
        }
        if seen.insert(stream) {
            streams.push(stream);
        }
    }
    spec.streams = streams;
}
