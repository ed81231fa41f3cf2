//! The page that `show` prints for people.

use super::ids::{ids, label, named_iommus};
use super::table::{Table, wrap};
use super::tree;
use super::verdict::{Verdict, of_device};
use portcullis::{FwNode, ReservedKind};
use portcullis_firmware::{DescribedDevice, MachineDescription, Severity};
use portcullis_testbed::IommuDriver;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// How the page paints.
#[derive(Clone, Copy)]
pub(super) struct Paint {
    color: bool,
}

impl Paint {
    pub(super) fn new(color: bool) -> Self {
        Self { color }
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    /// A word of a verdict.
    pub(super) fn word(self, word: &str) -> String {
        match word {
            "translated" => self.with("32", word),
            "blocked" => self.with("31", word),
            "" => String::new(),
            _ => self.with("33", word),
        }
    }

    pub(super) fn severity(self, severity: Severity) -> String {
        let code = match severity {
            Severity::Error => "1;31",
            Severity::Warning => "33",
            Severity::Note => "36",
        };
        self.with(code, &format!("{severity:<7}", severity = severity.to_string()))
    }
}

/// `machine` as a page of at most `width` columns (as far as its paths allow), with or without colours; `as_tree` for a tree in place of the tables.
pub fn render_human(
    machine: &MachineDescription,
    width: usize,
    color: bool,
    as_tree: bool,
) -> String {
    let paint = Paint::new(color);
    let mut out = headline(machine, paint);
    if as_tree {
        out.push('\n');
        out.push_str(&tree::render(machine, paint));
    } else {
        out.push_str(&tables(machine, width, paint));
    }
    if let Some(running) = left_running(machine) {
        let _ = writeln!(out, "\n{}", wrap(&running, width, 0));
    }
    out.push('\n');
    out.push_str(&findings(machine, width, paint));
    out
}

/// Who may be running when the kernel starts, and what becomes of it.
fn left_running(machine: &MachineDescription) -> Option<String> {
    let may = machine.devices.iter().filter(|device| may_run(machine, device));
    let paths: Vec<_> = may.map(|device| device.description.path.as_str()).collect();
    (!paths.is_empty()).then(|| {
        format!(
            "Firmware may have left running (their regions say so): {}. Such streams are blocked until their driver binds; with `boot --firmware-streams adopt` they go on reaching these regions, and nothing else, until then.",
            paths.join(", ")
        )
    })
}

/// Whether a device has a region that must stay mapped 1:1, behind a unit whose driver can adopt its streams.
pub(super) fn may_run(machine: &MachineDescription, device: &DescribedDevice) -> bool {
    let direct =
        device.description.reserved.iter().any(|region| region.kind == ReservedKind::Direct);
    let adopts = |node: &FwNode| {
        let unit = machine.iommus.iter().find(|iommu| iommu.node == *node && iommu.enabled);
        unit.and_then(IommuDriver::of).is_some_and(|driver| driver.name == "smmuv2")
    };
    let streams = device.description.streams();
    device.enabled && direct && streams.iter().any(|stream| adopts(&stream.iommu))
}

fn tables(machine: &MachineDescription, width: usize, paint: Paint) -> String {
    let mut out = String::new();
    if !machine.iommus.is_empty() {
        out.push('\n');
        out.push_str(&iommus(machine).render(width, |text| paint.bold(text)));
    }
    if !machine.devices.is_empty() {
        out.push('\n');
        out.push_str(&devices(machine).render(width, |text| paint.bold(text)));
    }
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
    // Only groups of several are worth a number.
    let groups = tree::group_numbers(machine);
    for (index, device) in machine.devices.iter().enumerate() {
        let names: Vec<_> = named_iommus(device).into_iter().map(|it| label(machine, it)).collect();
        let Verdict { word, because } = of_device(machine, device);
        // A long reason stands among the findings.
        let because = if because.len() > 40 { "see below".to_owned() } else { because };
        table.row(vec![
            device.description.path.clone(),
            names.join(" "),
            ids(machine, device),
            groups.get(&index).map(|number| format!("#{number}")).unwrap_or_default(),
            reserved(device),
            word.to_owned(),
            because,
        ]);
    }
    table
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
