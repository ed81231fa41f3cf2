//! Steps and worlds in words.

use portcullis_explore::search::{Change, Label, Object, Operation, TraceStep};

use crate::linux::{
    Advice, Behind, Bus, Change as TreeChange, Closers, Commit, CommitInfo, DEVICE_LOCK, Driver,
    Firmware, Grouping, PropertyId, Report, ViolationReport, World,
};

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
                Bus::Platform | Bus::Amba => name.rsplit('.').next().unwrap_or(name),
                Bus::FslMc | Bus::Cdx | Bus::Host1x => name,
            };
            (name.to_owned(), nick.to_owned())
        });
        Self {
            clients: clients.collect(),
            one_group: world.clients == 1
                || matches!(world.grouping, Grouping::Shared | Grouping::Mixed),
        }
    }

    /// A field or lock as the picture names it for its readers.
    pub(crate) fn object(&self, object: &Object) -> String {
        self.in_thread(object, "")
    }

    /// A field or lock, as short as it can be without doubt in `thread`.
    pub(crate) fn in_thread(&self, object: &Object, thread: &str) -> String {
        let Object { owner, name } = object;
        if name == DEVICE_LOCK {
            return format!("{name}({owner})");
        }
        if let Some((client, nick)) = self.clients.iter().find(|(client, _)| client == owner) {
            let own = self.clients.len() == 1 || thread.ends_with(client.as_str());
            return if own { name.clone() } else { format!("{nick}: {name}") };
        }
        match owner.strip_prefix("group ") {
            Some("0") if self.one_group => format!("group->{name}"),
            Some(_) if name == "mutex" => format!("{owner} mutex"),
            _ => object.to_string(),
        }
    }
}

/// The words of a step, and the field whose change they tell.
pub(crate) fn step(step: &TraceStep, names: &Names) -> (String, Option<String>) {
    let label = &step.label;
    let (thread, why) = (label.thread.as_str(), label.why.as_str());
    let object = |object: &Object| names.in_thread(object, thread);
    let lock = |verb: &str, lock: &Object| (joined(&format!("{verb} {}", object(lock)), why), None);
    match &label.operation {
        Operation::Read(field) => {
            let seen = step.report.observed.as_deref().unwrap_or("?");
            (format!("{} \u{2192} {seen}", asked(&object(field), field, why, thread)), None)
        }
        Operation::Write(field, value) => {
            let name = object(field);
            let [change] = &step.report.changes[..] else {
                return (joined(&format!("{name} = {value}"), why), None);
            };
            let to = moved(change);
            let words = match why {
                "" => format!("{name} = {value}{to}"),
                _ => format!("{}{why}{to}", owner(&name, field, thread)),
            };
            (words, Some(name))
        }
        Operation::Lock(taken) => lock("lock", taken),
        Operation::TryLock(taken) => lock("try to lock", taken),
        Operation::Unlock(given) => lock("unlock", given),
        _ => (joined(&label.what(), label.reason()), None),
    }
}

/// The step at which a thread is stuck.
pub(crate) fn waiting(label: &Label, names: &Names) -> String {
    match label.operation.object() {
        Some(object) => {
            let name = names.in_thread(object, &label.thread);
            format!("{} {name}", label.operation.action().word())
        }
        None => label.what(),
    }
}

/// ` (before → after)`, where the words do not say as much.
fn moved(change: &Change) -> String {
    match (change.before.as_str(), change.after.as_str()) {
        ("NULL" | "no", "set" | "yes") => String::new(),
        (before, after) => format!(" ({before} \u{2192} {after})"),
    }
}

/// The device in front of a field's name, where it is there and is not the thread's own: `video-codec: `.
fn owner<'a>(name: &'a str, field: &Object, thread: &str) -> &'a str {
    let Some(before) = name.strip_suffix(field.name.as_str()) else { return "" };
    let end = before.trim_end_matches(": ");
    if before.ends_with(": ") && !thread.ends_with(end) { before } else { "" }
}

