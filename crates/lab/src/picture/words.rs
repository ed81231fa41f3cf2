//! Steps and worlds in words.

use portcullis_explore::search::TraceStep;

use crate::linux::{Bus, Driver, Firmware, Grouping, Report, ViolationReport, World};

/// Which names need not be repeated: with one client or one group there is no doubt whose field is meant,
/// and a client's own thread speaks of that client.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    /// Each client's name, and the shorter one for it inside a picture.
    clients: Vec<(String, String)>,
    one_group: bool,
}

impl Names {
    pub(crate) fn of(world: &World) -> Self {
        let clients = (0..world.clients).map(|index| {
            let name = world.client_name(index);
            let nick = match world.bus {
                Bus::Pci => name.trim_start_matches("0000:"),
                Bus::Platform => name.rsplit('.').next().unwrap_or(name),
            };
            (name.to_owned(), nick.to_owned())
        });
        Self {
            clients: clients.collect(),
            one_group: world.clients == 1 || world.grouping != Grouping::Own,
        }
    }

    /// The name of a field or lock, or a step's words, as short as it can be without doubt in `thread`.
    pub(crate) fn shorten(&self, text: &str, thread: &str) -> String {
        let mut text = text.to_owned();
        for (name, nick) in &self.clients {
            let (long, short) = (format!("{name}: "), format!("{nick}: "));
            let own = self.clients.len() == 1 || thread.ends_with(name.as_str());
            text = text.replace(&long, if own { "" } else { &short });
        }
        if self.one_group {
            text = text.replace("group 0 mutex", "group->mutex");
            text = text.replace("group 0: ", "group->").replace("group 0 ", "group ");
        }
        text
    }
}

/// The words of a step, and the field whose change they tell.
pub(crate) fn step(step: &TraceStep, names: &Names) -> (String, Option<String>) {
    let thread = step.label.thread.as_str();
    let what = names.shorten(&step.label.what, thread);
    let why = names.shorten(&step.label.why, thread);
    if let Some(field) = what.strip_prefix("read ") {
        let seen = step.report.observed.as_deref().unwrap_or("?");
        return (format!("{} \u{2192} {seen}", asked(field, &why, thread)), None);
    }
    let [change] = &step.report.changes[..] else {
        return (joined(&what, &why), None);
    };
    let field = names.shorten(&change.field, thread);
    let to = match (change.before.as_str(), change.after.as_str()) {
        // The words say as much.
        ("NULL" | "no", "set" | "yes") => String::new(),
        (before, after) => format!(" ({before} \u{2192} {after})"),
    };
    match (what.strip_prefix(&format!("{field} = ")), why.is_empty()) {
        (Some(_), false) => (format!("{}{why}{to}", owner(&field, thread)), Some(field)),
        (Some(_), true) => (format!("{what}{to}"), Some(field)),
        (None, _) => (joined(&what, &why), None),
    }
}

/// The device in front of a field's name, where it is there and is not the thread's own: `video-codec: `.
fn owner<'a>(field: &'a str, thread: &str) -> &'a str {
    let Some(end) = field.rfind(": ") else { return "" };
    if thread.ends_with(&field[..end]) { "" } else { &field[..end + 2] }
}

/// A read field and what is asked of it; the field alone where the question names it.
fn asked(field: &str, why: &str, thread: &str) -> String {
    let short = field.rsplit(": ").next().unwrap_or(field);
    let last = short.rsplit("->").next().unwrap_or(short);
    if why.is_empty() {
        field.to_owned()
    } else if why.contains(last) {
        format!("{}{why}", owner(field, thread))
    } else {
        format!("{field}: {why}")
    }
}

fn joined(what: &str, why: &str) -> String {
    if why.is_empty() { what.to_owned() } else { format!("{what} ({why})") }
}

/// A world in words, without a full stop: `2 IOMMUs (15000000.iommu bound, 5040000.iommu registering), 1 client (...)`.
#[must_use]
pub fn world(world: &World) -> String {
    let bound = world.iommus - world.registering;
    let name = |index: usize| match index < bound {
        true => format!("{} bound", world.iommu_name(index)),
        false => format!("{} registering", world.iommu_name(index)),
    };
    let iommus: Vec<String> = (0..world.iommus).map(name).collect();
    let clients: Vec<&str> = (0..world.clients).map(|index| world.client_name(index)).collect();
    let group = match (world.clients, world.grouping) {
        (1, _) => "",
        (_, Grouping::Own) => ", a group each",
        (_, Grouping::Shared) => ", in one group",
        (_, Grouping::Mixed) => ", in one group, the last wants an identity domain",
    };
    let behind = match (world.iommus, world.two_nodes) {
        (1, _) => "it",
        (_, true) => "the first and the last",
        (_, false) => "the first",
    };
    let bus = match world.bus {
        Bus::Platform => "platform bus",
        Bus::Pci => "PCI",
    };
    let firmware = match world.firmware {
        Firmware::Dt => "DT",
        Firmware::Acpi => "ACPI",
    };
    let driver = match world.driver {
        Driver::V2 => "SMMUv2",
        Driver::V3 => "SMMUv3",
    };
    let mut text = format!(
        "{} ({}), {} ({}) behind {behind}{group}; {bus}, {firmware}, {driver}",
        count(world.iommus, "IOMMU"),
        iommus.join(", "),
        count(world.clients, "client"),
        clients.join(", "),
    );
    if world.attempts > 1 {
        text += &format!("; {} attempts", world.attempts);
    }
    world.events.iter().for_each(|event| text += &format!("; {event}"));
    text
}

fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// The invariant and the bad end of a violation: `I1/B1`.
#[must_use]
pub fn code(found: &ViolationReport) -> String {
    match found.bad_end {
        Some(end) if end != found.property => format!("{}/{end}", found.property),
        _ => found.property.to_owned(),
    }
}

/// What a report found, one line for each [`code`], with the fewest steps that show it.
#[must_use]
pub fn fewest(report: &Report) -> Vec<(String, usize)> {
    let mut ways: Vec<(String, usize)> = Vec::new();
    for found in &report.violations {
        let (code, steps) = (code(found), found.trace.steps.len());
        match ways.iter_mut().find(|(known, _)| *known == code) {
            Some((_, fewest)) => *fewest = steps.min(*fewest),
            None => ways.push((code, steps)),
        }
    }
    ways
}

/// A time in a unit that shows it: `0.3 ms`, `1.25 s`.
#[must_use]
pub fn time(seconds: f64) -> String {
    if seconds < 0.1 { format!("{:.1} ms", seconds * 1e3) } else { format!("{seconds:.2} s") }
}
