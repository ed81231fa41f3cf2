//! `show --tree`: below each IOMMU the devices behind it, below each bus its functions.

use super::human::tone;
use super::ids::{ids, named_iommus, names};
use super::verdict::{Verdict, of_client, of_device};
use crate::names::ShortNames;
use crate::screen::Screen;
use crate::style::Style;
use crate::table::{length, wrapped};
use portcullis::{DmaPath, FwNode};
use portcullis_firmware::{
    DescribedDevice, MachineDescription, PciFunction, function_groups, sharing,
};
use portcullis_testbed::IommuDriver;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A line and those below it.
struct Branch {
    text: String,
    below: Vec<Branch>,
}

/// What every line needs.
struct Page<'a> {
    machine: &'a MachineDescription,
    names: ShortNames<'a>,
    /// Of each function of each device; `None` for one that is alone in its group.
    function_groups: Vec<Vec<Option<usize>>>,
    style: Style,
}

/// The machine as a tree: one branch for each IOMMU, one for what is behind none.
pub(super) fn render(machine: &MachineDescription, screen: Screen) -> String {
    let style = screen.style;
    let groups = group_numbers(machine);
    let function_groups = function_group_numbers(machine);
    let page = Page { machine, names: names(machine), function_groups, style };
    let mut behind: BTreeMap<Option<FwNode>, Vec<Branch>> = BTreeMap::new();
    for (index, device) in machine.devices.iter().enumerate() {
        let nodes = named_iommus(device);
        let places: Vec<Option<FwNode>> =
            if nodes.is_empty() { vec![None] } else { nodes.into_iter().map(Some).collect() };
        for place in places {
            let group = groups.get(&index).copied();
            behind.entry(place).or_default().push(page.branch(index, place, group));
        }
    }
    let mut out = String::new();
    for iommu in &machine.iommus {
        let driver = IommuDriver::of(iommu).map_or("no driver", |driver| driver.name);
        let state = match (&iommu.unusable, iommu.enabled) {
            (_, false) => ", disabled".to_owned(),
            (Some(reason), true) => format!(", unusable: {reason}"),
            (None, true) => String::new(),
        };
        let below = behind.remove(&Some(iommu.node)).unwrap_or_default();
        let text = format!("{} ({driver}{state})", style.strong(&iommu.path));
        Branch { text, below }.write(&mut out, "", "", screen);
    }
    if let Some(below) = behind.remove(&None) {
        let text = style.strong("behind no IOMMU");
        Branch { text, below }.write(&mut out, "", "", screen);
    }
    out
}

/// Numbers, from 1, of the groups of several devices, by device.
pub(super) fn group_numbers(machine: &MachineDescription) -> BTreeMap<usize, usize> {
    let sets = sharing(machine);
    let mut members: BTreeMap<usize, usize> = BTreeMap::new();
    sets.iter().for_each(|set| *members.entry(*set).or_default() += 1);
    let mut numbers = BTreeMap::new();
    let several = sets.iter().enumerate().filter(|(_, set)| members[set] > 1);
    several
        .map(|(index, set)| {
            let next = numbers.len() + 1;
            (index, *numbers.entry(*set).or_insert(next))
        })
        .collect()
}

/// Numbers of the groups of several functions, by device and function; they go on where those of [`group_numbers`] end.
pub(super) fn function_group_numbers(machine: &MachineDescription) -> Vec<Vec<Option<usize>>> {
    let groups = function_groups(machine);
    let mut members: BTreeMap<usize, usize> = BTreeMap::new();
    groups.iter().flatten().for_each(|group| *members.entry(*group).or_default() += 1);
    let before = group_numbers(machine).into_values().max().unwrap_or(0);
    let mut numbers = BTreeMap::new();
    let mut number = |group: &usize| {
        let next = before + numbers.len() + 1;
        (members[group] > 1).then(|| *numbers.entry(*group).or_insert(next))
    };
    groups.iter().map(|groups| groups.iter().map(&mut number).collect()).collect()
}

impl Page<'_> {
    fn branch(&self, index: usize, place: Option<FwNode>, group: Option<usize>) -> Branch {
        let device = &self.machine.devices[index];
        let mut text = device.description.path.clone();
        if place.is_some() {
            let _ = write!(text, "  {}", ids(self.machine, &self.names, device));
        }
        if let Some(group) = group {
            let _ = write!(text, "  #{group}");
        }
        let _ = write!(text, "  {}", said(&of_device(self.machine, device), self.style));
        let listed = device.enabled && device.bus.is_some();
        let functions = device.functions.iter().enumerate().filter(|_| listed);
        let functions = functions.filter(|(_, function)| belongs(function, place));
        let group = |at: usize| self.function_groups[index].get(at).copied().flatten();
        let below = functions.map(|(at, it)| self.function(device, it, group(at)));
        Branch { text, below: below.collect() }
    }

    fn function(
        &self,
        device: &DescribedDevice,
        function: &PciFunction,
        group: Option<usize>,
    ) -> Branch {
        let path = &function.description.path;
        let short = path.strip_prefix(device.description.path.as_str()).unwrap_or(path);
        let short = short.trim_start_matches('/');
        let mut text = function.requester.to_string();
        // One that the bus scan found has no other name.
        if short != text {
            let _ = write!(text, " {short}");
        }
        if let DmaPath::Translated(spec) = &function.description.dma {
            spec.streams.iter().for_each(|stream| {
                let _ = write!(text, "  {}", stream.id);
            });
        }
        if let Some(group) = group {
            let _ = write!(text, "  #{group}");
        }
        let verdict = of_client(self.machine, &function.description, true);
        let _ = write!(text, "  {}", said(&verdict, self.style));
        Branch { text, below: Vec::new() }
    }
}

/// A function stands below the IOMMU that translates it; one that none translates, below each that its bus names.
fn belongs(function: &PciFunction, place: Option<FwNode>) -> bool {
    match &function.description.dma {
        DmaPath::Translated(spec) => spec.streams.iter().any(|it| Some(it.iommu) == place),
        DmaPath::Direct | DmaPath::Unusable(_) => true,
    }
}

fn said(verdict: &Verdict, style: Style) -> String {
    let Verdict { word, because } = verdict;
    let painted = style.paint(tone(word), word);
    match (word.is_empty(), because.is_empty()) {
        (true, _) => because.clone(),
        (false, true) => painted,
        (false, false) => format!("{painted}: {because}"),
    }
}

impl Branch {
    /// Writes this line behind `lead` and those below behind `indent`, none wider than the screen.
    fn write(&self, out: &mut String, lead: &str, indent: &str, screen: Screen) {
        // What does not fit goes on beside the line down to the next branch.
        let further = format!("{indent}{}    ", if self.below.is_empty() { "" } else { "│" });
        let room = screen.table_width().saturating_sub(further.chars().count()).max(1);
        let lines = match length(&self.text) <= room {
            true => vec![self.text.clone()],
            false => wrapped(&self.text, room),
        };
        for (at, line) in lines.iter().enumerate() {
            let _ = writeln!(out, "{}{line}", if at == 0 { lead } else { &further });
        }
        for (index, below) in self.below.iter().enumerate() {
            let (branch, down) = if index + 1 == self.below.len() {
                ("└─ ", "   ")
            } else {
                ("├─ ", "│  ")
            };
            let (lead, indent) = (format!("{indent}{branch}"), format!("{indent}{down}"));
            below.write(out, &lead, &indent, screen);
        }
    }
}
