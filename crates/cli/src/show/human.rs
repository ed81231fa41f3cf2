//! The page that `show` prints for people.

use super::table::{Table, wrap};
use portcullis::{DmaPath, FwNode, ReservedKind};
use portcullis_firmware::{DescribedDevice, MachineDescription, Severity, sharing};
use portcullis_testbed::IommuDriver;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// How the page paints.
#[derive(Clone, Copy)]
struct Paint {
    color: bool,
}

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    fn severity(self, severity: Severity) -> String {
        let code = match severity {
            Severity::Error => "1;31",
            Severity::Warning => "33",
            Severity::Note => "36",
        };
        self.with(code, &format!("{severity:<7}", severity = severity.to_string()))
    }
}

/// `machine` as a page of at most `width` columns (as far as its paths allow), with or without colours.
pub fn render_human(machine: &MachineDescription, width: usize, color: bool) -> String {
    let paint = Paint { color };
    let mut out = headline(machine, paint);
    if !machine.iommus.is_empty() {
        out.push('\n');
        out.push_str(&iommus(machine).render(width, |text| paint.bold(text)));
    }
    if !machine.devices.is_empty() {
        out.push('\n');
        out.push_str(&devices(machine).render(width, |text| paint.bold(text)));
    }
    out.push('\n');
    out.push_str(&findings(machine, width, paint));
    out
}

fn headline(machine: &MachineDescription, paint: Paint) -> String {
    let name = if machine.model.is_empty() { "(no model)" } else { machine.model.as_str() };
    let enabled = machine.devices.iter().filter(|device| device.enabled).count();
    format!(
        "{} [{}]\n{}, {} ({enabled} enabled)\n",
        paint.bold(name),
        machine.board,
        count(machine.iommus.len(), "IOMMU"),
        count(machine.devices.len(), "device"),
    )
}

fn count(number: usize, word: &str) -> String {
    format!("{number} {word}{}", if number == 1 { "" } else { "s" })
}

fn iommus(machine: &MachineDescription) -> Table {
    let mut table = Table::new(&["IOMMU", "compatible", "driver", "cells", "clients", "state"]);
    let clients = clients(machine);
    for iommu in &machine.iommus {
        let state = match (&iommu.unusable, iommu.enabled) {
            (_, false) => "disabled",
            (Some(_), true) => "unusable",
            (None, true) => "enabled",
        };
        table.row(vec![
            iommu.path.clone(),
            iommu.compatible.first().cloned().unwrap_or_default(),
            IommuDriver::of(iommu).map_or("none", |driver| driver.name).to_owned(),
            iommu.cells.map_or("?".to_owned(), |cells| cells.to_string()),
            clients.get(&iommu.node).copied().unwrap_or(0).to_string(),
            state.to_owned(),
        ]);
    }
    table
}

/// How many enabled devices name each IOMMU.
fn clients(machine: &MachineDescription) -> BTreeMap<FwNode, usize> {
    let mut clients = BTreeMap::new();
    for device in machine.devices.iter().filter(|device| device.enabled) {
        for node in named_iommus(device) {
            *clients.entry(node).or_insert(0) += 1;
        }
    }
    clients
}

fn devices(machine: &MachineDescription) -> Table {
    let mut table = Table::new(&["device", "IOMMU", "ids", "group", "reserved", "DMA", "because"]);
    let sets = sharing(machine);
    let mut members = vec![0usize; sets.len()];
    sets.iter().for_each(|set| members[*set] += 1);
    // Only groups of several are worth a number; they are counted from 1 in order of appearance.
    let mut numbers = BTreeMap::new();
    for (device, set) in machine.devices.iter().zip(&sets) {
        let next = numbers.len() + 1;
        let number = (members[*set] > 1).then(|| *numbers.entry(*set).or_insert(next));
        let names: Vec<_> = named_iommus(device).into_iter().map(|it| label(machine, it)).collect();
        let (dma, because) = verdict(machine, device);
        table.row(vec![
            device.description.path.clone(),
            names.join(" "),
            ids(machine, device),
            number.map(|number| format!("#{number}")).unwrap_or_default(),
            reserved(device),
            dma.to_owned(),
            because.to_owned(),
        ]);
    }
    table
}

