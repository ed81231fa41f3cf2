//! `show --html`: a page that stands alone, with one drawing for each IOMMU.
//!
//! Everything that comes from the description is escaped. A drawing is as wide as a narrow screen; on a wide one several stand side by side, and one with many devices has several columns.

mod svg;

use super::ids::named_iommus;
use super::tree::group_numbers;
use portcullis::FwNode;
use portcullis_firmware::{DescribedDevice, IommuNode, MachineDescription, Severity};
use portcullis_testbed::IommuDriver;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What makes the page.
const PRODUCT: &str = concat!("Portcullis ", env!("CARGO_PKG_VERSION"));

/// An IOMMU with more devices than this has the whole width of the page.
const MANY: usize = 10;

/// A device in a drawing, with the number of its group where it shares one.
pub(super) struct Placed<'m> {
    pub(super) device: &'m DescribedDevice,
    pub(super) group: Option<usize>,
}

/// The page.
pub fn render_html(machine: &MachineDescription) -> String {
    let title = if machine.model.is_empty() { &machine.board } else { &machine.model };
    let mut out =
        String::from("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n");
    out += "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n";
    let _ = writeln!(out, "<title>{}: IOMMUs; {PRODUCT}</title>", escaped(title));
    let _ = writeln!(out, "<style>\n{}</style></head><body>", include_str!("page.css"));
    let _ = writeln!(out, "<h1>{}</h1>\n<p>{}</p>", escaped(title), escaped(&summary(machine)));
    out += &findings(machine);
    out += "<main>\n";
    let mut behind = placed(machine);
    for iommu in &machine.iommus {
        let devices = behind.remove(&Some(iommu.node)).unwrap_or_default();
        let head = escaped(&state(iommu));
        out += &section(machine, &iommu.path, &head, Some(iommu.node), &devices);
    }
    if let Some(devices) = behind.remove(&None) {
        out += &section(machine, "behind no IOMMU", "", None, &devices);
    }
    out + &format!("<footer>{PRODUCT}</footer>") + "</main>\n</body></html>\n"
}

fn summary(machine: &MachineDescription) -> String {
    let enabled = machine.devices.iter().filter(|device| device.enabled).count();
    let (iommus, devices) = (machine.iommus.len(), machine.devices.len());
    format!(
        "{}: {iommus} IOMMUs, {devices} devices and buses, {enabled} of them enabled",
        machine.board
    )
}

fn state(iommu: &IommuNode) -> String {
    let driver = IommuDriver::of(iommu).map_or("no driver", |driver| driver.name);
    let name = iommu.compatible.first().map_or("", String::as_str);
    match (&iommu.unusable, iommu.enabled) {
        (_, false) => format!("{name}, disabled"),
        (Some(reason), true) => format!("{name}, unusable: {reason}"),
        (None, true) => format!("{name}, {driver}"),
    }
}

fn placed(machine: &MachineDescription) -> BTreeMap<Option<FwNode>, Vec<Placed<'_>>> {
    let groups = group_numbers(machine);
    let mut behind: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (index, device) in machine.devices.iter().enumerate() {
        let nodes = named_iommus(device);
        let nodes: Vec<_> =
            if nodes.is_empty() { vec![None] } else { nodes.into_iter().map(Some).collect() };
        for node in nodes {
            let group = groups.get(&index).copied();
            behind.entry(node).or_default().push(Placed { device, group });
        }
    }
    behind
}

fn section(
    machine: &MachineDescription,
    title: &str,
    head: &str,
    node: Option<FwNode>,
    devices: &[Placed<'_>],
) -> String {
    let drawing = match devices.is_empty() {
        true => "<p class=\"none\">no client</p>\n".to_owned(),
        false => svg::drawing(machine, title, node, devices),
    };
    let class = if devices.len() > MANY { " class=\"many\"" } else { "" };
    format!("<section{class}><h2>{}</h2>\n<p>{head}</p>\n{drawing}</section>\n", escaped(title))
}

fn findings(machine: &MachineDescription) -> String {
    if machine.findings.is_empty() {
        return "<p>No findings.</p>\n".to_owned();
    }
    let number = |severity, word| {
        let count = machine.findings.iter().filter(|it| it.severity == severity).count();
        format!("{count} {word}{}", if count == 1 { "" } else { "s" })
    };
    let mut out = format!(
        "<details open><summary>Findings: {}, {}, {}</summary>\n<ul>\n",
        number(Severity::Error, "error"),
        number(Severity::Warning, "warning"),
        number(Severity::Note, "note")
    );
    for finding in &machine.findings {
        let _ = writeln!(
            out,
            "<li class=\"{0}\"><strong>{0}</strong> <code>{1}</code> {2} <small>[{3}]</small></li>",
            finding.severity,
            escaped(&finding.path),
            escaped(&finding.message),
            finding.rule
        );
    }
    out + "</ul></details>\n"
}

/// `text` with what HTML gives a meaning to taken out of it.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            _ => out.push(character),
        }
    }
    out
}
