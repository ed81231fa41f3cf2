//! Stream ids and maps in the few characters that a table has for them.

use crate::names::ShortNames;
use portcullis::{FwNode, FwStream};
use portcullis_firmware::{DescribedDevice, IommuMap, MachineDescription};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// The distinct IOMMUs that a device or bus names, in order of first mention.
pub(super) fn named_iommus(device: &DescribedDevice) -> Vec<FwNode> {
    let maps = device.bus.iter().flat_map(|bus| bus.maps());
    let mut seen = BTreeSet::new();
    let named = device.streams.iter().map(|it| it.iommu).chain(maps.map(|it| it.iommu));
    named.filter(|node| seen.insert(*node)).collect()
}

/// Short names of a machine's IOMMUs.
pub(super) fn names(machine: &MachineDescription) -> ShortNames<'_> {
    ShortNames::new(machine.iommus.iter().map(|iommu| iommu.path.as_str()))
}

/// Stream ids, neighbours joined to ranges, `id/mask` where bits are ignored; then the map, `rid:requester ids>first stream id`.
pub(super) fn ids(
    machine: &MachineDescription,
    names: &ShortNames<'_>,
    device: &DescribedDevice,
) -> String {
    let at = |node| at(names.of(machine.iommu_path(node)));
    let several = named_iommus(device).len() > 1;
    let mut parts: Vec<String> = Vec::new();
    for run in runs(&device.streams) {
        let (first, last) = (run[0], run[run.len() - 1]);
        let mut text = match (first.mask, run.len()) {
            (0, 1) => format!("{}", first.id),
            (0, _) => format!("{}-{}", first.id, last.id),
            (mask, _) => format!("{}/{mask:#x}", first.id),
        };
        if several {
            text.push_str(&at(first.iommu));
        }
        parts.push(text);
    }
    let maps = device.bus.iter().flat_map(|bus| bus.maps());
    parts.extend(maps.map(|it| match several {
        true => map(it) + &at(it.iommu),
        false => map(it),
    }));
    if let Some(bus) = device.bus.as_ref().filter(|bus| bus.mask() != u32::MAX) {
        parts.push(format!("rid&{:#x}", bus.mask()));
    }
    parts.join(" ")
}

/// Which of several IOMMUs is meant: the unit address of its name where that is short.
fn at(name: &str) -> String {
    let address = name.rsplit('@').next().filter(|_| !name.contains('/'));
    format!("@{}", address.unwrap_or(name))
}

/// Neighbouring exact ids on one IOMMU together, everything else alone.
pub(super) fn runs(streams: &[FwStream]) -> impl Iterator<Item = &[FwStream]> {
    streams.chunk_by(|a, b| {
        a.iommu == b.iommu && a.mask | b.mask == 0 && a.id.raw().checked_add(1) == Some(b.id.raw())
    })
}

pub(super) fn map(map: &IommuMap) -> String {
    let mut text = match map.length {
        1 => format!("rid:{:#x}>{:#x}", map.rid_base, map.id_base),
        _ => format!("rid:{:#x}-{:#x}>{:#x}", map.rid_base, map.rid_last(), map.id_base),
    };
    if map.mask != 0 {
        let _ = write!(text, "/{:#x}", map.mask);
    }
    if map.constant && map.length > 1 {
        text.push_str("(all)");
    }
    text
}