/// The distinct IOMMUs that a device or bus names, in order of first mention.
fn named_iommus(device: &DescribedDevice) -> Vec<FwNode> {
    let maps = device.bus.iter().flat_map(|bus| bus.maps());
    let mut seen = BTreeSet::new();
    let named = device.streams.iter().map(|it| it.iommu).chain(maps.map(|it| it.iommu));
    named.filter(|node| seen.insert(*node)).collect()
}

/// The last part of an IOMMU's path; the table above has all of it.
fn label(machine: &MachineDescription, node: FwNode) -> &str {
    let path = machine.iommu_path(node);
    path.rsplit('/').next().unwrap_or(path)
}

/// Stream ids, neighbours joined to ranges; then the map, `rid:requester ids>first stream id`.
fn ids(machine: &MachineDescription, device: &DescribedDevice) -> String {
    let several = named_iommus(device).len() > 1;
    let mut parts: Vec<String> = Vec::new();
    let mut rest = device.streams.as_slice();
    while let Some(first) = rest.first() {
        let run = rest
            .iter()
            .zip(first.id.raw()..)
            .take_while(|(it, id)| {
                it.id.raw() == *id && it.iommu == first.iommu && it.mask == 0 && first.mask == 0
            })
            .count()
            .max(1);
        let mut text = match (first.mask, run) {
            (0, 1) => format!("{}", first.id),
            (0, run) => format!("{}-{}", first.id, rest[run - 1].id),
            (mask, _) => format!("{}/{mask:#x}", first.id),
        };
        if several {
            let name = label(machine, first.iommu);
            let _ = write!(text, "@{}", name.rsplit('@').next().unwrap_or(name));
        }
        parts.push(text);
        rest = &rest[run..];
    }
    let maps = device.bus.iter().flat_map(|bus| bus.maps());
    parts.extend(maps.map(|map| match map.length {
        1 => format!("rid:{:#x}>{:#x}", map.rid_base, map.id_base),
        _ => format!("rid:{:#x}-{:#x}>{:#x}", map.rid_base, map.rid_last(), map.id_base),
    }));
    parts.join(" ")
}

fn reserved(device: &DescribedDevice) -> String {
    let regions = device.description.reserved.iter().map(|region| {
        let kind = match region.kind {
            ReservedKind::Direct => "mapped 1:1",
            ReservedKind::Reserved => "kept free",
        };
        let (first, last) = (region.range.start().raw(), region.range.last().raw());
        format!("{first:#x}-{last:#x} {kind}")
    });
    regions.collect::<Vec<_>>().join(", ")
}

/// What becomes of the device's DMA, and why where that is not the usual.
fn verdict(machine: &MachineDescription, device: &DescribedDevice) -> (&'static str, &'static str) {
    if !device.enabled {
        return ("", "device disabled");
    }
    match &device.description.dma {
        DmaPath::Unusable(_) => ("blocked", "see below"),
        DmaPath::Direct if device.streams.is_empty() && device.bus.is_none() => {
            ("direct", "no IOMMU")
        }
        DmaPath::Direct => ("direct", "IOMMU disabled"),
        DmaPath::Translated(spec) => {
            let mut iommus = spec.streams.iter().filter_map(|it| machine.iommu(it.iommu));
            match iommus.find(|iommu| IommuDriver::of(iommu).is_none()) {
                Some(_) => ("blocked", "no driver"),
                None => ("translated", ""),
            }
        }
    }
}

fn findings(machine: &MachineDescription, width: usize, paint: Paint) -> String {
    if machine.findings.is_empty() {
        return "No findings.\n".to_owned();
    }
    let number = |severity| machine.findings.iter().filter(|it| it.severity == severity).count();
    let mut out = format!(
        "{}\n",
        paint.bold(&format!(
            "Findings: {}, {}, {}",
            count(number(Severity::Error), "error"),
            count(number(Severity::Warning), "warning"),
            count(number(Severity::Note), "note"),
        ))
    );
    for finding in &machine.findings {
        let severity = paint.severity(finding.severity);
        let _ = writeln!(out, "{severity}  {} [{}]", finding.path, finding.rule);
        let _ = writeln!(out, "         {}", wrap(&finding.message, width, 9));
    }
    out
}
