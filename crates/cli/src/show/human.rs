//! The page that `show` prints for people.

use super::ask;
use super::ids::{ids, named_iommus, names};
use super::tree;
use super::verdict::{Verdict, of_client, of_device};
use crate::screen::{Screen, count};
use crate::style::{Style, Tone};
use crate::table::{Cell, Table, wrap};
use portcullis::{FwNode, ReservedKind};
use portcullis_firmware::{DescribedDevice, MachineDescription, Severity};
use portcullis_testbed::IommuDriver;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A word of a verdict, and what it means.
pub(super) fn tone(word: &str) -> Tone {
    match word {
        "translated" => Tone::Good,
        "blocked" => Tone::Bad,
        "" => Tone::Quiet,
        _ => Tone::Warn,
    }
}

/// A severity in a column of its own.
pub(super) fn severity(style: Style, severity: Severity) -> String {
    let tone = match severity {
        Severity::Error => Tone::Bad,
        Severity::Warning => Tone::Warn,
        Severity::Note => Tone::Note,
    };
    style.paint(tone, &format!("{:<7}", severity.to_string()))
}

/// What a page has beside findings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// A tree in place of the tables.
    pub tree: bool,
    /// Also the devices that are behind no IOMMU.
    pub direct: bool,
}

/// `machine` as a page for `screen`.
pub fn render_human(machine: &MachineDescription, screen: Screen, view: View) -> String {
    let mut out = headline(machine, screen.style);
    if view.tree {
        out.push('\n');
        out.push_str(&tree::render(machine, screen));
    } else {
        out.push_str(&tables(machine, screen));
    }
    if view.direct {
        out.push('\n');
        out.push_str(&direct(machine, screen));
    }
    if let Some(running) = left_running(machine) {
        let _ = writeln!(out, "\n{}", wrap(&running, screen.prose_width(), 0));
    }
    out.push('\n');
    out.push_str(&findings(machine, screen));
    if let Some(command) = ask::lab_command(machine) {
        // Never broken, so that it can be copied.
        let _ =
            writeln!(out, "\nIs a Linux kernel affected on a machine of this shape?\n  {command}");
    }
    out
}

/// What names no IOMMU and looks as if it did DMA.
fn direct(machine: &MachineDescription, screen: Screen) -> String {
    let mut table = Table::new(["behind no IOMMU", "because"]);
    for device in &machine.direct {
        table.row([device.path.as_str().into(), device.because.into()]);
    }
    match machine.direct.is_empty() {
        true => {
            let none = "Behind no IOMMU: no device that looks as if it did DMA. (ACPI's tables do not name any.)";
            wrap(none, screen.prose_width(), 0) + "\n"
        }
        false => table.render(screen),
    }
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

fn tables(machine: &MachineDescription, screen: Screen) -> String {
    let mut out = String::new();
    if !machine.iommus.is_empty() {
        out.push('\n');
        out.push_str(&iommus(machine).render(screen));
    }
    if !machine.devices.is_empty() {
        out.push('\n');
        out.push_str(&devices(machine).render(screen));
    }
    if let Some(functions) = functions(machine) {
        out.push('\n');
        out.push_str(&functions.render(screen));
    }
    out
}

/// The functions of buses, where several share a group; otherwise their buses say it all.
fn functions(machine: &MachineDescription) -> Option<Table> {
    let groups = tree::function_group_numbers(machine);
    groups.iter().flatten().flatten().next()?;
    let mut table = Table::new(["function", "ids", "group", "DMA", "because"]);
    for (device, groups) in machine.devices.iter().zip(groups) {
        for (function, group) in device.functions.iter().zip(groups) {
            let Verdict { word, because } = of_client(machine, &function.description, true);
            let streams = function.description.streams().iter();
            let ids: Vec<_> = streams.map(|stream| stream.id.to_string()).collect();
            table.row([
                function.description.path.as_str().into(),
                ids.join(" ").into(),
                group.map(|number| format!("#{number}")).unwrap_or_default().into(),
                Cell::new(tone(word), word),
                because.into(),
            ]);
        }
    }
    Some(table)
}

fn headline(machine: &MachineDescription, style: Style) -> String {
    let name = if machine.model.is_empty() { "(no model)" } else { machine.model.as_str() };
    let enabled = machine.devices.iter().filter(|device| device.enabled).count();
    format!(
        "{} [{}]\n{}, {} ({enabled} enabled)\n",
        style.strong(name),
        machine.board,
        count(machine.iommus.len(), "IOMMU"),
        count(machine.devices.len(), "device"),
    )
}

fn iommus(machine: &MachineDescription) -> Table {
    let mut table = Table::new(["IOMMU", "compatible", "driver", "cells", "clients", "state"]);
    let clients = clients(machine);
    for iommu in &machine.iommus {
        let state = match (&iommu.unusable, iommu.enabled) {
            (_, false) => Cell::new(Tone::Quiet, "disabled"),
            (Some(_), true) => Cell::new(Tone::Bad, "unusable"),
            (None, true) => "enabled".into(),
        };
        table.row([
            iommu.path.as_str().into(),
            iommu.compatible.first().map_or("", String::as_str).into(),
            IommuDriver::of(iommu).map_or("none", |driver| driver.name).into(),
            iommu.cells.map_or("?".to_owned(), |cells| cells.to_string()).into(),
            clients.get(&iommu.node).copied().unwrap_or(0).to_string().into(),
            state,
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
    let mut table = Table::new(["device", "IOMMU", "ids", "group", "reserved", "DMA", "because"]);
    // Only groups of several are worth a number.
    let groups = tree::group_numbers(machine);
    let names = names(machine);
    for (index, device) in machine.devices.iter().enumerate() {
        let iommus = named_iommus(device).into_iter();
        let iommus: Vec<_> = iommus.map(|it| names.of(machine.iommu_path(it))).collect();
        let Verdict { word, because } = of_device(machine, device);
        // A long reason stands among the findings.
        let because = if because.len() > 40 { "see below".to_owned() } else { because };
        table.row([
            device.description.path.as_str().into(),
            iommus.join(" ").into(),
            ids(machine, &names, device).into(),
            groups.get(&index).map(|number| format!("#{number}")).unwrap_or_default().into(),
            reserved(device).into(),
            Cell::new(tone(word), word),
            because.into(),
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

fn findings(machine: &MachineDescription, screen: Screen) -> String {
    if machine.findings.is_empty() {
        return "No findings.\n".to_owned();
    }
    let number = |severity| machine.findings.iter().filter(|it| it.severity == severity).count();
    let mut out = format!(
        "{}\n",
        screen.style.strong(&format!(
            "Findings: {}, {}, {}",
            count(number(Severity::Error), "error"),
            count(number(Severity::Warning), "warning"),
            count(number(Severity::Note), "note"),
        ))
    );
    for finding in &machine.findings {
        let severity = severity(screen.style, finding.severity);
        let place = format!("{} [{}]", finding.path, finding.rule);
        let _ = writeln!(out, "{severity}  {}", wrap(&place, screen.prose_width(), 9));
        let _ = writeln!(out, "         {}", wrap(&finding.message, screen.prose_width(), 9));
    }
    out
}