/// A read field and what is asked of it; the field alone where the question names it.
fn asked(name: &str, field: &Object, why: &str, thread: &str) -> String {
    let last = field.name.rsplit("->").next().unwrap_or(&field.name);
    if why.is_empty() {
        name.to_owned()
    } else if why.contains(last) {
        format!("{}{why}", owner(name, field, thread))
    } else {
        format!("{name}: {why}")
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
        (1, Grouping::Identity) => ", which wants an identity domain",
        (1, _) => "",
        (_, Grouping::Own) => ", a group each",
        (_, Grouping::Identity) => ", a group each, all of which want an identity domain",
        (_, Grouping::Shared) => ", in one group",
        (_, Grouping::Mixed) => ", in one group, the last wants an identity domain",
    };
    let behind = match (world.iommus, world.two_nodes, world.behind) {
        (1, ..) => "it",
        (_, true, _) => "the first and the last",
        (_, false, Behind::First) => "the first",
        (_, false, Behind::Last) => "the last",
        (_, false, Behind::Each) => "one of them each",
    };
    let bus = match world.bus {
        Bus::Platform => "platform bus",
        Bus::Pci => "PCI",
        Bus::Amba => "AMBA",
        Bus::FslMc => "fsl-mc",
        Bus::Cdx => "CDX",
        Bus::Host1x => "host1x contexts",
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
    if world.managed {
        text += "; the last client's driver manages its DMA itself";
    }
    world.events.iter().for_each(|event| text += &format!("; {event}"));
    text
}

/// The answer to "is my kernel affected?", in a sentence.
#[must_use]
pub fn answer(report: &Report) -> String {
    let world = &report.world;
    let when = circumstances(world);
    match worst(report) {
        Some(found) => format!("Affected: {when}, it can happen that {}.", found.meaning),
        None if report.explored.exhaustive => {
            format!("Not affected here: {when}, no order of the steps does any harm.")
        }
        None => format!("No harm found, but not every order was looked at: {when}."),
    }
}

/// The violation to speak of first: one that hurts before one that only warns, then the shortest.
#[must_use]
pub fn worst(report: &Report) -> Option<&ViolationReport> {
    report
        .violations
        .iter()
        .min_by_key(|found| (matches!(found.bad_end, None | Some("B7")), found.trace.steps.len()))
}

/// `while another SMMU registers, for a device behind one that is bound already`.
fn circumstances(world: &World) -> String {
    let bound = world.iommus - world.registering;
    let own = match world.behind {
        Behind::First => bound == 0,
        Behind::Last => world.registering > 0,
        Behind::Each => world.registering > 0 && world.clients > bound,
    };
    let what = match (world.registering, own) {
        (0, _) => "for a device whose SMMU is bound already, with nothing registering",
        (_, true) => "while the SMMU of a device registers and the device's driver binds",
        (_, false) => {
            "for a device behind an SMMU that is bound already, while another SMMU registers"
        }
    };
    let events: Vec<String> = world.events.iter().map(ToString::to_string).collect();
    if events.is_empty() { what.to_owned() } else { format!("{what} (and: {})", events.join(", ")) }
}

/// The remedies in a sentence: `To close it: apply b46064a18810 ("iommu: ..."), or ...`.
#[must_use]
pub fn remedy(closers: &Closers) -> String {
    let set = |set: &Vec<TreeChange>| set.iter().map(change).collect::<Vec<_>>().join(" and ");
    match &closers.clean[..] {
        [] => "No set of known commits closes all of it.".to_owned(),
        sets => {
            let sets: Vec<String> = sets.iter().take(3).map(set).collect();
            format!("To close it: {}.", sets.join("; or "))
        }
    }
}

/// `apply b46064a18810 ("iommu: Handle race with default domain setup", upstream since 6.15, in 6.12.26)`.
fn change(change: &TreeChange) -> String {
    let (TreeChange::Apply(commit) | TreeChange::Revert(commit)) = change;
    let info = commit.info();
    match change {
        TreeChange::Revert(_) => format!("{change} (\"{}\")", info.subject),
        TreeChange::Apply(_) => format!("{change} (\"{}\", {})", info.subject, carriers(info)),
    }
}

/// Which kernels have a commit: `upstream since 6.15, in 6.12.26`.
#[must_use]
pub fn carriers(info: &CommitInfo) -> String {
    let (upstream, stable) = info.since.split_once(", ").unwrap_or((info.since, ""));
    let upstream = match upstream {
        "-" => match info.id.split_once('-') {
            Some((original, _)) if Commit::find(original).is_some() => {
                format!("backport of {original}")
            }
            _ => "never upstream".to_owned(),
        },
        since => format!("upstream since {since}"),
    };
    if stable.is_empty() { upstream } else { format!("{upstream}, in {stable}") }
}

/// What a piece of advice costs and leaves, in sentences; empty where there is nothing to say.
#[must_use]
pub fn caveats(advice: &Advice) -> String {
    let mut out: Vec<String> = Vec::new();
    if !advice.prerequisites.is_empty() {
        let ids: Vec<&str> = advice.prerequisites.iter().map(|commit| commit.id()).collect();
        out.push(format!("Needs {} first.", ids.join(", ")));
    }
    let list = |found: &[(&'static str, PropertyId)]| {
        let words: Vec<String> =
            found.iter().map(|(world, id)| format!("{} ({world})", id.info().name)).collect();
        words.join(", ")
    };
    if !advice.opens.is_empty() {
        out.push(format!("Opens what was closed: {}.", list(&advice.opens)));
    }
    if !advice.leaves.is_empty() {
        out.push(format!("Leaves open: {}.", list(&advice.leaves)));
    }
    if !advice.unknown.is_empty() {
        out.push(format!("Not decided: {}.", advice.unknown.join(", ")));
    }
    out.join(" ")
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
